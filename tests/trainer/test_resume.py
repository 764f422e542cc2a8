"""kill -9, -r auto, and nothing is lost: the final checkpoint is the unbroken run's, bit for bit. `python -m
tests.helpers.killing` runs the whole matrix."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import killing, tiny_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("processes, workers", [(1, 2), (2, 0)])
def test_killed_at_random_steps_the_end_is_bit_equal(tmp_path, processes, workers):
    unbroken, killed, kills = killing.case(
        tmp_path / "case", processes, workers, kills=2, seed=os.getpid()
    )
    assert kills == 2, "the run ended before it could be killed twice"
    assert unbroken == killed


def test_a_signal_to_all_processes_and_workers_saves_and_resumes_on_another_number(
    tmp_path,
):
    """As Slurm does it; then one process instead of two goes on, and says what is not exact."""
    config = killing.make(tmp_path / "run", 2, 2)
    started = killing.start(config, "trainer.epochs=50", processes=2)
    goal = time.monotonic() + 60
    while killing.steps(tmp_path / "run") < 5 and time.monotonic() < goal:
        time.sleep(0.01)
    for process in started:
        for child in (
            Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ):
            os.kill(int(child), signal.SIGTERM)
        os.kill(process.pid, signal.SIGTERM)
    output = tmp_path / "run" / killing.OUTPUT
    assert killing.finish(started) == [75, 75], output.read_text()
    assert "SIGTERM: saved at step" in output.read_text()
    step = torch.load(killing.latest(tmp_path / "run"))["step"]
    assert step >= 5
    longer = f"trainer.epochs={step // 12 + 1}"
    pairs = "data_loader.args.batch_size=2"  # a single one has nothing to be told from
    assert killing.run(config, "-r", "auto", longer, pairs) == [0], output.read_text()
    assert (
        "2 processes x 1 micro-batches -> 1 x 1: dropout and masks are drawn otherwise"
        in output.read_text()
    )
    assert len(list((tmp_path / "run/exps/tiny").iterdir())) == 1


def test_a_torn_newest_checkpoint_is_passed_over(tmp_path):
    config = killing.make(tmp_path / "run", 1, 0)
    assert killing.run(config, "trainer.epochs=1") == [0]
    path = killing.latest(tmp_path / "run")
    content = path.read_bytes()
    path.unlink()  # checkpoint-epoch1.pth is the same file
    path.write_bytes(content[:-1000])
    assert killing.run(config, "-r", "auto") == [0]
    output = (tmp_path / "run" / killing.OUTPUT).read_text()
    assert (
        "checkpoint-latest.pth: is damaged or no checkpoint" in output
        and "the one before is taken" in output
        and "checkpoint-epoch1.pth" in output
    )
    assert len(tiny_run.lines(path.parent, "epoch")) == 2
