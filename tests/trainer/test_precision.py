"""What the encoders compute in, and what stays float32."""

import copy
from contextlib import nullcontext

import pytest
import torch

from model.loss import LOSSES
from parse_config import ConfigError
from scripts.synthetic import tiny_models
from trainer.accumulate import forward_backward
from trainer.objectives import OBJECTIVES
from trainer.precision import NAMES, Precision

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def restored():
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = conv


def build(folder):
    return OBJECTIVES.build(
        {"type": "MILESPretraining"},
        model=tiny_models.build_miles(folder, time_init="rand"),
        loss=LOSSES.build({"type": "NormSoftmaxLoss"}),
    ).to(DEVICE)


def batches(count=1, rows=4):
    batches_on_cpu = [
        tiny_models.random_batch(rows, seed=seed) for seed in range(count)
    ]
    return [
        {
            "video": batch["video"].to(DEVICE),
            "text": {n: ids.to(DEVICE) for n, ids in batch["text"].items()},
        }
        for batch in batches_on_cpu
    ]


def precise(name):
    """With a loss scale that the tiny model's gradients bear, as the scaler finds it after some steps."""
    precision = Precision(name, DEVICE)
    precision.scaler = torch.amp.GradScaler(
        DEVICE.type, init_scale=256.0, enabled=precision.scaler.is_enabled()
    )
    return precision


def run(objective, precision, count):
    objective.zero_grad()
    torch.manual_seed(0)
    losses = forward_backward(objective, batches(count), precision)
    scale = precision.scaler.get_scale()
    return losses, torch.cat(
        [p.grad.flatten() / scale for p in objective.parameters() if p.requires_grad]
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_encoders_get_it_and_the_losses_do_not(name, folder):
    objective, precision = build(folder), Precision(name, DEVICE)
    with precision.autocast():
        outputs = objective(batches()[0], encode_only=True)
        losses = objective.losses(outputs)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    assert (
        outputs["v_BE"].dtype == outputs["t_BE"].dtype == half
        and outputs["sum_and_count_12"].dtype == torch.float32
    )
    assert (
        {loss.dtype for loss in losses.values()}
        == {p.dtype for p in objective.parameters()}
        == {torch.float32}
    )
    assert precision.scaler.is_enabled() == (name == "fp16")
    assert not torch.is_autocast_enabled(DEVICE.type)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_are_about_those_of_fp32(name, count, folder):
    objective = build(folder)
    wide, right = run(copy.deepcopy(objective), Precision("fp32", DEVICE), count)
    losses, grad = run(objective, precise(name), count)
    assert losses["loss"].item() == pytest.approx(wide["loss"].item(), rel=0.02)
    assert torch.nn.functional.cosine_similarity(grad, right, dim=0) > 0.99, (
        "no gradient lost in a cast that is kept"
    )
    assert float(grad.norm() / right.norm()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_cached_embeddings_equal_the_kept_graph_in_half_precision(name, folder):
    objective = build(folder)
    twin, precision = copy.deepcopy(objective), precise(name)
    _, grad = run(objective, precision, 3)
    torch.manual_seed(0)
    outputs = []
    for batch in batches(3):
        with precision.autocast():
            outputs.append(twin.encode(batch))
    loss = twin.losses(
        {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}
    )["loss"]
    precision.scaler.scale(loss).backward()
    scale = precision.scaler.get_scale()
    expected = torch.cat(
        [p.grad.flatten() / scale for p in twin.parameters() if p.requires_grad]
    )
    assert float((grad - expected).norm() / expected.norm()) < 1e-3


def test_an_overflow_skips_the_step_and_lowers_the_scale(folder):
    objective, precision = build(folder), precise("fp16")
    optimizer = torch.optim.SGD(
        [p for p in objective.parameters() if p.requires_grad], lr=0.1
    )
    run(objective, precision, 2)
    next(p for p in objective.parameters() if p.requires_grad).grad.fill_(float("inf"))
    before, scale = copy.deepcopy(objective.state_dict()), precision.scaler.get_scale()
    precision.scaler.step(optimizer)
    precision.scaler.update()
    assert precision.scaler.get_scale() == scale / 2
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in objective.state_dict().items()
    )


def test_off_means_off():
    for name in ("fp32", "tf32"):
        precision = Precision(name, DEVICE)
        assert isinstance(precision.autocast(), nullcontext)
        loss = torch.tensor(3.0, requires_grad=True)
        assert (
            precision.scaler.scale(loss) is loss and precision.scaler.get_scale() == 1
        )
        if DEVICE.type == "cuda":
            assert (
                torch.get_float32_matmul_precision()
                == {"fp32": "highest", "tf32": "high"}[name]
            )
            assert torch.backends.cudnn.allow_tf32 == (name == "tf32")


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        ConfigError,
        match="trainer.precision: 'fp8' is given; known: fp32, tf32, bf16, fp16",
    ):
        Precision("fp8")
