"""A decoder in a process of its own, so that one that never returns costs a deadline and not the run.

Native decoders have been seen to hang while they hold Python's lock, and to crash. Then no thread and no signal handler
gets to run; only killing the process helps. So each process that reads keeps one child, forked at its first clip and
again after a kill, which also works in the workers of a DataLoader. The child reads one clip at a time; pictures come
back through a socket, straight from the decoder's memory into the result: about half a millisecond a clip in all.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import warnings

import numpy as np

from data_loader.decode import worker
from data_loader.readers import READERS, BrokenVideo, Choose


def read(
    reader: str,
    path: str,
    choose: Choose,
    start: float | None,
    end: float | None,
    deadline: float,
) -> tuple[np.ndarray, list[int]]:
    """READERS[reader](path, choose, start, end) in the child: uint8 (T, H, W, 3) and the indices."""
    global _idle
    with _lock:
        until = time.monotonic() + deadline
        child = _asked(
            reader, (reader, path, None if callable(choose) else list(choose), start, end, deadline)
        )
        try:
            error, pictures, indices = child.answer(choose, until)
        except TimeoutError:
            child.end()
            raise BrokenVideo(path, f"the decoder did not return within {deadline:g} s") from None
        except (EOFError, ConnectionError):
            raise BrokenVideo(path, f"the decoder crashed ({child.end()})") from None
        except (
            BaseException
        ):  # `choose` failed, or the run is being stopped: the child still waits for an answer
            child.end()
            raise
        _idle = child
    if error:
        raise error
    return pictures, indices


class _Child:
    """The forked process, and our end of the socket to it."""

    def __init__(self):
        self.readers = READERS.names()
        self.socket, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of threads: the child uses nothing of theirs
            self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            worker.serve(theirs)
        theirs.close()

    def answer(
        self, choose: Choose, until: float
    ) -> tuple[Exception | None, np.ndarray | None, list[int]]:
        """(error of the reader or None, pictures, indices). Raises TimeoutError, EOFError, ConnectionError."""
        kind, value = worker.receive(self.socket, until)
        while kind == "choose":
            worker.send(self.socket, [int(index) for index in choose(value)])
            kind, value = worker.receive(self.socket, until)
        if kind == "error":
            return value, None, []
        shape, indices = value
        pictures = np.empty(shape, np.uint8)
        worker.fill(self.socket, memoryview(pictures).cast("B"), until)
        return None, pictures, indices

    def end(self) -> str:
        """Kill the process if it has not ended by itself; the signal that ended it."""
        self.socket.close()
        with contextlib.suppress(ChildProcessError):  # somebody has waited for it already
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                os.kill(self.pid, signal.SIGKILL)
            for _ in range(
                200
            ):  # the kernel may hold on to a process that waits for a dead disk: not for ever
                if pid:
                    return (
                        signal.Signals(os.WTERMSIG(status)).name
                        if os.WIFSIGNALED(status)
                        else "it ended itself"
                    )
                time.sleep(0.005)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
        return "no trace of it"


_lock = threading.Lock()
_idle: _Child | None = (
    None  # taken out while it reads, so that one that is interrupted is never used again
)


def _asked(reader: str, request: tuple) -> _Child:
    """A child that has the request: the idle one; a new one if that has died or does not know the reader."""
    global _idle
    child, _idle = _idle, None
    if child is not None and reader in child.readers:
        with contextlib.suppress(ConnectionError):
            worker.send(child.socket, request)
            return child
    if child is not None:
        child.end()
    child = _Child()
    worker.send(child.socket, request)
    return child


def _forget():
    """A process forked from ours shares neither our child nor our lock."""
    global _lock, _idle
    if _idle is not None:
        _idle.socket.close()
    _lock, _idle = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
