"""Losses, masks, teachers and objectives against loops; every registered one is met."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F

from model.loss import LOSSES
from model.mask import MASKS
from model.teacher import TEACHERS
from parse_config import Config, ConfigError
from tests import tiny
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.text_folder(tmp_path_factory.mktemp("text"))


def cos(a, b):
    return float((a @ b) / (a.norm() * b.norm()))


def naive_softmax(v, t, temperature=0.05):
    total = 0.0
    for i in range(len(v)):
        for a, b in ((v, t), (t, v)):
            scores = [cos(a[i], b[j]) / temperature for j in range(len(v))]
            total -= (scores[i] - math.log(sum(math.exp(s) for s in scores))) / len(v)
    return total


def naive_margin(v, t, margin=0.2):
    terms = []
    for i in range(len(v)):
        for j in range(len(v)):
            if i != j:
                terms.append(max(0.0, margin - cos(v[i], t[i]) + cos(v[j], t[i])))
                terms.append(max(0.0, margin - cos(v[i], t[i]) + cos(v[i], t[j])))
    return sum(terms) / len(terms)


def naive_regression(distance):
    def sums(pred, target, mask):
        chosen = [distance(pred[b, t, n], target[b, t, n]) for b, t, n in mask.nonzero().tolist()]
        return [sum(chosen), len(chosen)]
    return sums


CONTRASTIVE = {"NormSoftmaxLoss": naive_softmax, "MaxMarginRankingLoss": naive_margin}
REGRESSIONS = {"CosineRegression": naive_regression(lambda a, b: 2 - 2 * cos(a, b)),
               "SmoothL1Regression": naive_regression(lambda a, b: sum(
                   0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in (a - b).tolist()) / len(a))}


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_equals_its_loop(name):
    torch.manual_seed(1)
    loss = LOSSES.build({"type": name, "args": {}})
    if name in CONTRASTIVE:
        v, t = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
        assert float(loss(v, t)) == pytest.approx(CONTRASTIVE[name](v, t), abs=1e-12)
        half = loss(v.bfloat16(), t.bfloat16())
        assert half.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(v.float(), t.float()), loss(v.float(), t.float()).float())
            inside = loss(v.float(), t.float())
        assert torch.equal(inside, loss(v.float(), t.float())), "autocast must not reach a loss"
    else:
        pred, target = torch.randn(2, 3, 4, 5, dtype=torch.float64) * 2, torch.randn(2, 3, 4, 5, dtype=torch.float64)
        mask = torch.rand(2, 3, 4) < 0.4
        assert loss(pred, target, mask)[0].tolist() == pytest.approx(REGRESSIONS[name](pred, target, mask), abs=1e-12)
        target.requires_grad_()
        pred.requires_grad_()
        loss(pred, target, mask)[0, 0].backward()
        assert target.grad is None and (pred.grad[~mask] == 0).all() and (pred.grad[mask] != 0).any()


@pytest.mark.parametrize("name", MASKS.names())
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_every_mask_hides_exactly_its_share(name, ratio):
    torch.manual_seed(0)
    masks = MASKS.build({"type": name, "args": {"ratio": ratio}})(16, (3, 7, 9), "cpu")
    assert masks.shape == (16, 3, 63) and masks.dtype == torch.bool
    assert (masks.sum(-1) == round(ratio * 63)).all()
    torch.manual_seed(0)
    assert torch.equal(masks, MASKS.build({"type": name, "args": {"ratio": ratio}})(16, (3, 7, 9), "cpu"))
    same = (masks == masks[:, :1]).all()
    assert same if name.startswith("Tube") or ratio in (0, 1) else not same


def test_blocks_are_contiguous_and_scattered_ones_are_not():
    def neighbours(mask):  # share of hidden places whose right neighbour is hidden too
        rows = mask[:, 0].view(-1, 14, 14)
        return float((rows[:, :, :-1] & rows[:, :, 1:]).sum() / rows[:, :, :-1].sum())
    torch.manual_seed(0)
    block = MASKS.build({"type": "TubeBlock", "args": {"ratio": 0.5}})(200, (1, 14, 14))
    tube = MASKS.build({"type": "Tube", "args": {"ratio": 0.5}})(200, (1, 14, 14))
    assert neighbours(block) > 0.8 and abs(neighbours(tube) - 0.5) < 0.03
    for mask in (block, tube):  # no place is favoured out of reach: all are hidden now and then
        assert mask.float().mean((0, 1)).min() > 0.02 and mask.float().mean((0, 1)).max() < 0.95


def test_a_wrong_ratio_is_refused():
    for name in MASKS.names():
        with pytest.raises(ConfigError, match="share from 0 to 1"):
            MASKS.build(Config({"type": name, "args": {"ratio": 50}}, "objective.args.mask"))


@pytest.mark.parametrize("name", TEACHERS.names())
def test_every_teacher_follows_its_rule(name, folder):
    model = tiny.miles(folder)
    args = {"EMA": {"momentum": 0.9}, "Snapshot": {"every": 2}}.get(name, {})
    teacher = TEACHERS.build({"type": name, "args": args}, student=model)
    twin = [p.detach().clone() for p in teacher.parameters()]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().training and not any(m.training for m in teacher.modules())
    for step in range(1, 4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        teacher.follow(model, step, 3)
        student = [*model.video_model.parameters(), *model.vid_proj.parameters()]
        for ours, old, theirs in zip(teacher.parameters(), twin, student, strict=True):
            want = {"EMA": 0.9 * old + 0.1 * theirs, "Snapshot": theirs if step % 2 == 0 else old, "Frozen": old}[name]
            torch.testing.assert_close(ours, want.detach(), rtol=1e-5, atol=1e-6)
        twin = [p.detach().clone() for p in teacher.parameters()]
    assert name in ("EMA", "Snapshot", "Frozen"), "say here what a new teacher rule is to do"


def test_the_momentum_schedule_rises_to_one(folder):
    spec = {"type": "EMA", "args": {"momentum": 0.9, "schedule": "cosine"}}
    teacher = TEACHERS.build(spec, student=tiny.miles(folder))
    values = [teacher.momentum_at(step, 10) for step in range(11)]
    assert values[0] == pytest.approx(0.9) and values[5] == pytest.approx(0.95) and values[10] == pytest.approx(1.0)
    assert values == sorted(values)


def build(name, folder, **args):
    model = tiny.miles(folder, time_init="rand")
    return OBJECTIVES.build({"type": name, "args": args}, model=model, loss=LOSSES.build({"type": "NormSoftmaxLoss"}))


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_reaches_every_trainable_parameter(name, folder):
    objective = build(name, folder)
    parts = objective(tiny.batch())
    assert all(part.ndim == 0 and part.isfinite() for part in parts.values())
    parts["loss"].backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not [n for n in without if not n.endswith("k_lin.bias")], without  # softmax does not see a key's bias
    objective.after_step(1, 10)


@pytest.mark.parametrize("view", ["masked", "full"])
@pytest.mark.parametrize("space", ["joint", "encoder"])
def test_the_method_step_by_step(folder, view, space):
    objective = build("MILESPretraining", folder, mvm_weight=0.7, contrast_view=view, target_space=space,
                      mask={"type": "Random", "args": {"ratio": 0.4}}).double()
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
    batch = tiny.batch(dtype=torch.float64)
    torch.manual_seed(5)
    parts = objective(batch)
    torch.manual_seed(5)
    mask = objective.mask(4, (4, 4, 4), "cpu")
    model, video = objective.model, batch["video"]
    hidden_cls, hidden = model.video_model(video, mask, objective.mask_token_D)
    whole_cls, _ = model.video_model(video)
    _, target = objective.teacher.video_model(video)
    if space == "joint":
        hidden, target = model.vid_proj(hidden), objective.teacher.vid_proj(target)
    v = model.vid_proj(hidden_cls if view == "masked" else whole_cls)
    text = model.encode_text(batch["text"])
    distances = [(F.normalize(hidden[b, t, n], dim=0) - F.normalize(target[b, t, n], dim=0)).square().sum()
                 for b, t, n in mask.nonzero().tolist()]
    mvm = float(sum(distances)) / len(distances)
    assert float(parts["loss_vt"]) == pytest.approx(naive_softmax(v.detach(), text.detach()), abs=1e-10)
    assert float(parts["loss_mvm"]) == pytest.approx(mvm, abs=1e-10)
    assert float(parts["loss"]) == pytest.approx(float(parts["loss_vt"]) + 0.7 * mvm, abs=1e-10)


@pytest.mark.parametrize("args, says", [
    ({"contrast_view": "clean"}, "contrast_view"), ({"target_space": "pixels"}, "target_space"),
    ({"mask": {"type": "Tub"}}, "nearest: Tube"), ({"teacher": {"type": "EMO"}}, "EMA")])
def test_wrong_objectives_say_what_is_known(folder, args, says):
    with pytest.raises(ConfigError, match=says):
        build("MILESPretraining", folder, **args)


def grads(objective):
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


class Replayed:
    """A mask that hands out the drawn ones again, row by row."""

    def __init__(self, masks):
        self.masks, self.at = masks, 0

    def __call__(self, batch, grid, device):
        mask = self.masks[self.at:self.at + batch]
        self.at = (self.at + batch) % len(self.masks)
        return mask


@pytest.mark.parametrize("name", OBJECTIVES.names())
@pytest.mark.parametrize("count", [2, 3, 6])
def test_micro_batches_give_the_gradient_of_the_big_batch(name, count, folder):
    objective = build(name, folder).double()
    big = tiny.batch(6, dtype=torch.float64)
    if name == "MILESPretraining":
        objective.mask = Replayed(torch.rand(6, 4, 16) < torch.linspace(0.2, 0.8, 6)[:, None, None])
    twin = copy.deepcopy(objective)
    whole = forward_backward(twin, [big], Precision())
    small = [{"video": big["video"][i::count], "text": {k: v[i::count] for k, v in big["text"].items()}}
             for i in range(count)]
    order = torch.cat([torch.arange(6)[i::count] for i in range(count)])
    if name == "MILESPretraining":
        objective.mask = Replayed(objective.mask.masks[order])
    parts = forward_backward(objective, small, Precision())
    for part in whole:
        assert float(parts[part]) == pytest.approx(float(whole[part]), abs=1e-12)
    theirs = grads(twin)
    for parameter, grad in grads(objective).items():
        assert (grad - theirs[parameter]).abs().max() < 1e-10, parameter


def test_dropout_and_masks_are_replayed(tmp_path):
    """With dropout the twin is the graph that keeps every micro-batch: encode all with grad, one loss, one backward."""
    objective = build("MILESPretraining", tiny.text_folder(tmp_path, dropout=0.3)).double().train()
    twin = copy.deepcopy(objective)
    small = [tiny.batch(2, seed=i, dtype=torch.float64) for i in range(3)]
    torch.manual_seed(9)
    outputs = [twin.encode(batch) for batch in small]
    parts = twin.losses({name: torch.cat([output[name] for output in outputs]) for name in outputs[0]})
    parts["loss"].backward()
    after = torch.rand(1)
    torch.manual_seed(9)
    cached = forward_backward(objective, small, Precision())
    assert torch.equal(torch.rand(1), after), "a step must use as many random numbers either way"
    assert float(cached["loss"]) == pytest.approx(float(parts["loss"]), abs=1e-12)
    theirs = grads(twin)
    for parameter, grad in grads(objective).items():
        assert (grad - theirs[parameter]).abs().max() < 1e-10, parameter


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_precisions(name, folder):
    objective, precision = build("MILESPretraining", folder), Precision(name, "cpu")
    parts = forward_backward(objective, [tiny.batch()], precision)
    assert all(part.dtype == torch.float32 for part in parts.values())
    assert all(p.dtype == torch.float32 for p in objective.parameters())
    assert precision.scaler.is_enabled() == (name == "fp16")
    cached = forward_backward(objective, [tiny.batch(2), tiny.batch(2, seed=1)], precision)
    assert cached["loss"].isfinite()
    with pytest.raises(ConfigError, match="known: fp32"):
        Precision("fp8")
