"""Decoders that hang or crash cost a deadline and a BrokenVideo, never the run; reading leaks nothing."""

import ctypes
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data_loader.decode import process
from data_loader.reader import (
    READERS,
    BrokenVideo,
    count_frames,
    read_clip,
    read_frames,
)
from scripts.synthetic import clips
from tests.data_loader.test_reader import NAMES

PARENT = os.getpid()
LIBC = ctypes.PyDLL(None)  # calls through it keep Python's lock


@READERS.register("test-faulty")
def faulty_reader(path, choose, start=None, end=None):
    """Fails as the file's name says, or reads it."""
    assert os.getpid() != PARENT, "decoding in the process that must live"
    name = os.path.basename(path)
    if name == "hang.mp4":
        LIBC.sleep(1000)
    if name == "doze.mp4":
        time.sleep(1000)
    if name == "crash.mp4":
        faulthandler.disable()  # pytest's, which prints
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "fail.mp4":
        raise ZeroDivisionError("a mistake in the reader")
    return READERS.get("av")(path, choose, start, end)


@pytest.fixture
def paths(tmp_path):
    """One clip under names that say what becomes of its reader."""
    clips.make("h264.mp4", tmp_path)
    for name in ("hang", "doze", "crash", "fail"):
        (tmp_path / f"{name}.mp4").write_bytes((tmp_path / "h264.mp4").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["hang", "doze"])
def test_a_decoder_that_never_returns_costs_the_deadline(paths, name):
    read_clip(paths / "h264.mp4", lambda length: [0], "test-faulty", deadline=20)
    began = time.monotonic()
    with pytest.raises(
        BrokenVideo, match=f"{name}.mp4: the decoder did not return within 0.3 s"
    ) as caught:
        read_clip(
            paths / f"{name}.mp4", lambda length: [0], "test-faulty", deadline=0.3
        )
    assert 0.3 <= time.monotonic() - began < 3 and caught.value.path == str(
        paths / f"{name}.mp4"
    )
    frames_TCHW, _ = read_clip(
        paths / "h264.mp4", lambda length: [7], "test-faulty", deadline=20
    )
    assert clips.read_number(frames_TCHW[0].permute(1, 2, 0).numpy()) == 7


def test_a_decoder_that_crashes(paths):
    with pytest.raises(
        BrokenVideo, match=r"crash.mp4: the decoder crashed \(SIGSEGV\)"
    ):
        read_frames(paths / "crash.mp4", [0], "test-faulty")
    assert read_frames(paths / "h264.mp4", [0, 1], "test-faulty").shape == (
        2,
        3,
        64,
        96,
    )


def test_mistakes_are_not_taken_for_broken_files(paths):
    with pytest.raises(
        RuntimeError,
        match=r"(?s)test-faulty.*fail.mp4.*ZeroDivisionError: a mistake in the reader",
    ):
        read_frames(paths / "fail.mp4", [0], "test-faulty")

    def wrong(length):
        raise KeyError("a mistake in the choice")

    for _ in range(2):
        with pytest.raises(KeyError, match="choice"):
            read_clip(paths / "h264.mp4", wrong)
        assert count_frames(paths / "h264.mp4") == 40


def test_any_function_can_be_called():
    assert process.call(math.hypot, 3, 4, path="none", deadline=20) == 5
    assert process.call(os.getpid, path="none", deadline=20) == process._idle_child.pid
    assert process.call(os.getpid, path="none", deadline=None) == PARENT
    with pytest.raises(RuntimeError, match=r"(?s)hypot\('3',\).*TypeError"):
        process.call(math.hypot, "3", path="none", deadline=20)


def test_one_child_is_kept_and_a_dead_one_replaced(paths):
    read_frames(paths / "h264.mp4", [0])
    first = process._idle_child.pid
    read_frames(paths / "h264.mp4", [1])
    assert process._idle_child.pid == first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    assert read_frames(paths / "h264.mp4", [1]).shape == (1, 3, 64, 96)
    assert process._idle_child.pid != first

    @READERS.register("test-late")
    def late(path, choose, start=None, end=None):
        return READERS.get("av")(path, choose, start, end)

    assert read_frames(paths / "h264.mp4", [1], "test-late").shape == (
        1,
        3,
        64,
        96,
    )  # registered after the fork


