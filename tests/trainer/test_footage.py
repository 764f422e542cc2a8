"""Footage without captions: its steps train masked visual modeling alone, between captioned ones."""

import pytest
import torch

from model.loss import LOSSES
from parse_config import Config
from scripts.synthetic import tiny_models
from tests.helpers import processes
from trainer import distributed, health
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision
from trainer.step import OptimizerStep

ROWS = 4
STEPS = 5
CONFIG = {
    "data_loader": [{"args": {}}, {"args": {"with_captions": False}}],
    "optimizer": {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}},
}


def optimizer_step(folder, **trainer):
    # everything is hidden, so that a draw is the same for any rows
    mask = {"type": "Tube", "args": {"ratio": 1.0}}
    objective = OBJECTIVES.build(
        Config({"type": "MILESPretraining", "args": {"mask": mask}}),
        model=tiny_models.build_miles(folder, time_init="rand"),
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).double()
    config = Config({**CONFIG, "trainer": trainer})
    return OptimizerStep(objective, config, torch.device("cpu"))


def micro_batches(step, first, last, count):
    """Rows first..last of the step's batch; those of odd steps have no captions."""
    batch = tiny_models.random_batch(ROWS, seed=step, dtype=torch.float64)
    pieces = []
    for rows in torch.arange(first, last).tensor_split(count):
        piece = {"video": batch["video"][rows]}
        if step % 2 == 0:
            piece["text"] = {name: ids[rows] for name, ids in batch["text"].items()}
        pieces.append(piece)
    return pieces


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def train(folder, accumulate=1, first=0, last=ROWS, **trainer):
    """The parameters after each step."""
    taken = optimizer_step(folder, **trainer)
    history = []
    for step in range(STEPS):
        taken.take(
            micro_batches(step, first, last, accumulate), step, STEPS, STEPS, "step"
        )
        parameters = taken.objective.named_parameters()
        history.append({name: whole(p.detach()) for name, p in parameters})
    return history


def is_of_the_text_side(name):
    return name.startswith(("model.text_model", "model.text_proj"))


def check(history, expected):
    for step in range(STEPS):
        for name, parameter in history[step].items():
            torch.testing.assert_close(
                parameter, expected[step][name], rtol=0, atol=1e-9, msg=name
            )
        for name in filter(is_of_the_text_side, history[step]):
            before = history[max(0, step - 1)][name]
            moved = not torch.equal(history[step][name], before)
            assert moved == (step in (2, 4)), (step, name, "k_lin.bias" in name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def alone(folder):
    return train(folder)


def test_the_text_side_rests_in_steps_without_captions(alone):
    check(alone, alone)
    videos = [step["model.video_model.patch_embed.proj.weight"] for step in alone]
    assert all(not torch.equal(a, b) for a, b in zip(videos, videos[1:]))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_equal_the_big_batch(folder, alone, accumulate):
    check(train(folder, accumulate), alone)


def work(folder, parallel, accumulate):
    """On each process: its share of the rows."""
    rank, world = distributed.rank(), distributed.world_size()
    first, last = rank * ROWS // world, (rank + 1) * ROWS // world
    return train(folder, accumulate, first, last, parallel=parallel)


def measure_health(folder, parallel):
    """The numbers after a step on each process; measured twice, with a step in between."""
    rank, world = distributed.rank(), distributed.world_size()
    first, last = rank * ROWS // world, (rank + 1) * ROWS // world
    taken = optimizer_step(folder, parallel=parallel)
    for step in (0, 2):
        batches = micro_batches(step, first, last, 1)
        taken.take(batches, step, STEPS, STEPS, "step")
        numbers = health.measure(taken.objective, batches[0], Precision())
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_health_is_measured_on_several_processes(folder, parallel, tmp_path):
    one, two = processes.run(measure_health, 2, tmp_path, (folder, parallel))
    assert one == two, "means over the processes"
    expected = {"clip_rank", "patch_rank", "clip_mean", "patch_mean", "temperature"}
    expected |= {"agreement", "mvm_explained"}
    if parallel == "ddp":
        expected.add("mvm_gradient_share")
    assert one.keys() == expected


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(folder, alone, parallel, accumulate, tmp_path):
    for history in processes.run(work, 2, tmp_path, (folder, parallel, accumulate)):
        check(history, alone)
