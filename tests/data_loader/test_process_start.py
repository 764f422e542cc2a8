"""The decoder's child, forked early, and forked while other threads hold locks."""

import importlib
import os
import sys
import threading
import time

import pytest

from data_loader.decode import process
from data_loader.reader import READERS
from parse_config import Registry

SLOW_MODULE = """
import threading, time
from slow_entries import ENTRIES, begun
begun.set()
time.sleep(0.5)
ENTRIES.register("slow")(dict)
"""


def child_and_readers() -> tuple[int, list[str]]:
    return os.getpid(), READERS.names()


def slow_names() -> list[str]:
    return importlib.import_module("slow_entries").ENTRIES.names()


def call(function, deadline=5.0):
    return process.call(function, path="x", deadline=deadline)


@pytest.fixture
def no_child():
    """No child is there before the test."""
    if process._idle_child is not None:
        process._idle_child.end()
        process._idle_child = None


@pytest.fixture
def slow_registry(tmp_path, monkeypatch):
    """A registry whose discovery takes half a second, and an event that says that it has begun."""
    package = tmp_path / "slow_entries"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import threading\nfrom parse_config import Registry\n"
        "ENTRIES = Registry('entry', __name__)\nbegun = threading.Event()\n"
    )
    (package / "slow.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("slow_entries")
    yield module
    Registry.instances.remove(module.ENTRIES)
    for name in ("slow_entries", "slow_entries.slow"):
        sys.modules.pop(name, None)


def test_started_early_the_child_is_the_one_that_is_used(no_child):
    process.start()
    started = process._idle_child.pid
    process.start()
    assert process._idle_child.pid == started != os.getpid()
    assert call(child_and_readers) == (started, READERS.names())


def test_a_child_forked_while_a_thread_discovers_holds_no_lock(no_child, slow_registry):
    thread = threading.Thread(target=slow_registry.ENTRIES.names)
    thread.start()
    try:
        assert slow_registry.begun.wait(10)
        assert call(child_and_readers)[1] == READERS.names()
        assert call(slow_names) == ["slow"]  # the whole registry, not half of it
    finally:
        thread.join()


def test_a_child_forked_while_many_threads_look_up_names_answers(no_child):
    """As six thumbnails at once after the server's start: each fork meets threads that wait for the lock."""
    ended = threading.Event()

    def look_up():
        while not ended.is_set():
            READERS.names()

    threads = [threading.Thread(target=look_up, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert call(child_and_readers)[1] == READERS.names()
            process._idle_child.end()
            process._idle_child = None
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)


def test_a_process_forked_in_any_other_way_holds_no_lock_either(slow_registry):
    thread = threading.Thread(target=slow_registry.ENTRIES.names)
    thread.start()
    try:
        assert slow_registry.begun.wait(10)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if READERS.names() else 1)
        until = time.monotonic() + 10
        ended = 0
        while not ended and time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        assert ended and os.waitstatus_to_exitcode(status) == 0
    finally:
        thread.join()
