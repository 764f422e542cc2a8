"""Every data set in every layout, on miniatures: content, errors, and the quirks of the published files."""

import csv
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from data_loader.annotations.layouts import read_csv, read_lines, read_pickle
from data_loader.annotations.protocols import PROTOCOLS
from data_loader.datasets import DATASETS
from data_loader.reader import BrokenVideo
from parse_config import ConfigError, UserError
from scripts.synthetic.miniatures import (
    MINIATURES,
    sentence,
    sentences,
    write_media,
    write_text,
)
from scripts.synthetic.miniatures.retrieval import (
    LSMDC_FILES,
    lsmdc_clip,
    paragraph,
    write_pickle,
)

VIDEO = {"num_frames": 2, "input_res": 16, "deadline": 0}
NAMES = [
    f"{m.dataset}-{m.layout}-{m.args.get('cut', '')}".strip("-") for m in MINIATURES
]
LISTED = sorted(
    {*DATASETS.names()} - {"TarShards", "VideoFolder"}
)  # those whose annotations list files


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Miniature -> (its folder, its expected content); written once."""
    trees_written = {}

    def tree(mini):
        key = NAMES[MINIATURES.index(mini)]
        if key not in trees_written:
            folder = tmp_path_factory.mktemp("tree")
            trees_written[key] = folder, mini.write(folder, 4)
        return trees_written[key]

    return tree


@pytest.fixture
def copied(trees, tmp_path):
    """(data set, layout) -> (a copy of the tree that the test may spoil, its JSON args, expected content)."""

    def copy(name, layout="", cut=None):
        mini = next(
            m
            for m in MINIATURES
            if m.dataset == name
            and layout in m.layout
            and cut in (None, m.args.get("cut"))
        )
        folder, expected = trees(mini)
        return shutil.copytree(folder, tmp_path / "tree"), dict(mini.args), expected

    return copy


def load(name, folder, split="train", params=None, **args):
    args = {
        "data_dir": str(folder),
        "split": split,
        "video_params": {**VIDEO, **(params or {})},
        **args,
    }
    return DATASETS.build({"type": name, "args": args})


def content(dataset):
    """{id: captions} of a data set."""
    captions = {name: [] for name in dataset.ids}
    for caption, owner in zip(dataset.captions, dataset.owner.tolist()):
        captions[dataset.ids[owner]].append(caption)
    return {name: tuple(video_captions) for name, video_captions in captions.items()}


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_has_a_miniature(name):
    assert name in {m.dataset for m in MINIATURES}, (
        f"write one in scripts/synthetic/miniatures for {name}"
    )


@pytest.mark.parametrize("mini", MINIATURES, ids=NAMES)
def test_what_is_written_is_read(trees, mini, caplog):
    folder, expected = trees(mini)
    for split, videos in expected.items():
        with caplog.at_level(logging.INFO):
            dataset = load(mini.dataset, folder, split, **mini.args)
        assert content(dataset) == videos
        assert (
            mini.layout in dataset.layout and f"layout: {dataset.layout}" in caplog.text
        )
        assert dataset.protocol is None or dataset.protocol in PROTOCOLS
        assert (
            dataset.counts["num_videos"] == len(videos) == len(dataset)
            and not dataset.counts["missing"]
        )
        for index in (0, len(videos) - 1):
            sample = dataset[index]
            assert (
                sample["video"].shape == (2, 3, 16, 16)
                and sample["video"].dtype == torch.float32
            )
            assert (
                sample["text"] in videos[sample["meta"]["id"]]
                and not sample["meta"]["failures"]
            )


@pytest.mark.parametrize("mini", MINIATURES, ids=NAMES)
def test_a_share_of_the_videos(trees, mini):
    folder, expected = trees(mini)
    for split, videos in expected.items():
        half = content(load(mini.dataset, folder, split, subsample=0.5, **mini.args))
        assert len(half) == 2 and half.items() <= videos.items()


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_video(copied, name):
    folder, args, expected = copied(name)
    split = "test" if "test" in expected else "val"
    removed = load(name, folder, split, **args).paths[1]
    os.remove(removed)
    with pytest.raises(FileNotFoundError, match="1 of 4 videos are not in"):
        load(name, folder, split, **args)
    dataset = load(name, folder, split, {"loading": "skip"}, **args)
    assert len(dataset) == 3 and len(dataset.counts["missing"]) == 1
    assert content(dataset).items() <= expected[split].items()


@pytest.mark.parametrize("name", DATASETS.names())
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_folder_says_what_was_looked_for(tmp_path, name, split):
    with pytest.raises((FileNotFoundError, UserError)) as error:
        load(name, tmp_path, split)
    assert str(tmp_path) in str(error.value) or "no videos" in str(error.value)
    with pytest.raises((FileNotFoundError, UserError), match="nowhere"):
        load(name, tmp_path / "nowhere", split)


def test_the_error_names_every_layout(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("MSRVTT", tmp_path, "test")
    for word in (
        "cut jsfusion",
        "Frozen",
        "val_list_jsfusion.txt",
        "CLIP4Clip",
        "MSRVTT_JSFUSION_test.csv",
        "VindLU",
    ):
        assert word in str(error.value)


def test_annotations_may_lie_elsewhere(copied, tmp_path):
    folder, args, expected = copied("MSRVTT", "Frozen")
    shutil.move(folder / "annotation", tmp_path / "words/annotation")
    shutil.move(folder / "high-quality", tmp_path / "words/high-quality")
    assert (
        content(
            load("MSRVTT", folder, "test", metadata_dir=str(tmp_path / "words"), **args)
        )
        == expected["test"]
    )


# Lists, tables, pickles


@pytest.mark.parametrize(
    "written",
    [b"a\n-b\nc", b"a\n-b\nc\n", b"a\r\n-b\r\nc\r\n", b"\xef\xbb\xbfa\n\n -b \nc"],
)
def test_lists(tmp_path, written):
    (tmp_path / "list.txt").write_bytes(written)
    assert read_lines(tmp_path / "list.txt") == ["a", "-b", "c"]


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "spoilt",
    [pickle.dumps({"a": Evil()}), b"", b"<html>", pickle.dumps({"a": [1]})[:-4]],
)
def test_pickles_hold_plain_data_only(tmp_path, spoilt, capsys):
    (tmp_path / "index.pkl").write_bytes(spoilt)
    with pytest.raises(UserError, match="index.pkl: is no pickle of plain data"):
        read_pickle(tmp_path / "index.pkl")
    assert "run" not in capsys.readouterr().out


def test_pickles_of_python_2(tmp_path):
    (tmp_path / "index.pkl").write_bytes(b"(dp0\nS'video7'\np1\nI4\ns.")
    assert read_pickle(tmp_path / "index.pkl") == {"video7": 4}


def test_an_empty_table_is_named(copied, tmp_path):
    with pytest.raises(UserError, match="table.csv: is no such table"):
        list(read_csv(write_text(tmp_path / "table.csv", ""), ["a"]))
    folder, _, _ = copied("ConceptualCaptions3M", "crc32")
    write_text(folder / "Train_GCC-training.tsv", "")
    with pytest.raises(UserError, match="no videos in the annotations"):
        load("ConceptualCaptions3M", folder)


def test_the_copy_with_semicolons(copied):
    folder, args, _ = copied("MSRVTT", "CLIP4Clip")
    write_text(
        folder / "MSRVTT_JSFUSION_test.csv",
        "key;vid_key;video_id;sentence\nret0;msr4;video4;an owl\n",
        "\r\n",
    )
    with pytest.raises(
        UserError,
        match="no column 'video_id' and no 'sentence'.*'key;vid_key;video_id;sentence'",
    ):
        load("MSRVTT", folder, "test", **args)


# Protocols

PROTOCOL_OF = [
    (
        "MSRVTT",
        "Frozen",
        {"cut": "jsfusion"},
        {"train": "msrvtt-1k-A-train", "test": "msrvtt-1k-A"},
    ),
    (
        "MSRVTT",
        "CLIP4Clip",
        {"cut": "jsfusion"},
        {"train": "msrvtt-1k-A-train", "test": "msrvtt-1k-A"},
    ),
    (
        "MSRVTT",
        "Frozen",
        {"cut": "miech"},
        {"train": "msrvtt-1k-B-train", "test": "msrvtt-1k-B"},
    ),
    (
        "MSRVTT",
        "official",
        {"cut": "full"},
        {"val": "msrvtt-full-val", "test": "msrvtt-full"},
    ),
    ("MSVD", "raw", {}, {"val": "msvd-all-captions-val", "test": "msvd-all-captions"}),
    ("MSVD", "json", {"protocol": "one_caption"}, {"test": "msvd-one-caption"}),
    ("MSVD", "json", {"protocol": "paragraph"}, {"test": "msvd-paragraph"}),
    ("LSMDC", "LSMDC16", {}, {"val": None, "test": "lsmdc-1000"}),
    (
        "DiDeMo",
        "official",
        {},
        {"val": "didemo-paragraph-val", "test": "didemo-paragraph"},
    ),
    ("UCF101", "split 1", {}, {"test": "ucf101-split1"}),
    ("UCF101", "split 1", {"holdout": 0}, {"val": "ucf101-split1"}),
    ("MSRVTT", "Frozen", {"cut": "jsfusion", "holdout": 0}, {"val": "msrvtt-1k-A"}),
    ("UCF101", "class", {}, {"test": None}),
    (
        "HMDB51",
        "split 1",
        {},
        {"train": "hmdb51-split1-train", "test": "hmdb51-split1"},
    ),
]


@pytest.mark.parametrize("name, layout, args, protocols", PROTOCOL_OF)
def test_protocols_have_names_and_counts(copied, name, layout, args, protocols, caplog):
    folder, tree_args, _ = copied(name, layout, args.get("cut"))
    for split, protocol in protocols.items():
        dataset = load(name, folder, split, **tree_args | args)
        assert dataset.protocol == protocol
        expected = (
            PROTOCOLS[protocol][1:] if protocol else (4, dataset.counts["num_captions"])
        )
        assert (
            dataset.counts["expected_videos"],
            dataset.counts["expected_captions"],
        ) == expected
        if protocol:
            assert f"protocol {protocol}: 4 of {expected[0]} videos" in caplog.text
            with pytest.raises(ConfigError, match=f"4 of {expected[0]} videos"):
                load(name, folder, split, strict_protocol=True, **tree_args | args)


def test_published_counts():
    assert PROTOCOLS["msrvtt-1k-A"][1:] == (1000, 1000) and PROTOCOLS["msrvtt-full"][
        1:
    ] == (
        2990,
        59_800,
    )
    assert PROTOCOLS["msvd-all-captions"][1:] == (670, 27_763) and PROTOCOLS[
        "didemo-paragraph"
    ][1:] == (1004, 1004)
    assert all(PROTOCOLS[name].name == name for name in PROTOCOLS)


# MSR-VTT


@pytest.mark.parametrize("layout", ["Frozen", "CLIP4Clip", "VindLU"])
def test_msrvtt_without_holdout_validates_on_test_and_says_so(copied, layout, caplog):
    folder, _, expected = copied("MSRVTT", layout)
    dataset = load("MSRVTT", folder, "val", holdout=0)  # jsfusion is the default cut
    assert content(dataset) == expected["test"] and dataset.validates_on_test
    assert "the test split stands in" in caplog.text
    assert not load("MSRVTT", folder, "test").validates_on_test


@pytest.mark.parametrize("name", ["UCF101", "HMDB51", "WebVid", "ConceptualCaptions3M"])
def test_a_split_that_there_is_not_is_refused(copied, name):
    folder, args, _ = copied(name)
    with pytest.raises(ConfigError, match="'validation' is no split of .*train, val"):
        load(name, folder, "validation", **args)


@pytest.mark.parametrize("name", ["WebVid", "ConceptualCaptions3M"])
def test_where_there_is_no_test_split_the_log_says_so(copied, name, caplog):
    folder, args, _ = copied(name)
    load(name, folder, "val", **args)
    assert "stands in" not in caplog.text
    load(name, folder, "test", **args)
    assert "the validation split stands in" in caplog.text


def test_msrvtt_index_over_the_order_of_the_captions(copied):
    folder, args, _ = copied("MSRVTT", "Frozen")
    rows = [
        {"image_id": "video5", "caption": f"caption {i}", "id": i} for i in range(20)
    ]
    rows += [
        {"image_id": "video6", "caption": f"other {i}", "id": 20 + i} for i in range(20)
    ]
    write_text(
        folder / "annotation/MSR_VTT.json",
        json.dumps({"annotations": rows[20:30] + rows[:20] + rows[30:]}),
    )
    lists = folder / "high-quality/structured-symlinks"
    write_text(lists / "val_list_jsfusion.txt", "video6\nvideo5")
    write_pickle(lists / "jsfusion_val_caption_idx.pkl", {"video5": 0, "video6": 17})
    assert content(load("MSRVTT", folder, "test", **args)) == {
        "video6": ("other 17",),
        "video5": ("caption 0",),
    }
    write_pickle(lists / "jsfusion_val_caption_idx.pkl", {"video5": 0})
    with pytest.raises(
        UserError,
        match="jsfusion_val_caption_idx.pkl: no captions for 1 of 2 listed videos, 'video6'",
    ):
        load("MSRVTT", folder, "test", **args)


def test_msrvtt_cuts_of_frozen_in_time(copied):
    folder, _, expected = copied("MSRVTT", "Frozen", "full")
    assert content(load("MSRVTT", folder, "test", cut="full-val")) == expected["val"]
    assert content(load("MSRVTT", folder, "val", cut="full-test")) == expected["test"]
    assert content(load("MSRVTT", folder, "train", cut="full-val")) == expected["train"]
    with pytest.raises(ConfigError, match="'ful' is no cut of MSRVTT; known: jsfusion"):
        load("MSRVTT", folder, cut="ful")


def test_msrvtt_smaller_training_list(copied):
    folder, _, expected = copied("MSRVTT", "CLIP4Clip")
    write_text(folder / "MSRVTT_train.7k.csv", "video_id\nvideo0\n", "\r\n")
    dataset = load("MSRVTT", folder, cut="jsfusion-7k")
    assert (
        content(dataset) == {"video0": expected["train"]["video0"]}
        and dataset.protocol is None
    )
    assert (
        content(load("MSRVTT", folder, "test", cut="jsfusion-7k")) == expected["test"]
    )


def test_msrvtt_sentence_without_its_video_in_the_json(copied):
    folder, args, _ = copied("MSRVTT", "CLIP4Clip")
    write_text(folder / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo77\n")
    with pytest.raises(
        UserError, match="no captions for 1 of 2 listed videos, 'video77' first"
    ):
        load("MSRVTT", folder, **args)


# MSVD


@pytest.mark.parametrize("layout", ["pkl", "json"])
def test_msvd_protocols(copied, layout):
    folder, _, expected = copied("MSVD", layout)
    ragged = {len(captions) for captions in expected["test"].values()}
    assert len(ragged) > 1 and any(name.startswith("-") for name in expected["test"])
    first = content(load("MSVD", folder, "test", protocol="one_caption"))
    assert first == {name: captions[:1] for name, captions in expected["test"].items()}
    joined = content(load("MSVD", folder, "test", protocol="paragraph"))
    assert joined == {
        name: (" ".join(captions),) for name, captions in expected["test"].items()
    }
    assert (
        content(load("MSVD", folder, "train", protocol="one_caption"))
        == expected["train"]
    )
    with pytest.raises(
        ConfigError, match="known: all_captions, one_caption, paragraph"
    ):
        load("MSVD", folder, protocol="all")


# LSMDC


def test_lsmdc_rows(copied, caplog):
    folder, _, _ = copied("LSMDC", "LSMDC16")
    times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
    broken = "1012_Unbreakable_00.05.16.065-00.05.21.941"
    names = [lsmdc_clip(n) for n in (8, 9, 10, 11)]
    rows = [
        f'{names[0]}\t{times}\tHe says "no.',
        f"{names[1]}\t{times}",
        f"{names[2]}\t{times}\t",
        "",
        f"{names[3]}\t{times}\tOne.\tTwo.",
        f"{broken}\t{times}\tA door.",
        f"{names[0]}\t{times}\tHe leaves. ",
    ]
    write_text(folder / LSMDC_FILES["test"], "\ufeff" + "\n".join(rows), "\r\n")
    expected = {
        names[0]: ('He says "no.', "He leaves."),
        names[1]: (),
        names[2]: (),
        names[3]: ("One.\tTwo.",),
    }
    assert content(load("LSMDC", folder, "test")) == expected
    shutil.move(folder / LSMDC_FILES["test"], folder / LSMDC_FILES["train"])
    assert content(load("LSMDC", folder)) == {
        name: captions for name, captions in expected.items() if captions
    }
    assert "2 videos without a caption are left out" in caplog.text
    write_text(folder / LSMDC_FILES["val"], "one\ttwo")
    with pytest.raises(
        UserError, match="line 1 has 2 fields with tabs between them, 6 are needed"
    ):
        load("LSMDC", folder, "val")


def test_lsmdc_films_are_in_the_names(copied):
    folder, _, expected = copied("LSMDC", "LSMDC16")
    dataset = load("LSMDC", folder, "test")
    assert dataset.ids[0] == "0011_Paper_Kite_00.01.51.926-00.01.54.129"
    assert dataset.paths[0] == str(
        folder / "0011_Paper_Kite/0011_Paper_Kite_00.01.51.926-00.01.54.129.avi"
    )


def test_lsmdc_frozen_says_where_films_lie(copied):
    folder, _, _ = copied("LSMDC", "Frozen")
    assert "/videos/0011_Paper_Kite_cut/" in load("LSMDC", folder, "test").paths[0]


# DiDeMo


def test_didemo_two_names_of_one_video(copied):
    folder, _, expected = copied("DiDeMo", "official")
    rows = json.loads((folder / "test_data.json").read_text())
    assert len({row["video"] for row in rows}) == 5 and len(expected["test"]) == 4
    dataset = load("DiDeMo", folder, "test")
    assert content(dataset) == expected["test"] and dataset.captions[0] == paragraph(11)
    names = [Path(path).name for path in dataset.paths]
    assert [name.partition(".")[1] + name.partition(".")[2] for name in names] == [
        ".mov",
        ".avi.mp4",
        "..mp4",
        ".mp4",
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mp4.mp4", ".mov.mp4", ".MOV"])
def test_didemo_file_of_either_name(tmp_path, suffix):
    on_disk = f"1@N0_2_a{suffix}"
    rows = [
        {"video": f"1@N0_2_a.{suffix}", "description": suffix}
        for suffix in ("mov", "mp4")
    ]
    write_text(tmp_path / "test_data.json", json.dumps(rows))
    write_media(tmp_path / on_disk, suffix=".mp4")
    dataset = load("DiDeMo", tmp_path, "test")
    assert dataset.paths[0] == str(tmp_path / on_disk) and content(dataset) == {
        "1@N0_2_a": ("mov mp4",)
    }
    assert dataset.layout == "official without lists"


def test_didemo_shows_the_first_half_minute(copied):
    folder, _, _ = copied(
        "DiDeMo", "official"
    )  # its clips have 36 frames, one per second
    dataset = load("DiDeMo", folder, "test", {"num_frames": 30})
    assert dataset[0]["meta"]["frames"] == list(range(30))


# WebVid


def test_webvid_captions(copied):
    folder, args, expected = copied("WebVid", "Frozen", "2M")
    assert ("NA",) in expected["train"].values() and any(
        "\n" in caption for (caption,) in expected["train"].values()
    )
    dataset = load("WebVid", folder, **args)
    assert dataset.layout == "Frozen (results_2M_train.csv)"
    assert dataset.left_out == {"rows without videoid, page_dir or caption": 1}
    table = folder / "metadata/results_2M_train.csv"
    with open(table, "a", newline="") as file:
        csv.writer(file).writerow(
            ["1000", "x" * 400, "1", "000000_000050", "PT", "url"]
        )
    assert load("WebVid", folder, **args).captions[-1] == "x" * 350


def test_webvid_cut_is_part_of_the_name(copied):
    folder, _, _ = copied("WebVid", "Frozen", "10M")
    assert "results_10M_train.csv" in load("WebVid", folder, cut="10M").layout
    with pytest.raises(
        FileNotFoundError,
        match="results_2M_train.csv.*webvid_training_success_full_noun_verb.tsv",
    ):
        load("WebVid", folder)


def test_webvid_without_its_column(copied):
    folder, args, _ = copied("WebVid", "Frozen", "2M")
    write_text(
        folder / "metadata/results_2M_val.csv",
        "videoid,title,page_dir\n1,x,000001_000050\n",
    )
    with pytest.raises(
        UserError, match="has no column 'name'.*'videoid', 'title', 'page_dir'"
    ):
        load("WebVid", folder, "val", **args)


# CC3M


def test_cc3m_names_that_collide(tmp_path):
    urls = [
        "plumless",
        "buckeroo",
        "http://a/1",
        "http://a/1",
        "http://a/2",
    ]  # the first two have the same crc32
    write_text(
        tmp_path / "Train_GCC-training.tsv",
        "\n".join(f'caption "{i}\t{url}' for i, url in enumerate(urls)),
    )
    for code in (1306201125, 2340312036, 344385310):
        write_media(tmp_path / "training" / str(code), suffix=".jpg")
    dataset = load("ConceptualCaptions3M", tmp_path, check_files=False)
    assert list(dataset.captions) == ['caption "2', 'caption "3', 'caption "4']
    assert dataset.left_out == {"rows of colliding crc32": 2}
    shutil.rmtree(tmp_path / "training")
    write_media(tmp_path / "training/4_344385310", suffix=".jpg")
    dataset = load("ConceptualCaptions3M", tmp_path, check_files=False)
    assert (
        len(dataset) == 5
        and "files named row_crc32" in dataset.layout
        and dataset.ids[1] == "1_1306201125"
    )


def test_cc3m_pages_that_are_no_pictures(copied):
    folder, _, expected = copied("ConceptualCaptions3M", "_crc32")
    dataset = load("ConceptualCaptions3M", folder)
    write_text(Path(dataset.paths[1]), "<!DOCTYPE html><html>404</html>")
    sample = dataset[1]
    assert [path for path, _ in sample["meta"]["failures"]] == [dataset.paths[1]]
    assert (
        sample["text"] in expected["train"][sample["meta"]["id"]]
        and sample["meta"]["id"] != dataset.ids[1]
    )
    with pytest.raises(BrokenVideo, match=Path(dataset.paths[1]).name):
        load("ConceptualCaptions3M", folder, params={"loading": "strict"})[1]


# Folders


@pytest.mark.parametrize(
    "name, classes",
    [
        ("UCF101", ["apply eye makeup", "handstand pushups", "playing tabla", "yo yo"]),
        ("HMDB51", ["brush hair", "climb stairs", "eat"]),
    ],
)
@pytest.mark.parametrize("layout", ["official split 1", "class folders"])
def test_actions_have_classes_and_labels(copied, name, classes, layout):
    folder, _, _ = copied(name, layout)
    dataset = load(name, folder, "test")
    assert list(dataset.classes) == classes and dataset.labels.dtype == torch.int64
    assert [classes[label] for label in dataset.labels] == list(dataset.captions)


@pytest.mark.parametrize("name", ["UCF101", "HMDB51"])
def test_actions_without_lists_have_no_training_split(copied, name):
    folder, _, _ = copied(name, "class folders")
    with pytest.raises(FileNotFoundError, match="looked for"):
        load(name, folder, "train")


def test_a_folder_without_the_split(copied):
    folder, _, _ = copied("VideoFolder", "subfolders")
    shutil.rmtree(folder / "val")
    with pytest.raises(
        FileNotFoundError, match="has folders train, test and none for split 'val'"
    ):
        load("VideoFolder", folder, "val")


def test_videos_without_captions_are_a_gallery(tmp_path):
    write_media(tmp_path / "one.mp4")
    write_text(tmp_path / "notes.txt", "not a caption of anything")
    write_text(write_media(tmp_path / "two.webm", 1).with_suffix(".txt"), sentence(1))
    assert content(load("VideoFolder", tmp_path, "test")) == {
        "one": (),
        "two": sentences(1, 1),
    }
    assert content(load("VideoFolder", tmp_path, "train")) == {"two": sentences(1, 1)}
