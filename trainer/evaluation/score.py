"""Embeddings -> results: the headline, its intervals, and the rows beside it. Schema: docs/results.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model.metric import METRICS, average_precision, intervals, mean_interval, same_words, summarise
from model.ranks import Counts, count
from model.similarity import CosineSimilarity, tiles
from parse_config import ConfigError, to_plain
from trainer.evaluation.embed import Embeddings
from trainer.evaluation.rescoring import ROWS

SCHEMA = 1
STANDARD = ("t2v_metrics", "v2t_metrics")


def score(
    found: Embeddings,
    device: torch.device | str,
    *,
    rows: Sequence[str | Mapping[str, Any]] = (),
    metrics: Sequence[str] = STANDARD,
    resamples: int = 1000,
) -> dict[str, Any]:
    """results.json's numbers. `rows`: names of ROWS or {"type", "args"}; `metrics`: names of METRICS, of which the two
    standard ones are always there. resamples: of the bootstrap, 0 for no intervals."""
    device = torch.device(device)
    specs = [{"type": row} if isinstance(row, str) else row for row in rows]
    others = {name: METRICS.get(name, "metrics") for name in metrics if name not in STANDARD}
    if found.labels_V is not None:
        wrong = [spec["type"] for spec in specs if spec["type"] not in ("raw", "tta")]
        if wrong:
            raise ConfigError(
                f"evaluation.rows: {wrong[0]!r} is for retrieval; recognition knows raw and tta"
            )
        return recognition(found, device, resamples)
    extra_P2 = same_words(found.captions, found.owner_C)
    there, back = ROWS.get("raw")()(found, device, extra_P2)
    numbers, spread = _headline(there, back, extra_P2, len(found.captions), resamples)
    table = {"raw": {"about": ROWS.get("raw").about, **numbers}}
    for spec in specs:
        row = ROWS.build(spec)
        table[spec["type"]] = {
            "about": row.about,
            **{
                way: summarise(counts.ranks())
                for way, counts in zip(("t2v", "v2t"), row(found, device))
                if counts
            },
        }
    result = {
        **_top(found),
        **numbers,
        "intervals": spread,
        "rows": table,
        "same_words": len(extra_P2[:, 0].unique()),
    }
    if others:
        sims_CV = whole(CosineSimilarity(found.text_CE.to(device), found.video_VE.to(device)))
        result["other_metrics"] = {
            name: to_plain(metric(sims_CV, found.owner_C)) for name, metric in others.items()
        }
    return result


def recognition(found: Embeddings, device: torch.device, resamples: int = 1000) -> dict[str, Any]:
    """Video-to-text over class prompts: top-1 and top-5 of each video's class among all classes; no text-to-video."""
    source = CosineSimilarity(
        found.video_VE.to(device), found.text_CE.to(device)
    )  # a video asks, the classes answer
    ranks_V = count(source, found.labels_V)[0].ranks()
    values = summarise(ranks_V)
    table = {"raw": {"about": ROWS.get("raw").about, "v2t": values}}
    if found.windows_VE is not None:
        source = CosineSimilarity(found.windows_VE.to(device), found.text_CE.to(device))
        table["tta"] = {
            "about": ROWS.get("tta").about,
            "v2t": summarise(count(source, found.labels_V)[0].ranks()),
        }
    return {
        **_top(found),
        "v2t": values,
        "rows": table,
        "intervals": {"v2t": intervals(ranks_V, resamples)} if resamples else {},
        "recognition": {"top1": values["R1"], "top5": values["R5"], "classes": len(found.captions)},
    }


def _top(found: Embeddings) -> dict[str, Any]:
    (videos, all_videos), (captions, all_captions) = (
        found.about["coverage"][kind] for kind in ("videos", "captions")
    )
    stamp = (
        "complete"
        if (videos, captions) == (all_videos, all_captions)
        else f"{videos} of {all_videos} videos, {captions} of {all_captions} captions"
    )
    return {
        "schema": SCHEMA,
        **to_plain(found.about),
        "protocol": found.about.get("protocol"),
        "stamp": stamp,
        "num_captions": len(found.captions),
        "num_videos": len(found.ids),
    }


def _headline(
    there: Counts, back: Counts, extra_P2: torch.Tensor, captions: int, resamples: int
) -> tuple[dict, dict]:
    """({"t2v", "v2t"}, their intervals): the numbers of the raw row."""
    precision_C = average_precision(there, torch.cat([torch.arange(captions), extra_P2[:, 0]]))
    ranks = {"t2v": there.ranks()[:captions], "v2t": back.ranks()}
    numbers = {way: summarise(ranks_Q) for way, ranks_Q in ranks.items()}
    numbers["t2v"]["mAP"] = 100 * float(precision_C.mean())
    spread = (
        {way: intervals(ranks_Q, resamples) for way, ranks_Q in ranks.items()} if resamples else {}
    )
    if resamples:
        spread["t2v"]["mAP"] = mean_interval(100 * precision_C, resamples)
    return numbers, spread


def whole(source: CosineSimilarity) -> torch.Tensor:
    """sims_CV: the whole matrix, for a metric that cannot do without."""
    sims_CV = torch.empty(source.shape, dtype=source.dtype)
    for rows, columns, tile_RK in tiles(source):
        sims_CV[rows, columns] = tile_RK
    return sims_CV
