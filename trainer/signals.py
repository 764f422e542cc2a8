"""SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGHUP: save at the next step boundary and exit.

Slurm sends SIGTERM or SIGUSR1 before it kills, and a terminal that is closed SIGHUP. A signal to the data workers or
their death does not matter before the next batch is fetched, so that a checkpoint is always of a whole step.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parse_config import INTERRUPTED

PR_SET_PDEATHSIG = 1  # option of prctl: the signal a process gets when its parent dies
JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
EXIT = 75  # "temporary failure, try again" of sysexits.h: saved, and -r auto goes on
NOTHING_TO_SAVE = (
    "%s before the first step: nothing to save; start it again with -r auto"
)


class StopSignal:
    """Context manager: within the block, `number` is the signal that asked this process to end, 0 if none did.

    The first one counts. Signals that were ignored before (nohup, a job in a shell's background) stay ignored.
    """

    def __init__(self) -> None:
        self.number = 0
        self._is_interruptible = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in JOB_SIGNALS:
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN:
                    self._previous_handlers[number] = handler
                    signal.signal(number, self._handle)
        if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
            # when torchrun is killed, no process of the run may go on writing
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block the signal raises KeyboardInterrupt: at once, and at the start if it came before."""
        self._is_interruptible = True
        try:
            if self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_interruptible = False

    def _handle(self, number: int, frame: object) -> None:
        if self.number:  # a second signal does not disturb what the first one began
            return
        self.number = number
        if self._is_interruptible:
            raise KeyboardInterrupt


def ignore_signals() -> None:
    """For a process that is about to end."""
    if threading.current_thread() is threading.main_thread():
        for number in JOB_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def exit_status(number: int) -> int:
    """The exit status after signal `number`: 130 for Ctrl-C, else 75."""
    return INTERRUPTED if number == signal.SIGINT else EXIT


def signal_name(number: int) -> str:
    """15 -> "SIGTERM"."""
    return signal.Signals(number).name
