"""Validation between epochs: the objective's losses on held-out clips, and the retrieval evaluation."""

import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer import seeds
from trainer.batches import move
from trainer.distributed import rank, reduce_min, unsharded
from trainer.evaluator import EvaluationSettings, evaluate
from trainer.meter import Meter
from trainer.precision import Precision

Values = dict[str, float]
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
        seed: the run's seed
        evaluation: the config's evaluation section, of which the raw similarities alone are evaluated
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
    """Mean losses over the loader's batches, {"val_loss": ..., "val_loss_vt": ...}.

    Losses compare the rows of all processes and need equally many of each. Of every batch, the first rows are used, as
    many as every process has (each process leaves out one clip at most, and what could not be read).
    """
    meter = Meter(["val"])
    batches = iter(loader.epoch(0))
    for number in itertools.count():
        batch = next(batches, None)
        num_rows = reduce_min(-1 if batch is None else len(batch["video"]))
        if num_rows < 0:
            break
        if num_rows == 0:
            continue
        seeds.seed(seed, VALIDATION_STEP, number, rank())
        with precision.autocast():
            losses = objective(_first_rows(move(batch, precision.device), num_rows))
        values_K = torch.stack([loss.float() for loss in losses.values()])
        meter.add(0, list(losses), values_K, num_rows)
    return {f"val_{name}": value for name, value in meter.means().items()}


def flatten_results(results: Mapping[str, Any]) -> Values:
    """The numbers of results.json that are logged and monitored: {"t2v.R1": ..., "v2t.MedR": ...}."""
    return {
        f"{direction}.{name}": float(value)
        for direction in ("t2v", "v2t")
        for name, value in results.get(direction, {}).items()
        if isinstance(value, int | float)
    }


def _first_rows(value: Any, num_rows: int) -> Any:
    """The first samples of a batch: of all tensors and lists in it."""
    if isinstance(value, Mapping):
        return {key: _first_rows(item, num_rows) for key, item in value.items()}
    if isinstance(value, Tensor | list):
        return value[:num_rows]
    return value
