"""Objectives step by step in float64, and what every registered one keeps to."""

import math

import pytest
import torch
import torch.nn.functional as F

from model.loss import LOSSES
from parse_config import Config, ConfigError
from scripts.synthetic import tiny_models
from trainer.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


def build(name, folder, loss="NormSoftmaxLoss", **args):
    return OBJECTIVES.build(
        Config({"type": name, "args": args}, "objective"),
        model=tiny_models.build_miles(folder, time_init="rand"),
        loss=LOSSES.build({"type": loss}),
    )


def infonce(v, t):
    """Loops, cosine / 0.05, both directions' means added."""
    v, t = ([row / row.norm() for row in x.detach()] for x in (v, t))
    total = 0.0
    for i in range(len(v)):
        for rows, columns in ((v, t), (t, v)):
            scores = [float(rows[i] @ column) / 0.05 for column in columns]
            total -= (scores[i] - math.log(sum(math.exp(s) for s in scores))) / len(v)
    return total


def test_contrastive_step_by_step(folder):
    objective, batch = (
        build("Contrastive", folder).double(),
        tiny_models.random_batch(dtype=torch.float64),
    )
    v, t = (
        objective.model.encode_video(batch["video"])[0],
        objective.model.encode_text(batch["text"]),
    )
    losses = objective(batch)
    assert losses["loss_vt"].item() == pytest.approx(infonce(v, t), abs=1e-10)
    assert torch.equal(losses["loss"], losses["loss_vt"])


@pytest.mark.parametrize("name", OBJECTIVES.names())
@pytest.mark.parametrize("frames", [4, 1])
def test_every_objective_reaches_every_trainable_parameter(name, frames, folder):
    objective = build(name, folder)
    losses = objective(tiny_models.random_batch(frames=frames))
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    losses["loss"].backward()
    trained = {n: p.grad for n, p in objective.named_parameters() if p.requires_grad}
    assert not [n for n, grad in trained.items() if grad is None], (
        "DDP would raise at the second step"
    )
    silent = [
        n
        for n, grad in trained.items()
        if not grad.any() and not n.endswith("k_lin.bias")
    ]
    assert not silent, "softmax does not see a key's bias; all else must learn"
    time = trained["model.video_model.temporal_embed"][0].abs().sum(-1) > 0
    assert time.tolist() == [True] * frames + [False] * (4 - frames), (
        "images move the first frame's place alone"
    )
    objective.after_step(1, 10)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_can_be_cut_between_encodings_and_losses(name, folder):
    objective, batch = (
        build(name, folder).double(),
        tiny_models.random_batch(dtype=torch.float64),
    )
    torch.manual_seed(3)
    losses = objective(batch)
    torch.manual_seed(3)
    outputs = objective(batch, dict)
    assert (
        losses.keys() >= {"loss"} and objective.losses(outputs).keys() == losses.keys()
    )
    for key, loss in objective.losses(outputs).items():
        assert torch.equal(loss, losses[key])
    torch.manual_seed(3)
    assert {key: output.shape for key, output in objective.encode(batch).items()} == {
        key: output.shape for key, output in outputs.items()
    }
    assert all(
        output.is_floating_point() and output.ndim == 2 for output in outputs.values()
    )
    twice = objective.losses(
        {key: torch.cat([output, output]) for key, output in outputs.items()}
    )
    assert all(loss.isfinite() for loss in twice.values())


def test_nothing_hidden_costs_nothing_and_learns_nothing(folder):
    objective = build(
        "MILESPretraining",
        folder,
        regress="masked",
        mask={"type": "TubeBlock", "args": {"ratio": 0.0}},
    )
    losses = objective(tiny_models.random_batch())
    losses["loss"].backward()
    assert losses["loss_mvm"].item() == 0 and torch.equal(
        losses["loss"], losses["loss_vt"]
    )
    assert objective.mask_token_D.grad.abs().max() == 0
    assert all(
        p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad
    )


def test_the_mean_is_over_hidden_places_however_unequally_clips_hide(folder):
    objective, batch = (
        build(
            "MILESPretraining", folder, regress="masked", target_norm="none"
        ).double(),
        tiny_models.random_batch(dtype=torch.float64),
    )
    with torch.no_grad():
        objective.teacher.vid_proj[0].weight.add_(
            0.3 * torch.randn(16, 24, dtype=torch.float64)
        )
    mask = torch.rand(4, 4, 16) < torch.tensor([0.05, 0.3, 0.6, 1.0])[:, None, None]
    objective.draw_masks = lambda video_BTCHW: [mask]
    pred = objective.model.encode_video(batch["video"], mask, objective.mask_token_D)[1]
    _, patch_BTND = objective.teacher.video_features(batch["video"])
    target = objective.teacher.vid_proj(patch_BTND)
    distances = (
        (F.normalize(pred, dim=-1) - F.normalize(target, dim=-1)).square().sum(-1)[mask]
    )
    assert objective(batch)["loss_mvm"].item() == pytest.approx(
        distances.mean().item(), abs=1e-12
    )


def test_the_teacher_follows_after_a_step_and_is_saved_with_the_mask_token(folder):
    objective = build(
        "MILESPretraining", folder, teacher={"type": "EMA", "args": {"momentum": 0.75}}
    )
    start = objective.teacher.vid_proj[0].weight.clone()
    with torch.no_grad():
        objective.model.vid_proj[0].weight.add_(1)
    objective.after_step(1, 10)
    torch.testing.assert_close(objective.teacher.vid_proj[0].weight, start + 0.25)
    owned_prefixes = {
        ".".join(name.split(".")[:2])
        for name in objective.state_dict()
        if not name.startswith("model.")
    }
    assert owned_prefixes == {
        "mask_token_D",
        "target_norm.mean_X",
        "teacher.video_model",
        "teacher.vid_proj",
    }
    assert (
        not objective.train().teacher.training
        and not objective.teacher.video_model.training
    )


@pytest.mark.parametrize(
    "args, says",
    [
        (
            {"contrast_view": "clean"},
            "objective.args.contrast_view: 'clean' is given; known: full, masked, two_masked",
        ),
        ({"target_space": "pixels"}, "known: joint, encoder"),
        (
            {"mask": {"type": "Tub"}},
            "objective.args.mask.type: 'Tub' is no mask .nearest: Tube",
        ),
        (
            {"mask": {"type": "Tube", "args": {"rati": 0.5}}},
            "objective.args.mask.args.rati: unknown key .nearest: ratio",
        ),
        ({"teacher": {"type": "EMO"}}, "nearest: EMA"),
        (
            {"mvm_loss": {"type": "NormSoftmaxLoss"}},
            "NormSoftmaxLoss is no ReconstructionLoss; known: CosineRegression",
        ),
        ({"mvm_weigth": 1.0}, "nearest: mvm_weight"),
    ],
)
def test_wrong_settings_say_what_is_known(folder, args, says):
    with pytest.raises(ConfigError, match=says):
        build("MILESPretraining", folder, **args)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_refuses_a_loss_that_does_not_contrast(name, folder):
    with pytest.raises(
        ConfigError, match="loss.type: CosineRegression is no ContrastiveLoss"
    ):
        build(name, folder, loss="CosineRegression")


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_takes_the_margin_loss(name, folder):
    assert build(name, folder, loss="MaxMarginRankingLoss")(tiny_models.random_batch())[
        "loss"
    ].isfinite()
