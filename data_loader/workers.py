"""Reading processes: how they start, what signals mean to them, and what the main process says when one dies."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from parse_config import UserError


def worker_options(workers: int) -> dict[str, Any]:
    """Options of a torch DataLoader: pages are locked where a GPU reads them; workers are forked, so that they share
    the tables (each decodes on one thread: torch sets that)."""
    options = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
    return (
        {**options, "multiprocessing_context": "fork", "worker_init_fn": start_worker}
        if workers
        else options
    )


def batches(loader: DataLoader) -> Iterator[dict[str, Any]]:
    """What `loader` (made with `worker_options`) gives, raising what is an error; a dead worker becomes a UserError
    that says the usual causes."""
    blocked = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM}
    )  # in each thread of a worker from its birth
    try:
        given = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    while True:
        try:
            batch = next(given, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
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


def start_worker(number: int) -> None:
    """A signal to the whole job is the main process's to answer: it still needs batches while it saves. A worker ends
    when the main process says so, or is gone (torch looks for that)."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
