"""Several processes against one: gradients, teachers, shards. Real gloo processes, float64."""

import copy
import functools
import os

import pytest
import torch
from torch import nn

from model.loss import LOSSES
from parse_config import ConfigError, UserError
from scripts.synthetic import tiny_models
from tests.helpers import processes
from trainer import distributed
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision

ROWS = 12
FRAMES = 4, 1  # of the steps' clips: images alternate with videos
TOLERANCE = 1e-10
FAST = ("none", 1), ("ddp", 1), ("ddp", 2), ("ddp", 3)


def cases(world):
    """(objective, wrapper, micro-batches); four processes share two cores, and FSDP2 is slow there."""
    sharded = (("fsdp2", 1), ("fsdp2", 2)) if world == 2 else (("fsdp2", 2),)
    return [
        (name, how, micro)
        for name in OBJECTIVES.names()
        for how, micro in (*FAST, *sharded)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


class Dealt:
    """A mask that deals out this process's rows of one that hides unequally; anew when they are used up."""

    def __init__(self, first, last):
        self.first, self.last, self.at = first, last, first

    needs_attention = False

    def __call__(self, batch, grid, device, *_):
        generator = torch.Generator().manual_seed(grid[0])
        mask = (
            torch.rand(ROWS, grid[0], 16, generator=generator)
            < torch.linspace(0, 0.9, ROWS)[:, None, None]
        )
        rows = mask[self.at : self.at + batch]
        self.at = self.at + batch if self.at + batch < self.last else self.first
        return rows


def build(name, folder, first=0, last=ROWS):
    objective = OBJECTIVES.build(
        {"type": name},
        model=tiny_models.build_miles(folder, time_init="rand"),
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).double()
    if hasattr(objective, "mask"):
        objective.mask = Dealt(first, last)
    return objective


def cut(frames, first, last, count):
    """Rows first..last of a step's batch in `count` pieces, unequal ones if need be."""
    batch = tiny_models.random_batch(ROWS, frames, seed=frames, dtype=torch.float64)
    texts = {
        name: ids[first:last].tensor_split(count) for name, ids in batch["text"].items()
    }
    return [
        {"video": video, "text": {name: pieces[i] for name, pieces in texts.items()}}
        for i, video in enumerate(batch["video"][first:last].tensor_split(count))
    ]


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def train(objective, wrapped, micro, first=0, last=ROWS):
    """A step on clips, one on images: [{name: gradient or part}] of each, and {name: parameter} at the end."""
    optimizer = torch.optim.SGD(
        [p for p in objective.parameters() if p.requires_grad], lr=0.1
    )
    steps = []
    for step, frames in enumerate(FRAMES, 1):
        losses = forward_backward(wrapped, cut(frames, first, last, micro), Precision())
        grads = {
            name: whole(p.grad)
            for name, p in objective.named_parameters()
            if p.requires_grad
        }
        steps.append({**grads, **losses})
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step, len(FRAMES))
    return steps, {name: whole(p.detach()) for name, p in objective.named_parameters()}


def mean_over_processes(steps):
    """What a wrapper would have done."""
    if distributed.world_size() > 1:
        for gradient in steps[0].values():
            torch.distributed.all_reduce(gradient)
            gradient /= distributed.world_size()


def work(folder):
    """All that several processes must show; runs on each of them."""
    rank, world = distributed.rank(), distributed.world_size()
    first, last = rank * ROWS // world, (rank + 1) * ROWS // world
    results = {"tools": tools(rank, world)}
    if world == 2:
        results |= {
            "apart": apart(folder),
            "dropped": dropped(folder, first, last),
            "half": half(folder, first, last),
        }
    for name, how, micro in cases(world):
        objective = build(name, folder, first, last)
        wrapped = objective if how == "none" else distributed.wrap(objective, how)
        assert distributed.unwrap(wrapped) is objective
        look(objective, cut(4, first, last, 1)[0], rank)
        steps, parameters = train(objective, wrapped, micro, first, last)
        if how == "none":
            mean_over_processes(steps)
            steps, parameters = steps[:1], {}
        if how == "fsdp2":
            shards = [p.to_local().numel() for p in objective.parameters()]
            assert sum(shards) < 0.7 * sum(p.numel() for p in objective.parameters())
        results[name, how, micro] = steps, parameters
    return results


def tools(rank, world):
    """The small ones, and `gather` under a loss of its own on each process."""
    assert distributed.gather_objects({"rank": rank}) == [
        {"rank": i} for i in range(world)
    ]
    assert distributed.main_only(lambda: "here")() == ("here" if rank == 0 else None)
    assert distributed.reduce_max(rank) == world - 1
    with distributed.without_gathering():
        assert distributed.gather(torch.ones(2, 3)).shape == (2, 3)
    assert distributed.gather(torch.ones(2, 3)).shape == (2 * world, 3)
    assert not distributed.gather(torch.ones(2)).requires_grad
    x = (torch.arange(6, dtype=torch.float64).view(3, 2) + 10 * rank).requires_grad_()
    ((rank + 1) * distributed.gather(x).square()).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * sum(range(1, world + 1)))
    strided = torch.arange(6.0).view(2, 3).T
    assert torch.equal(distributed.gather(strided), strided.repeat(world, 1))
    return distributed.gather(torch.tensor([rank])).tolist()


@torch.no_grad()
def look(objective, batch, rank):
    """As validation does before or between steps: the loss on all, then encoders that processes run unequally often."""
    objective.eval()
    objective(batch)
    with distributed.unsharded(objective):
        for _ in range(rank + 1):
            objective.model.encode_video(batch["video"])
            objective.model.encode_text(batch["text"])
    objective.train()


