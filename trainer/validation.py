"""The look at held-out clips between epochs: the loss, and the exam with the evaluator's own code."""

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
VALIDATION = (
    -1
)  # stands where a training step's number would: masks of validation are the same at every epoch


def validate(
    objective: nn.Module, loader: Any, precision: Precision, seed: int, exam: EvaluationSettings
) -> Values:
    """{"val_loss", its parts as "val_loss_vt", ..., "t2v.R1", ..., "v2t.R1", ...}; every process must call it.

    `exam`: the config's evaluation section, of which the raw row is taken. The loss comes first, because a sharded
    module begins with its outermost part.
    """
    exam = replace(exam, rows=(), stride=None, resamples=0)
    objective.eval()
    try:
        values = losses(objective, loader, precision, seed)
        with unsharded(objective):
            results = evaluate(
                objective.model,
                loader,
                precision.device,
                settings=exam,
                precision=precision,
                progress=sys.stderr.isatty(),
            )
    finally:
        objective.train()
    return {**values, **flat(results)}


@torch.no_grad()
def losses(objective: nn.Module, loader: Any, precision: Precision, seed: int) -> Values:
    """Mean losses over the loader's batches, {"val_loss": ..., "val_loss_vt": ...}.

    Losses compare the rows of all processes, equally many of each: of every batch the rows that all of them have are
    taken (each process leaves out a clip at most, and what could not be read).
    """
    meter, source = Meter(["val"]), iter(loader.epoch(0))
    for number in range(1 << 62):
        batch = next(source, None)
        rows = reduce_min(-1 if batch is None else len(batch["video"]))
        if rows < 0:
            break
        if rows:
            seeds.seed(seed, VALIDATION, number, rank())
            with precision.autocast():
                parts = objective(_first(move(batch, precision.device), rows))
            values_K = torch.stack([part.float() for part in parts.values()])
            meter.add(0, list(parts), values_K, rows)
    return {f"val_{name}": value for name, value in meter.means().items()}


def flat(results: Mapping[str, Any]) -> Values:
    """The numbers of results.json that are shown and monitored: {"t2v.R1": ..., "v2t.MedR": ...}."""
    return {
        f"{way}.{name}": float(value)
        for way in ("t2v", "v2t")
        for name, value in results.get(way, {}).items()
        if isinstance(value, int | float)
    }


def _first(batch: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The first `rows` samples."""
    return {
        key: _first(value, rows)
        if isinstance(value, Mapping)
        else value[:rows]
        if isinstance(value, Tensor | list)
        else value
        for key, value in batch.items()
    }
