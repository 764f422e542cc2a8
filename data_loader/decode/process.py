"""A child process that decodes, so that a decoder that never returns costs a deadline and not the run.

Native decoders have been seen to hang while they hold Python's lock, and to crash. Then no thread and no signal handler
gets to run; only killing the process helps. So each process that reads keeps one child, forked at its first clip and
again after a kill, which also works in the workers of a DataLoader. The child calls one function at a time for its
parent; pictures come back in memory that the two share. The kernel kills the child when its parent ends. Who waits for
the child sees there, too, what it works on and how much it has decoded: a file with much to decode gets more time.
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
from data_loader.readers import READERS, BrokenVideo, Pictures, progress

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
    through `worker.ask_parent`. `deadline`: seconds after which the child is killed, and one second for each 20 million
    pixels that it has decoded; None or 0: no limit, and the function is called in this process. Raises what the
    function raises, and BrokenVideo naming `path` if it does not return in time, crashes, or needs too much memory.
    """
    try:
        if not deadline:
            return _call_here(function, args)
        return _call_child(function, args, path, deadline, answer)
    except MemoryError:
        raise BrokenVideo(
            path, "needs more memory to be decoded than there is"
        ) from None


def _call_here(function: Callable[..., Any], args: tuple) -> Any:
    result = function(*args)
    if isinstance(result, Pictures):
        return Pictures(np.stack(list(result.frames)), result.indices)
    return result


def _call_child(
    function: Callable[..., Any],
    args: tuple,
    path: str,
    deadline: float,
    answer: Callable[[Any], Any] | None,
) -> Any:
    global _idle_child
    request = (function, args, _working_folder())
    with _lock:
        child, was_idle = _child_with_request(request)
        outcome = _outcome(child, path, deadline, answer)
        if outcome is None and was_idle:
            # something else had ended it before it took the request
            child, _ = _child_with_request(request)
            outcome = _outcome(child, path, deadline, answer)
        if outcome is None:
            raise BrokenVideo(path, f"the decoder crashed ({child.ended_by})")
        _idle_child = child

    error, result = outcome
    if error is not None:
        raise error
    return result


def _outcome(
    child: "_Child",
    path: str,
    deadline: float,
    answer: Callable[[Any], Any] | None,
) -> tuple[Exception | None, Any] | None:
    """(the function's error or None, its result); None if the child has ended before it opened the file."""
    try:
        return child.outcome(answer, deadline)
    except TimeoutError:
        child.end()
        raise BrokenVideo(path, child.timeout_reason(deadline)) from None
    except (EOFError, ConnectionError):
        child.end()
        if child.progress.description:
            raise BrokenVideo(path, f"the decoder crashed ({child.ended_by})") from None
        return None
    except BaseException:
        # `answer` failed, or the run is being stopped: the child still waits for an answer.
        child.end()
        raise


def _working_folder() -> str:
    """The working folder of this process, "" if it has been removed."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return ""


class _Child:
    """The forked process, the parent's end of the socket to it, and the memory that both share."""

    def __init__(self) -> None:
        self.readers = READERS.names()
        self.ended_by = ""
        self.memory = worker.shared_memory()
        self.socket, child_socket = socket.socketpair()
        # The child is killed when no process has the second end any more.
        child_pipe, self.pipe = os.pipe()
        _children.add(self)
        with warnings.catch_warnings():
            # Python warns of a fork in a process with threads; the child uses none of their state.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            worker.serve(child_socket, child_pipe, self.memory)
        child_socket.close()
        os.close(child_pipe)

    @property
    def progress(self) -> progress.Progress:
        """What it works on, and how much longer than the deadline it may take."""
        return progress.read(memoryview(self.memory))

    def request(self, request: tuple) -> None:
        """Send a request. Raises ConnectionError if the process has ended."""
        progress.clear(memoryview(self.memory))
        self.socket.settimeout(None)
        worker.send(self.socket, request)

    def outcome(
        self, answer: Callable[[Any], Any] | None, deadline: float
    ) -> tuple[Exception | None, Any]:
        """(the function's error or None, its result). Raises TimeoutError, EOFError, ConnectionError."""
        began = time.monotonic()
        message_type, content = self._receive(began, deadline)
        while message_type == "question":
            assert answer is not None, "the function asks, and nobody answers"
            worker.send(self.socket, answer(content))
            message_type, content = self._receive(began, deadline)
        if message_type == "error":
            return content, None
        if message_type == "result":
            return None, content

        shape, indices = content
        shared_THWC = worker.pictures_in(self.memory, shape)
        if shared_THWC is not None:
            return None, Pictures(shared_THWC.copy(), indices)
        frames_THWC = np.empty(shape, np.uint8)
        until = time.monotonic() + deadline
        worker.fill(self.socket, frames_THWC.data.cast("B"), until)
        return None, Pictures(frames_THWC, indices)

    def _receive(self, began: float, deadline: float) -> Any:
        """The next message. Raises TimeoutError once what it has decoded does not explain the time that it took."""
        while True:
            until = began + deadline + self.progress.seconds
            try:
                return worker.receive(self.socket, until)
            except TimeoutError:
                if began + deadline + self.progress.seconds <= time.monotonic():
                    raise

    def timeout_reason(self, deadline: float) -> str:
        """Why it is not waited for any longer, and what helps."""
        seconds, description = self.progress
        if description:
            description = f" ({description})"
        return (
            f"the decoder did not return within {deadline + seconds:.3g} s{description}; raise "
            "video_params.deadline, or make a copy that is quick to read with scripts/prepare_data.py"
        )

    def close(self) -> None:
        """Close this process's ends."""
        if self.pipe >= 0:
            self.socket.close()
            os.close(self.pipe)
            self.pipe = -1
        _children.discard(self)

    def end(self) -> None:
        """Kill the process if it has not ended by itself; sets `ended_by`, the name of the signal that ended it."""
        self.ended_by = self._end()

    def _end(self) -> str:
        try:
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
        except ChildProcessError:  # its end was already waited for elsewhere
            pass
        finally:
            self.close()
        return "no trace of it"


# All children of this process that have not been ended.
_children: set[_Child] = set()
# The child between two calls. It is taken out while it works, so that one that is interrupted is never used again.
_idle_child: _Child | None = None
_lock = threading.Lock()


def _child_with_request(request: tuple) -> tuple[_Child, bool]:
    """A child that has received `request`: the idle one, or a new one if that has died or lacks a reader.

    And whether it is the idle one.
    """
    global _idle_child
    child = _idle_child
    _idle_child = None
    if child is not None and child.readers == READERS.names():
        with contextlib.suppress(ConnectionError):
            child.request(request)
            return child, True
    if child is not None:
        child.end()
    child = _Child()
    child.request(request)
    return child, False


def _reset_after_fork() -> None:
    """A process forked from this one shares neither its children nor its lock."""
    global _lock, _idle_child
    for child in list(_children):
        child.close()
    _lock = threading.Lock()
    _idle_child = None


os.register_at_fork(after_in_child=_reset_after_fork)
