"""Which file on disk is which video: folders, extensions, what other programs leave behind, what is no video."""

import gzip
import io
import json
import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_loader import base
from data_loader.annotations import file_lookup, media_folders, media_scan
from data_loader.annotations.file_lookup import FileLookup, find_file, find_files
from data_loader.annotations.layouts import find_layout
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.media_scan import scan_media
from data_loader.annotations.split_folders import split_of_file, split_of_folder
from data_loader.datasets import DATASETS
from data_loader.file_kind import describe_absent_folder, describe_file, describe_path
from data_loader.reader import BrokenVideo, count_frames
from parse_config import UserError
from scripts.retrieval.sources import list_files
from scripts.synthetic import miniatures
from scripts.synthetic.miniatures import (
    encode_media,
    sentence,
    write_media,
    write_text,
)

VIDEO = {"num_frames": 2, "input_res": 16, "deadline": 0}


def load(name, folder, split="train", params=None, **args):
    args = {
        "data_dir": str(folder),
        "split": split,
        "video_params": {**VIDEO, **(params or {})},
        **args,
    }
    return DATASETS.build({"type": name, "args": args})


def write_clip(path, number=0):
    """A clip, and its caption beside it."""
    write_text(write_media(path, number).with_suffix(".txt"), sentence(number))


def touch(folder, *names):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def move(folder, paths, to):
    (folder / to).mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.move(path, folder / to)


# Videos in several folders


@pytest.mark.parametrize(
    "train_folder, test_folder",
    [
        ("TrainValVideo", "TestVideo"),
        ("train_val_videos/TrainValVideo", "test_videos/TestVideo"),
        ("videos/TrainValVideo", "videos/TestVideo"),
        ("train_val_videos", "test_videos"),
        ("", "TestVideo"),
        ("videos/all", "elsewhere/videos/all"),
    ],
)
@pytest.mark.parametrize("layout", ["Frozen", "CLIP4Clip", "VindLU", "official"])
def test_msrvtt_as_it_is_shipped(tmp_path, train_folder, test_folder, layout):
    args, expected = miniatures.build("MSRVTT", tmp_path, layout, videos=4)
    clips = {path.stem: path for path in tmp_path.rglob("video*.*")}
    # the list of 1k-A's 9,000 training videos has 1,990 of the official test videos
    of_test = [clips["video0"], *(clips[name] for name in expected["test"])]
    others = [path for path in clips.values() if path not in of_test]
    move(tmp_path, others + of_test, "moved")
    for path in clips.values():
        to = tmp_path / (test_folder if path in of_test else train_folder)
        to.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "moved" / path.name, to / path.name)
    for split in expected:
        dataset = load("MSRVTT", tmp_path, split, **args_of(args))
        assert not dataset.counts["missing"]
        assert set(dataset.ids) == set(expected[split])
        for name, path in zip(dataset.ids, dataset.paths):
            folder = test_folder if clips[name] in of_test else train_folder
            assert Path(path) == tmp_path / folder / clips[name].name


def args_of(args):
    return {name: value for name, value in args.items() if name != "data_dir"}


@pytest.mark.parametrize("name", ["MSVD", "LSMDC", "DiDeMo", "UCF101", "HMDB51"])
def test_half_of_the_videos_in_another_folder(tmp_path, name):
    """In another of the known folders, and in a folder of its own."""
    args, expected = miniatures.build(name, tmp_path, videos=4)
    split = "test"
    before = load(name, tmp_path, split, **args_of(args))
    ids, paths = list(before.ids), list(before.paths)
    for path, top in zip(paths[:2], ("videos", "part_2")):
        below = Path(path).relative_to(tmp_path)
        if name in ("LSMDC", "UCF101", "HMDB51"):
            below = Path(*below.parts[-2:])
        else:
            below = Path(below.name)
        (tmp_path / top / below).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, tmp_path / top / below)
    after = load(name, tmp_path, split, **args_of(args))
    assert list(after.ids) == ids and not after.counts["missing"]
    assert "/videos/" in after.paths[0] and "/part_2/" in after.paths[1]
    assert list(after.paths[2:]) == paths[2:]


