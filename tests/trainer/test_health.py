"""Rank, common mean, agreement, explained share and gradient share against plain computations."""

import math

import pytest
import torch
import torch.nn.functional as F

from model.loss import LOSSES
from parse_config import Config, UserError
from scripts.synthetic import tiny_models
from trainer import health
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"), dropout=0.1)


def build(folder, name="MILESPretraining", **args):
    torch.manual_seed(0)
    return OBJECTIVES.build(
        Config({"type": name, "args": args}),
        model=tiny_models.build_miles(folder, time_init="rand"),
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).double()


def batch():
    return tiny_models.random_batch(dtype=torch.float64)


def test_the_effective_rank_of_known_matrices():
    assert health.effective_rank(torch.eye(6)) == pytest.approx(6)
    equal = torch.ones(8, 5)
    assert health.effective_rank(equal) == pytest.approx(1, abs=1e-3)
    singular_values = [4.0, 2.0, 1.0, 1.0]
    entropy = -sum(s / 8 * math.log(s / 8) for s in singular_values)
    turned = torch.linalg.qr(torch.randn(4, 4).double())[0]
    matrix = turned @ torch.diag(torch.tensor(singular_values).double())
    assert health.effective_rank(matrix) == pytest.approx(math.exp(entropy))
    assert math.isfinite(health.effective_rank(torch.zeros(3, 3)))


def test_the_common_mean_of_known_vectors():
    assert health.common_mean(torch.ones(5, 3) * 7) == pytest.approx(1)
    assert health.common_mean(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(0)
    assert health.common_mean(torch.tensor([[3.0, 0], [0, 5]])) == pytest.approx(0.5)


def test_what_is_explained_and_how_far_both_agree(folder):
    mask = {"type": "Tube", "args": {"ratio": 0.5}}
    objective = build(folder, mask=mask, regress="masked", target_norm="centred").eval()
    with torch.no_grad():
        for p in objective.teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
        objective.target_norm.mean_X.add_(0.1)
    video = batch()["video"]
    torch.manual_seed(4)
    numbers = health.regression(objective, batch())
    torch.manual_seed(4)
    (hidden,) = objective.draw_masks(video)
    with torch.no_grad():
        teacher, model = objective.teacher, objective.model
        target = teacher.vid_proj(teacher.video_model(video)[1])
        student = model.vid_proj(model.video_model(video)[1])
        token = objective.mask_token_D
        predicted = model.vid_proj(model.video_model(video, hidden, token)[1])
    mean = objective.target_norm.mean_X
    errors, constant = [], []
    for b, t, n in hidden.nonzero().tolist():
        goal = F.normalize(target[b, t, n] - mean, dim=0)
        place_mean = sum(target[clip, t, n] for clip in range(4)) / 4 - mean
        for guess, losses in (
            (predicted[b, t, n] - mean, errors),
            (place_mean, constant),
        ):
            losses.append(float((F.normalize(guess, dim=0) - goal).square().sum()))
    assert numbers["mvm_explained"] == pytest.approx(
        1 - sum(errors) / sum(constant), abs=1e-9
    )
    cosines = F.cosine_similarity(student.flatten(0, 2), target.flatten(0, 2))
    assert numbers["agreement"] == pytest.approx(float(cosines.mean()), abs=1e-9)


def test_the_gradient_share_is_that_of_the_weighted_losses(folder):
    mask = {"type": "Tube", "args": {"ratio": 1.0}}  # the same whenever it is drawn
    objective = build(folder, mask=mask, mvm_weight=3.0).eval()
    share = health.gradients(objective, batch(), Precision())["mvm_gradient_share"]
    norms = []
    for name, weight in (("loss_vt", 1.0), ("loss_mvm", 3.0)):
        objective.zero_grad()
        (weight * objective(batch())[name]).backward()
        grads = [p.grad for p in objective.model.video_model.parameters()]
        norms.append(
            sum(float(g.square().sum()) for g in grads if g is not None) ** 0.5
        )
    assert share == pytest.approx(norms[1] / sum(norms), abs=1e-9)


@pytest.mark.parametrize("name", ["MILESPretraining", "Contrastive"])
def test_measuring_changes_nothing(folder, name):
    objective = build(folder, name).train()
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    numbers = health.measure(objective, batch(), Precision())
    assert torch.equal(torch.rand(3), expected), "random numbers"
    assert all(
        torch.equal(value, state[key]) for key, value in objective.state_dict().items()
    )
    assert all(p.grad is None for p in objective.parameters())
    assert objective.training and objective.model.text_model.training
    assert numbers["temperature"] == 0.05 and 1 <= numbers["clip_rank"] <= 4
    assert ("agreement" in numbers) == (name == "MILESPretraining")
    again = health.measure(objective, batch(), Precision())
    assert again["clip_rank"] == numbers["clip_rank"], "without dropout"


def test_footage_without_captions_has_no_gradient_share(folder):
    objective = build(folder)
    numbers = health.measure(objective, {"video": batch()["video"]}, Precision())
    assert "mvm_gradient_share" not in numbers and "mvm_explained" in numbers


def test_a_collapse_stops_and_an_empty_regression_warns():
    numbers = {"clip_rank": 1.5, "mvm_explained": 0.5}
    assert health.check(numbers, 0.0, "step 3") is None
    with pytest.raises(
        UserError, match=r"clip_rank is 1.50 at step 3, below .*min_rank 2"
    ):
        health.check(numbers, 2.0, "step 3")
    warning = health.check({"clip_rank": 9.0, "mvm_explained": 0.01}, 2.0, "step 3")
    assert warning.startswith("step 3: masked visual modeling explains 0.01")


def test_a_compiled_encoder_is_measured(folder):
    objective = build(folder).float()
    objective.model.video_model.compile(backend="aot_eager")
    numbers = health.measure(objective, tiny_models.random_batch(), Precision())
    assert 0 < numbers["mvm_gradient_share"] < 1


def test_what_is_not_trained_has_no_number_and_no_warning(folder):
    objective = build(folder, mvm_from=0.5)
    numbers = health.measure(objective, batch(), Precision())
    assert "agreement" not in numbers and "mvm_gradient_share" not in numbers
    assert health.check(numbers, 0.0, "step 3") is None
    single = tiny_models.random_batch(1, dtype=torch.float64)
    numbers = health.measure(build(folder), single, Precision())
    assert "mvm_explained" not in numbers, "the mean of one clip is that clip"


def test_embeddings_that_are_no_numbers_are_a_collapse():
    vectors = torch.full((4, 3), math.nan)
    numbers = {"clip_rank": health.effective_rank(vectors)}
    with pytest.raises(UserError, match="clip_rank is nan"):
        health.check(numbers, 2.0, "step 3")
    assert health.check(numbers, 0.0, "step 3") is None
