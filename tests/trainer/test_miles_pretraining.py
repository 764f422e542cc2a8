"""Every choice of MILESPretraining, and all combinations, against sums made by hand in float64."""

import itertools
import math

import pytest
import torch

from model.loss import LOSSES
from model.mask import MASKS
from model.schedule import Schedule
from model.target_norm import TARGET_NORMS
from parse_config import Config, ConfigError
from scripts.synthetic import tiny_models
from trainer.objectives import OBJECTIVES
from trainer.objectives.miles_pretraining import CONTRAST_VIEWS

DISTANCES = ("CosineRegression", "SmoothL1Regression", "L1Regression")
PREDICTORS = (None, "MLP", "Transformer")
CHOICES = {
    "contrast_view": CONTRAST_VIEWS,
    "regress": ("masked", "all"),
    "target_space": ("joint", "encoder"),
    "target_features": ("last", "value"),
    "target_norm": TARGET_NORMS,
    "predictor": PREDICTORS,
    "mvm_loss": DISTANCES,
    "teacher": ("EMA", "Self"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    text_folder = tiny_models.save_text_model(tmp_path_factory.mktemp("text"))
    return tiny_models.build_miles(text_folder, time_init="rand").double()


def build(model, **args):
    """The objective in float64, its teacher and its running mean moved away from where they start."""
    blocks = {
        name: {"type": args[name]}
        for name in ("predictor", "mvm_loss", "teacher")
        if isinstance(args.get(name), str)
    }
    section = {"type": "MILESPretraining", "args": {**args, **blocks}}
    torch.manual_seed(1)
    objective = OBJECTIVES.build(
        Config(section, "objective"),
        model=model,
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).double()
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for buffer in objective.target_norm.buffers():
            buffer.add_(0.1 * torch.randn_like(buffer))
    return objective


def infonce(v, t):
    """Loops, cosine / 0.05, both directions' means added."""
    v, t = ([row / row.norm() for row in x] for x in (v, t))
    total = 0.0
    for i in range(len(v)):
        for rows, columns in ((v, t), (t, v)):
            scores = [float(rows[i] @ column) / 0.05 for column in columns]
            total -= (scores[i] - math.log(sum(math.exp(s) for s in scores))) / len(v)
    return total


def layer_mean(encoder, video, layers):
    """Mean over the last blocks' outputs after the norm, by a hook on every block."""
    outputs = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in encoder.blocks
    ]
    encoder(video)
    for hook in hooks:
        hook.remove()
    normed = [encoder.norm(output) for output in outputs[-layers:]]
    return (sum(normed) / layers)[:, 1:].unflatten(1, (video.shape[1], -1))


def values(encoder, video):
    """Of the last block's spatial attention, from its input: value, output projection, last norm."""
    inputs = []
    layer = encoder.blocks[-1].attn
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encoder(video)
    hook.remove()
    value = layer.qkv(inputs[0]).chunk(3, dim=-1)[2]
    return encoder.norm(layer.proj(value))[:, 1:].unflatten(1, (video.shape[1], -1))


def normalised(kind, predicted, target, mean):
    if kind == "l2":
        return predicted / predicted.norm(), target / target.norm()
    if kind == "centred":
        return predicted - mean, target - mean
    if kind == "layer":
        deviation = (target.var(correction=0) + 1e-5).sqrt()
        return predicted, (target - target.mean()) / deviation
    return predicted, target


def distance(kind, predicted, target):
    """Of two vectors."""
    if kind == "CosineRegression":
        cosine = predicted @ target / (predicted.norm() * target.norm())
        return float(2 - 2 * cosine)
    gaps = [abs(a - b) for a, b in zip(predicted.tolist(), target.tolist())]
    if kind == "L1Regression":
        return sum(gaps) / len(gaps)
    smooth = [0.5 * gap**2 if gap < 1 else gap - 0.5 for gap in gaps]
    return sum(smooth) / len(smooth)


@torch.no_grad()
def by_hand(objective, batch, masks, layers=1, rows=None, **choice):
    """(loss_vt, loss_mvm) of the masks of each view."""
    model, video = objective.model, batch["video"]
    student = choice["teacher"] == "Self"
    teacher = model if student else objective.teacher
    rows = rows or len(video)

    def project(features, encoder):
        joint = choice["target_space"] == "joint"
        return encoder.vid_proj(features) if joint else features

    views = [model.video_model(video, mask, objective.mask_token_D) for mask in masks]
    contrasted = [cls for cls, _ in views]
    if choice["contrast_view"] == "full":
        contrasted = [model.video_model(video)[0]]
    t = model.encode_text(batch["text"])
    contrasts = [infonce(model.vid_proj(cls), t) for cls in contrasted]

    if choice["target_features"] == "value":
        target = values(teacher.video_model, video)
    else:
        target = layer_mean(teacher.video_model, video, layers)
    target = project(target, teacher)
    mean = getattr(objective.target_norm, "mean_X", None)
    distances = []
    for mask, (_, patch) in zip(masks, views, strict=True):
        predicted = project(objective.predictor(patch[:rows]), model)
        for b, t, n in itertools.product(*map(range, (rows, *mask.shape[1:]))):
            if choice["regress"] == "masked" and not mask[b, t, n]:
                continue
            pair = normalised(
                choice["target_norm"], predicted[b, t, n], target[b, t, n], mean
            )
            distances.append(distance(choice["mvm_loss"], *pair))
    return sum(contrasts) / len(contrasts), sum(distances) / len(distances)


def check(model, layers=1, share=1.0, clips=4, frames=4, **choice):
    ratio = {"type": "Random", "args": {"ratio": 0.4}}
    objective = build(
        model,
        mask=ratio,
        mvm_weight=0.7,
        target_layers=layers,
        mvm_share=share,
        **choice,
    )
    batch = tiny_models.random_batch(clips, frames, dtype=torch.float64)
    torch.manual_seed(5)
    losses = {name: loss.item() for name, loss in objective(batch).items()}
    rows = max(1, round(share * clips))
    masked_rows = rows if choice["contrast_view"] == "full" else clips
    torch.manual_seed(5)
    num_views = 2 if choice["contrast_view"] == "two_masked" else 1
    masks = []
    for _ in range(num_views):
        mask = MASKS.build(ratio)(masked_rows, (frames, 4, 4))
        unmasked = torch.zeros(clips - len(mask), frames, 16, dtype=torch.bool)
        masks.append(torch.cat((mask, unmasked)))
    loss_vt, loss_mvm = by_hand(objective, batch, masks, layers, rows, **choice)
    assert losses["loss_vt"] == pytest.approx(loss_vt, abs=1e-10), choice
    assert losses["loss_mvm"] == pytest.approx(loss_mvm, abs=1e-10), choice
    assert losses["loss"] == pytest.approx(loss_vt + 0.7 * loss_mvm, abs=1e-10), choice


def default_choice(**changes):
    return {**{name: values[0] for name, values in CHOICES.items()}, **changes}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name in CHOICES for value in CHOICES[name]]
)
def test_each_choice_by_hand(model, name, value):
    check(model, **default_choice(**{name: value}))


