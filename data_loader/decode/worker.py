"""What the child process of `process` does: it calls one function after another; and the messages on the socket.

A message is a pickle behind its length (8 bytes). The parent sends (function, args, deadline). The child sends
("question", value) as often as the function calls `ask_parent`, each answered by the parent, and in the end one of
- ("error", exception),
- ("result", value),
- ("pictures", (shape, indices)), followed by the bytes of the pictures.
"""

import contextlib
import gc
import os
import pickle
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
from data_loader.readers import Pictures
from parse_config import UserError

GRACE = 5.0  # seconds after the deadline at which the child ends itself, if no parent is left to kill it
_parent_socket: socket.socket | None = None


def serve(parent_socket: socket.socket) -> NoReturn:
    """Call functions for the parent until it closes its end of the socket."""
    global _parent_socket
    try:
        _parent_socket = parent_socket
        _reset_signals()
        release_all()
        gc.freeze()  # leave the parent's objects, and so the memory pages shared with it, alone
        while True:
            function, args, deadline = receive(parent_socket)
            signal.setitimer(signal.ITIMER_REAL, deadline + GRACE)
            message_type, content, pictures = _outcome(function, args)

            send(parent_socket, (message_type, content))
            for picture_HWC in pictures:
                parent_socket.sendall(picture_HWC.data)
            pictures = ()  # frees them while the child waits
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        os._exit(0)


def ask_parent(question: Any) -> Any:
    """The parent's answer to a picklable question: for the functions that the child calls."""
    assert _parent_socket is not None, "only the child process asks"
    send(_parent_socket, ("question", question))
    return receive(_parent_socket)


def _reset_signals() -> None:
    # Those to the whole job are for the parent; when that ends, its end of the socket closes.
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _outcome(
    function: Callable[..., Any], args: tuple
) -> tuple[str, Any, Sequence[np.ndarray]]:
    """Call the function: type and content of the message for the parent, and the pictures that follow it."""
    try:
        result = function(*args)
        if not isinstance(result, Pictures):
            return "result", result, ()

        pictures = [np.ascontiguousarray(picture_HWC) for picture_HWC in result.frames]
        shape = (len(pictures), *pictures[0].shape)
        return "pictures", (shape, result.indices), pictures
    except Exception as error:  # noqa: BLE001 raised again by the parent
        if isinstance(error, UserError | OSError | IndexError):
            with contextlib.suppress(
                Exception
            ):  # an exception that does not survive pickling
                pickle.loads(pickle.dumps(error))
                return "error", error, ()
        failed_call = f"{function.__name__}{args}"
        return "error", RuntimeError(f"{failed_call}:\n{traceback.format_exc()}"), ()


def send(connection: socket.socket, message: Any) -> None:
    """Send a picklable message."""
    connection.settimeout(None)
    data = pickle.dumps(message)
    connection.sendall(struct.pack("q", len(data)) + data)


def receive(connection: socket.socket, until: float | None = None) -> Any:
    """The next message. Raises TimeoutError at the monotonic time `until`, EOFError if the other end has closed."""
    header = bytearray(8)
    fill(connection, memoryview(header), until)
    data = bytearray(struct.unpack("q", header)[0])
    fill(connection, memoryview(data), until)
    return pickle.loads(data)


def fill(connection: socket.socket, buffer: memoryview, until: float | None) -> None:
    """Fill `buffer` with the next bytes from the socket. Raises what `receive` raises."""
    while buffer:
        timeout = None
        if until is not None:
            timeout = max(1e-3, until - time.monotonic())
        connection.settimeout(timeout)
        count = connection.recv_into(buffer)
        if not count:
            raise EOFError
        buffer = buffer[count:]
