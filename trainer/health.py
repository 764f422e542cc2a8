"""Whether training is healthy: features that collapse, a regression that a constant explains, a loss that dominates.

B clips, T frames, N patches per frame, V vectors, X their width.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.loss import widened
from parse_config import UserError
from trainer.distributed import gather_objects, unsharded
from trainer.precision import Precision

MOST_VECTORS = 1024  # patches of a batch of which the rank is taken
CONSTANT = 0.05  # explained share below which a regression is no better than a mean


class Collapse(UserError):
    """The clip embeddings have become almost the same for all clips."""


def measure(
    objective: Any, batch: Mapping[str, Any], precision: Precision
) -> dict[str, float]:
    """Numbers of the model as it is on one batch; means over the processes, each of which must call it.

    clip_rank, patch_rank: effective rank of the embeddings and of the patch features in the joint space. clip_mean,
    patch_mean: share of what all of them have in common, 1 if they are equal. temperature: of the contrastive loss.
    With masked visual modeling: agreement, cosine of student and teacher on whole clips; mvm_explained, 1 - its loss /
    that of predicting at each place the batch's mean target (0: a constant does as well; below: worse);
    mvm_gradient_share, its share of both losses' gradient norms at the video encoder (not of sharded parameters). What
    is not trained on this batch has no number.

    Neither training nor its random numbers are touched.
    """
    devices = [precision.device] if precision.device.type == "cuda" else []
    training = objective.training
    is_sharded = any(hasattr(p, "full_tensor") for p in objective.parameters())
    with torch.random.fork_rng(devices=devices):
        objective.eval()
        try:
            with unsharded(objective), precision.autocast():
                numbers = features(objective, batch)
                if objective.trains_mvm(batch):
                    numbers |= regression(objective, batch)
            if not is_sharded:
                numbers |= gradients(objective, batch, precision)
        finally:
            objective.train(training)
    processes = gather_objects(numbers)
    return {
        name: sum(process[name] for process in processes) / len(processes)
        for name in numbers
    }


@torch.no_grad()
def features(objective: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """Rank and common mean of clips and patches in the joint space."""
    v_BE, patch_BTNE = objective.model.encode_video(batch["video"])
    patch_VE = patch_BTNE.flatten(0, 2)
    # evenly spread, and not in step with the grid of patches
    places = torch.linspace(0, len(patch_VE) - 1, min(MOST_VECTORS, len(patch_VE)))
    patch_VE = patch_VE[places.round().long()]
    numbers = {
        "clip_rank": effective_rank(v_BE),
        "patch_rank": effective_rank(patch_VE),
        "clip_mean": common_mean(v_BE),
        "patch_mean": common_mean(patch_VE),
    }
    temperature = getattr(objective.contrastive_loss, "temperature", None)
    if temperature is not None:
        numbers["temperature"] = float(temperature)
    return numbers


@torch.no_grad()
def regression(objective: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """Agreement of student and teacher, and how much the prediction explains of the target."""
    video_BTCHW = batch["video"]
    target_BTNX = widened(objective.target(video_BTCHW))
    student_BTNX = widened(objective.whole_view(video_BTCHW).patch_BTNX)
    mask_BTN = objective.draw_masks(video_BTCHW)[0]
    predicted_BTNX, normed_BTNX = objective.target_norm(
        objective.masked_view(video_BTCHW, mask_BTN).patch_BTNX, target_BTNX
    )
    place_mean_BTNX = normed_BTNX.mean(0, keepdim=True).expand_as(normed_BTNX)
    regressed_BTN = objective.regressed_places(mask_BTN)
    model_loss, constant_loss = (
        float(objective.reconstruct(guess_BTNX, normed_BTNX, regressed_BTN)[0, 0])
        for guess_BTNX in (predicted_BTNX, place_mean_BTNX)
    )
    cosine_BTN = F.cosine_similarity(student_BTNX, target_BTNX, dim=-1)
    numbers = {"agreement": float(cosine_BTN.mean())}
    if constant_loss > 0:  # 0: a single clip, or nothing is hidden
        numbers["mvm_explained"] = 1 - model_loss / constant_loss
    return numbers


def gradients(
    objective: Any, batch: Mapping[str, Any], precision: Precision
) -> dict[str, float]:
    """{"mvm_gradient_share"} where both losses are trained on this batch."""
    parameters = [
        p for p in objective.model.video_model.parameters() if p.requires_grad
    ]
    if not parameters or "text" not in batch or not objective.trains_mvm(batch):
        return {}
    norms = {}
    for name in ("loss_vt", "loss_mvm"):
        # A pass for each: a compiled graph may not be kept. Scaled for fp16, which cancels in the share.
        with precision.autocast():
            loss = objective(batch)[name]
        norms[name] = gradient_norm(precision.scaler.scale(loss), parameters)
    mvm_norm = objective.mvm_weight(objective.progress) * norms["loss_mvm"]
    return {"mvm_gradient_share": mvm_norm / max(norms["loss_vt"] + mvm_norm, 1e-30)}


def gradient_norm(loss: Tensor, parameters: list[Any]) -> float:
    """The length of a loss's gradient with respect to the parameters that it reaches."""
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    reached = [grad for grad in grads if grad is not None]
    return float(torch.nn.utils.get_total_norm(reached))


@torch.no_grad()
def effective_rank(vector_VX: Tensor) -> float:
    """exp of the entropy of the singular values, scaled to sum 1: from 1 to min(V, X) (RankMe, arXiv 2210.02885)."""
    if not vector_VX.isfinite().all():
        return math.nan
    singular_values = torch.linalg.svdvals(widened(vector_VX.detach()))
    share = singular_values / singular_values.sum().clamp(min=1e-30)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def common_mean(vector_VX: Tensor) -> float:
    """Squared length of the mean of the vectors scaled to length 1: 1 if all point one way, about 0 if to all sides."""
    return float(F.normalize(widened(vector_VX), dim=-1).mean(0).square().sum())


def check(numbers: Mapping[str, float], least_rank: float, where: str) -> str | None:
    """Raise Collapse where the clips' rank is below `least_rank`; else a warning in words, or None.

    Args:
        numbers: of `measure`
        least_rank: trainer.min_rank
        where: the step in words
    """
    rank = numbers["clip_rank"]
    if least_rank > 0 and not rank >= least_rank:  # or it is not a number
        raise Collapse(
            f"clip_rank is {rank:.2f} at {where}, below trainer.min_rank {least_rank:g}: the clips' embeddings "
            "collapse; lower optimizer.args.lr, or objective.args.mvm_weight"
        )
    if numbers.get("mvm_explained", 1.0) < CONSTANT:
        return (
            f"{where}: masked visual modeling explains {numbers['mvm_explained']:.2f} of what a constant leaves: "
            "nothing is learned by it (docs/health.md)"
        )
    return None
