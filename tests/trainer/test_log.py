"""What a run leaves behind for a person: lines that survive a kill, TensorBoard, the console."""

import json
import logging
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.log import RunLog, _Console, console


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_only_added_and_a_torn_one_does_not_spoil_the_next(tmp_path):
    with RunLog(tmp_path) as files:
        files.line(
            "step", step=1, loss=float("nan"), deep={"x": float("inf"), "y": (1, 2)}
        )
    path = tmp_path / "log.jsonl"
    assert rows(path) == [
        {"kind": "step", "step": 1, "loss": None, "deep": {"x": None, "y": [1, 2]}}
    ]
    with path.open("a") as file:
        file.write('{"kind": "st')
    with RunLog(tmp_path, step=1) as files:
        files.line("step", step=2)
        files.bad_files([], 1)
    torn, last = path.read_text().splitlines()[1:]
    assert torn == '{"kind": "st' and json.loads(last)["step"] == 2
    assert not (tmp_path / "bad_files.jsonl").exists()


@pytest.mark.slow
def test_tensorboard_holds_numbers_and_pictures_and_a_resume_replaces_what_was_lost(
    tmp_path,
):
    with RunLog(tmp_path) as files:
        for step in (1, 2, 3):
            files.scalars(step, {"train/loss": 10.0 * step})
        files.picture(0, "clips", torch.zeros(3, 4, 6, dtype=torch.uint8))
        files.flush()
    time.sleep(
        1.1
    )  # TensorBoard reads the files in the order of their names, which hold whole seconds
    with RunLog(tmp_path, step=2) as files:
        files.scalars(3, {"train/loss": -1.0})
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [
        (1, 10),
        (2, 20),
        (3, -1),
    ]
    picture = board.Images("clips")[0]
    assert (picture.width, picture.height) == (6, 4)


@pytest.fixture
def bare_root():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = before, level


def test_one_console_however_often_it_is_asked_for(bare_root, capsys):
    console()
    console()
    assert sum(isinstance(handler, _Console) for handler in bare_root.handlers) == 1
    logging.getLogger("x").info("a line")
    logging.getLogger("x").debug("not this")
    output = capsys.readouterr().err
    assert output.count("a line") == 1 and "not this" not in output
