"""Clips held in memory: the same samples as without, each file decoded once, and nothing left behind."""

import gc
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from data_loader import LOADERS, base, decode_cache
from data_loader.datasets import DATASETS, shards
from data_loader.decode import process
from data_loader.decode_cache import GIB, DecodeCache, available_memory
from data_loader.reader import BrokenVideo
from parse_config import ConfigError
from scripts.synthetic import clips
from scripts.synthetic.clip_files import write_clip, x264
from scripts.synthetic.miniatures import write_media, write_text
from tests.data_loader.test_loader import assert_same, tokenize

ROOT = Path(__file__).parents[2]
COUNT = 8
CLIP_BYTES = 8 * 48 * 64 * 3  # of what write_media writes
# whole, cut off, damaged inside, shorter than they say, turned
KINDS = (
    "h264.mp4",
    "h264-truncated.mp4",
    "h264-hole.mp4",
    "mpeg4-truncated.avi",
    "h264-cut.ts",
    "h264-edit-list.mp4",
    "h264-rotated-90.mp4",
)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    """Whole clips only."""
    folder = tmp_path_factory.mktemp("whole")
    rows = []
    for split in ("train", "test"):
        for i in range(COUNT):
            write_media(folder / f"{split}{i}.mp4", i)
            rows.append({"path": f"{split}{i}.mp4", "caption": "a b", "split": split})
    write_text(folder / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory):
    """Every kind of file, each also as a segment, for training and testing."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in KINDS:
        clips.make(name, folder)
    for name, size in (("a.ts", (96, 64)), ("b.ts", (128, 80))):
        write_clip(folder / name, length=10, size=size, options=x264())
    grown = (folder / "a.ts").read_bytes() + (folder / "b.ts").read_bytes()
    (folder / "grown.ts").write_bytes(grown)
    write_media(folder / "picture.jpg", 3)
    (folder / "nothing.mp4").write_bytes(b"nothing")
    (folder / "empty.mp4").write_bytes(b"")

    names = [*KINDS, "grown.ts", "picture.jpg", "nothing.mp4", "empty.mp4"]
    rows = []
    for split in ("train", "test"):
        for name in names:
            rows.append({"path": name, "caption": f"{name} whole", "split": split})
            segment = {"start": 0.3, "end": 1.1, "caption": f"{name} cut"}
            rows.append({"path": name, "split": split, **segment})
    write_text(folder / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


def make(folder, cache="memory", split="train", params=None, **args):
    video = {"num_frames": 2, "input_res": 16, "loading": "skip", "deadline": 0}
    video |= {"decode_cache": cache, **(params or {})}
    block = {"dataset_name": "JsonlDataset", "data_dir": str(folder), "split": split}
    block |= {"batch_size": 2, "num_workers": 0, "video_params": video, **args}
    return LOADERS.build(
        {"type": "TextVideoDataLoader", "args": block}, tokenize=tokenize
    )


@pytest.fixture
def decodes(monkeypatch, tmp_path):
    """The names of the files that were read, in any process, in order: () -> list."""
    record = tmp_path / "decodes.txt"
    record.touch()

    def recorded(path, *args, **kwargs):
        with record.open("a") as file:
            file.write(os.path.basename(path) + "\n")
        return original(path, *args, **kwargs)

    original = base.read_clip
    monkeypatch.setattr(base, "read_clip", recorded)
    monkeypatch.setattr(shards, "read_clip", recorded)

    def names():
        return record.read_text().split()

    return names


def samples(dataset, epochs=(0, 1, 0)):
    """Samples of some epochs, the draws of an epoch first all, then again."""
    return [
        dataset[(index, epoch)] for epoch in epochs for index in range(len(dataset))
    ]


def assert_same_samples(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others):
        assert a["meta"] == b["meta"] and a["text"] == b["text"]
        assert (a["video"] is None) == (b["video"] is None)
        if a["video"] is not None:
            assert torch.equal(a["video"], b["video"])
            assert a["video"].stride() == b["video"].stride()


@pytest.mark.slow
@pytest.mark.parametrize("deadline", [0, 60])
@pytest.mark.parametrize("reader", ["auto", "decord", "sequential"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_are_those_of_the_files(mixed_folder, split, reader, deadline):
    pytest.importorskip("decord")
    params = {"reader": reader, "num_frames": 3, "deadline": deadline}
    plain, cached = (
        make(mixed_folder, cache, split, params).dataset for cache in ("none", "memory")
    )
    assert_same_samples(samples(cached), samples(plain))
    assert cached.cache.held.clips >= 10


@pytest.mark.parametrize(
    "params",
    [
        {"num_frames": 1},
        {"num_frames": 12, "hflip": False},
        {"randcrop_scale": [1, 1], "hflip": False, "input_res": 32},
        {"center_crop": 40, "norm_mean": [0.5] * 3, "norm_std": [0.5] * 3},
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_transform_and_number_of_frames(plain_folder, split, params):
    plain, cached = (
        make(plain_folder, cache, split, params).dataset for cache in ("none", "memory")
    )
    assert_same_samples(samples(cached), samples(plain))


def test_windows_are_the_same(mixed_folder, decodes):
    plain, cached = (
        make(mixed_folder, cache, "test", num_workers=workers)
        for cache, workers in (("none", 0), ("memory", 1))
    )
    for stride in (1, 2):
        pairs = list(zip(cached.windows(stride), plain.windows(stride), strict=True))
        for with_cache, without in pairs:
            assert with_cache["meta"] == without["meta"]
            assert (with_cache["video"] is None) == (without["video"] is None)
            if without["video"] is not None:
                assert torch.equal(with_cache["video"], without["video"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_each_file_is_decoded_once_by_all_workers(
    plain_folder, decodes, split, workers
):
    plain = make(plain_folder, "none", split)
    expected = [list(plain.epoch(epoch)) for epoch in range(3)]
    before = len(decodes())
    assert before == 3 * COUNT

    cached = make(plain_folder, "memory", split, num_workers=workers)
    for epoch in range(3):
        assert_same(list(cached.epoch(epoch)), expected[epoch])
    list(cached.windows(1))
    names = [f"{split}{i}.mp4" for i in range(COUNT)]
    assert sorted(decodes()[before:]) == names
    assert cached.dataset.cache.held == (COUNT, COUNT * CLIP_BYTES)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(plain_folder, workers):
    expected = list(make(plain_folder, "none").epoch(1))
    resumed = make(plain_folder, num_workers=workers)
    assert_same(list(resumed.epoch(1, start=2)), expected[2:])
    assert_same(list(resumed.epoch(1)), expected)


def test_what_is_damaged_inside_is_not_held(mixed_folder):
    dataset = make(mixed_folder, split="test").dataset
    samples(dataset, [0])
    states = {
        id: dataset.cache._entry(index).state for index, id in enumerate(dataset.ids)
    }
    whole = {
        Path(dataset.paths[index]).name: dataset.cache._entry(index).state
        for index in range(0, len(dataset), 2)
    }
    assert len(states) == len(dataset)
    assert whole["h264.mp4"] == whole["picture.jpg"] == decode_cache.HELD
    assert whole["h264-hole.mp4"] == decode_cache.NOT_HELD
    assert whole["nothing.mp4"] == whole["empty.mp4"] == decode_cache.BROKEN


def test_a_broken_video_is_remembered_with_its_message(mixed_folder, decodes):
    plain = make(mixed_folder, "none", "test", {"loading": "strict"}).dataset
    cached = make(mixed_folder, "memory", "test", {"loading": "strict"}).dataset
    for name in ("nothing.mp4", "empty.mp4"):
        index = [Path(path).name for path in plain.paths].index(name)
        with pytest.raises(BrokenVideo) as expected:
            plain[index]
        before = len(decodes())
        for _ in range(3):
            with pytest.raises(BrokenVideo) as caught:
                cached[index]
            assert str(caught.value) == str(expected.value)
            assert caught.value.path == expected.value.path
        assert len(decodes()) == before + 1


def test_a_disk_that_failed_is_tried_again(plain_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "data")
    dataset = make(folder, params={"loading": "strict"}).dataset
    (folder / "train0.mp4").rename(folder / "away")
    with pytest.raises(BrokenVideo, match="No such file"):
        dataset[0]
    (folder / "away").rename(folder / "train0.mp4")
    assert dataset[0]["video"] is not None and dataset.cache.held.clips == 1


def test_what_does_not_fit_is_read_from_its_file(plain_folder, decodes):
    expected = samples(make(plain_folder, "none").dataset, range(3))
    before = len(decodes())
    limit = (2.5 * CLIP_BYTES) / GIB
    cached = make(plain_folder, params={"cache_gib": limit}).dataset
    assert_same_samples(samples(cached, range(3)), expected)
    assert cached.cache.held == (2, 2 * CLIP_BYTES)
    # the third is decoded whole and found too large; after that none is tried
    assert len(decodes()) - before == 2 + 3 * (COUNT - 2)

    nothing = make(plain_folder, params={"cache_gib": 0}).dataset
    assert_same_samples(samples(nothing, range(3)), expected)
    assert nothing.cache.held == (0, 0)


def test_a_long_clip_is_not_decoded_whole(plain_folder, decodes, monkeypatch):
    monkeypatch.setattr(decode_cache, "MAX_FRAMES", 7)
    expected = samples(make(plain_folder, "none").dataset)
    before = len(decodes())
    cached = make(plain_folder).dataset
    assert_same_samples(samples(cached), expected)
    assert cached.cache.held == (0, 0) and len(decodes()) == 2 * before


def test_shards_are_held_as_well(tmp_path, decodes):
    with tarfile.open(tmp_path / "00000.tar", "w") as shard:
        for i in range(4):
            write_media(tmp_path / f"{i}.mp4", i)
            write_text(tmp_path / f"{i}.txt", f"number {i}")
            for suffix in ("mp4", "txt"):
                shard.add(tmp_path / f"{i}.{suffix}", f"{i}.{suffix}")

    def dataset(cache):
        video = {"num_frames": 2, "input_res": 16, "deadline": 0, "decode_cache": cache}
        args = {"data_dir": str(tmp_path), "video_params": video}
        return DATASETS.build({"type": "TarShards", "args": args}, seed=0)

    expected = samples(dataset("none"))
    assert_same_samples(samples(dataset("memory")), expected)
    assert len(decodes()) == 12 + 4


def read_one(dataset, index, results):
    """In a spawned process: the sample, and how many clips are held there before and after."""
    before = dataset.cache.held.clips
    video = dataset[index]["video"].numpy()
    results.put((before, dataset.cache.held.clips, video))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_started_processes_share_the_memory(plain_folder, method):
    dataset = make(plain_folder).dataset
    expected = dataset[1]["video"]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    for index, counts in ((1, (1, 1)), (2, (1, 2))):
        process = context.Process(target=read_one, args=(dataset, index, results))
        process.start()
        *held, video = results.get(timeout=100)
        process.join()
        assert tuple(held) == counts
        if index == 1:
            assert torch.equal(torch.from_numpy(video), expected)
    assert dataset.cache.held.clips == 2, "what the child decoded is held here"


def test_a_pickled_copy_begins_empty(plain_folder):
    dataset = make(plain_folder).dataset
    expected = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.cache.held == (0, 0) and dataset.cache.held.clips == 1
    assert torch.equal(copy[0]["video"], expected["video"])


def open_caches(process="self"):
    """Files of this kind that a process has open."""
    links = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        if link.is_symlink():
            links.append(os.readlink(link))
    return sum("decoded-clips" in link for link in links)


def test_the_process_of_the_decoder_does_not_keep_the_memory(plain_folder):
    dataset = make(plain_folder, params={"deadline": 20}).dataset
    process._idle_child = None
    samples(dataset)
    child = process._idle_child.pid
    assert open_caches(child) == 0 < open_caches()
    assert "decoded-clips" not in Path(f"/proc/{child}/maps").read_text()
    assert "decoded-clips" in Path("/proc/self/maps").read_text()


def test_memory_is_given_back_with_the_data_set(plain_folder):
    gc.collect()
    before = open_caches()
    loader = make(plain_folder)
    list(loader.epoch())
    assert open_caches() > before
    del loader
    gc.collect()
    assert open_caches() == before


def shared_kib():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))


@pytest.mark.slow
def test_a_killed_program_leaves_nothing(plain_folder):
    """The kernel frees the pages of 256 MiB."""
    source = (
        "import sys, torch, numpy as np\n"
        "from data_loader.decode_cache import DecodeCache\n"
        "cache = DecodeCache(4, 1 << 29)\n"
        "cache._hold(0, np.ones((256, 512, 1024, 2), np.uint8))\n"
        "print(cache.held.bytes, flush=True)\n"
        "sys.stdin.read()\n"
    )
    before = shared_kib()
    program = subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert int(program.stdout.readline()) == 256 << 20
    during = shared_kib()
    program.kill()
    program.communicate()
    assert during - before > 200 << 10
    for _ in range(100):
        if shared_kib() - before < 50 << 10:
            break
        time.sleep(0.05)
    assert shared_kib() - before < 50 << 10


def hold_lock_and_die(cache, index):
    def choose(length):
        os.kill(os.getpid(), signal.SIGKILL)

    cache.read(index, choose, reads_by_asking)


def reads_by_asking(choose):
    indices = list(choose(3))
    clip_THWC = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    clip_THWC = clip_THWC.expand(3, 2, 2, 3)[indices].contiguous()
    return clip_THWC.permute(0, 3, 1, 2), indices


def first_and_last(length):
    return [0, length - 1]


def test_a_worker_that_is_killed_while_it_fills_blocks_nobody():
    cache = DecodeCache(2, 1 << 20)
    process = multiprocessing.get_context("fork").Process(
        target=hold_lock_and_die, args=(cache, 1)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for _ in range(2):
        clip_TCHW, indices = cache.read(1, first_and_last, reads_by_asking)
        assert indices == [0, 2] and clip_TCHW[:, 0, 0, 0].tolist() == [0, 2]
        assert clip_TCHW.shape == (2, 3, 2, 2) and clip_TCHW.dtype == torch.uint8
    assert cache.held == (1, 36)


def test_a_full_disk_of_memory_ends_the_filling(monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    cache = DecodeCache(2, 1 << 20)
    monkeypatch.setattr(os, "pwrite", full)
    for index in (0, 1, 0):
        clip_TCHW, _ = cache.read(index, first_and_last, reads_by_asking)
        assert clip_TCHW[:, 0, 0, 0].tolist() == [0, 2]
    assert cache.held == (0, 0)
    assert caplog.text.count("no more are held") == 1


def test_without_such_memory_there_is_one_line(plain_folder, monkeypatch, caplog):
    def refused(name):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    dataset = make(plain_folder).dataset
    assert dataset.cache is None and dataset[0]["video"] is not None
    assert caplog.text.count("decoded clips are not held in memory") == 1


def test_no_more_than_half_of_what_is_free(plain_folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(decode_cache, "available_memory", lambda: 5 * CLIP_BYTES)
    loader = make(plain_folder)
    list(loader.epoch())
    assert loader.dataset.cache.held.clips == 2
    assert "a share of what is free; cache_gib is 4" in caplog.text


def test_the_log_says_once_how_much_is_held(plain_folder, caplog):
    caplog.set_level(logging.INFO)
    loader = make(plain_folder)
    for epoch in range(3):
        batches = loader.epoch(epoch)
        for _ in range(len(loader)):
            next(batches)
        del batches
    assert caplog.text.count("once they are decoded, up to 4.00 GiB") == 1
    assert (
        caplog.text.count(f"{COUNT} of {COUNT} clips are held in memory, 0.000549 GiB")
        == 1
    )


def test_free_memory_is_that_of_the_kernel_and_the_control_group(tmp_path):
    assert available_memory(tmp_path) == 1 << 62
    write_text(tmp_path / "proc/meminfo", "MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    assert available_memory(tmp_path) == 500 << 10
    group = tmp_path / "sys/fs/cgroup"
    write_text(group / "memory.max", "max\n")
    write_text(group / "memory.current", "100000\n")
    assert available_memory(tmp_path) == 500 << 10
    write_text(group / "memory.max", "300000\n")
    assert available_memory(tmp_path) == 200000
    write_text(group / "memory.current", "400000\n")
    assert available_memory(tmp_path) == 0
    assert 0 < available_memory() < 1 << 62


def test_settings_are_checked(plain_folder):
    with pytest.raises(ConfigError, match=r"decode_cache: 'disk' .* memory, none"):
        make(plain_folder, "disk")
    with pytest.raises(ConfigError, match=r"cache_gib: -1 is given, 0 or more"):
        make(plain_folder, params={"cache_gib": -1})
