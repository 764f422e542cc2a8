"""Whether training is healthy: features that collapse, a regression that a constant explains, a loss that dominates.

B clips, T frames, N patches per frame, V vectors, X their width.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.loss import widened
from parse_config import UserError
from trainer.distributed import gather_objects
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
    mvm_gradient_share, its share of both losses' gradient norms at the video encoder (not of sharded parameters).

    Neither training nor its random numbers are touched.
    """
    devices = [precision.device] if precision.device.type == "cuda" else []
    training = objective.training
    with torch.random.fork_rng(devices=devices), precision.autocast():
        objective.eval()
        try:
            numbers = {**features(objective, batch), **gradients(objective, batch)}
            if hasattr(objective, "teacher"):
                numbers |= regression(objective, batch)
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
    patch_VE = patch_VE[:: len(patch_VE) // MOST_VECTORS + 1]
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
    explained = 0.0 if constant_loss == 0 else 1 - model_loss / constant_loss
    cosine_BTN = F.cosine_similarity(student_BTNX, target_BTNX, dim=-1)
    return {"agreement": float(cosine_BTN.mean()), "mvm_explained": explained}


def gradients(objective: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """{"mvm_gradient_share"} where both losses are trained on this batch."""
    parameters = [
        p for p in objective.model.video_model.parameters() if p.requires_grad
    ]
    if not hasattr(objective, "teacher") or any(
        hasattr(p, "full_tensor") for p in parameters
    ):
        return {}
    losses = objective(batch)
    if not parameters or not {"loss_vt", "loss_mvm"} <= losses.keys():
        return {}
    contrastive_norm = gradient_norm(losses["loss_vt"], parameters)
    weight = objective.mvm_weight(objective.progress)
    mvm_norm = weight * gradient_norm(losses["loss_mvm"], parameters)
    return {"mvm_gradient_share": mvm_norm / max(contrastive_norm + mvm_norm, 1e-30)}


def gradient_norm(loss: Tensor, parameters: list[Any]) -> float:
    """The length of a loss's gradient with respect to the parameters that it reaches."""
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    reached = [grad for grad in grads if grad is not None]
    return float(torch.nn.utils.get_total_norm(reached))


@torch.no_grad()
def effective_rank(vector_VX: Tensor) -> float:
    """exp of the entropy of the singular values, scaled to sum 1: from 1 to min(V, X) (RankMe, arXiv 2210.02885)."""
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
    if rank < least_rank:
        raise Collapse(
            f"clip_rank is {rank:.2f} at {where}, below trainer.min_rank {least_rank:g}: the clips' embeddings "
            "collapse; lower optimizer.args.lr, or objective.args.mvm_weight"
        )
    if numbers.get("mvm_explained", 1.0) < CONSTANT:
        return (
            f"{where}: masked visual modeling explains {numbers['mvm_explained']:.2f} of what a constant leaves: "
            'nothing is learned by it; try objective.args.target_norm "centred"'
        )
    return None
