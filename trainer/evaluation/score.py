"""Embeddings -> results: the headline, its intervals, and the rows beside it. Schema: docs/results.md."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from model.metric import (
    METRICS,
    average_precision,
    chance,
    intervals,
    mean_interval,
    same_words,
    summarise,
    summarise_pairs,
)
from model.ranks import Counts, count
from model.similarity import CosineSimilarity, tiles
from parse_config import ConfigError, to_plain
from trainer.evaluation.embed import Embeddings
from trainer.evaluation.rescoring import ROWS

SCHEMA = 1
STANDARD = ("t2v_metrics", "v2t_metrics")


def score(
    embeddings: Embeddings,
    device: torch.device | str,
    *,
    rows: Sequence[str | Mapping[str, Any]] = (),
    metrics: Sequence[str] = STANDARD,
    resamples: int = 1000,
) -> dict[str, Any]:
    """The numbers of results.json.

    Args:
        rows: names of ROWS, or {"type", "args"}, beside the raw one
        metrics: names of METRICS; the two standard ones are always there
        resamples: of the bootstrap; 0 for no intervals
    """
    device = torch.device(device)
    specs = [{"type": row} if isinstance(row, str) else row for row in rows]
    other_metrics = {
        name: METRICS.get(name, "metrics") for name in metrics if name not in STANDARD
    }
    if embeddings.labels_V is not None:
        refuse_retrieval_rows(specs)
        return score_recognition(embeddings, device, resamples)

    extra_P2 = same_words(list(embeddings.captions), embeddings.owner)
    raw = ROWS.build({"type": "raw"})
    text_to_video, video_to_text = raw(embeddings, device, extra_P2)
    numbers, confidence = _headline(
        text_to_video, video_to_text, extra_P2, len(embeddings.captions), resamples
    )
    table = {"raw": {"about": raw.about, **numbers}}
    for spec in specs:
        table[spec["type"]] = _score_row(ROWS.build(spec), embeddings, device)
    results = {
        **_summary(embeddings),
        **numbers,
        "queries": {
            "t2v": len(embeddings.captions),
            "v2t": len(embeddings.owner.unique()),
        },
        "chance": chance(embeddings.owner, len(embeddings.ids), extra_P2),
        "intervals": confidence,
        "rows": table,
        "same_words": len(extra_P2[:, 0].unique()),
    }
    if other_metrics:
        results["other_metrics"] = _score_other_metrics(
            other_metrics, embeddings, device
        )
    return results


def refuse_retrieval_rows(rows: Sequence[str | Mapping[str, Any]]) -> None:
    """Raise ConfigError for a row that recognition does not have."""
    for row in rows:
        name = row if isinstance(row, str) else row["type"]
        if name not in ("raw", "tta"):
            raise ConfigError(
                f"evaluation.rows: {name!r} is for retrieval; recognition knows raw and tta"
            )


def _score_other_metrics(
    metrics: Mapping[str, Callable[..., Any]],
    embeddings: Embeddings,
    device: torch.device,
) -> dict[str, Any]:
    """Registered metrics beside the standard ones, from the whole matrix of similarities."""
    source = CosineSimilarity(
        embeddings.text_CE.to(device), embeddings.video_VE.to(device)
    )
    similarity_CV = full_matrix(source)
    return {
        name: to_plain(metric(similarity_CV, embeddings.owner_C))
        for name, metric in metrics.items()
    }


def score_recognition(
    embeddings: Embeddings, device: torch.device, resamples: int = 1000
) -> dict[str, Any]:
    """Video-to-text over class prompts: top-1 and top-5 of each video's class among all classes; no text-to-video."""
    assert embeddings.labels_V is not None
    counts_V = _class_counts(embeddings.video_VE, embeddings, device)
    values = summarise(counts_V)
    table = {"raw": {"about": ROWS.build({"type": "raw"}).about, "v2t": values}}
    if embeddings.windows_VE is not None:
        window_counts_V = _class_counts(embeddings.windows_VE, embeddings, device)
        about = ROWS.build({"type": "tta"}).about
        table["tta"] = {"about": about, "v2t": summarise(window_counts_V)}
    confidence = {}
    if resamples:
        confidence = {"v2t": intervals(counts_V, resamples)}
    return {
        **_summary(embeddings),
        "v2t": values,
        "queries": {"v2t": len(embeddings.ids)},
        "chance": {"v2t": chance(embeddings.labels_V, len(embeddings.captions))["t2v"]},
        "rows": table,
        "intervals": confidence,
        "recognition": {
            "top1": values["R1"],
            "top5": values["R5"],
            "classes": len(embeddings.captions),
        },
    }


def _class_counts(
    video_VE: torch.Tensor, embeddings: Embeddings, device: torch.device
) -> Counts:
    """Counts of each video's class: the videos are the queries, the classes the candidates."""
    source = CosineSimilarity(video_VE.to(device), embeddings.text_CE.to(device))
    assert embeddings.labels_V is not None
    video_to_class, _ = count(source, embeddings.labels_V)
    return video_to_class


def _score_row(
    row: Any, embeddings: Embeddings, device: torch.device
) -> dict[str, Any]:
    """A row of the table: what it is, and its numbers in the directions that it has."""
    line: dict[str, Any] = {"about": row.about}
    for direction, counts in zip(("t2v", "v2t"), row(embeddings, device), strict=True):
        if counts:
            line[direction] = summarise(counts)
    return line


def _summary(embeddings: Embeddings) -> dict[str, Any]:
    """What was evaluated: protocol, counts, and the stamp "complete" or "n of N"."""
    videos, all_videos = embeddings.about["coverage"]["videos"]
    captions, all_captions = embeddings.about["coverage"]["captions"]
    stamp = "complete"
    if (videos, captions) != (all_videos, all_captions):
        stamp = (
            f"{videos} of {all_videos} videos, {captions} of {all_captions} captions"
        )
    return {
        "schema": SCHEMA,
        **to_plain(embeddings.about),
        "protocol": embeddings.about.get("protocol"),
        "stamp": stamp,
        "num_captions": len(embeddings.captions),
        "num_videos": len(embeddings.ids),
    }


def _headline(
    text_to_video: Counts,
    video_to_text: Counts,
    extra_P2: torch.Tensor,
    captions: int,
    resamples: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"t2v", "v2t"}, their intervals): the numbers of the raw row."""
    numbers = {
        "t2v": summarise_pairs(text_to_video, captions, extra_P2),
        "v2t": summarise(video_to_text),
    }
    if not resamples:
        return numbers, {}
    query_P = torch.cat([torch.arange(captions), extra_P2[:, 0]])
    precision_C = average_precision(text_to_video, query_P)
    confidence = {
        "t2v": intervals(text_to_video.first(captions), resamples),
        "v2t": intervals(video_to_text, resamples),
    }
    confidence["t2v"]["mAP"] = mean_interval(100 * precision_C, resamples)
    return numbers, confidence


def full_matrix(source: CosineSimilarity) -> torch.Tensor:
    """similarity_CV: the whole matrix, for a metric that needs it at once."""
    similarity_CV = torch.empty(source.shape, dtype=source.dtype)
    for rows, columns, tile_RK in tiles(source):
        similarity_CV[rows, columns] = tile_RK
    return similarity_CV