@pytest.mark.slow
@pytest.mark.parametrize("view", CHOICES["contrast_view"])
@pytest.mark.parametrize("teacher", CHOICES["teacher"])
def test_all_combinations_by_hand(model, view, teacher):
    fixed = {"contrast_view": view, "teacher": teacher}
    others = {name: CHOICES[name] for name in CHOICES if name not in fixed}
    combinations = list(itertools.product(*others.values()))
    assert len(combinations) == 2 * 2 * 2 * 4 * 3 * 3
    for values_of_others in combinations:
        choice = {**fixed, **dict(zip(others, values_of_others))}
        check(model, clips=2, frames=2, **choice)


@pytest.mark.parametrize("view", CONTRAST_VIEWS)
@pytest.mark.parametrize("teacher", CHOICES["teacher"])
@pytest.mark.parametrize("layers, share", [(2, 1.0), (1, 0.5), (2, 0.01)])
def test_layers_and_share_by_hand(model, view, teacher, layers, share):
    choice = default_choice(
        contrast_view=view, teacher=teacher, regress="all", target_norm="centred"
    )
    check(model, layers, share, **choice)


def test_the_attention_mask_hides_what_the_teachers_cls_attends_to_least(model):
    mask = {"type": "Attention", "args": {"ratio": 0.25}}
    objective = build(model, mask=mask, regress="masked", target_norm="none")
    video = tiny_models.random_batch(dtype=torch.float64)["video"]
    (hidden,) = objective.draw_masks(video)
    attention = last_attention_by_hand(objective.teacher.video_model, video)
    for clip, frame in itertools.product(range(4), range(4)):
        order = sorted(range(16), key=attention[clip, frame].tolist().__getitem__)
        assert sorted(order[:4]) == hidden[clip, frame].nonzero()[:, 0].tolist()