def test_the_folder_with_most_of_the_videos_comes_first(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "b/2.mp4", "c/x/3.mp4")
    names = ["1.mp4", "2.mp4", "3.mp4", "4.mp4"]
    assert media_paths(tmp_path, ("a", "b", "x"), names) == [
        "b/1.mp4",
        "b/2.mp4",
        "c/x/3.mp4",
        "b/4.mp4",
    ]
    assert media_paths(tmp_path, ("z", ""), ["1"]) == ["a/1"]
    assert media_paths(tmp_path / "nowhere", ("z", ""), ["1"]) == ["z/1"]


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    touch(tmp_path, *(f"a/{number}.mp4" for number in range(50)))
    listed = []
    stats = []
    real_listing, real_isfile = file_lookup.FolderListing.__init__, os.path.isfile

    def list_folder(self, folder, limit=None):
        listed.append(folder)
        real_listing(self, folder, limit)

    def isfile(path):
        stats.append(path)
        return real_isfile(path)

    monkeypatch.setattr(file_lookup.FolderListing, "__init__", list_folder)
    monkeypatch.setattr(os.path, "isfile", isfile)
    names = [f"{number}.avi" for number in range(50)]
    assert all(find_files(str(tmp_path / "a"), names))
    assert listed == [f"{tmp_path}/a/"] and not stats
    listed.clear()
    assert media_paths(tmp_path, ("b", "a"), names)[7] == "a/7.avi"
    assert len(listed) <= 2 and not stats


# The wrong folder


@pytest.mark.parametrize("lists", ["high", "low"])
def test_a_folder_too_high_or_too_low(tmp_path, lists):
    top = tmp_path / "data"
    miniatures.build("MSRVTT", top / "MSRVTT", "CLIP4Clip")
    data_dir = top
    if lists == "high":
        for path in (top / "MSRVTT").glob("MSRVTT*"):
            if path.is_file():
                shutil.move(path, top)
        move(
            top / "MSRVTT", list((top / "MSRVTT").rglob("video*.*")), "deep/videos/all"
        )
    else:
        data_dir = top / "MSRVTT/lists"
        data_dir.mkdir()
        for path in (top / "MSRVTT").glob("MSRVTT*"):
            if path.is_file():
                shutil.move(path, data_dir)
        move(top / "MSRVTT", list((top / "MSRVTT").rglob("video*.*")), "videos/all")
    expected = next(top.rglob("videos/all"))
    with pytest.raises(FileNotFoundError) as error:
        load("MSRVTT", data_dir, "test")
    message = str(error.value)
    assert "4 of 4 videos are not in" in message and "\n" not in message
    assert f"files of these names are in {expected}" in message
    assert f"set data_dir to {expected.parent.parent}" in message


def jsonl(folder, *paths, split="train"):
    rows = [{"path": str(path), "caption": f"clip {path}"} for path in paths]
    write_text(
        folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    )


def test_a_missing_video_that_lies_nearby_is_pointed_at(tmp_path):
    jsonl(tmp_path / "mine", "clips/a.mp4", "/of/another/machine/b.mp4")
    write_media(tmp_path / "mine/copy/clips/a.mp4")
    with pytest.raises(
        FileNotFoundError, match=f"set data_dir to {tmp_path}/mine/copy$"
    ):
        load("JsonlDataset", tmp_path / "mine")
    write_media(tmp_path / "mine/clips/a.mp4")
    write_media(tmp_path / "other/b.mp4", 1)
    with pytest.raises(
        FileNotFoundError,
        match=f"1 of 2 .*; files of these names are in {tmp_path}/other; video_params",
    ):
        load("JsonlDataset", tmp_path / "mine", params={"loading": "strict"})


def test_what_is_not_unpacked_is_named(tmp_path):
    jsonl(tmp_path / "mine", "clips/a.mp4")
    touch(tmp_path / "mine", "clips.zip")
    with pytest.raises(FileNotFoundError, match="clips.zip in .*: not unpacked"):
        load("JsonlDataset", tmp_path / "mine")


