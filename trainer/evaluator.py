"""Evaluation: a model and a data set -> R@K, MedR, MeanR in both directions. Used by test.py and between epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.metric import METRICS
from parse_config import Config, ConfigError, check_args, merge, to_plain
from trainer.evaluation.embed import PROMPTS, Embeddings, embed, require_any_caption
from trainer.evaluation.rescoring import ROWS
from trainer.evaluation.score import STANDARD, refuse_retrieval_rows, score
from trainer.precision import Precision
from trainer.settings import has_captions

__all__ = [
    "Embeddings",
    "EvaluationSettings",
    "embed",
    "evaluate",
    "evaluation_loaders",
    "evaluation_metrics",
    "evaluation_settings",
    "refuse_retrieval_rows",
    "require_any_caption",
    "require_gallery_captions",
    "score",
]


@dataclass(frozen=True)
class EvaluationSettings:
    """The "evaluation" section of a config.

    Args:
        rows: rows beside the raw one: "dsl", "qbnorm" or {"type": ..., "args": {...}}
        stride: stride of sliding windows in frames, which adds the row tta, as test.py -s does; null: none
        prompts: templates for class names, each with one {}
        precision: fp32, tf32, bf16 or fp16 of the forward pass
        resamples: resamples of the bootstrap
        bank: captions of the training split that QB-Norm uses at most; default: all
        data_loader: loader or loaders that test.py reads, in place of the config's data_loader
    """

    rows: Sequence = ()
    stride: int | None = None
    prompts: Sequence = PROMPTS
    precision: str = "fp32"
    resamples: int = 1000
    bank: int | None = None
    data_loader: Any = None

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise ConfigError(
                f"evaluation.resamples: {self.resamples} is given, 0 or more is needed"
            )
        if self.bank is not None and self.bank < 1:
            raise ConfigError(
                f"evaluation.bank: {self.bank} is given, 1 or more is needed; leave it out for all captions"
            )
        if self.stride is not None and self.stride < 1:
            raise ConfigError(
                f"evaluation.stride: {self.stride} is given, 1 or more is needed (test.py -s STRIDE)"
            )
        if not self.prompts:
            raise ConfigError("evaluation.prompts: at least one template is needed")
        malformed = [prompt for prompt in self.prompts if prompt.count("{}") != 1]
        if malformed:
            raise ConfigError(
                f"evaluation.prompts: {malformed[0]!r} needs one {{}}, where the class name goes"
            )

    @property
    def all_rows(self) -> list:
        """The rows asked for, with the sliding windows' if there is a stride."""
        if self.stride and "tta" not in self.row_names:
            return ["tta", *self.rows]
        return list(self.rows)

    @property
    def row_names(self) -> list[str]:
        """Names of the rows asked for."""
        return [row if isinstance(row, str) else row.get("type") for row in self.rows]


def evaluation_settings(config: Mapping[str, Any]) -> EvaluationSettings:
    """The checked "evaluation" section of a whole config."""
    section = config.get("evaluation")
    if section is None:
        section = {}
    check_args(EvaluationSettings, section, "evaluation")
    settings = EvaluationSettings(**section)
    for row in settings.all_rows:
        if not isinstance(row, str | Mapping):
            raise ConfigError(
                f'evaluation.rows: {row!r} is given; write a name or {{"type": ..., "args": {{...}}}}'
            )
        ROWS.build({"type": row} if isinstance(row, str) else row)
    return settings


def evaluation_metrics(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in "metrics"; both directions without them. ConfigError for a name that is not registered."""
    names = config.get("metrics")
    if names is None:
        return STANDARD
    is_list = isinstance(names, list | tuple) and len(names) > 0
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"metrics: {to_plain(names)!r} is given, a list of names is needed; known: {', '.join(METRICS.names())}"
        )
    for name in names:
        METRICS.get(name, "metrics")
    return tuple(names)


def evaluation_loaders(config: Config, split: str) -> list[Config]:
    """The loaders' blocks, of evaluation.data_loader or else data_loader, reading `split` in order."""
    evaluation = config.get("evaluation")
    if evaluation is None:
        evaluation = Config({})
    blocks = evaluation.blocks("data_loader") or config.blocks("data_loader")
    if not blocks:
        raise ConfigError(
            "data_loader: is missing; it says which data set is evaluated"
        )
    changes = {"args": {"split": split, "shuffle": False}}
    return [
        Config(merge(block.to_dict(), changes), block.json_path) for block in blocks
    ]


def require_gallery_captions(block: Config) -> None:
    """ConfigError for a loader without captions: retrieval is judged by them."""
    if not has_captions(block):
        raise ConfigError(
            f"{block.json_path}.args.with_captions: false is given, and retrieval is judged by captions; give a "
            "data set with captions as valid_loader or evaluation.data_loader"
        )


def evaluate(
    model: nn.Module,
    loader: Any,
    device: torch.device | str,
    *,
    settings: EvaluationSettings | None = None,
    bank: Sequence[str] = (),
    metrics: Sequence[str] = STANDARD,
    precision: Precision | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """results.json's numbers (docs/results.md) of `model` on the loader's data set; its mode and random state stay.

    Every process must call it and gets the same. Videos and captions are embedded once each, whatever the number of
    processes; similarities are float32 whatever the precision of the forward pass.
    """
    settings = settings or EvaluationSettings()
    embeddings = embed(
        model,
        loader,
        device,
        stride=settings.stride,
        bank=bank,
        prompts=settings.prompts,
        precision=precision,
        progress=progress,
    )
    return score(
        embeddings,
        device,
        rows=settings.all_rows,
        metrics=metrics,
        resamples=settings.resamples,
    )