def test_threads_take_turns(paths):
    results = []

    def work(index):
        frames_TCHW = read_frames(paths / "h264.mp4", [index] * 3)
        results.append(
            (index, clips.read_number(frames_TCHW[2].permute(1, 2, 0).numpy()))
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(index, index) for index in range(12)]


class Clips(Dataset):
    """Sums of pixels; of every third file, whose reader fails, the reason."""

    def __init__(self, folder, deadline):
        self.paths = [
            str(folder / f"{name}.mp4")
            for name in ("h264", "h264", "hang", "h264", "crash", "h264")
        ]
        self.deadline = deadline

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            frames_TCHW, _ = read_clip(
                self.paths[index],
                lambda length: [index],
                "test-faulty",
                deadline=self.deadline,
            )
            return frames_TCHW.sum().item()
        except BrokenVideo as error:
            return error.reason


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_loading_goes_on_on_two_workers(paths, workers):
    read_frames(
        paths / "h264.mp4", [0]
    )  # the parent has a child of its own that workers must not touch
    began = time.monotonic()
    loader = DataLoader(
        Clips(paths, 0.5), batch_size=1, num_workers=workers, collate_fn=list
    )
    items = [item for epoch in range(2) for batch in loader for item in batch]
    assert time.monotonic() - began < 25
    assert "did not return" in items[2]
    assert "crashed" in items[4]
    assert items[:6] == items[6:]
    expected = [read_frames(paths / "h264.mp4", [i]).sum().item() for i in (0, 1, 3, 5)]
    assert [items[i] for i in (0, 1, 3, 5)] == expected


def run_in_fork(work) -> bytes:
    """The bytes that `work(answer)` passes to `answer` in a forked process, which it may kill."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            work(lambda data: os.write(write_end, data))
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    with os.fdopen(read_end, "rb") as file:
        return os.read(file.fileno(), 1000)


def test_a_hung_child_ends_itself_when_nobody_is_left_to_end_it(paths, monkeypatch):

    def work(answer):
        request = partial(
            read_clip, paths / "hang.mp4", list, "test-faulty", deadline=0.5
        )
        threading.Thread(target=request).start()
        children = []
        while not children:
            children = [
                pid
                for pid in os.listdir("/proc")
                if pid.isdigit() and stat(pid)[1] == str(os.getpid())
            ]
        time.sleep(0.2)
        answer(children[0].encode())
        os.kill(os.getpid(), signal.SIGKILL)

    child = int(run_in_fork(work))
    until = time.monotonic() + 10
    while stat(child)[0] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert time.monotonic() < until


def stat(pid: int | str) -> list[str]:
    """State (Z: ended, not yet waited for) and parent of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except FileNotFoundError:
        return ["Z", ""]


def test_the_main_process_never_loads_decord(paths):
    def work(answer):
        sys.modules.pop("decord", None)
        for reader in NAMES:
            read_frames(paths / "h264.mp4", [3], reader)
        answer(b"loaded" if "decord" in sys.modules else b"clean")

    assert run_in_fork(work) == b"clean"


def memory(pid: int) -> tuple[float, int]:
    """(resident MB, open files) of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, len(
            os.listdir(f"/proc/{pid}/fd")
        )


@pytest.mark.slow
@pytest.mark.parametrize("reader", [*NAMES[1:], "sequential"])
def test_reading_leaks_nothing(tmp_path, reader):
    names = ("h264.mp4", "mpeg4.avi", "h264-truncated.mp4", "page.mp4", "sound.mp4")
    files = [clips.make(name, tmp_path) for name in names]
    marks = []
    for number in range(300):
        try:
            read_clip(
                files[number % len(files)],
                lambda length: [0, length // 2, length - 1],
                reader,
            )
            read_frames(files[number % len(files)], [0, 1], reader)  # stops half way
        except BrokenVideo:
            assert number % len(files) >= 3
        if number in (99, 299):
            marks.append((memory(os.getpid()), memory(process._idle_child.pid)))
    for before, after in zip(*marks):
        assert after[0] - before[0] < 4 and after[1] == before[1]


def test_frames_survive_the_next_read(paths):
    first = read_frames(paths / "h264.mp4", [3])
    copy = first.clone()
    read_frames(paths / "h264.mp4", [9])
    assert torch.equal(first, copy)