def test_the_search_nearby_ends(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{a}/{b}/x.mp4" for a in range(8) for b in range(8)))
    monkeypatch.setattr(media_folders, "MAX_FOLDERS", 20)
    listed = []
    real = media_folders.FolderListing
    monkeypatch.setattr(
        media_folders,
        "FolderListing",
        lambda folder, limit: listed.append(folder) or real(folder, limit),
    )
    assert media_folders.describe_nearby(tmp_path, ["y.mp4"]) == ""
    assert len(listed) <= 40
    (tmp_path / "loop").symlink_to(tmp_path)
    assert media_folders.describe_nearby(tmp_path, ["y.mp4"]) == ""
    assert "are in" in media_folders.describe_nearby(tmp_path / "7/7", ["0/x.mp4"])


def test_a_folder_nearby_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "data/closed/a.mp4", "data/open/b.mp4", "other/a.mp4")
    real_scandir, real_access = os.scandir, os.access

    def scandir(path):
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    def access(path, mode):
        return not str(path).endswith("closed") and real_access(path, mode)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", access)
    assert media_paths(tmp_path / "data", ("",), ["a.mp4", "b.mp4"]) == [
        "open/a.mp4",
        "open/b.mp4",
    ]
    hint = media_folders.describe_nearby(tmp_path / "data", ["a.mp4"])
    assert hint == f"; files of these names are in {tmp_path}/other"


def test_large_sets_are_looked_for_by_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_CHECKED", 3)
    names = [f"clips/{number}.mp4" for number in range(9)]
    jsonl(tmp_path, *names)
    touch(tmp_path, "deep/clips/3.mp4")
    with pytest.raises(
        FileNotFoundError,
        match=f"none of 9 videos that were looked for.*data_dir to {tmp_path}/deep",
    ):
        load("JsonlDataset", tmp_path)
    assert len(load("JsonlDataset", tmp_path, check_files=False)) == 9
    touch(tmp_path, "clips/8.webm")
    assert len(load("JsonlDataset", tmp_path)) == 9


PATHS = [
    ("https://example.org/a.mp4", "is a URL"),
    ("s3://bucket/a.mp4", "is a URL"),
    ("~/clips/a.mp4", '"~" is not expanded'),
    ("~anna/a.mp4", '"~" is not expanded'),
    ("C:\\clips\\a.mp4", "path of Windows"),
    ("C:/clips/a.mp4", "path of Windows"),
    ("clips\\a.mp4", 'write "/"'),
    ("clips", "is a folder"),
]


@pytest.mark.parametrize("path, reason", PATHS)
def test_paths_that_are_none(tmp_path, path, reason):
    (tmp_path / "clips").mkdir()
    jsonl(tmp_path, path)
    with pytest.raises((FileNotFoundError, UserError)) as error:
        load("JsonlDataset", tmp_path)
    assert reason in str(error.value)
    if path != "clips":
        assert reason in describe_path(path)
        assert str(error.value).startswith(f"{tmp_path}/train.jsonl: line 1: path ")


@pytest.mark.parametrize("name", DATASETS.names())
@pytest.mark.parametrize("setting", ["data_dir", "metadata_dir"])
@pytest.mark.parametrize(
    "path, reason",
    [
        ("~/data", '"~" is not expanded'),
        ("https://example.org/data", "is a URL"),
        ("nowhere", "no such folder"),
        ("data.zip", "is a zip archive"),
    ],
)
def test_folders_that_are_none(tmp_path, monkeypatch, name, setting, path, reason):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("data.zip", "w") as archive:
        archive.writestr("a.mp4", b"x")
    args, _ = miniatures.build(name, tmp_path / "real")
    args |= {setting: path, "split": "train", "video_params": VIDEO}
    if name == "TarShards" and setting == "metadata_dir":
        return
    if name == "JsonlDataset" and path == "data.zip" and setting == "metadata_dir":
        # there, a file is a list
        return
    with pytest.raises(FileNotFoundError) as error:
        DATASETS.build({"type": name, "args": args})
    assert reason in str(error.value) and path in str(error.value)


