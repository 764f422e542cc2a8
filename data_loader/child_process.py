"""What every process that this one forks must do: leave the job's signals to it, and not outlive it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # option of prctl: the signal a process gets when its parent dies
# sent to a whole job or terminal; its main process handles them
JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def ignore_job_signals() -> None:
    """Ignore all of them but SIGTERM, by which the main process ends its children."""
    for number in JOB_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send signal `number` to this process when the thread that forked it ends; on Linux.

    parent: pid of that thread's process, taken before the fork; where it has ended already, so does this process
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def begin_pool_worker(parent: int) -> None:
    """For a process of a pool, which ends by SIGTERM or with process `parent`."""
    ignore_job_signals()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)
