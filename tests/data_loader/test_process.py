"""Decoders that hang or crash cost a deadline and a BrokenVideo, never the run; reading leaks nothing."""

import ctypes
import faulthandler
import math
import os
import re
import select
import signal
import sys
import threading
import time
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
from data_loader.readers import Pictures, progress
from data_loader.readers.source import Source
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


def test_a_child_that_ends_as_it_is_asked_is_not_the_fault_of_the_file(
    paths, monkeypatch
):
    """The system may have ended it while it was idle: it takes a request that nobody answers."""
    read_frames(paths / "h264.mp4", [0])
    child = process._idle_child
    os.kill(child.pid, signal.SIGSTOP)
    original = process._Child.request

    def request_and_kill(self, request):
        original(self, request)
        if self is child:
            os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(process._Child, "request", request_and_kill)
    assert read_frames(paths / "h264.mp4", [1]).shape == (1, 3, 64, 96)
    assert child.ended_by == "SIGKILL" and process._idle_child is not child


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


def wait_for(condition, seconds=10.0) -> bool:
    """Whether the condition came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    return stat(pid)[0] == "Z"


def read_and_hang(paths, name: str, output: int) -> None:
    """Print the number of the child process, then let it work on the file `name`, or wait where there is none."""
    read_frames(paths / "h264.mp4", [0], "test-faulty")
    os.write(output, b"%d\n" % process._idle_child.pid)
    if name:
        read_frames(paths / name, [0], "test-faulty", deadline=600)
    time.sleep(600)


@pytest.mark.parametrize("name", ["hang.mp4", "doze.mp4", ""])
@pytest.mark.parametrize("in_thread", [False, True])
def test_no_child_outlives_its_parent(paths, name, in_thread):
    """Killed while the child decodes, hangs with Python's lock, or waits: the child ends, and with it the output."""
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(read_end)
            work = threading.Thread(target=read_and_hang, args=(paths, name, write_end))
            if in_thread:
                work.start()
                work.join()
            else:
                work.run()
        finally:
            os._exit(0)
    os.close(write_end)
    child = 0
    try:
        with os.fdopen(read_end, "rb", buffering=0) as output:
            assert select.select([output], [], [], 20)[0]
            child = int(output.readline())
            time.sleep(0.2)  # until the child has taken the request
            assert not is_gone(child)
            os.kill(parent, signal.SIGKILL)
            assert select.select([output], [], [], 10)[0], "somebody holds the output"
            assert output.read() == b""
        assert wait_for(lambda: is_gone(child))
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        if child and not is_gone(child):
            os.kill(child, signal.SIGKILL)


def test_a_child_outlives_the_thread_that_has_forked_it(paths):
    end_idle_child()
    thread = threading.Thread(target=read_frames, args=(paths / "h264.mp4", [0]))
    thread.start()
    thread.join()
    child = process._idle_child.pid
    time.sleep(0.1)
    read_frames(paths / "h264.mp4", [1])
    assert process._idle_child.pid == child and not is_gone(child)


def test_a_forked_process_does_not_keep_a_child_alive(paths):
    """Nor does it when the child was working at the time of the fork."""
    end_idle_child()
    in_answer = threading.Event()
    go_on = threading.Event()

    def choose(length):
        in_answer.set()
        assert go_on.wait(20)
        return [0]

    reading = threading.Thread(target=read_clip, args=(paths / "h264.mp4", choose))
    reading.start()
    assert in_answer.wait(20)
    child = next(iter(process._children))
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        go_on.set()
        reading.join(20)
        child.close()  # as the kernel does when this process ends
        assert wait_for(lambda: os.waitpid(child.pid, os.WNOHANG) != (0, 0))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        process._idle_child = None


def end_idle_child() -> None:
    """The next read has a child of its own."""
    if process._idle_child is not None:
        process._idle_child.end()
        process._idle_child = None


def test_what_a_reader_prints_goes_to_stderr():
    def streams():
        return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]

    end_idle_child()
    ours = streams()
    assert process.call(standard_streams, path="none", deadline=20) == [
        "/dev/null",
        ours[2],
        ours[2],
    ]


def standard_streams() -> list[str]:
    return [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]


@READERS.register("test-slow")
def slow_reader(path, choose, start=None, end=None):
    """Opens the file, then does what its name says: decodes for a while, hangs half way (hang.) or at once (hang-)."""
    name = os.path.basename(path)
    with Source(path) as clip:
        for number in range(10):
            if name.startswith("hang-") or (name.startswith("hang.") and number == 5):
                time.sleep(1000)
            progress.decode_begins(4000, 1000)  # 0.2 s
            time.sleep(0.06)
        return Pictures([clip.picture(next(clip.frames()))], [0])


@pytest.mark.slow
def test_a_deadline_grows_with_what_is_decoded(paths):
    """0.6 s of work, for which 2 s are granted: whatever the deadline, it is done; a hang ends nevertheless."""
    read_frames(paths / "h264.mp4", [0], "test-slow", deadline=0.1)
    began = time.monotonic()
    with pytest.raises(BrokenVideo, match=r"did not return within 1\.3 s \(h264, "):
        read_frames(paths / "hang.mp4", [0], "test-slow", deadline=0.3)
    assert time.monotonic() - began < 8
    # what one call was granted is not granted to the next
    with pytest.raises(BrokenVideo, match=r"did not return within 0\.2 s; raise"):
        read_frames(paths / "doze.mp4", [0], "test-faulty", deadline=0.2)


@pytest.mark.parametrize(
    ("clip", "description"),
    [
        ("h264.mp4", "h264, 96 x 64, 40 frames, 2 s"),
        ("mpeg4.avi", "mpeg4, 96 x 64, 40 frames, 2 s"),
        ("vp9.webm", r"(lib)?vp[9x-]\S*, 96 x 64"),
    ],
)
def test_the_message_of_a_deadline_says_what_it_was_and_what_helps(
    tmp_path, clip, description
):
    clips.make(clip, tmp_path)
    path = tmp_path / f"hang-{clip}"
    (tmp_path / clip).rename(path)
    with pytest.raises(BrokenVideo) as caught:
        read_frames(path, [0], "test-slow", deadline=0.1)
    assert re.fullmatch(
        rf"the decoder did not return within \S+ s \({description}\); raise video_params.deadline, "
        r"or make a copy that is quick to read with scripts/prepare_data.py",
        caught.value.reason,
    )


def test_each_decoded_packet_is_worth_time(paths):
    """Of a decode from the first frame on, and of one with a plan, only of what is decoded."""
    board = memoryview(bytearray(progress.SIZE))
    progress.report_to(board)
    try:
        for indices, reader, packets in (
            (range(40), "sequential", 40),
            ([0], "av", 1),
        ):
            progress.clear(board)
            read_frames(paths / "h264.mp4", indices, reader, deadline=None)
            seconds, description = progress.read(board)
            assert description == "h264, 96 x 64, 40 frames, 2 s"
            expected = packets * 96 * 64 / progress.PIXELS_PER_SECOND
            assert expected <= seconds <= expected * 1.05
    finally:
        progress._board = None


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