# The list of the data set


def test_a_list_in_data_dir_comes_before_one_below(tmp_path, caplog):
    write_media(tmp_path / "a.mp4")
    jsonl(tmp_path / "old", "old.mp4")
    write_text(tmp_path / "train.csv", "path,caption\na.mp4,new\n")
    dataset = load("JsonlDataset", tmp_path)
    assert list(dataset.captions) == ["new"] and "old" not in caplog.text
    jsonl(tmp_path / "lists/deeper", "b.mp4")
    shutil.move(tmp_path / "lists/deeper/train.jsonl", tmp_path / "lists/captions.json")
    write_text(tmp_path / "lists/captions.json", '[{"path": "a.mp4", "caption": "m"}]')
    dataset = load("JsonlDataset", tmp_path, metadata_dir=str(tmp_path / "lists"))
    assert list(dataset.captions) == ["m"]


def test_two_copies_of_a_list_are_named(tmp_path, caplog):
    for folder in ("b", "a", ".hidden", "__MACOSX", "@eaDir"):
        jsonl(tmp_path / folder, "x.mp4")
    _, (path,) = find_layout("any", [tmp_path], {"x": ["train.jsonl"]})
    assert path == tmp_path / "a/train.jsonl"
    assert f"{path} is read, and not {tmp_path}/b/train.jsonl" in caplog.text
    assert "hidden" not in caplog.text
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="looked for x: train.jsonl"):
        find_layout("any", [tmp_path], {"x": ["train.jsonl"]})


def test_hmdb51_lists_of_data_dir_come_first(tmp_path):
    args, expected = miniatures.build("HMDB51", tmp_path)
    lists = tmp_path / "testTrainMulti_7030_splits"
    for path in lists.iterdir():
        shutil.copy(path, tmp_path)
        # in the older copy, every clip is one of training
        write_text(path, path.read_text().replace(" 2", " 1"))
        (tmp_path / f"._{path.name}").write_bytes(b"\0\5\x16\7\xff")
    dataset = load("HMDB51", tmp_path, "test")
    assert set(dataset.ids) == set(expected["test"])


# A listed file


@pytest.mark.parametrize(
    "listed, on_disk, taken",
    [
        ("a", ["a.webm", "a.mp4"], "a.mp4"),
        ("a.avi", ["a.webm", "a.mp4"], "a.mp4"),
        ("a.avi", ["a.MKV", "a.mov", "a.webm"], "a.webm"),
        ("a.avi", ["a.Mp4", "a.MP4", "a.mov"], "a.MP4"),
        ("a.mp4", ["a.jpg"], None),
        ("a.mp4", ["a.mp4.jpg"], None),
        ("a.mp4", ["a.jpg", "a.webm"], "a.webm"),
        ("a.jpg", ["a.mp4"], None),
        ("a.jpg", ["a.mp4", "a.png"], "a.png"),
        ("a", ["a.jpg", "a.mts"], "a.mts"),
        ("1.mp4", ["1.5.mp4"], None),
        ("1.5.mp4", ["1.mp4"], None),
        ("1.5", ["1.mp4"], None),
        ("1", ["1.5.mp4"], None),
        ("1.5", ["1.mp4", "1.5.avi"], "1.5.avi"),
        ("a.mp4", ["._a.mp4"], None),
        ("a.mp4", ["a.mp4.part"], None),
        *(
            ("a", [f"a{extension}"], f"a{extension}")
            for extension in [
                ".mts",
                ".m2ts",
                ".asf",
                ".vob",
                ".divx",
                ".f4v",
                ".qt",
                ".3g2",
            ]
        ),
        *(
            ("a.png", [f"a{extension}"], f"a{extension}")
            for extension in (".jfif", ".tif", ".TIFF", ".Jpg")
        ),
    ],
)
def test_which_of_several_files(tmp_path, listed, on_disk, taken):
    touch(tmp_path, *on_disk)
    expected = None if taken is None else str(tmp_path / taken)
    assert list(find_files(str(tmp_path), [listed])) == [expected]
    assert find_file(str(tmp_path), listed) == expected


