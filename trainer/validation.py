"""Validation between epochs: the objective's losses on held-out clips, and the retrieval evaluation."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from trainer import seeds
from trainer.batches import move
from trainer.distributed import gather_objects, unsharded, without_gathering
from trainer.evaluator import EvaluationSettings, evaluate
from trainer.precision import Precision

Values = dict[str, float]
log = logging.getLogger(__name__)
GROUP_SIZE = 32  # samples that are compared with each other
# in place of a training step's number in the seed: validation draws the same masks at every epoch
VALIDATION_STEP = -1


def validate(
    objective: Any,
    loader: Any,
    precision: Precision,
    seed: int,
    evaluation: EvaluationSettings,
) -> Values:
    """{"val_loss", its parts as "val_loss_vt", ..., "t2v.R1", ..., "v2t.R1", ...}; every process must call it.

    Args:
        objective: an objective, with its `model`; it is in training mode afterwards
        loader: the validation loader
        seed: the run's seed
        evaluation: the config's evaluation section; its rows, stride and bootstrap intervals are left out here
    """
    evaluation = replace(evaluation, rows=(), stride=None, resamples=0)
    objective.eval()
    try:
        # the losses come first: a sharded module must begin with its outermost part
        values = validation_losses(objective, loader, precision, seed)
        with unsharded(objective):
            results = evaluate(
                objective.model,
                loader,
                precision.device,
                settings=evaluation,
                precision=precision,
                progress=sys.stderr.isatty(),
            )
    finally:
        objective.train()
    return {**values, **flatten_results(results)}


@torch.no_grad()
def validation_losses(
    objective: nn.Module, loader: Any, precision: Precision, seed: int
) -> Values:
    """Mean losses, {"val_loss": ..., "val_loss_vt": ...}, over groups of `GROUP_SIZE` consecutive samples.

    A contrastive loss depends on what a clip is compared with: the groups, and the masks that are drawn in them, are
    the same for any batch size and number of processes. One process computes each group. Samples that cannot be read
    are left out of their group, and groups of fewer than two readable samples are left out whole; {} where no group
    remains.
    """
    losses_of_group: dict[int, tuple[dict[str, float], int]] = {}
    readable = None
    with without_gathering():
        for number, batch in loader.groups(GROUP_SIZE):
            num_rows = len(batch["video"])
            if num_rows > 1:
                readable = move(batch, precision.device)
            if readable is None:
                continue
            seeds.seed(seed, VALIDATION_STEP, number)
            with precision.autocast():
                # sharded modules need as many passes on each process: also where this group is left out
                losses = objective(readable)
            if num_rows > 1:
                values = {name: loss.item() for name, loss in losses.items()}
                losses_of_group[number] = (values, num_rows)
    return _mean_losses(losses_of_group)


def _mean_losses(losses_of_group: dict[int, tuple[dict[str, float], int]]) -> Values:
    """{"val_" + name: mean over the samples of all processes' groups}, summed in the order of the groups."""
    all_groups: dict[int, tuple[dict[str, float], int]] = {}
    for groups in gather_objects(losses_of_group):
        all_groups.update(groups)
    if not all_groups:
        log.warning("validation: no loss, there are no two videos to compare")
        return {}
    ordered = [all_groups[number] for number in sorted(all_groups)]
    num_samples = sum(num_rows for _, num_rows in ordered)
    return {
        f"val_{name}": sum(values[name] * num_rows for values, num_rows in ordered)
        / num_samples
        for name in ordered[0][0]
    }


def flatten_results(results: Mapping[str, Any]) -> Values:
    """The numbers of results.json that are logged and monitored: {"t2v.R1": ..., "v2t.MedR": ...}."""
    return {
        f"{direction}.{name}": float(value)
        for direction in ("t2v", "v2t")
        for name, value in results.get(direction, {}).items()
        if isinstance(value, int | float)
    }
