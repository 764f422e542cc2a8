"""A child process that decodes, so that a decoder that never returns costs a deadline and not the run.

Native decoders have been seen to hang while they hold Python's lock, and to crash. Then no thread and no signal handler
gets to run; only killing the process helps. So each process that reads keeps one child, forked at its first clip and
again after a kill, which also works in the workers of a DataLoader. The child calls one function at a time for its
parent; pictures are received through a socket straight into the resulting array. The overhead is about half a
millisecond per clip.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from data_loader.decode import worker
from data_loader.readers import READERS, BrokenVideo, Pictures

KILL_CHECKS = (
    200  # how often, every 5 ms, it is checked whether a killed child has ended
)


def start() -> None:
    """Fork the child now, if there is none: a program that starts threads calls it first."""
    global _idle_child
    with _lock:
        if _idle_child is None:
            _idle_child = _Child()


def call(
    function: Callable[..., Any],
    *args: Any,
    path: str,
    deadline: float | None,
    answer: Callable[[Any], Any] | None = None,
) -> Any:
    """`function(*args)`, computed in the child process.

    `function` is at the top level of a module; it and `args` are pickled, and so is its result. Of `Pictures`, the
    frames come back as one array, uint8 (T, H, W, 3). `answer` is called with each question that the function asks
    through `worker.ask_parent`. `deadline`: seconds after which the child is killed; None or 0: no limit, and the
    function is called in this process. Raises what the function raises, and BrokenVideo naming `path` if it
    does not return in time or crashes.
    """
    global _idle_child
    if not deadline:
        return function(*args)

    with _lock:
        until = time.monotonic() + deadline
        child = _child_with_request((function, args, deadline))
        try:
            error, result = child.outcome(answer, until)
        except TimeoutError:
            child.end()
            raise BrokenVideo(
                path, f"the decoder did not return within {deadline:g} s"
            ) from None
        except (EOFError, ConnectionError):
            raise BrokenVideo(path, f"the decoder crashed ({child.end()})") from None
        except BaseException:
            # `answer` failed, or the run is being stopped: the child still waits for an answer.
            child.end()
            raise
        _idle_child = child

    if error is not None:
        raise error
    return result


class _Child:
    """The forked process, and the parent's end of the socket to it."""

    def __init__(self) -> None:
        self.readers = READERS.names()
        self.socket, child_socket = socket.socketpair()
        with warnings.catch_warnings():
            # Python warns of a fork in a process with threads; the child uses none of their state.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            worker.serve(child_socket)
        child_socket.close()

    def outcome(
        self, answer: Callable[[Any], Any] | None, until: float
    ) -> tuple[Exception | None, Any]:
        """(the function's error or None, its result). Raises TimeoutError, EOFError, ConnectionError."""
        message_type, content = worker.receive(self.socket, until)
        while message_type == "question":
            assert answer is not None, "the function asks, and nobody answers"
            worker.send(self.socket, answer(content))
            message_type, content = worker.receive(self.socket, until)
        if message_type == "error":
            return content, None
        if message_type == "result":
            return None, content

        shape, indices = content
        frames_THWC = np.empty(shape, np.uint8)
        worker.fill(self.socket, frames_THWC.data.cast("B"), until)
        return None, Pictures(frames_THWC, indices)

    def end(self) -> str:
        """Kill the process if it has not ended by itself; returns the name of the signal that ended it."""
        self.socket.close()
        with contextlib.suppress(
            ChildProcessError
        ):  # its end was already waited for elsewhere
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if not pid:
                os.kill(self.pid, signal.SIGKILL)
            # The kernel may hold on to a process that waits for a dead disk: do not wait forever.
            for _ in range(KILL_CHECKS):
                if pid and os.WIFSIGNALED(status):
                    return signal.Signals(os.WTERMSIG(status)).name
                if pid:
                    return "it ended itself"
                time.sleep(0.005)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
        return "no trace of it"


# The child between two calls. It is taken out while it works, so that one that is interrupted is never used again.
_idle_child: _Child | None = None
_lock = threading.Lock()


def _child_with_request(request: tuple) -> _Child:
    """A child that has received `request`: the idle one, or a new one if that has died or lacks a reader."""
    global _idle_child
    child = _idle_child
    _idle_child = None
    if child is not None and child.readers == READERS.names():
        with contextlib.suppress(ConnectionError):
            worker.send(child.socket, request)
            return child
    if child is not None:
        child.end()
    child = _Child()
    worker.send(child.socket, request)
    return child


def _reset_after_fork() -> None:
    """A process forked from this one shares neither its child nor its lock."""
    global _lock, _idle_child
    if _idle_child is not None:
        _idle_child.socket.close()
    _lock = threading.Lock()
    _idle_child = None


os.register_at_fork(after_in_child=_reset_after_fork)