def test_extensions_in_any_case(tmp_path):
    touch(tmp_path, "a.mP4", "b.mKV", "c.JpG")
    assert list(find_files(str(tmp_path), ["a.mp4", "b", "c"])) == [
        str(tmp_path / name) for name in ("a.mP4", "b.mKV", "c.JpG")
    ]


def test_a_choice_among_files_is_said(tmp_path, caplog):
    jsonl(tmp_path, "a.avi", "b.mp4", "c.avi")
    touch(tmp_path, "a.mp4", "a.webm", "b.mp4", "b.webm", "c.mkv", "c.jpg")
    load("JsonlDataset", tmp_path)
    assert (
        f"several files fit 1 of the listed videos; {tmp_path}/a.mp4 is taken, not a.webm"
        in caplog.text
    )
    lookup = FileLookup(str(tmp_path))
    assert lookup.find("b.mp4") and not lookup.choices


def test_didemo_numbers_behind_a_dot_are_of_the_name(tmp_path):
    rows = [
        {"video": name, "description": name}
        for name in ("1.5.mp4", "1.mp4", "1.mov", "2.avi.mp4", "2.")
    ]
    write_text(tmp_path / "test_data.json", json.dumps(rows))
    for number, name in enumerate(("1.5.mp4", "1.mp4", "2.mp4")):
        write_media(tmp_path / name, number)
    dataset = load("DiDeMo", tmp_path, "test")
    assert list(dataset.ids) == ["1.5", "1", "2"]
    assert list(dataset.captions) == ["1.5.mp4", "1.mp4 1.mov", "2.avi.mp4 2."]
    assert [Path(path).name for path in dataset.paths] == ["1.5.mp4", "1.mp4", "2.mp4"]


# Folders of splits