@torch.no_grad()
def last_attention_by_hand(encoder, video):
    """Softmax of CLS's query with all keys, from the input of the last block's spatial layer, mean over heads."""
    inputs = []
    layer = encoder.blocks[-1].attn
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encoder(video)
    hook.remove()
    q, k, _ = layer.qkv(inputs[0]).unflatten(-1, (3, layer.num_heads, -1)).unbind(2)
    scores = torch.einsum("bhk,bshk->bhs", q[:, 0], k) / q.shape[-1] ** 0.5
    return scores.softmax(-1).mean(1)[:, 1:].unflatten(1, (4, 16))


def test_two_masked_views_hide_different_patches(model):
    objective = build(model, contrast_view="two_masked")
    first, second = objective.draw_masks(torch.zeros(4, 4, 3, 32, 32).double())
    assert not torch.equal(first, second)


def test_the_running_mean_follows_the_targets_of_a_step(model):
    objective = build(model, target_norm="centred", mvm_share=0.5)
    batch = tiny_models.random_batch(dtype=torch.float64)
    before = objective.target_norm.mean_X.clone()
    objective(batch)
    assert torch.equal(objective.target_norm.mean_X, before), "not before the step"
    target = objective.target(batch["video"][:2])
    objective.after_step(1, 10)
    mean = sum(target.flatten(0, 2)) / (2 * 4 * 16)
    torch.testing.assert_close(
        objective.target_norm.mean_X, 0.9 * before + 0.1 * mean, rtol=0, atol=1e-12
    )
    again = objective.target_norm.mean_X.clone()
    objective.after_step(2, 10)
    assert torch.equal(objective.target_norm.mean_X, again), "a step without MVM"


