"""Ctrl-C ends a program with one line that says how to go on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_PRESS = (
    5.0  # seconds within which another Ctrl-C means the first: the program is ending
)
EXIT_STATUS = 130  # what shells expect of a program that Ctrl-C ended


class _Handler:
    """Raises KeyboardInterrupt in the process that installed it, at most once in `SAME_PRESS` seconds."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.last_time = -SAME_PRESS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        is_repeated = now - self.last_time < SAME_PRESS
        if is_repeated or os.getpid() != self.process:
            return
        self.last_time = now
        raise KeyboardInterrupt


@contextmanager
def one_line_on_ctrl_c(how_to_go_on: str) -> Iterator[None]:
    """Within the block Ctrl-C leaves nothing half done, prints `how_to_go_on` and ends the program with status 130.

    A second one at once changes nothing: cleaning up goes on.
    """
    previous = signal.getsignal(signal.SIGINT)
    is_main_thread = threading.current_thread() is threading.main_thread()
    is_handled = is_main_thread and previous != signal.SIG_IGN
    if is_handled:
        signal.signal(signal.SIGINT, _Handler())
    try:
        yield
    except KeyboardInterrupt:
        # The handler stays: the interpreter, too, ends undisturbed.
        is_handled = False
        if os.environ.get("RANK", "0") == "0":  # torch need not be there yet
            sys.stderr.write(f"\nstopped; {how_to_go_on}\n")
        raise SystemExit(EXIT_STATUS) from None
    finally:
        if is_handled:
            signal.signal(signal.SIGINT, previous)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
