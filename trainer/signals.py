"""SIGTERM and SIGUSR1, which Slurm sends before it kills: save at the next step boundary and exit.

Slurm signals the data workers too, which then die; torch would raise in the middle of a step. Here their death is only
noticed when a batch is fetched (see `StopSignal.ignore_dead_workers`), so that a checkpoint is always of a whole step.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import Any

PR_SET_PDEATHSIG = (
    1  # option of prctl: the signal that a process gets when its parent dies
)
EXIT = 75  # "temporary failure, try again" of sysexits.h: saved, and -r auto goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Context manager: within the block, `number` is the signal that asked this process to end, 0 if none did."""

    def __init__(self) -> None:
        self.number = 0
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._handle) for number in SIGNALS
            }
        if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
            # when torchrun is killed, no process of the run may go on writing
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def ignore_dead_workers(self) -> None:
        """Remove torch's SIGCHLD handler, which raises in the middle of a step when a data worker dies."""
        if self._previous_handlers:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _handle(self, number: int, frame: object) -> None:
        self.number = number


def signal_name(number: int) -> str:
    """15 -> "SIGTERM"."""
    return signal.Signals(number).name
