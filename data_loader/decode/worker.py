"""The process that `isolated` forks: reads one clip after another; and how both ends talk over the socket.

Messages are pickles with their length in front; after ("pictures", (shape, indices)) follow the bytes of the pictures.
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
from typing import Any

import numpy as np

from data_loader.readers import READERS, Choose
from parse_config import UserError

GRACE = 5.0  # seconds after the deadline at which the process ends itself, should nobody be left to kill it


def serve(pipe: socket.socket):
    """The child's whole life; never returns."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C is for the parent; its end of the socket then closes
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        gc.freeze()  # leave the parent's objects, and so its memory pages, alone
        while True:
            reader, path, indices, start, end, deadline = receive(pipe)
            signal.setitimer(signal.ITIMER_REAL, deadline + GRACE)
            kind, value, pictures = _run(
                reader, path, _asking(pipe) if indices is None else indices, start, end
            )
            send(pipe, (kind, value))
            for picture in pictures:
                pipe.sendall(picture)
            pictures = ()
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        os._exit(0)


def _run(
    reader: str, path: str, choose: Choose, start: float | None, end: float | None
) -> tuple[str, Any, Any]:
    try:
        pictures, indices = READERS.get(reader)(path, choose, start, end)
        pictures = [np.ascontiguousarray(picture) for picture in pictures]
        return "pictures", ((len(pictures), *pictures[0].shape), indices), pictures
    except Exception as error:  # noqa: BLE001 raised again by the parent
        if isinstance(error, UserError | OSError | IndexError):
            with contextlib.suppress(Exception):
                pickle.loads(pickle.dumps(error))
                return "error", error, ()
        return "error", RuntimeError(f"reader {reader!r}, {path}:\n{traceback.format_exc()}"), ()


def _asking(pipe: socket.socket):
    def choose(length: int) -> list[int]:
        send(pipe, ("choose", length))
        return receive(pipe)

    return choose


def send(pipe: socket.socket, thing: Any):
    pipe.settimeout(None)
    data = pickle.dumps(thing)
    pipe.sendall(struct.pack("q", len(data)) + data)


def receive(pipe: socket.socket, until: float | None = None) -> Any:
    head = bytearray(8)
    fill(pipe, memoryview(head), until)
    data = bytearray(struct.unpack("q", head)[0])
    fill(pipe, memoryview(data), until)
    return pickle.loads(data)


def fill(pipe: socket.socket, into: memoryview, until: float | None):
    while into:
        pipe.settimeout(None if until is None else max(1e-3, until - time.monotonic()))
        got = pipe.recv_into(into)
        if not got:
            raise EOFError
        into = into[got:]
