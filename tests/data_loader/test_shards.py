"""Tar shards: the same samples as webdataset streams, each at most once per epoch, on any number of processes."""

import bz2
import gc
import gzip
import json
import logging
import lzma
import multiprocessing
import os
import shutil
import tarfile

import pytest
import torch

from data_loader.annotations import tar_index
from data_loader.datasets import DATASETS
from data_loader.loader import TextVideoDataLoader
from data_loader.reader import BrokenVideo, read_frames
from parse_config import ConfigError, UserError
from scripts.synthetic.miniatures import encode_media, sentence, write_text
from scripts.synthetic.miniatures.pretraining import write_tar
from tests.helpers.fake_torchcodec import torchcodec_loads

VIDEO = {"num_frames": 2, "input_res": 16, "deadline": 0}


def members(number, suffix="mp4", **more):
    """One sample's files."""
    return [
        (f"{number:06d}.{suffix}", encode_media(f".{suffix}", number % 8, 8, 8)),
        (f"{number:06d}.txt", sentence(number).encode()),
        *((f"{number:06d}.{name}", content) for name, content in more.items()),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 videos in 4 shards of 5, 5, 2 and 1, under train/."""
    top = tmp_path_factory.mktemp("shards") / "odd [a] {b,c} ::"
    for shard_number, numbers in enumerate(
        (range(5), range(5, 10), range(10, 12), range(12, 13))
    ):
        write_tar(
            top / f"train/{shard_number:05d}.tar",
            [member for number in numbers for member in members(number)],
        )
    return top


def load(folder, split="train", params=None, **args):
    args = {
        "data_dir": str(folder),
        "split": split,
        "video_params": {**VIDEO, **(params or {})},
        **args,
    }
    return DATASETS.build({"type": "TarShards", "args": args})


def loader(folder, rank=0, world_size=1, workers=0, batch_size=2, seed=0):
    return TextVideoDataLoader(
        "TarShards",
        data_dir=str(folder),
        batch_size=batch_size,
        num_workers=workers,
        video_params=VIDEO,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )


def ids(batches):
    return [[meta["id"] for meta in batch["meta"]] for batch in batches]


def test_the_samples_are_webdatasets(tmp_path):
    """The library's own writer and reader: the same keys, captions and bytes in the same order."""
    import webdataset

    with webdataset.ShardWriter(
        str(tmp_path / "%05d.tar"), maxcount=3, verbose=0
    ) as writer:
        for number in range(7):
            writer.write(
                {
                    "__key__": f"{number:09d}",
                    "mp4": encode_media(".mp4", number, 8, 8),
                    "txt": sentence(number),
                    "json": {"caption": sentence(number), "duration": 1.5},
                }
            )
    dataset = load(tmp_path)
    stream = list(
        webdataset.WebDataset(str(tmp_path / "{00000..00002}.tar"), shardshuffle=False)
    )
    assert [sample["__key__"] for sample in stream] == [
        name.partition("/")[2] for name in dataset.ids
    ]
    assert [sample["txt"].decode() for sample in stream] == list(dataset.captions)
    for index, sample in enumerate(stream):
        (tmp_path / "one.mp4").write_bytes(sample["mp4"])
        frames, indices = dataset.read_clip(index, lambda length: range(length))
        assert torch.equal(frames, read_frames(str(tmp_path / "one.mp4"), indices))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_each_sample_at_most_once_and_equal_steps(folder, world_size):
    loaders = [loader(folder, rank, world_size) for rank in range(world_size)]
    epochs = []
    for epoch in (0, 1):
        batches = [ids(process.epoch(epoch)) for process in loaders]
        assert (
            {len(process) for process in batches}
            == {len(loaders[0])}
            == {13 // (2 * world_size)}
        )
        names = [name for process in batches for batch in process for name in batch]
        assert len(set(names)) == len(names) == 13 // (2 * world_size) * 2 * world_size
        epochs.append(names)
    assert epochs[0] != epochs[1]
    assert epochs[0] == [
        name
        for rank in range(world_size)
        for batch in ids(loader(folder, rank, world_size).epoch(0))
        for name in batch
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(folder, workers):
    for single, parallel in zip(
        loader(folder).epoch(2), loader(folder, workers=workers).epoch(2), strict=True
    ):
        assert (
            torch.equal(single["video"], parallel["video"])
            and single["text"] == parallel["text"]
        )


def test_an_epoch_goes_on_in_its_middle(folder):
    batches = list(loader(folder).epoch(3))
    resumed = list(loader(folder).epoch(3, start=4))
    assert len(batches) == 6 and len(resumed) == 2
    for batch, again in zip(batches[4:], resumed):
        assert (
            torch.equal(batch["video"], again["video"])
            and batch["meta"] == again["meta"]
        )


def test_too_few_are_an_error_at_start(folder, tmp_path):
    with pytest.raises(ConfigError, match="13 videos, fewer than one batch of 7 x 2"):
        loader(folder, world_size=7)
    with pytest.raises(FileNotFoundError, match="no such tar shard"):
        load(tmp_path)
    write_tar(tmp_path / "00000.tar", [("readme.md", b"nothing")])
    with pytest.raises(UserError, match="no videos"):
        load(tmp_path)


def test_pictures_in_an_evaluation(tmp_path):
    write_tar(
        tmp_path / "val/00000.tar",
        [member for number in range(3) for member in members(number, "jpg")],
    )
    write_tar(
        tmp_path / "val/00001.tar",
        [member for number in range(3, 5) for member in members(number, "png")],
    )
    dataset = load(tmp_path, "val")
    assert dataset.layout == "2 tar shards of pictures" and dataset.owner.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert list(dataset.captions) == [sentence(number) for number in range(5)]
    assert dataset[4]["video"].shape == (2, 3, 16, 16) and dataset.windows(
        0, 1
    ).shape == (
        1,
        2,
        3,
        16,
        16,
    )
    with pytest.raises(
        FileNotFoundError, match="of split 'test'; folders with shards are val"
    ):
        load(tmp_path, "test")


def test_captions_of_the_json(tmp_path):
    clip = encode_media(".mp4", 0, 8, 8)
    metadata = [
        json.dumps({"captions": ["one", "two"]}),
        json.dumps({"caption": None}),
        "[1]",
        "{broken",
    ]
    samples = [
        [(f"{i}.mp4", clip), (f"{i}.json", content.encode())]
        for i, content in enumerate(metadata)
    ]
    write_tar(
        tmp_path / "00000.tar",
        sum(samples, []) + [("4.mp4", clip), ("4.txt", b"\xff from the text \n")],
    )
    dataset = load(tmp_path, "train")
    assert list(dataset.captions) == ["one", "two"]
    assert dataset.owner.tolist() == [0, 0]
    assert "2 faulty members left out, the first" in dataset.layout
    assert "3.json" in dataset.layout
    assert len(load(tmp_path, "val", {"loading": "skip"})) == 5


def cut_short(path):
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data
    os.truncate(path, end + 700)


FAULTS = {
    "cut short": cut_short,
    "no tar": lambda path: write_text(path, "<html>" * 200),
    "empty": lambda path: path.write_bytes(b""),
    "no media": lambda path: write_tar(
        path, [("000099.json", b"{}"), ("000099.txt", b"lost")]
    ),
    "a name twice": lambda path: write_tar(
        path, members(20) + [("000020.mp4", b"again")]
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_shards_are_counted(tmp_path, fault, caplog):
    write_tar(tmp_path / "00000.tar", members(0) + members(1))
    FAULTS[fault](
        write_tar(
            tmp_path / "00001.tar",
            members(2) + [("000003.mp4", encode_media(".mp4", 3, 8, 8))],
        )
    )
    with caplog.at_level(logging.INFO):
        dataset = load(tmp_path)
    assert len(dataset) == {"cut short": 3, "a name twice": 3}.get(fault, 2)
    assert (
        "1 faulty members left out, the first: " in caplog.text
        and "00001.tar" in caplog.text
    )
    assert all(dataset[index]["video"] is not None for index in range(len(dataset)))
    with pytest.raises(UserError, match="00001.tar.*1 faults"):
        load(tmp_path, "val")


def test_a_member_that_does_not_decode(tmp_path):
    write_tar(
        tmp_path / "00000.tar",
        [*members(0), ("000001.mp4", b"<html>404</html>"), ("000001.txt", b"gone")],
    )
    dataset = load(tmp_path)
    sample = dataset[1]
    ((path, reason),) = sample["meta"]["failures"]
    assert (
        path.endswith("]/000001.mp4") and "00000.tar[" in path and "/tmp" not in reason
    )
    assert sample["text"] == sentence(0) and sample["meta"]["id"] == "00000/000000"
    with pytest.raises(BrokenVideo, match="000001.mp4"):
        load(tmp_path, "val")[1]
    os.remove(tmp_path / "00000.tar")
    with pytest.raises(UserError, match="No such file"):
        dataset[0]


@pytest.mark.parametrize(
    "reader", ["av", "decord", "auto", *(["torchcodec"] if torchcodec_loads() else [])]
)
def test_readers_and_deadline(folder, reader):
    dataset = load(folder, params={"reader": reader, "deadline": 20.0})
    assert torch.equal(dataset[3]["video"], load(folder)[3]["video"])


def test_shards_by_pattern(folder):
    assert len(load(folder, shards="train/{00000..00001}.tar")) == 10
    assert len(load(folder, shards="train/0000[23].tar")) == 3
    with pytest.raises(
        FileNotFoundError, match="00004.tar: no such tar shard.*misses 3 of 6"
    ):
        load(folder, shards="train/{00001..00006}.tar")


def test_the_list_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data_loader.annotations.table_cache.SMALL", 0)
    first = load(folder, cache_dir=str(tmp_path))
    monkeypatch.setattr(tar_index, "index_shard", None)
    again = load(folder, cache_dir=str(tmp_path))
    assert (
        list(again.ids) == list(first.ids)
        and again.layout == first.layout == "4 tar shards of videos"
    )
    assert torch.equal(again[4]["video"], first[4]["video"])


def test_many_shards_are_listed_by_processes(tmp_path, monkeypatch):
    gc.collect()  # ends the workers of loaders that earlier tests left in cycles
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for number in range(9):
        write_tar(tmp_path / f"{number:05d}.tar", members(number))
    assert list(load(tmp_path).captions) == [sentence(number) for number in range(9)]
    assert not multiprocessing.active_children()


def test_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webdataset.tariterators", None)
    with pytest.raises(ConfigError, match="pip install webdataset"):
        load(folder)


# Which member is what


def clip(number=0):
    return encode_media(".mp4", number, 8, 8)


def picture():
    return encode_media(".jpg", 0, 8, 8)


def write_shard(folder, *shard_members, name="00000.tar"):
    return write_tar(folder / name, list(shard_members))


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.mp4", "a.txt"],
        ["a.mp4", "a.txt", "a.png"],
        ["a.txt", "a.thumb.jpg", "a.mp4"],
        ["a.JPG", "a.txt", "a.MP4"],
    ],
)
def test_the_video_comes_before_the_picture(tmp_path, names):
    content = {"txt": b"a caption", "mp4": clip()}
    write_shard(
        tmp_path,
        *((name, content.get(name[-3:].lower(), picture())) for name in names),
    )
    dataset = load(tmp_path, "val")
    assert dataset.layout == "1 tar shards of videos"
    assert list(dataset.captions) == ["a caption"]
    assert dataset.read_clip(0, range)[1] == list(range(8))


@pytest.mark.parametrize("extension", ["mts", "m2ts", "asf", "vob", "f4v", "3g2", "qt"])
def test_extensions_that_were_no_video(tmp_path, extension):
    write_shard(tmp_path, (f"a.{extension}", clip()), ("a.txt", b"a caption"))
    assert load(tmp_path, "val").layout == "1 tar shards of videos"
    write_shard(tmp_path, ("a.tiff", picture()), ("a.txt", b"a caption"))
    assert load(tmp_path, "val").layout == "1 tar shards of pictures"


def test_members_in_any_order_are_joined_by_key(tmp_path):
    first, second = members(0), members(1)
    ordered = [*first, *second]
    orders = [
        [second[1], first[0], second[0], first[1]],
        [first[1], second[1], first[0], second[0]],
        [first[0], second[0], (f"./{first[1][0]}", first[1][1]), second[1]],
    ]
    write_shard(tmp_path / "ordered", *ordered)
    expected = load(tmp_path / "ordered", "val")
    for number, order in enumerate(orders):
        write_shard(tmp_path / str(number), *order)
        dataset = load(tmp_path / str(number), "val")
        captions = dict(zip(dataset.ids, dataset.captions, strict=True))
        assert captions == dict(zip(expected.ids, expected.captions, strict=True))
        index = list(dataset.ids).index("00000/000001")
        assert torch.equal(dataset[index]["video"], expected[1]["video"])


def test_dots_in_names(tmp_path):
    """A key ends at the first dot: of several videos of one key, one is left out and named."""
    write_shard(
        tmp_path,
        ("1.5.mp4", clip(1)),
        ("1.5.txt", b"one and a half"),
        ("1.mp4", clip()),
        ("1.txt", b"one"),
        ("2.5.mp4", clip(2)),
        ("2.5.txt", b"two and a half"),
    )
    dataset = load(tmp_path)
    assert list(dataset.captions) == ["one", "two and a half"]
    assert "00000.tar: 1.5.mp4 is left out: a key ends at the first dot" in (
        dataset.layout
    )
    with pytest.raises(UserError, match="1.5.mp4 is left out"):
        load(tmp_path, "val")


def test_what_macos_adds_to_a_shard(tmp_path):
    write_shard(
        tmp_path,
        ("._000000.mp4", b"\0\5\x16\7"),
        *members(0),
        ("__MACOSX/000001.mp4", b"\0\5\x16\7"),
    )
    write_shard(tmp_path, ("x", b"no tar"), name="._00000.tar")
    assert list(load(tmp_path, "val").ids) == ["00000/000000"]


def test_captions_that_are_not_utf_8(tmp_path):
    write_shard(
        tmp_path,
        ("a.mp4", clip()),
        ("a.txt", "Stra\u00dfe".encode("latin-1")),
        *members(0),
        ("b.mp4", clip()),
        ("b.txt", b"\xff"),
        ("b.json", b'{"caption": "of the json"}'),
        ("c.mp4", clip()),
        ("c.txt", b"\xef\xbb\xbfwith a mark\r\n"),
    )
    dataset = load(tmp_path)
    assert list(dataset.captions) == [sentence(0), "of the json", "with a mark"]
    assert "2 faulty members left out" in dataset.layout
    assert "00000.tar: a.txt is not UTF-8 (invalid" in dataset.layout
    with pytest.raises(UserError, match="00000.tar: a.txt is not UTF-8"):
        load(tmp_path, "val")
    assert len(load(tmp_path, with_captions=False)) == 4


# Shards that are none


def tar_content(folder):
    path = write_shard(folder / "whole", *members(0), *members(1))
    return path.read_bytes()


SPOILT = {
    "gzip": (gzip.compress, r"is compressed with gzip; unpack it \(gunzip\)"),
    "bzip2": (bz2.compress, r"is compressed with bzip2; unpack it \(bunzip2\)"),
    "xz": (lzma.compress, r"is compressed with xz; unpack it \(unxz\)"),
    "page": (lambda content: b"<!DOCTYPE html><html>404", "is a web page"),
    "pointer": (
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        r"is a Git LFS pointer.*\(git lfs pull\)",
    ),
    "empty": (lambda content: b"", "is empty"),
    "video": (lambda content: clip(), "is damaged or cut off"),
    "cut in the header": (lambda content: content[:300], "is damaged or cut off"),
    "cut in a file": (lambda content: content[:700], "ends within 000000.mp4"),
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("split", ["train", "val"])
def test_what_a_shard_is_instead(tmp_path, kind, split):
    spoil, reason = SPOILT[kind]
    (tmp_path / "00000.tar").write_bytes(spoil(tar_content(tmp_path)))
    with pytest.raises(
        UserError, match=f"no videos in its shards: .*{reason}"
    ) as error:
        load(tmp_path, split)
    assert "\n" not in str(error.value)
    write_shard(tmp_path, *members(5), name="00001.tar")
    if split == "val":
        with pytest.raises(UserError, match=reason):
            load(tmp_path, split)
    else:
        dataset = load(tmp_path, split)
        assert len(dataset) == 1 and "00000.tar" in dataset.layout


@pytest.mark.parametrize("name", ["00000.tar.gz", "00000.TGZ", "00000.tar.zst"])
@pytest.mark.parametrize("folder", ["", "train/"])
def test_compressed_shards_are_pointed_at(tmp_path, name, folder):
    path = tmp_path / f"{folder}{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(tar_content(tmp_path / "whole")))
    shutil.rmtree(tmp_path / "whole")
    with pytest.raises(
        FileNotFoundError, match=r"no such tar shard; .*gunzip"
    ) as error:
        load(tmp_path)
    assert name in str(error.value)


def headers(path):
    with tarfile.open(path) as tar:
        return [(member.offset, member.offset_data) for member in tar], tar.offset


def test_cut_between_two_members(tmp_path):
    """tarfile itself reads such a file without a word."""
    path = write_shard(tmp_path, *members(0), *members(1))
    places, _ = headers(path)
    os.truncate(path, places[2][0])
    dataset = load(tmp_path)
    assert list(dataset.ids) == ["00000/000000"]
    assert "is cut off: it has no end mark" in dataset.layout
    with pytest.raises(UserError, match="00000.tar: is cut off"):
        load(tmp_path, "val")


@pytest.mark.parametrize("kept", [100, 511])
def test_cut_within_a_header(tmp_path, kept):
    path = write_shard(tmp_path, *members(0), *members(1))
    places, _ = headers(path)
    os.truncate(path, places[2][0] + kept)
    with pytest.raises(UserError, match="00000.tar: is cut off"):
        load(tmp_path, "val")


def test_damaged_in_the_middle(tmp_path):
    path = write_shard(tmp_path, *members(0), *members(1))
    places, _ = headers(path)
    with open(path, "r+b") as file:
        file.seek(places[2][0])
        file.write(b"\xaa" * 512)
    dataset = load(tmp_path)
    assert len(dataset) == 1
    assert f"is damaged at byte {places[2][0]}" in dataset.layout


def test_shards_that_were_joined(tmp_path):
    first = tar_content(tmp_path)
    second = write_shard(tmp_path / "other", *members(2)).read_bytes()
    (tmp_path / "00000.tar").write_bytes(first + second)
    with pytest.raises(UserError, match="goes on behind its end mark"):
        load(tmp_path, "val")


def test_keys_that_occur_in_several_shards(tmp_path):
    write_shard(tmp_path, *members(0), *members(1), name="a.tar")
    write_shard(tmp_path, *members(1), *members(2), name="b.tar")
    dataset = load(tmp_path, "val")
    assert len(dataset) == 4 and len(set(dataset.ids)) == 4
    assert (
        "1 keys occur again in another shard, as in a.tar and b.tar" in dataset.layout
    )


def test_shards_of_one_name_have_ids_of_their_own(tmp_path):
    for folder in ("x", "y"):
        write_shard(tmp_path / folder, *members(0))
    dataset = load(tmp_path, shards="*/*.tar")
    assert list(dataset.ids) == ["x/00000/000000", "y/00000/000000"]


# Splits


@pytest.mark.parametrize(
    "names",
    [
        {"train": "Train", "val": "Validation", "test": "TEST"},
        {"train": "training", "val": "valid", "test": "testing"},
    ],
)
def test_folders_of_splits_by_other_names(tmp_path, names, caplog):
    for number, folder in enumerate(names.values()):
        write_shard(tmp_path / folder, *members(number))
    for number, split in enumerate(names):
        assert list(load(tmp_path, split).ids) == [f"00000/{number:06d}"]
    write_shard(tmp_path, *members(9), name="loose.tar")
    load(tmp_path)
    assert (
        f"in no split, since splits have folders: {tmp_path}/loose.tar" in caplog.text
    )
    write_shard(tmp_path / "train_shards", *members(7))
    with pytest.raises(UserError, match="both named for split 'train'"):
        load(tmp_path, "val")


def test_shards_of_several_splits_in_one_folder(tmp_path):
    write_shard(tmp_path, *members(0), name="train-00000.tar")
    write_shard(tmp_path, *members(1), name="val-00000.tar")
    for split in ("train", "val"):
        with pytest.raises(UserError, match=f'shards, such as "{split}\\*.tar"'):
            load(tmp_path, split)
    assert list(load(tmp_path, "val", shards="val*.tar").captions) == [sentence(1)]


@pytest.mark.parametrize("data_dir", ["copy", "copy/shards/train/below"])
def test_a_folder_too_high_or_too_low(tmp_path, data_dir):
    write_shard(tmp_path / "copy/shards/train", *members(0))
    (tmp_path / "copy/shards/train/below").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"set data_dir to {tmp_path}/copy/shards, where"
    ):
        load(tmp_path / data_dir)


@pytest.mark.parametrize(
    "shards", ["https://example.org/{00000..00003}.tar", "~/shards/*.tar"]
)
def test_shards_elsewhere(tmp_path, shards):
    with pytest.raises(FileNotFoundError, match="is a URL|is not expanded"):
        load(tmp_path, shards=shards)