def test_the_mean_is_of_all_micro_batches(model):
    objective = build(model, target_norm="centred")
    halves = [tiny_models.random_batch(2, seed=i, dtype=torch.float64) for i in (1, 2)]
    outputs = [objective(half, encode_only=True) for half in halves]
    objective.losses(
        {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
    )
    targets = torch.cat([objective.target(half["video"]) for half in halves])
    torch.testing.assert_close(
        objective.target_norm.step_mean_X, targets.mean((0, 1, 2)), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("view", CONTRAST_VIEWS)
@pytest.mark.parametrize("teacher", CHOICES["teacher"])
def test_footage_without_captions_trains_masked_visual_modeling_alone(
    model, view, teacher
):
    model.zero_grad(set_to_none=True)
    objective = build(model, contrast_view=view, teacher=teacher, mvm_from=0.9)
    batch = tiny_models.random_batch(dtype=torch.float64)
    torch.manual_seed(3)
    both = {**objective(batch)}
    objective.mvm_from = 0.0
    torch.manual_seed(3)
    both = objective(batch)
    objective.mvm_from = 0.9
    torch.manual_seed(3)
    alone = objective({"video": batch["video"]})
    assert alone.keys() == {"loss", "loss_mvm"}
    assert alone["loss_mvm"].item() == pytest.approx(both["loss_mvm"].item(), abs=1e-12)
    assert torch.equal(alone["loss"], alone["loss_mvm"])
    alone["loss"].backward()
    text = [*model.text_model.parameters(), *model.text_proj.parameters()]
    assert all(p.grad is None for p in text)
    assert all(p.grad is not None for p in model.video_model.parameters())


@pytest.mark.parametrize("view", CONTRAST_VIEWS)
def test_masked_visual_modeling_begins_after_its_share_of_training(model, view):
    objective = build(model, contrast_view=view, mvm_from=0.8)
    batch = tiny_models.random_batch(dtype=torch.float64)
    objective.before_step(7, 10)
    losses = objective(batch)
    assert losses.keys() == {"loss", "loss_vt"}
    assert torch.equal(losses["loss"], losses["loss_vt"])
    objective.before_step(8, 10)
    assert "loss_mvm" in objective(batch)


def test_the_weight_and_the_ratio_follow_their_schedules(model):
    mask = {"type": "Tube", "args": {"ratio": [[0, 0.5], [1, 0]]}}
    objective = build(model, mask=mask, mvm_weight=[[0, 0], [0.5, 2]], regress="masked")
    batch = tiny_models.random_batch(dtype=torch.float64)
    for step, weight, hidden in (
        (0, 0.0, 8),
        (25, 1.0, 6),
        (50, 2.0, 4),
        (100, 2.0, 0),
    ):
        objective.before_step(step, 100)
        assert objective.draw_masks(batch["video"])[0][0, 0].sum() == hidden
        losses = objective(batch)
        expected = losses["loss_vt"] + weight * losses["loss_mvm"]
        torch.testing.assert_close(losses["loss"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "args, passes",
    [
        ({}, 1 + 1 + 1 / 3),
        ({"teacher": "Self"}, 2),
        ({"mvm_share": 0.25}, 1 + 0.25 * 4 / 3),
        ({"mvm_share": 0.25, "mvm_from": 0.8}, 1 + 0.2 * 0.25 * 4 / 3),
        ({"contrast_view": "masked"}, 4 / 3),
        ({"contrast_view": "two_masked"}, 7 / 3),
        ({"contrast_view": "two_masked", "mask": {"type": "Attention"}}, 8 / 3),
    ],
)
def test_passes_are_counted(model, args, passes):
    """Against the calls of the encoders themselves, per clip."""
    objective = build(model, **args)
    assert objective.passes_per_clip() == pytest.approx(passes)
    clips = {"with gradient": 0, "without": 0}

    def count(module, inputs, output):
        with_gradient = output[0].requires_grad
        clips["with gradient" if with_gradient else "without"] += len(inputs[0])

    hooks = [model.video_model.register_forward_hook(count)]
    if not objective.teacher.is_student:
        hooks.append(objective.teacher.video_model.register_forward_hook(count))
    objective.before_step(99, 100)
    objective(tiny_models.random_batch(dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    if "mvm_from" not in args:
        assert passes * 4 == clips["with gradient"] + clips["without"] / 3


@pytest.mark.parametrize(
    "args, says",
    [
        ({"contrast_view": "clean"}, "known: full, masked, two_masked"),
        ({"regress": "visible"}, "objective.args.regress: 'visible' .*known: masked"),
        ({"target_norm": "batch"}, "known: none, l2, centred, layer"),
        ({"mvm_share": 0.0}, "objective.args.mvm_share: 0 .*mvm_from 1 trains none"),
        ({"mvm_share": 2.0}, "objective.args.mvm_share: 2.0 .*share from 0 to 1"),
        ({"mvm_from": -0.1}, "objective.args.mvm_from: -0.1"),
        ({"mvm_weight": -1}, "objective.args.mvm_weight: -1 is given, 0 or more"),
        ({"mvm_weight": "big"}, "'big' is given, a list .*float is needed"),
        ({"mvm_weight": [[0, 1], [2, 1]]}, "shares from 0 to 1"),
        ({"target_layers": 3}, "objective.args.target_layers: 3 .*2 blocks"),
        ({"target_layers": 0}, "objective.args.target_layers: 0"),
        ({"target_features": "key"}, "known: last, value"),
        ({"target_features": "value", "target_layers": 2}, "is of the last block"),
        (
            {"predictor": {"type": "Transformer", "args": {"num_heads": 5}}},
            "num_heads 5 .*divisor of the width 24",
        ),
        ({"predictor": {"type": "Mlp"}}, "nearest: MLP"),
    ],
)
def test_wrong_settings_say_what_is_known(model, args, says):
    with pytest.raises(ConfigError, match=says):
        build(model, **args)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[0.5]],
        [[0.5, 1], [0.4, 1]],
        [[0, "a"]],
        [[0, math.nan]],
        True,
        [1, 2],
        None,
    ],
)
def test_points_that_are_none_are_refused(points):
    with pytest.raises(ConfigError, match="some.setting: .* is given"):
        Schedule(points, "some.setting")


def test_a_schedule_is_straight_between_its_points_and_jumps_at_double_ones():
    schedule = Schedule([[0.2, 1], [0.4, 3], [0.4, 0], [1, 6]], "")
    expected = {0: 1, 0.2: 1, 0.3: 2, 0.39: 2.9, 0.4: 0, 0.7: 3, 1: 6}
    for progress, value in expected.items():
        assert schedule(progress) == pytest.approx(value)
    assert Schedule(0.3, "")(0.0) == Schedule(0.3, "")(1.0) == 0.3
