"""Losses against loops in float64, and what every registered loss keeps to."""

import math

import pytest
import torch

from model.loss import LOSSES, ContrastiveLoss, ReconstructionLoss, require_loss
from parse_config import ConfigError

KINDS = {name: issubclass(LOSSES.get(name), ContrastiveLoss) for name in LOSSES.names()}
CONTRASTIVE = [name for name, contrastive in KINDS.items() if contrastive]
RECONSTRUCTION = [name for name, contrastive in KINDS.items() if not contrastive]


def build(name, **args):
    return LOSSES.build({"type": name, "args": args})


def pairs(rows=5, width=7, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, width, generator=made, dtype=torch.float64)


def patches(seed=0):
    made = torch.Generator().manual_seed(seed)
    pred, target = 2 * torch.randn(2, 2, 3, 4, 5, generator=made, dtype=torch.float64)
    return pred, target, torch.rand(2, 3, 4, generator=made) < 0.4


def cos(a, b):
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(
        sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist())
    )


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_norm_softmax_is_the_sum_of_both_directions_means(temperature):
    v, t = pairs()
    both = 0.0
    for i in range(len(v)):
        for rows, columns in ((v, t), (t, v)):
            scores = [cos(rows[i], column) / temperature for column in columns]
            both -= (scores[i] - math.log(sum(math.exp(s) for s in scores))) / len(v)
    assert float(
        build("NormSoftmaxLoss", temperature=temperature)(v, t)
    ) == pytest.approx(both, abs=1e-12)


@pytest.mark.parametrize("fix_norm", [True, False])
def test_max_margin_against_its_loop(fix_norm):
    v, t = pairs()
    terms = []
    for i in range(len(v)):
        for j in range(len(v)):
            if i != j or not fix_norm:
                terms.append(max(0.0, 0.3 - cos(v[i], t[i]) + cos(v[j], t[i])))
                terms.append(max(0.0, 0.3 - cos(v[i], t[i]) + cos(v[i], t[j])))
    loss = build("MaxMarginRankingLoss", margin=0.3, fix_norm=fix_norm)
    assert float(loss(v, t)) == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_cosine_regression_against_its_loop():
    pred, target, mask = patches()
    distances = []
    for b, t, n in mask.nonzero().tolist():
        a, c = (x[b, t, n] / x[b, t, n].norm() for x in (pred, target))
        distances.append(
            sum((x - y) ** 2 for x, y in zip(a.tolist(), c.tolist(), strict=True))
        )
    assert build("CosineRegression")(pred, target, mask).tolist() == [
        pytest.approx([sum(distances), len(distances)])
    ]
    assert sum(distances) == pytest.approx(
        sum(
            2 - 2 * cos(pred[b, t, n], target[b, t, n])
            for b, t, n in mask.nonzero().tolist()
        )
    )


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_smooth_l1_regression_against_its_loop(beta):
    pred, target, mask = patches()
    distances = []
    for b, t, n in mask.nonzero().tolist():
        apart = (pred[b, t, n] - target[b, t, n]).abs().tolist()
        distances.append(
            sum(d * d / (2 * beta) if d < beta else d - beta / 2 for d in apart)
            / len(apart)
        )
    sums = build("SmoothL1Regression", beta=beta)(pred, target, mask)
    assert sums.tolist() == [pytest.approx([sum(distances), len(distances)])]


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_every_contrastive_loss(name):
    loss, (v, t) = build(name), pairs()
    assert not list(loss.parameters()), (
        "accumulation calls a loss outside of what averages gradients"
    )
    assert loss(v, t).shape == () and loss(v, t).dtype == torch.float64
    order = torch.randperm(len(v))
    torch.testing.assert_close(loss(v[order], t[order]), loss(v, t))
    torch.testing.assert_close(
        loss(3 * v, t / 5), loss(v, t), msg="cosine: lengths do not matter"
    )
    assert loss(v, v) < loss(v, t), "pairs that agree cost less"
    assert torch.autograd.gradcheck(
        loss, (v.clone().requires_grad_(), t.clone().requires_grad_())
    )
    for rows in (1, 2):
        one = v[:rows].clone().requires_grad_()
        loss(one, t[:rows]).backward()
        assert one.grad.isfinite().all()


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_every_reconstruction_loss(name):
    loss, (pred, target, mask) = build(name), patches()
    assert issubclass(type(loss), ReconstructionLoss) and not list(loss.parameters())
    pred.requires_grad_(), target.requires_grad_()
    sums = loss(pred, target, mask)
    assert sums.shape == (1, 2) and sums[0, 1] == mask.sum()
    sums[0, 0].backward()
    assert target.grad is None, "the teacher's side learns nothing"
    assert (pred.grad[~mask] == 0).all() and (pred.grad[mask] != 0).any(-1).all(), (
        "hidden places, all of them, only"
    )
    halves = torch.cat(
        [loss(pred[:1], target[:1], mask[:1]), loss(pred[1:], target[1:], mask[1:])]
    )
    torch.testing.assert_close(halves.sum(0, keepdim=True), sums)
    assert loss(pred, target, torch.zeros_like(mask)).tolist() == [[0, 0]]
    assert loss(target, target, mask)[0, 0].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES.names())
def test_half_precision_reaches_no_loss(name):
    loss = build(name)
    tensors = [
        x.float() if x.is_floating_point() else x
        for x in (pairs() if KINDS[name] else patches())
    ]
    halved = [x.bfloat16() if x.is_floating_point() else x for x in tensors]
    plain = loss(*tensors)
    assert plain.dtype == torch.float32
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(*tensors), plain)
            assert torch.equal(
                loss(*halved),
                loss(*[x.float() if x.is_floating_point() else x for x in halved]),
            )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_loss_of_the_wrong_kind_is_refused():
    with pytest.raises(
        ConfigError,
        match="loss.type: CosineRegression is no ContrastiveLoss; known: .*MaxMargin",
    ):
        require_loss(build("CosineRegression"), ContrastiveLoss, "loss.type")
    with pytest.raises(
        ConfigError, match="known: .*CosineRegression.*SmoothL1Regression"
    ):
        require_loss(
            build("NormSoftmaxLoss"), ReconstructionLoss, "objective.args.mvm_loss.type"
        )
    with pytest.raises(ConfigError, match="temperature"):
        build("NormSoftmaxLoss", temperature=0)
    with pytest.raises(ConfigError, match="beta"):
        build("SmoothL1Regression", beta=-1)
