"""What the child process of `process` does: it calls one function after another; and the messages on the socket.

A message is a pickle behind its length (8 bytes). The parent sends (function, args, its working folder). The child
sends ("question", value) as often as the function calls `ask_parent`, each answered by the parent, and in the end one
of
- ("error", exception),
- ("result", value),
- ("pictures", (shape, indices)): the pictures lie in the memory that both share, or, where they do not fit in there,
  follow as bytes.
"""

import contextlib
import fcntl
import gc
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from data_loader.child_process import JOB_SIGNALS
from data_loader.decode_cache import release_all
from data_loader.readers import Pictures, progress
from parse_config import UserError

PROGRESS_SIZE = 4096  # bytes of the shared memory before the pictures
SHARED_SIZE = PROGRESS_SIZE + (64 << 20)  # taken from the system where it is written to
LENGTH = struct.Struct("q")
_parent_socket: socket.socket | None = None


def shared_memory() -> mmap.mmap:
    """Memory for progress and pictures that this process will share with its child."""
    return mmap.mmap(-1, SHARED_SIZE)


def pictures_in(memory: mmap.mmap, shape: Sequence[int]) -> np.ndarray | None:
    """uint8 (T, H, W, 3): where pictures lie in the shared memory; None if they are too large for it."""
    size = int(np.prod(shape, dtype=np.int64))
    if PROGRESS_SIZE + size > SHARED_SIZE:
        return None
    pixels = np.frombuffer(memory, np.uint8, size, PROGRESS_SIZE)
    return pixels.reshape(shape)


def serve(
    parent_socket: socket.socket, parent_pipe: int, memory: mmap.mmap
) -> NoReturn:
    """Call functions for the parent until it closes its end of the socket.

    parent_pipe: the end for reading of a pipe whose other end only the parent holds.
    """
    global _parent_socket
    try:
        _end_with_parent(parent_pipe)
        _parent_socket = parent_socket
        _reset_signals()
        _leave_standard_streams()
        release_all()
        gc.freeze()  # leave the parent's objects, and so the memory pages shared with it, alone
        progress.report_to(memoryview(memory)[: progress.SIZE])
        while True:
            function, args, folder = receive(parent_socket)
            if folder:  # in which relative paths begin; the parent may have changed it
                os.chdir(folder)
            _answer(parent_socket, memory, function, args)
    finally:
        os._exit(0)


def ask_parent(question: Any) -> Any:
    """The parent's answer to a picklable question: for the functions that the child calls."""
    assert _parent_socket is not None, "only the child process asks"
    send(_parent_socket, ("question", question))
    return receive(_parent_socket)


def _end_with_parent(parent_pipe: int) -> None:
    """Have the kernel kill this process when the parent ends, however it ends and whatever this process does then.

    (A "parent death signal" would come when the thread ends that has forked this process.)
    """
    fcntl.fcntl(parent_pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(parent_pipe, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(parent_pipe, fcntl.F_GETFL)
    fcntl.fcntl(parent_pipe, fcntl.F_SETFL, flags | os.O_ASYNC)
    has_ended, _, _ = select.select([parent_pipe], [], [], 0)
    if has_ended:  # before the signal was arranged
        os._exit(0)


def _leave_standard_streams() -> None:
    """Whoever reads the parent's output must not wait for this process: what it prints goes to stderr."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    with contextlib.suppress(OSError):  # the parent has closed its stderr
        os.dup2(2, 1)


def _reset_signals() -> None:
    # Those to the whole job are for the parent; when that ends, its end of the socket closes.
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _answer(
    parent_socket: socket.socket,
    memory: mmap.mmap,
    function: Callable[..., Any],
    args: tuple,
) -> None:
    """Call the function and send what came of it."""
    message_type, content, pictures = _outcome(function, args)
    if message_type != "pictures":
        send(parent_socket, (message_type, content))
        return

    shape, _ = content
    shared_THWC = pictures_in(memory, shape)
    if shared_THWC is not None:
        np.stack(list(pictures), out=shared_THWC)
        send(parent_socket, (message_type, content))
        return

    send(parent_socket, (message_type, content))
    for picture_HWC in pictures:
        parent_socket.sendall(np.ascontiguousarray(picture_HWC).data)


def _outcome(
    function: Callable[..., Any], args: tuple
) -> tuple[str, Any, Sequence[np.ndarray] | np.ndarray]:
    """Call the function: type and content of the message for the parent, and the pictures that follow it."""
    try:
        result = function(*args)
        if not isinstance(result, Pictures):
            return "result", result, ()

        shape = (len(result.frames), *result.frames[0].shape)
        return "pictures", (shape, result.indices), result.frames
    except Exception as error:  # noqa: BLE001 raised again by the parent
        if isinstance(error, UserError | OSError | IndexError | MemoryError):
            with contextlib.suppress(
                Exception
            ):  # an exception that does not survive pickling
                pickle.loads(pickle.dumps(error))
                return "error", error, ()
        failed_call = f"{function.__name__}{args}"
        return "error", RuntimeError(f"{failed_call}:\n{traceback.format_exc()}"), ()


def send(connection: socket.socket, message: Any) -> None:
    """Send a picklable message."""
    data = pickle.dumps(message)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, until: float | None = None) -> Any:
    """The next message. Raises TimeoutError at the monotonic time `until`, EOFError if the other end has closed."""
    header = bytearray(LENGTH.size)
    fill(connection, memoryview(header), until)
    data = bytearray(LENGTH.unpack(header)[0])
    fill(connection, memoryview(data), until)
    return pickle.loads(data)


def fill(connection: socket.socket, buffer: memoryview, until: float | None) -> None:
    """Fill `buffer` with the next bytes from the socket. Raises what `receive` raises."""
    while buffer:
        if until is not None:
            connection.settimeout(max(1e-3, until - time.monotonic()))
        count = connection.recv_into(buffer)
        if not count:
            raise EOFError
        buffer = buffer[count:]
