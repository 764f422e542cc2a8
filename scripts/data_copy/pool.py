"""Worker processes that copy files: a stopped or killed run leaves none behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from parse_config import UserError

WAITING = 4  # files per worker that are handed out at once
Job = TypeVar("Job")
Result = TypeVar("Result")


def results(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Generator[Result, None, None]:
    """`work(job)` of each job as they are completed, from so many processes.

    When the iteration ends, for whatever reason, so do the processes. Raises what `work` raises, and UserError if a
    process is killed.
    """
    remaining = iter(jobs)
    executor = ProcessPoolExecutor(
        workers, initializer=_begin_worker, initargs=(os.getpid(),)
    )
    try:
        pending: set[Future[Result]] = set()
        while True:
            for job in islice(remaining, WAITING * workers - len(pending)):
                pending.add(executor.submit(work, job))
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps for want of memory; the same command goes on, with --workers for fewer"
        ) from None
    finally:
        # those at work are not waited for: a video may take hours
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _begin_worker(parent: int) -> None:
    """Ctrl-C is for the parent; a worker whose parent has died ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
