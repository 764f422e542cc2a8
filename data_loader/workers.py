"""Worker processes of the loaders: how they start, how they handle signals, and the error when one dies."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import DataLoader

from data_loader.child_process import (
    JOB_SIGNALS,
    end_with_parent,
    ignore_job_signals,
)
from parse_config import UserError


def worker_options(num_workers: int) -> dict[str, Any]:
    """Options of a torch DataLoader.

    Memory is pinned where there is a GPU. Workers are forked, so that they share the tables; each decodes on one
    thread (torch sets that).
    """
    options: dict[str, Any] = {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
    }
    if num_workers > 0:
        options["multiprocessing_context"] = "fork"
    return options


def iterate_batches(loader: DataLoader) -> Iterator[Any]:
    """The batches of `loader` (made with `worker_options`).

    A batch that is an error is raised (see `data_loader.collate`). A worker that died raises a UserError that names
    the signal and the usual causes; any other error in a worker is raised as it is.
    """
    iterator: Any = None
    while True:
        try:
            if iterator is None:
                iterator = _start_workers(loader)
            batch = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith(
                "DataLoader worker"
            ):
                raise
            death = _describe_death(iterator or getattr(loader, "_iterator", None))
            raise UserError(
                f"a data worker died ({death or error}): too little memory or /dev/shm is the usual cause; lower "
                "num_workers or batch_size"
            ) from error

        if batch is None:
            return
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _start_workers(loader: Any) -> Iterator[Any]:
    """`iter(loader)`; workers that it forks start with the signals to the whole job blocked."""
    if not loader.num_workers or (loader.persistent_workers and loader._iterator):
        return iter(loader)
    is_main_thread = threading.current_thread() is threading.main_thread()
    loader.worker_init_fn = partial(
        start_worker, parent=os.getpid(), lives_with_thread=is_main_thread
    )
    # blocked in each thread of a worker from its start
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        return iter(loader)
    finally:
        if is_main_thread:
            # torch's handler would raise in the middle of anything; here a dead worker is missed with its batch
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def start_worker(
    worker_id: int, parent: int = 0, lives_with_thread: bool = True
) -> None:
    """Ignore signals to the whole job: the main process handles them, and needs batches while it saves.

    A worker ends when the main process terminates it, or has ended.

    Args:
        worker_id: torch's number
        parent: pid of the main process, taken before the worker was forked; 0: the parent at this moment
        lives_with_thread: whether the thread that forked it lives as long as the process; without, the end of the
            process is noticed by torch alone, within seconds
    """
    parent = parent or os.getppid()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ignore_job_signals()
    if lives_with_thread:
        end_with_parent(parent, signal.SIGKILL)
    if sys.platform == "linux":
        # sockets that hand over batches get no file in /tmp, which a killed worker would leave there
        connection.arbitrary_address = _abstract_address  # type: ignore[attr-defined]
    threading.Thread(target=_exit_on_sigterm_from, args=(parent,), daemon=True).start()


def _abstract_address(family: str) -> str:
    """A socket's address in Linux's abstract namespace."""
    return f"\0miles-{os.getpid()}-{secrets.token_hex(8)}"


def _exit_on_sigterm_from(parent: int) -> None:
    """Wait for SIGTERM of process `parent` and end; that of anyone else is ignored."""
    while True:
        info = signal.sigwaitinfo({signal.SIGTERM})
        if info.si_pid == parent:
            os._exit(0)


def _describe_death(iterator: Any) -> str:
    """What ended the first worker of torch's iterator that has ended: "SIGKILL", "exit status 1"; "" if none has."""
    for worker in getattr(iterator, "_workers", ()):
        if worker.exitcode is None:
            continue
        if worker.exitcode < 0:
            return f"killed by {signal.Signals(-worker.exitcode).name}"
        return f"exit status {worker.exitcode}"
    return ""
