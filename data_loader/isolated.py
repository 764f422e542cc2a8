"""A decoder in a process of its own, so that one that never returns costs a deadline and not the run.

Native decoders have hung while holding Python's lock; then neither a thread nor a signal handler gets to run, and only
killing the process helps. Each process that reads keeps one child, forked at the first clip and again after a kill.
Frames come back through a pipe: about a millisecond for a clip of four frames.
"""
import io
import os
import pickle
import select
import signal
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np

from data_loader.readers import READERS, BrokenVideo

_children: dict[int, tuple[int, int, int]] = {}  # our process id -> (child's process id, its requests, its answers)


def read(reader: str, path: str, choose: Callable[[int], Sequence[int]], start: float | None, end: float | None,
         deadline: float) -> tuple[np.ndarray, list[int]]:
    """READERS[reader](path, choose, start, end) in the child. Raises BrokenVideo after `deadline` seconds."""
    pid, requests, answers = _child()
    until = time.monotonic() + deadline
    try:
        _send(requests, ("read", reader, path, start, end))
        kind, value = _receive(answers, until)
        while kind == "choose":
            _send(requests, list(choose(value)))
            kind, value = _receive(answers, until)
        if kind == "error":
            raise value
        shape, indices = value
        frames = np.empty(shape, np.uint8)
        _fill(answers, memoryview(frames).cast("B"), until)
        return frames, indices
    except TimeoutError:
        _end(pid, requests, answers)
        raise BrokenVideo(path, f"the {reader} decoder did not return within {deadline:g} s") from None
    except (EOFError, BrokenPipeError):
        _end(pid, requests, answers)
        raise BrokenVideo(path, f"the {reader} decoder crashed") from None
    except BaseException:  # choose failed or the run is being stopped: the child's state is unknown
        if not isinstance(_last_error(), BrokenVideo):
            _end(pid, requests, answers)
        raise


def _last_error() -> BaseException | None:
    import sys
    return sys.exc_info()[1]


def _child() -> tuple[int, int, int]:
    if os.getpid() in _children:
        return _children[os.getpid()]
    theirs, requests = os.pipe()
    answers, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(requests), os.close(answers)
        _serve(theirs, ours)
    os.close(theirs), os.close(ours)
    _children.clear()
    _children[os.getpid()] = pid, requests, answers
    return pid, requests, answers


def _end(pid: int, requests: int, answers: int):
    _children.pop(os.getpid(), None)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(requests), os.close(answers)


def _serve(requests: int, answers: int):
    """The child: never returns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        while True:
            _, reader, path, start, end = _receive(requests)
            try:
                frames, indices = READERS.get(reader)(path, _asking(requests, answers), start, end)
            except Exception as error:  # noqa: BLE001 raised again by the parent
                _send(answers, ("error", _portable(error, path)))
                continue
            frames = np.ascontiguousarray(frames)
            _send(answers, ("frames", (frames.shape, list(indices))))
            _write(answers, memoryview(frames).cast("B"))
    finally:
        os._exit(0)


def _asking(requests: int, answers: int) -> Callable[[int], Sequence[int]]:
    def choose(length: int) -> Sequence[int]:
        _send(answers, ("choose", length))
        return _receive(requests)
    return choose


def _portable(error: Exception, path: str) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 an exception that cannot travel is told in words
        return BrokenVideo(path, f"{type(error).__name__}: {error}")


def _send(pipe: int, thing: object):
    data = pickle.dumps(thing)
    _write(pipe, memoryview(struct.pack("q", len(data)) + data))


def _write(pipe: int, data: memoryview):
    while data:
        data = data[os.write(pipe, data):]


def _receive(pipe: int, until: float | None = None):
    header = bytearray(8)
    _fill(pipe, memoryview(header), until)
    data = bytearray(struct.unpack("q", header)[0])
    _fill(pipe, memoryview(data), until)
    return pickle.load(io.BytesIO(data))


def _fill(pipe: int, into: memoryview, until: float | None):
    while into:
        if until is not None and not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        got = os.readv(pipe, [into])
        if not got:
            raise EOFError
        into = into[got:]
