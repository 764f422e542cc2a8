"""Optimizers built from JSON, schedules against hand-made lists, moments by name."""

import copy
import math

import pytest
import torch
from torch import nn

from parse_config import ConfigError
from trainer import optim
from trainer.optim import OPTIMIZERS, SCHEDULES

NEEDED = {"MultiStep": {"milestones": [2, 4]}, "MultiStepLR": {"milestones": [2, 4]}}


def module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    net.token = nn.Parameter(torch.zeros(1, 1, 4))
    return net


def spec(name, **args):
    return {"type": name, "args": {"lr": 0.01, **args}}


def train(net, optimizer, steps, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        x = torch.randn(3, 4)
        (net(x + net.token[0]) ** 2).mean().backward()
        optim.set_lr(optimizer, 1 / (step + 1))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_moments_come_back_exactly_whatever_the_groups(name):
    net = module()
    optimizer = OPTIMIZERS.build(spec(name), module=net)
    train(net, optimizer, 3)
    saved, weights = (
        copy.deepcopy(optim.state(optimizer, net)),
        copy.deepcopy(net.state_dict()),
    )
    train(net, optimizer, 3, 3)
    restored = module()
    restored.load_state_dict(weights)
    other = OPTIMIZERS.build(
        spec(name, decay="matrices"), module=restored
    )  # other groups, the same without decay
    optim.load_state(other, restored, saved)
    train(restored, other, 3, 3)
    for key, value in net.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_what_is_decayed(name):
    every = OPTIMIZERS.build(spec(name, weight_decay=0.1), module=module())
    assert [group["weight_decay"] for group in every.param_groups] == [0.1]
    some = OPTIMIZERS.build(
        spec(name, weight_decay=0.1, decay="matrices"), module=module()
    )
    assert [
        (len(group["params"]), group["weight_decay"]) for group in some.param_groups
    ] == [
        (2, 0.1),
        (5, 0.0),
    ]
    with pytest.raises(ConfigError, match="all, matrices"):
        OPTIMIZERS.build(spec(name, decay="none"), module=module())


def test_the_familys_defaults_and_frozen_parameters():
    net = module()
    net[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS.build({"type": "AdamW", "args": {"lr": 3e-5}}, module=net)
    group = optimizer.param_groups[0]
    assert (group["eps"], group["weight_decay"], len(group["params"])) == (1e-6, 0.0, 6)
    with pytest.raises(ConfigError, match="optimizer AdamW: args.learning_rate"):
        OPTIMIZERS.build({"type": "AdamW", "args": {"learning_rate": 3e-5}}, module=net)


def test_set_lr_goes_by_each_groups_own_rate():
    net = module()
    optimizer = torch.optim.SGD(
        [{"params": [net[0].weight], "lr": 1.0}, {"params": [net[2].weight], "lr": 0.1}]
    )
    for factor in (0.5, 0.1, 1.0):
        assert optim.set_lr(optimizer, factor) == factor
        assert [group["lr"] for group in optimizer.param_groups] == [
            factor,
            pytest.approx(0.1 * factor),
        ]


def test_milestones_are_epochs():
    schedule = SCHEDULES.build({"type": "MultiStep", "args": {"milestones": [1, 3]}})
    assert [schedule(step, 8, 2) for step in range(8)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    )


def test_cosine_with_warm_up():
    schedule = SCHEDULES.build(
        {
            "type": "Cosine",
            "args": {"warmup_steps": 1, "warmup_epochs": 1, "floor": 0.1},
        }
    )
    warm = [1 / 4, 2 / 4, 3 / 4]
    cool = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 7)) / 2 for i in range(7)]
    assert [schedule(step, 10, 2) for step in range(10)] == pytest.approx(warm + cool)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_schedules_are_pure_and_between_0_and_1(name):
    schedule = SCHEDULES.build(
        {"type": name, "args": {**NEEDED.get(name, {}), "warmup_steps": 3}}
    )
    forwards = [schedule(step, 20, 4) for step in range(20)]
    assert forwards == [schedule(step, 20, 4) for step in reversed(range(20))][::-1]
    assert (
        all(0 < factor <= 1 for factor in forwards)
        and forwards[0] < 1
        and max(forwards) > 0.7
    )
