"""SIGTERM and SIGUSR1, as Slurm sends them before it kills: save at the next step boundary and leave.

Slurm signals the data workers too, which then die; torch would raise in the middle of a step. Here their death is only
noticed when a batch is fetched (see `Stop.watch`), so that a checkpoint is always of a whole step.
"""

import ctypes
import os
import signal
import sys
import threading

PARENT_DEATH = 1  # of prctl
EXIT = 75  # "temporary failure, try again" of sysexits.h: saved, and -r auto goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Within the block, `number` is the signal that asked for the end, 0 if none did."""

    def __init__(self):
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
            ctypes.CDLL(None).prctl(
                PARENT_DEATH, signal.SIGTERM
            )  # a killed torchrun leaves no one who writes on
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self):
        """Take from torch the handler that raises in whatever runs when a data worker dies."""
        if self._before:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _note(self, number: int, frame: object):
        self.number = number


def name(number: int) -> str:
    """15 -> "SIGTERM"."""
    return signal.Signals(number).name
