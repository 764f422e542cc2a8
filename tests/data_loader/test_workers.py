"""Data workers: they end with the process that reads, and their death is one line. CPUs that a process may use."""

import os
import signal
import socket
import time
from multiprocessing import active_children

import pytest
import torch

from data_loader import LOADERS
from data_loader.child_process import end_with_parent
from data_loader.cpus import available_cpus, cpus_of_this_process
from parse_config import UserError
from tests.helpers import killing, tiny_run

LIMIT = 30.0  # seconds that something may take that should be done at once


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.write_data(tmp_path_factory.mktemp("data"), train=8)


def open_loader(data, workers):
    return LOADERS.build(tiny_run.loader(data, 2, workers=workers), tokenize=tokenize)


def tokenize(captions):
    return {"input_ids": torch.zeros(len(captions), 3)}


def wait_for(condition):
    until = time.monotonic() + LIMIT
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def _read_forever(data, temporary, pipe):
    import tempfile

    tempfile.tempdir = temporary
    loader = open_loader(data, 2)
    batches = loader.epoch(0)
    next(batches)
    pipe.send(sorted(process.pid for process in active_children()))
    time.sleep(2 * LIMIT)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_end_with_their_parent_and_leave_no_file(tmp_path, data):
    shared = set(os.listdir("/dev/shm"))
    here, there = killing.CONTEXT.Pipe()
    process = killing.CONTEXT.Process(
        target=_read_forever, args=(str(data), str(tmp_path), there)
    )
    workers = []
    process.start()
    try:
        assert here.poll(LIMIT)
        workers = here.recv()
        assert len(workers) == 2 and all(map(is_running, workers))
        os.kill(process.pid, signal.SIGKILL)
        process.join(LIMIT)
        assert wait_for(lambda: not any(map(is_running, workers)))
    finally:
        process.kill()
        process.join(LIMIT)
        for pid in filter(is_running, workers):
            os.kill(pid, signal.SIGKILL)
    assert not list(tmp_path.iterdir())
    left = set(os.listdir("/dev/shm")) - shared
    assert not [name for name in left if name.startswith(f"torch_{process.pid}")]
    assert not [name for name in left for pid in workers if f"_{pid}_" in name]


@pytest.mark.slow
def test_a_worker_that_is_killed_between_epochs_is_one_line(data):
    loader = open_loader(data, 1)
    known = set(active_children())
    batches = loader.epoch(0)
    assert len(list(batches)) == 4
    (worker,) = set(active_children()) - known
    # it does not interrupt what the main process computes
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    worker.kill()
    worker.join(LIMIT)
    with pytest.raises(UserError, match=r"killed by SIGKILL.*memory.*num_workers"):
        list(loader.epoch(1))


def child_status(work):
    """How a forked process that calls `work` ends, as os.waitpid says it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def test_a_child_whose_parent_has_ended_before_it_asks_ends_too():
    assert child_status(lambda: end_with_parent(os.getppid())) == 0
    other = os.getppid()  # has not forked it
    status = child_status(lambda: end_with_parent(other))
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_batches_are_handed_over_without_a_file():
    from data_loader.workers import _abstract_address

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(_abstract_address("AF_UNIX"))
        name = listening.getsockname()
    assert name.startswith(b"\0miles-")


@pytest.mark.parametrize(
    "files, cpus",
    [
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "9900000 100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({}, 6),
    ],
)
def test_the_affinity_and_the_control_group_limit_the_cpus(
    tmp_path, monkeypatch, files, cpus
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert available_cpus(tmp_path) == cpus_of_this_process(tmp_path) == cpus
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cpus_of_this_process(tmp_path) == max(1, cpus // 2)


def test_the_default_of_num_workers_is_the_process_s_share(data, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr("data_loader.cpus._cgroup_quota", lambda group: None)
    assert open_loader(data, None).num_workers == 2
