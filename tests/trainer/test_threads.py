"""How many threads compute on the CPU."""

import logging
import os

import pytest
import torch

from parse_config import let_threads_sleep
from tests.helpers.tiny_run import ROOT
from trainer import threads


@pytest.mark.parametrize(
    "cpus, workers, chosen",
    [(1, 0, 1), (1, 8, 1), (8, 0, 8), (8, 2, 6), (8, 8, 4), (8, 100, 4), (3, 2, 1)],
)
def test_workers_have_cpus_of_their_own_up_to_half(cpus, workers, chosen):
    assert threads.choose_threads(cpus, workers) == chosen


@pytest.fixture
def set_to(monkeypatch):
    """What torch is told, which would take 16 itself."""
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(threads, "_threads_of_torch", lambda: 16)
    return told


def test_the_choice_is_made_and_said(monkeypatch, caplog, set_to):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with caplog.at_level(logging.INFO):
        threads.limit_threads(8, 2)
        threads.limit_threads(8, 0)
    assert set_to == [6, 8]
    assert (
        "CPU threads: 6, of 8 CPUs for this process and its 2 data workers"
        in caplog.text
    )


def test_it_is_never_more_than_torch_takes(monkeypatch, set_to):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_threads_of_torch", lambda: 2)
    threads.limit_threads(8, 0)
    assert set_to == [2]


@pytest.mark.parametrize("given, used", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(
    monkeypatch, given, used
):
    monkeypatch.setenv("OMP_WAIT_POLICY", "x")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == used


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_programs_say_so_before_torch_is_imported(program):
    before, _, after = (ROOT / program).read_text().partition("let_threads_sleep()\n")
    assert "import torch" not in before and "import torch" in after


def test_omp_num_threads_is_respected(monkeypatch, caplog, set_to):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with caplog.at_level(logging.INFO):
        threads.limit_threads(8, 2)
    assert not set_to and "by OMP_NUM_THREADS" in caplog.text
