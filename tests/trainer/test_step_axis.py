"""A run that goes on with other steps an epoch: its numbers go on, its schedules by the share that is done."""

import json
import math

import pytest
import torch

import trainer.trainer as loop
from scripts.html_report.run_folder import read_log
from tests.helpers import tiny_run
from tests.helpers.fakes import FakeLoader, trainer

COSINE = {"type": "Cosine", "args": {}}


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    monkeypatch.setattr(
        loop.images, "masked_clips", lambda *_: torch.zeros(3, 4, 4, dtype=torch.uint8)
    )


def half(folder, **settings):
    """A run of 2 epochs of 4 steps of 2 samples, left after the first epoch."""
    trainer(folder, epochs=1, lr_scheduler=COSINE, **settings).run()
    return folder / "checkpoint-latest.pth"


@pytest.mark.parametrize("batches, batch_size", [(8, 1), (2, 4)])
def test_steps_and_samples_count_on(tmp_path, caplog, batches, batch_size):
    latest = half(tmp_path)
    resumed = trainer(
        tmp_path,
        [FakeLoader(batches, batch_size)],
        resume=latest,
        lr_scheduler=COSINE,
    )
    resumed.run()
    rows = tiny_run.lines(tmp_path, "step")
    assert [row["step"] for row in rows] == list(range(1, 5 + batches))
    samples = [2, 4, 6, 8, *range(8 + batch_size, 17, batch_size)]
    assert [row["samples"] for row in rows] == samples
    # half of the run is done, whatever the number of a step
    for position, row in enumerate(rows[4:]):
        share = (batches + position) / (2 * batches)
        factor = 0.5 * (1 + math.cos(math.pi * share))
        assert row["lr"] == pytest.approx(0.1 * factor)
    state = torch.load(latest)
    assert state["step"] == 4 + batches and state["trainer"]["samples_seen"] == 16
    assert f"steps an epoch 4 -> {batches}: steps are counted on" in caplog.text


def test_a_checkpoint_without_counts_goes_on_from_its_step(tmp_path):
    latest = half(tmp_path)
    state = torch.load(latest)
    del state["trainer"]["step"], state["trainer"]["samples_seen"]
    torch.save(state, latest)
    resumed = trainer(tmp_path, [FakeLoader(8, 1)], resume=latest)
    assert resumed.state.step == 4 and resumed.state.progress.samples_seen == 8
    assert resumed.state.schedule_step == 8
    assert resumed.report.last_step == 12


def write_log(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(step, resumed="", **more):
    return {"kind": "start", "step": step, "resumed": resumed, **more}


def steps(*numbers, **more):
    return [{"kind": "step", "step": step, "epoch": 1, **more} for step in numbers]


def numbers(log, kind="step"):
    return [row["step"] for row in log.rows[kind]]


def test_what_is_done_again_counts_once(tmp_path):
    rows = [
        start(0, samples=0),
        *steps(2, 4, 6, 8, samples=0),
        start(5, "x", samples=9),
    ]
    log = read_log(write_log(tmp_path / "log.jsonl", *rows, *steps(7, 9, samples=1)))
    assert numbers(log) == [2, 4, 7, 9]
    assert len(log.rows["start"]) == 2


@pytest.mark.parametrize("per_epoch", [50, 200])
def test_the_steps_of_an_older_log_are_put_on_one_axis(tmp_path, per_epoch):
    """Such a run numbered its steps by epoch x steps an epoch."""
    rows = [
        start(0),
        *steps(50, 100),
        {"kind": "epoch", "epoch": 1, "step": 100},
        start(per_epoch, "x"),
        *steps(per_epoch + 10, 2 * per_epoch),
        {"kind": "epoch", "epoch": 2, "step": 2 * per_epoch},
    ]
    log = read_log(write_log(tmp_path / "log.jsonl", *rows))
    assert numbers(log) == [50, 100, 110, 100 + per_epoch]
    assert numbers(log, "epoch") == [100, 100 + per_epoch]


def test_an_older_log_whose_steps_did_not_change_stays_as_it_is(tmp_path):
    rows = [
        start(0),
        *steps(1, 2, 3),
        start(2, "x"),
        *steps(3, 4, loss=1),
        {"kind": "epoch", "epoch": 1, "step": 4},
    ]
    log = read_log(write_log(tmp_path / "log.jsonl", *rows))
    assert numbers(log) == [1, 2, 3, 4] and log.rows["step"][2]["loss"] == 1
