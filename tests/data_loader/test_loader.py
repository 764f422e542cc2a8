"""Loaders: the same batches on any number of workers, each sample once, equal steps, resumable; clear errors."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_loader import LOADERS
from data_loader.collate import Collate
from data_loader.reader import BrokenVideo
from data_loader.sampler import DistributedBatchSampler
from parse_config import Config, ConfigError, UserError
from scripts.synthetic.miniatures import write_media, write_text
from tests.helpers.loader_cases import CASES

COUNT = 11


def tokenize(captions):
    ids = [[len(word) for word in caption.split()] for caption in captions]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    }


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    rows = []
    for split in ("train", "test"):
        for i in range(COUNT):
            write_media(folder / f"{split}{i}.mp4", i)
            rows.append(
                {
                    "path": f"{split}{i}.mp4",
                    "captions": [f"clip {i}", f"again {i} x"],
                    "split": split,
                }
            )
    write_text(folder / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def folder(shared_folder, tmp_path):
    return shutil.copytree(shared_folder, tmp_path / "data")


def make(folder, split="train", loading=None, tokenize=tokenize, **more):
    process = {
        key: more.pop(key) for key in ("rank", "world_size", "seed") if key in more
    }
    video = {
        "num_frames": 2,
        "input_res": 16,
        "loading": loading,
        "reader": "av",
        "deadline": 0,
    }
    args = {
        "dataset_name": "JsonlDataset",
        "data_dir": str(folder),
        "split": split,
        "batch_size": 2,
        "num_workers": 0,
        "video_params": video,
        **more,
    }
    return LOADERS.build(
        {"type": "TextVideoDataLoader", "args": args}, tokenize=tokenize, **process
    )


def ids(batches):
    return [[meta["id"] for meta in batch["meta"]] for batch in batches]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for a, b in zip(batches, others):
        assert a["meta"] == b["meta"] and torch.equal(a["video"], b["video"])
        assert all(torch.equal(a["text"][key], b["text"][key]) for key in a["text"])


def test_a_batch(shared_folder):
    loader = make(shared_folder, "test")
    batches = list(loader.epoch())
    assert len(loader) == len(batches) == 6 and loader.batch_size == 2
    assert (
        batches[0]["video"].shape == (2, 2, 3, 16, 16)
        and batches[0]["video"].dtype == torch.float32
    )
    assert (
        batches[0]["text"]["input_ids"].tolist() == [[4, 1], [4, 1]]
        and batches[0]["unreadable"] == []
    )
    assert sum(ids(batches), []) == [f"test{i}.mp4" for i in range(COUNT)], (
        "in order, nothing left out"
    )
    assert torch.equal(batches[1]["video"][0], loader.dataset[2]["video"])
    assert list(make(shared_folder, "test", tokenize=None).epoch())[0]["text"] == [
        "clip 0",
        "clip 1",
    ]


def test_batches_do_not_depend_on_the_number_of_workers(shared_folder):
    loaders = [make(shared_folder, num_workers=workers) for workers in (0, 1, 2)]
    for epoch in (0, 1, 0):
        first, *others = [list(loader.epoch(epoch)) for loader in loaders]
        for other in others:
            assert_same(first, other)


def test_each_epoch_has_an_order_of_its_own_that_belongs_to_the_seed(shared_folder):
    loader = make(shared_folder, tokenize=None)
    orders = [sum(ids(loader.epoch(epoch)), []) for epoch in range(3)]
    assert (
        all(len(set(order)) == 10 for order in orders)
        and len(set(map(tuple, orders))) == 3
    )
    assert (
        sum(ids(make(shared_folder).epoch(1)), [])
        == orders[1]
        != sum(ids(make(shared_folder, seed=1).epoch(1)), [])
    )
    plain = make(shared_folder, shuffle=False)
    assert (
        sum(ids(plain.epoch(0)), [])
        == sum(ids(plain.epoch(1)), [])
        == [f"train{i}.mp4" for i in range(10)]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(shared_folder, workers, monkeypatch):
    loader = make(shared_folder, num_workers=workers)
    every = list(loader.epoch(3))
    broken_off = loader.epoch(3)
    assert_same([next(broken_off), next(broken_off)], every[:2])
    assert_same(list(loader.epoch(3, start=2)), every[2:])
    assert list(loader.epoch(3, start=len(loader))) == []
    read = []
    monkeypatch.setattr(
        type(loader.dataset), "__getitem__", lambda self, key: read.append(key)
    )
    if not workers:
        with pytest.raises(TypeError):
            next(loader.epoch(3, start=4))
        assert len(read) == 2, "what lies before is not read"


def test_loaders_can_be_read_alternately(shared_folder):
    one, two = (
        make(shared_folder, num_workers=1),
        make(shared_folder, num_workers=1, seed=5),
    )
    both = list(itertools.chain.from_iterable(zip(one.epoch(0), two.epoch(0))))
    assert_same(both[0::2], list(make(shared_folder).epoch(0)))
    assert_same(both[1::2], list(make(shared_folder, seed=5).epoch(0)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_processes_share_an_epoch(shared_folder, world_size):
    batches = [
        ids(
            make(shared_folder, rank=rank, world_size=world_size, batch_size=1).epoch(2)
        )
        for rank in range(world_size)
    ]
    flat = sum(sum(batches, []), [])
    assert (
        len({len(process) for process in batches}) == 1
        and len(flat) == len(set(flat)) == COUNT // world_size * world_size
    )
    evaluation = [
        sum(
            ids(make(shared_folder, "test", rank=rank, world_size=world_size).epoch()),
            [],
        )
        for rank in range(world_size)
    ]
    assert evaluation == [
        [f"test{i}.mp4" for i in range(rank, COUNT, world_size)]
        for rank in range(world_size)
    ]


@pytest.mark.parametrize(
    "count, size, world_size", [(11, 2, 2), (64, 4, 4), (7, 7, 1), (1000, 3, 7)]
)
def test_a_global_batch_is_the_same_on_any_number_of_processes(count, size, world_size):
    per_process = [
        list(DistributedBatchSampler(count, size, rank, world_size, True, True, 0))
        for rank in range(world_size)
    ]
    single_process = list(
        DistributedBatchSampler(count, size * world_size, 0, 1, True, True, 0)
    )
    assert [sum(batches, []) for batches in zip(*per_process)] == single_process


def test_more_processes_than_videos_in_an_evaluation(shared_folder):
    loader = make(shared_folder, "test", rank=12, world_size=13)
    assert len(loader) == 0 and list(loader.epoch()) == []


def test_too_few_videos_for_a_batch(shared_folder):
    with pytest.raises(
        ConfigError,
        match="batch_size: .* has 11 videos, fewer than one batch of 4 x 3; lower it",
    ):
        make(shared_folder, batch_size=3, world_size=4)
    with pytest.raises(ConfigError, match="batch_size 0"):
        make(shared_folder, batch_size=0)


def test_names_are_checked(shared_folder):
    with pytest.raises(
        ConfigError, match="data_loader.args.dataset_name: 'Jsonl' is no data set"
    ):
        make(shared_folder, dataset_name="Jsonl")
    with pytest.raises(
        ConfigError, match=r"bach_size: unknown key \(nearest: batch_size\)"
    ):
        make(shared_folder, bach_size=3)
    with pytest.raises(
        ConfigError, match="data set JsonlDataset: args.other: unknown key"
    ):
        make(shared_folder, dataset_params={"other": 3})
    args = Config(
        {
            "type": "MultiDistTextVideoDataLoader",
            "args": {
                "dataset_name": "JsonlDataset",
                "data_dir": str(shared_folder),
                "video_params": {"num_frame": 4},
            },
        },
        "data_loader.0",
    )
    with pytest.raises(
        ConfigError, match="data_loader.0.args.video_params.num_frame: unknown key"
    ):
        LOADERS.build(args)


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_ends_with_the_path(folder, workers):
    (folder / "test4.mp4").write_bytes(b"nothing")
    with pytest.raises(BrokenVideo, match="test4.mp4") as caught:
        list(make(folder, "test", num_workers=workers).epoch())
    assert caught.value.path == str(folder / "test4.mp4")


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_replaces_in_training_and_leaves_out_in_an_evaluation(folder, workers):
    for name in ("train2", "train7", "test4", "test5"):
        (folder / f"{name}.mp4").write_bytes(b"nothing")
    train = list(make(folder, num_workers=workers).epoch(0))
    assert_same(train, list(make(folder, num_workers=2 - workers).epoch(0)))
    metas = [meta for batch in train for meta in batch["meta"]]
    assert len(metas) == 10 and not {"train2.mp4", "train7.mp4"} & {
        meta["id"] for meta in metas
    }
    assert {Path(path).name for meta in metas for path, _ in meta["failures"]} <= {
        "train2.mp4",
        "train7.mp4",
    }
    batches = list(make(folder, "test", "skip", num_workers=workers).epoch())
    assert [meta["id"] for batch in batches for meta in batch["unreadable"]] == [
        "test4.mp4",
        "test5.mp4",
    ]
    assert sum(ids(batches), []) == [
        f"test{i}.mp4" for i in range(COUNT) if i not in (4, 5)
    ]
    assert (
        batches[2]["video"].shape == (0, 2, 3, 16, 16) or len(batches[2]["video"]) == 1
    )
    assert all(
        len(batch["video"]) == len(batch["meta"]) == len(batch["text"]["input_ids"])
        for batch in batches
    )


def test_a_batch_of_which_nothing_can_be_read_is_empty():
    batch = Collate(tokenize, (2, 3, 16, 16))(
        [{"video": None, "text": "a", "meta": {"index": 3}}]
    )
    assert (
        batch["video"].shape == (0, 2, 3, 16, 16)
        and batch["text"]["input_ids"].shape[0] == 0
    )
    assert batch["meta"] == [] and batch["unreadable"] == [{"index": 3}]


def test_windows_of_a_gallery(folder):
    (folder / "test3.mp4").write_bytes(b"nothing")
    loader = make(folder, "test", "skip", rank=1, world_size=2, num_workers=1)
    views = list(loader.windows(2))
    assert [view["meta"]["index"] for view in views] == [1, 3, 5, 7, 9]
    assert torch.equal(views[0]["video"], loader.dataset.windows(1, 2)) and views[0][
        "video"
    ].shape[:2] == (2, 2)
    assert views[1]["video"] is None and views[1]["meta"]["failures"][0][0].endswith(
        "test3.mp4"
    )


def test_a_killed_worker_is_named_as_such(shared_folder):
    def die(captions):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        UserError, match="a data worker died .*num_workers or batch_size"
    ):
        list(make(shared_folder, tokenize=die, num_workers=1).epoch())


def test_a_programming_error_in_a_worker_keeps_its_name(shared_folder):
    def wrong(captions):
        return {}["absent"]

    with pytest.raises(KeyError, match="absent"):
        list(make(shared_folder, tokenize=wrong, num_workers=1).epoch())


def test_a_signal_to_the_whole_job_leaves_the_workers_reading(shared_folder):
    loader = make(
        shared_folder,
        num_workers=2,
        tokenize=lambda captions: {"pid": torch.full((len(captions),), os.getpid())},
    )
    batches = loader.epoch(0)
    workers = {int(next(batches)["text"]["pid"][0]) for _ in range(2)}
    for pid, sent in itertools.product(workers, ("TERM", "INT", "USR1")):
        subprocess.run(["kill", f"-{sent}", str(pid)], check=True)
    assert (
        len(list(batches)) == 3
        and {int(batch["text"]["pid"][0]) for batch in loader.epoch(1)} == workers
    )


@pytest.mark.slow
def test_workers_end_with_their_program(shared_folder):
    program = (
        "import sys; from data_loader import LOADERS; "
        "loader = LOADERS.build({'type': 'TextVideoDataLoader', 'args': {'dataset_name': 'JsonlDataset', "
        f"'data_dir': {str(shared_folder)!r}, 'batch_size': 2, 'num_workers': 2, "
        "'video_params': {'input_res': 16, 'deadline': 0}}}); "
        "batches = loader.epoch(0); next(batches); assert False, 'ends here'"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # would hang for ever
    assert "AssertionError: ends here" in ended.stderr and ended.returncode == 1


@pytest.mark.parametrize("name", LOADERS.names())
def test_every_loader_keeps_the_contract(name, tmp_path):
    assert name in CASES, (
        f"a loader named {name} needs an entry in tests/helpers/loader_cases.py"
    )
    args = CASES[name](tmp_path)

    def build(rank=0, world_size=1, workers=0, split="train"):
        return LOADERS.build(
            {"type": name, "args": {**args, "num_workers": workers, "split": split}},
            tokenize=tokenize,
            rank=rank,
            world_size=world_size,
            seed=3,
        )

    loader = build()
    epochs = [list(loader.epoch(epoch)) for epoch in range(2)]
    assert len(epochs[0]) == len(epochs[1]) == len(loader) > 1
    assert ids(epochs[0]) != ids(epochs[1]) and len(
        set(sum(ids(epochs[0]), []))
    ) == len(sum(ids(epochs[0]), []))
    for batch in epochs[0]:
        assert batch["video"].dtype == torch.float32 and batch["video"].ndim == 5
        assert (
            len(batch["video"])
            == len(batch["meta"])
            == len(batch["text"]["input_ids"])
            == loader.batch_size
        )
        assert all(
            {"id", "path", "frames", "failures"} <= set(meta) for meta in batch["meta"]
        )
    assert_same(list(build().epoch(1)), epochs[1])
    assert_same(list(build(workers=2).epoch(1)), epochs[1])
    assert_same(list(build().epoch(1, start=1)), epochs[1][1:])
    both = [ids(build(rank, 2).epoch(0)) for rank in range(2)]
    assert len(both[0]) == len(both[1]) and not set(sum(both[0], [])) & set(
        sum(both[1], [])
    )


@pytest.mark.parametrize(
    "args, message",
    [
        (
            {"split": "test", "dataset_params": {"split": "train"}},
            "dataset_params.split: 'train' is given, and data_loader.args.split is 'test'",
        ),
        (
            {"reader": "av", "video_params": {"reader": "decord"}},
            "video_params.reader: 'decord' is given, and the data set's own reader is 'av'",
        ),
    ],
)
def test_a_setting_that_is_given_twice_must_be_the_same(shared_folder, args, message):
    args = {"dataset_name": "JsonlDataset", "data_dir": str(shared_folder), **args}
    with pytest.raises(ConfigError, match=message):
        LOADERS.build({"type": "TextVideoDataLoader", "args": args})
