"""Worker processes of the loaders: how they start, how they handle signals, and the error when one dies."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

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
        options["worker_init_fn"] = start_worker
    return options


def iterate_batches(loader: DataLoader) -> Iterator[Any]:
    """The batches of `loader` (made with `worker_options`).

    A batch that is an error is raised (see `data_loader.collate`). A worker that died raises a UserError that names
    the usual causes; any other error in a worker is raised as it is.
    """
    # blocked in each thread of a worker from its start
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)

    while True:
        try:
            batch = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith(
                "DataLoader worker"
            ):
                raise
            raise UserError(
                f"a data worker died ({error}): too little memory or /dev/shm is the usual cause; lower "
                "num_workers or batch_size"
            ) from error

        if batch is None:
            return
        if isinstance(batch, Exception):
            raise batch
        yield batch


def start_worker(worker_id: int) -> None:
    """Ignore signals to the whole job: the main process handles them, and needs batches while it saves.

    A worker ends when the main process terminates it, or has ended (torch checks that).
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(
        target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True
    ).start()


def _exit_on_sigterm_from(parent: int) -> None:
    """Wait for SIGTERM of process `parent` and end; that of anyone else is ignored."""
    while True:
        info = signal.sigwaitinfo({signal.SIGTERM})
        if info.si_pid == parent:
            os._exit(0)