@pytest.mark.parametrize(
    "name, split",
    [
        ("train", "train"),
        ("Train", "train"),
        ("TRAINING", "train"),
        ("train_videos", "train"),
        ("Val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("Test", "test"),
        ("testing", "test"),
        ("test-set", "test"),
        ("trains", None),
        ("train_val", None),
        ("test tubes", None),
        ("videos", None),
    ],
)
def test_names_of_splits(name, split):
    assert split_of_folder(name) == split


def test_names_of_files_of_splits():
    names = ["train-0001.tar", "Train0001.tar", "val_00.tar", "00000.tar", "trains.tar"]
    assert list(map(split_of_file, names)) == ["train", "train", "val", None, None]


@pytest.mark.parametrize(
    "names",
    [
        {"train": "Train", "val": "Validation", "test": "Test"},
        {"train": "training", "val": "valid", "test": "testing"},
        {"train": "TRAIN", "val": "dev"},
    ],
)
def test_folders_of_splits_by_other_names(tmp_path, names):
    for number, (split, folder) in enumerate(names.items()):
        write_clip(tmp_path / folder / f"{split}.mp4", number)
    for split, folder in names.items():
        dataset = load("VideoFolder", tmp_path, split)
        assert list(dataset.ids) == [split]
        assert dataset.layout == f"subfolders ({folder})"
    if "test" not in names:
        with pytest.raises(FileNotFoundError, match="TRAIN, dev and none for split"):
            load("VideoFolder", tmp_path, "test")


def test_two_folders_of_one_split_are_refused(tmp_path):
    write_clip(tmp_path / "Train/a.mp4")
    write_clip(tmp_path / "training/b.mp4")
    for split in ("train", "val"):
        with pytest.raises(
            UserError, match="Train and training are both named for split 'train'"
        ):
            load("VideoFolder", tmp_path, split)


def test_splits_one_folder_further_down_are_refused(tmp_path):
    write_clip(tmp_path / "mine/Train/a.mp4")
    write_clip(tmp_path / "mine/test/b.mp4")
    with pytest.raises(UserError, match=f"set data_dir to {tmp_path}/mine$"):
        load("VideoFolder", tmp_path)
    shutil.rmtree(tmp_path / "mine/test")
    assert list(load("VideoFolder", tmp_path).ids) == ["mine/Train/a"]


def test_what_is_in_no_split_is_said(tmp_path, caplog):
    for path in ("train/a.mp4", "b.mp4", "extra/c.mp4"):
        write_clip(tmp_path / path)
    assert list(load("VideoFolder", tmp_path).ids) == ["a"]
    assert "in no split, since splits have folders: b.mp4, extra/" in caplog.text


def test_the_folder_of_another_split(tmp_path, caplog):
    write_clip(tmp_path / "Train/a.mp4")
    load("VideoFolder", tmp_path / "Train")
    assert "is called" not in caplog.text
    load("VideoFolder", tmp_path / "Train", "test")
    assert "all of data_dir is read, and it is called Train" in caplog.text


def test_captions_elsewhere_for_folders_of_other_names(tmp_path, caplog):
    write_media(tmp_path / "data/Train/x/a.mp4")
    write_text(tmp_path / "words/training/x/a.TXT", "from elsewhere")
    write_text(tmp_path / "words/training/x/b.txt", "of nothing")
    dataset = load("VideoFolder", tmp_path / "data", metadata_dir=f"{tmp_path}/words")
    assert list(dataset.captions) == ["from elsewhere"]
    assert "1 .txt without a video in metadata_dir" in caplog.text


# Scans


def test_a_thumbnail_is_no_second_item(tmp_path, caplog):
    write_clip(tmp_path / "a.mp4")
    write_media(tmp_path / "a.jpg")
    write_media(tmp_path / "a.mp4.png")
    write_clip(tmp_path / "b.jpg", 1)
    dataset = load("VideoFolder", tmp_path, "test")
    assert list(dataset.ids) == ["a", "b"]
    assert list(dataset.captions) == [sentence(0), sentence(1)]
    assert "2 pictures beside a video of the same name" in caplog.text


def test_two_videos_of_one_name_are_one_item(tmp_path, caplog):
    write_clip(tmp_path / "a.webm")
    write_clip(tmp_path / "a.mp4")
    write_clip(tmp_path / "b/a.mp4")
    dataset = load("VideoFolder", tmp_path)
    assert list(dataset.ids) == ["a", "b/a"]
    assert dataset.paths[0] == str(tmp_path / "a.mp4")
    assert "1 files beside another of the same name" in caplog.text


@pytest.mark.parametrize(
    "foreign",
    [
        "._a.mp4",
        ".hidden/a.mp4",
        ".a.mp4",
        "@eaDir/a.mp4/SYNOVIDEO_VIDEO_SCREENSHOT.jpg",
        "@eaDir/a.mp4",
        "__MACOSX/._b.mp4",
        "__MACOSX/b.mp4",
        "Thumbs.db",
        "Thumbs/a.jpg",
        ".Trash-0/files/b.mp4",
        "#recycle/b.mp4",
        "$RECYCLE.BIN/b.mp4",
        "lost+found/b.mp4",
        "sub/.ipynb_checkpoints/b.mp4",
    ],
)
def test_what_other_programs_leave_behind(tmp_path, foreign):
    touch(tmp_path, foreign)
    write_clip(tmp_path / "a.mp4")
    write_clip(tmp_path / "sub/b.mp4")
    assert list(load("VideoFolder", tmp_path, "test").ids) == ["a", "sub/b"]
    assert [row["id"] for row in list_files(tmp_path)] == ["a.mp4", "sub/b.mp4"]
    for class_name in ("sub", "brush_hair"):
        write_clip(tmp_path / class_name / "c.avi")
    dataset = load("HMDB51", tmp_path, "test")
    assert list(dataset.classes) == ["brush hair", "sub"]


EXTENSIONS = ".mts .m2ts .asf .vob .divx .f4v .qt .3g2 .jfif .tif .tiff .Mp4 .mKv .JPeg"


@pytest.mark.parametrize("extension", EXTENSIONS.split())
def test_extensions_that_were_skipped(tmp_path, extension):
    touch(tmp_path, f"a{extension}")
    assert list(load("VideoFolder", tmp_path, "test").ids) == ["a"]
    assert [row["id"] for row in list_files(tmp_path)] == [f"a{extension}"]


@pytest.mark.parametrize("suffix", [".tif", ".jfif"])
def test_pictures_of_the_new_extensions_are_read(tmp_path, suffix):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(
        tmp_path / f"a{suffix}", "TIFF" if suffix == ".tif" else "JPEG"
    )
    assert load("VideoFolder", tmp_path, "test")[0]["video"].shape == (2, 3, 16, 16)


def test_a_scan_says_what_it_skips(tmp_path, caplog):
    write_clip(tmp_path / "a.mp4")
    touch(tmp_path, "b.xyz", "c.XYZ", "d/e.part", "lost.txt", "README", "d/._x")
    load("VideoFolder", tmp_path)
    assert (
        "left out: 2 .xyz, 1 .part, 1 .txt without a video, 1 files without extension, "
        "1 hidden or of another program" in caplog.text
    )
    caplog.clear()
    list_files(tmp_path)
    assert "2 .xyz, 1 .part" in caplog.text


def test_nothing_is_said_of_a_tidy_folder(tmp_path, caplog):
    write_clip(tmp_path / "train/a.mp4")
    write_clip(tmp_path / "train/sub/b.jpg", 1)
    load("VideoFolder", tmp_path)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_captions_in_upper_case(tmp_path, caplog):
    write_media(tmp_path / "a.mp4")
    write_text(tmp_path / "a.TXT", "upper")
    write_media(tmp_path / "b.mp4", 1)
    write_text(tmp_path / "b.txt", "lower")
    write_text(tmp_path / "b.TXT", "upper")
    dataset = load("VideoFolder", tmp_path)
    assert list(dataset.captions) == ["upper", "lower"]
    assert "1 second .txt of one name" in caplog.text


@pytest.mark.parametrize("names", [[], ["a.xyz", "a.txt"], ["train/a.xyz"]])
def test_an_empty_folder_is_one_line(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match="holds no video and no picture") as error:
        load("VideoFolder", tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not names or "1 .xyz" in str(error.value)
    with pytest.raises(UserError, match="holds no video and no picture"):
        list_files(tmp_path)


def test_the_order_is_that_of_names_files_before_folders(tmp_path):
    touch(tmp_path, "b.mp4", "a/z.mp4", "a/b/c.mp4", "a-b/y.mp4", "c.mp4", "a.mp4")
    assert list(scan_media(tmp_path).paths()) == [
        "a.mp4",
        "b.mp4",
        "c.mp4",
        "a/z.mp4",
        "a/b/c.mp4",
        "a-b/y.mp4",
    ]


def test_linked_folders_are_followed(tmp_path, caplog):
    write_clip(tmp_path / "store/x/a.mp4")
    data = tmp_path / "data"
    write_clip(data / "own/b.mp4", 1)
    (data / "all").symlink_to(tmp_path / "store")
    (data / "again").symlink_to(data / "own")
    (data / "own/loop").symlink_to(data)
    (data / "own/self").symlink_to("self")
    dataset = load("VideoFolder", data)
    assert list(dataset.ids) == ["all/x/a", "own/b"]
    assert "2 folder(s) reached by another path" in caplog.text
    (data / "train").symlink_to(tmp_path / "store")
    assert list(load("VideoFolder", data).ids) == ["x/a"]


def test_a_broken_link_is_a_missing_video(tmp_path):
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="1 of 2 videos are not in.*: b.mp4"):
        load("VideoFolder", tmp_path, "test")


def test_a_pipe_is_no_video(tmp_path, caplog):
    write_clip(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.mp4")
    assert list(load("VideoFolder", tmp_path, "test").ids) == ["a"]
    assert "1 pipes, sockets or devices" in caplog.text


def test_unreadable_folders_are_named(tmp_path, monkeypatch, caplog):
    write_clip(tmp_path / "a.mp4")
    write_clip(tmp_path / "closed/b.mp4")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(media_scan.os, "scandir", scandir)
    with pytest.raises(UserError, match="closed: Permission denied"):
        load("VideoFolder", tmp_path, "test")
    assert list(load("VideoFolder", tmp_path, "train").ids) == ["a"]
    assert "left out, " in caplog.text and "closed: Permission denied" in caplog.text


def test_what_is_in_an_archive_is_not_looked_at(tmp_path):
    touch(tmp_path, "clips.zip", "more.tar.gz")
    with pytest.raises(UserError, match=r"1 .gz \(not unpacked\), 1 .zip \(not unpa"):
        load("VideoFolder", tmp_path)


def test_a_caption_that_is_a_pointer(tmp_path):
    write_media(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_bytes(KINDS["pointer"][0])
    with pytest.raises(UserError, match="a.txt: is a Git LFS pointer.*git lfs pull"):
        load("VideoFolder", tmp_path)


# What a file is


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.mp4"))
    return buffer.getvalue()


KINDS = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    ),
    "page": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "is a web page, not a video"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is a web page"),
    "zip": (b"PK\x03\x04" + bytes(99), "is a zip archive; unpack it (unzip)"),
    "rar": (b"Rar!\x1a\x07\x01\0", "is a rar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    "gzip": (gzip.compress(b"x"), "is compressed with gzip; unpack it (gunzip)"),
    "tar": (tar_bytes(), "is a tar archive; unpack it (tar xf)"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "begins with zeros alone"),
    "macos": (b"\0\5\x16\7\0\2\0\0Mac OS X", "is a resource file of macOS"),
    "json": (b'{"error": "not found"}', 'is no video but text: \'{"error"'),
    "text": (b"404: Not Found\n" * 200, "is no video but text: '404: Not Found'"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.mp4", "a.jpg", "a"])
def test_kinds_of_files(tmp_path, kind, name):
    content, reason = KINDS[kind]
    (tmp_path / name).write_bytes(content)
    assert describe_file(tmp_path / name).startswith(reason)
    for deadline in (None, 20.0):
        with pytest.raises(BrokenVideo) as error:
            count_frames(tmp_path / name, deadline)
        assert error.value.reason.startswith(reason)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm", ".mkv", ".jpg", ".png"])
def test_a_video_is_not_described(tmp_path, suffix):
    assert describe_file(write_media(tmp_path / f"a{suffix}")) == ""
    assert describe_file(tmp_path / "nowhere.mp4") == ""


def test_a_listed_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    jsonl(tmp_path, "a.mp4")
    with pytest.raises(FileNotFoundError, match="a.mp4 is a pipe, not a file"):
        load("JsonlDataset", tmp_path)
    dataset = load("JsonlDataset", tmp_path, check_files=False)
    with pytest.raises(UserError, match="a.mp4: is a pipe, not a file"):
        dataset[0]


@pytest.mark.parametrize("name", ["VideoFolder", "TarShards"])
def test_no_folder_at_all(name):
    with pytest.raises(FileNotFoundError, match="^'': no such folder; data_dir"):
        load(name, "")


def test_describing_never_waits(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    assert describe_file(tmp_path / "a.mp4") == "is a pipe, not a file"
    assert describe_file("/dev/zero").startswith("is a device")
    assert describe_file(tmp_path) == "is a folder"


def test_what_is_there_instead_of_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(encode_media(".mp4", 0, 8, 8))
    assert describe_absent_folder(tmp_path / "none") == "no such folder"
    assert describe_absent_folder(tmp_path / "link").startswith("is a broken link")
    assert describe_absent_folder(tmp_path / "file") == "is a file; a folder is needed"


@pytest.mark.parametrize(
    "path", ["a.mp4", "in/a.mp4", "/abs/a.mp4", "1_00:05:01.avi", "a~b.mp4", "x:y/a"]
)
def test_ordinary_paths(path):
    assert describe_path(path) == ""