def dropped(folder, first, last):
    """Accumulation under DDP with dropout against the kept graph of each process, averaged: the largest difference."""
    objective = build("MILESPretraining", folder, first, last).train()
    for part in objective.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.2
    twin, batches = copy.deepcopy(objective), cut(4, first, last, 3)
    torch.manual_seed(distributed.rank())
    outputs = [twin.encode(batch) for batch in batches]
    twin.losses(
        {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}
    )["loss"].backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad}
    mean_over_processes([expected])
    torch.manual_seed(distributed.rank())
    forward_backward(distributed.wrap(objective), batches, Precision())
    return max(
        float((p.grad - expected[name]).abs().max())
        for name, p in objective.named_parameters()
        if name in expected
    )


def half(folder, first, last):
    """The gradient in bf16 of two micro-batches on each process, as one vector."""
    objective = build("MILESPretraining", folder, first, last).float()
    batches = [
        {**batch, "video": batch["video"].float()} for batch in cut(4, first, last, 2)
    ]
    forward_backward(distributed.wrap(objective), batches, Precision("bf16"))
    return torch.cat(
        [p.grad.flatten() for p in objective.parameters() if p.requires_grad]
    )


def apart(folder):
    """A whole teacher follows a sharded student: the largest difference to what it should be."""
    objective = build("MILESPretraining", folder)
    model, teacher = objective.model, objective.teacher
    start = {name: p.clone() for name, p in teacher.named_parameters()}
    distributed.wrap(
        OBJECTIVES.build({"type": "Contrastive"}, model=model, loss=objective.contrast),
        "fsdp2",
    )
    with torch.no_grad():
        for p in model.parameters():
            p.to_local().add_(1)
    teacher.follow(model, 1, 2)
    return max(
        float((p - start[name] - 0.004).abs().max())
        for name, p in teacher.named_parameters()
    )


@functools.cache
def alone(name, folder):
    """One process, the whole batch."""
    objective = build(name, folder)
    return train(objective, objective, 1)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_equal_one(world, folder, tmp_path):
    results = processes.run(work, world, tmp_path, (folder,))
    assert [result["tools"] for result in results] == [list(range(world))] * world
    if world == 2:
        assert max(result["apart"] for result in results) < 1e-12
        assert max(result["dropped"] for result in results) < TOLERANCE
        right = torch.cat(
            [
                alone("MILESPretraining", folder)[0][0][name].flatten()
                for name, p in build("MILESPretraining", folder).named_parameters()
                if p.requires_grad
            ]
        )
        assert all(
            float((result["half"] - right).norm() / right.norm()) < 0.05
            for result in results
        )
    for name, how, micro in cases(world):
        right, end = alone(name, folder)
        for rank in range(world):
            steps, parameters = results[rank][name, how, micro]
            worst = 0.0
            for actual, expected in zip(steps, right, strict=how != "none"):
                assert actual.keys() == expected.keys()
                worst = max(
                    worst,
                    *(
                        float((actual[key] - expected[key]).abs().max())
                        for key in expected
                    ),
                )
            assert worst < TOLERANCE, (name, how, micro, rank, worst)
            after = max(
                (float((p - end[key]).abs().max()) for key, p in parameters.items()),
                default=0.0,
            )
            assert after < TOLERANCE, (
                name,
                how,
                micro,
                rank,
                after,
            )  # the teacher's among them
            for key, p in parameters.items():
                assert torch.equal(p, results[0][name, how, micro][1][key]), (
                    "equal on all processes, bit for bit"
                )


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_alone_all_of_it_does_nothing(how, folder, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (
        distributed.start("cpu") == torch.device("cpu")
        and not torch.distributed.is_initialized()
    )
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    objective, x = build("Contrastive", folder), torch.randn(3, 2)
    assert (
        distributed.wrap(objective, how) is objective
        and distributed.unwrap(objective) is objective
    )
    assert distributed.gather(x) is x and distributed.gather_objects(x) == [x]
    assert distributed.main_only(lambda: "here")() == "here"
    assert distributed.reduce_max(3) == 3
    with distributed.without_sync(objective), distributed.unsharded(objective):
        distributed.barrier()
    distributed.stop()


def test_accumulation_alone_equals_the_big_batch(folder):
    for name, micro in [
        (name, micro) for name in OBJECTIVES.names() for micro in (2, 3)
    ]:
        objective = build(name, folder)
        steps, end = train(objective, copy.copy(objective), micro)
        for actual, expected in zip(steps, alone(name, folder)[0], strict=True):
            assert (
                max(
                    float((actual[key] - expected[key]).abs().max()) for key in expected
                )
                < TOLERANCE
            )


@pytest.mark.parametrize(
    "environment, device, says",
    [
        (
            {"WORLD_SIZE": "2"},
            "cpu",
            "RANK, MASTER_ADDR, MASTER_PORT is not set: start it with torchrun",
        ),
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE is 'two'"),
        ({}, "gpu", "--device gpu: no such device"),
        ({}, "mps", "--device mps: no such device; write cpu, cuda or cuda:N"),
        ({}, "meta", "--device meta: no such device"),
        ({}, "cuda:99", "GPU 99 is asked for and"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "99"}, "cuda", "GPU 99 is asked for and"),
    ],
)
def test_what_cannot_start_says_why(environment, device, says, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    with pytest.raises(UserError, match=says):
        distributed.start(device)


def test_an_unknown_wrapper_is_refused():
    with pytest.raises(
        ConfigError, match="trainer.parallel: 'dp' is given; known: ddp, fsdp2"
    ):
        distributed.wrap(nn.Linear(1, 1), "dp")
