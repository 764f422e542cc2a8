"""Tar shards: the same samples as webdataset streams, each at most once per epoch, on any number of processes."""

import gc
import json
import logging
import multiprocessing
import os
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
    with pytest.raises(FileNotFoundError):
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
    assert list(dataset.captions) == [
        "one",
        "two",
        "\ufffd from the text",
    ] and dataset.owner.tolist() == [0, 0, 1]
    assert (
        "1 faulty members left out, the first" in dataset.layout
        and "3.json" in dataset.layout
    )
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
