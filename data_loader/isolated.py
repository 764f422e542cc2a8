"""A decoder in a process of its own, so that one that never returns costs a deadline and not the run.

Native decoders have been seen to hang while they hold Python's lock, and to crash. Then no thread and no signal handler
gets to run; only killing the process helps. So each process that reads keeps one child, forked at its first clip and
again after a kill, which also works in the workers of a DataLoader. The child reads one clip at a time; pictures come
back through a socket, straight from the decoder's memory into the result: about 0.3 ms for four frames of 596x336.
"""
import contextlib
import os
import signal
import socket
import threading
import time
import warnings

import numpy as np

from data_loader import decoding
from data_loader.readers import READERS, BrokenVideo, Choose


def read(reader: str, path: str, choose: Choose, start: float | None, end: float | None, deadline: float,
         ) -> tuple[np.ndarray, list[int]]:
    """READERS[reader](path, choose, start, end) in the child: uint8 (T, H, W, 3) and the indices."""
    until = time.monotonic() + deadline
    request = (reader, path, None if callable(choose) else list(choose), start, end, deadline)
    with _lock:
        child = _ready(reader, request)
        try:
            return child.answer(choose, until)
        except TimeoutError:
            _end(child)
            raise BrokenVideo(path, f"the decoder did not return within {deadline:g} s") from None
        except (EOFError, ConnectionError):
            raise BrokenVideo(path, f"the decoder crashed ({_end(child)})") from None
        except _Told as told:
            raise told.error from None
        except BaseException:  # `choose` failed, or the run is being stopped: the child still waits for an answer
            _end(child)
            raise


class _Told(Exception):
    """Carries an error that was raised in the child."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


class _Child:
    """The forked process, and our end of the socket to it."""

    def __init__(self):
        self.readers = READERS.names()
        self.socket, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child uses nothing of theirs
            self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            decoding.serve(theirs)
        theirs.close()

    def answer(self, choose: Choose, until: float) -> tuple[np.ndarray, list[int]]:
        kind, value = decoding.receive(self.socket, until)
        while kind == "choose":
            decoding.send(self.socket, [int(index) for index in choose(value)])
            kind, value = decoding.receive(self.socket, until)
        if kind == "error":
            raise _Told(value)
        shape, indices = value
        pictures = np.empty(shape, np.uint8)
        decoding.fill(self.socket, memoryview(pictures).cast("B"), until)
        return pictures, indices


_lock = threading.Lock()
_child: _Child | None = None


def _ready(reader: str, request: tuple) -> _Child:
    """A child that has the request: the one there is; a new one if that has died idle or does not know the reader."""
    global _child
    if _child is not None:
        try:
            if reader in _child.readers:
                decoding.send(_child.socket, request)
                return _child
        except ConnectionError:
            pass
        _end(_child)
    _child = _Child()
    decoding.send(_child.socket, request)
    return _child


def _end(child: _Child) -> str:
    """Kill the child; the words say how it had ended before, if it had."""
    global _child
    _child = None
    child.socket.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)  # no effect on one that has ended
    ends: list[int] = []
    reaper = threading.Thread(target=_reap, args=(child.pid, ends), daemon=True)
    reaper.start()
    reaper.join(1.0)  # the kernel may hold on to a process that waits for a dead disk
    return signal.Signals(os.WTERMSIG(ends[0])).name if ends and os.WIFSIGNALED(ends[0]) else "no signal"


def _reap(pid: int, ends: list[int]):
    with contextlib.suppress(ChildProcessError):
        ends.append(os.waitpid(pid, 0)[1])


def _forget():
    """A process forked from ours shares neither our child nor our lock."""
    global _lock, _child
    if _child is not None:
        _child.socket.close()
    _lock, _child = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
