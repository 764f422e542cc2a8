"""Micro-batches with cached embeddings against one big batch, in float64; random draws are replayed."""

import copy

import pytest
import torch

from model.loss import LOSSES
from scripts.synthetic import tiny_models
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"), dropout=0.3)


def build(name, folder, **video):
    return OBJECTIVES.build(
        {"type": name},
        model=tiny_models.build_miles(folder, time_init="rand", **video),
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).double()


def move(batch):
    return {
        "video": batch["video"].to(DEVICE),
        "text": {name: ids.to(DEVICE) for name, ids in batch["text"].items()},
    }


def cut(batch, count):
    """The batch in `count` pieces, unequal ones if need be."""
    texts = {name: ids.tensor_split(count) for name, ids in batch["text"].items()}
    return [
        {"video": video, "text": {name: pieces[i] for name, pieces in texts.items()}}
        for i, video in enumerate(batch["video"].tensor_split(count))
    ]


def grads(objective):
    return {
        n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None
    }


def worst(objective, twin):
    gradients, twin_gradients = grads(objective), grads(twin)
    assert (
        gradients.keys()
        == twin_gradients.keys()
        == {n for n, p in objective.named_parameters() if p.requires_grad}
    )
    return max(float((gradients[n] - twin_gradients[n]).abs().max()) for n in gradients)


class Dealt:
    """A mask that deals out given rows in turn, then begins anew: GradCache asks for them twice."""

    def __init__(self, masks):
        self.masks, self.at = masks, 0

    needs_attention = False

    def __call__(self, batch, grid, device, *_):
        mask = self.masks[self.at : self.at + batch].to(device)
        self.at = (self.at + batch) % len(self.masks)
        return mask


@pytest.mark.parametrize("name", OBJECTIVES.names())
@pytest.mark.parametrize("count", [2, 3, 6])
def test_micro_batches_give_the_gradient_of_the_big_batch(name, count, folder):
    objective, big = (
        build(name, folder).to(DEVICE),
        move(tiny_models.random_batch(7, dtype=torch.float64)),
    )
    if hasattr(objective, "mask"):  # they hide unequally
        objective.mask = Dealt(
            torch.rand(7, 4, 16) < torch.linspace(0.0, 0.9, 7)[:, None, None]
        )
    twin, precision = copy.deepcopy(objective), Precision("fp32", DEVICE)
    expected = forward_backward(twin, [big], precision)
    losses = forward_backward(objective, cut(big, count), precision)
    for name in expected:
        assert not losses[name].requires_grad
        assert losses[name].item() == pytest.approx(expected[name].item(), abs=1e-12)
    assert worst(objective, twin) < 1e-10


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_dropout_drop_path_and_masks_are_replayed(name, dropping):
    """The twin keeps the whole graph: encode each micro-batch with gradient, one loss, one backward pass."""
    objective = (
        build(name, dropping, drop_rate=0.2, drop_path_rate=0.2).to(DEVICE).train()
    )
    twin, small = (
        copy.deepcopy(objective),
        cut(move(tiny_models.random_batch(7, dtype=torch.float64)), 3),
    )
    torch.manual_seed(9)
    outputs = [twin.encode(batch) for batch in small]
    expected = twin.losses(
        {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}
    )
    expected["loss"].backward()
    after = torch.rand(1), torch.rand(1, device=DEVICE)
    torch.manual_seed(9)
    losses = forward_backward(objective, small, Precision("fp32", DEVICE))
    assert (torch.rand(1), torch.rand(1, device=DEVICE)) == after, (
        "it uses as many random numbers either way"
    )
    assert losses["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-12)
    assert worst(objective, twin) < 1e-10
    torch.manual_seed(10)
    objective.zero_grad()
    forward_backward(objective, small, Precision("fp32", DEVICE))
    assert worst(objective, twin) > 1e-6, (
        "another seed is another step: the draws do matter"
    )


def test_gradients_are_added_to_those_that_are_there(folder):
    objective, small = (
        build("Contrastive", folder),
        cut(tiny_models.random_batch(6, dtype=torch.float64), 2),
    )
    forward_backward(objective, small, Precision())
    once = grads(objective)
    forward_backward(objective, small, Precision())
    for name, grad in grads(objective).items():
        torch.testing.assert_close(grad, 2 * once[name])


def test_a_frozen_tower_stays_frozen(folder):
    objective, small = (
        build("MILESPretraining", folder),
        cut(tiny_models.random_batch(6, dtype=torch.float64), 2),
    )
    objective.model.text_model.requires_grad_(False)
    objective.model.text_proj.requires_grad_(False)
    twin = copy.deepcopy(objective)
    objective.mask, twin.mask = (
        Dealt(torch.arange(6 * 64).view(6, 4, 16) % 3 == 0) for _ in range(2)
    )
    forward_backward(objective, small, Precision())
    forward_backward(
        twin, [tiny_models.random_batch(6, dtype=torch.float64)], Precision()
    )
    assert worst(objective, twin) < 1e-10


class Seen(Exception):
    """Raised by who sees the parts."""


def see(parts):
    raise Seen(parts)


@pytest.mark.parametrize("count", [1, 2])
def test_parts_are_seen_before_the_backward_pass(count, folder):
    objective, small = (
        build("MILESPretraining", folder),
        cut(tiny_models.random_batch(4, dtype=torch.float64), count),
    )
    with pytest.raises(Seen) as seen:
        forward_backward(objective, small, Precision(), see)
    assert (
        seen.value.args[0].keys() == {"loss", "loss_vt", "loss_mvm"}
        and grads(objective) == {}
    )


def test_gradient_checkpointing_changes_nothing(dropping):
    objective = build("MILESPretraining", dropping, drop_rate=0.2).train()
    twin, small = (
        copy.deepcopy(objective),
        cut(tiny_models.random_batch(6, dtype=torch.float64), 2),
    )
    objective.model.set_gradient_checkpointing(True)
    for module in (objective, twin):
        torch.manual_seed(4)
        forward_backward(module, small, Precision())
    assert worst(objective, twin) < 1e-10
