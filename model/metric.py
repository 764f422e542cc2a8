"""Similarities and the owner of each caption -> R@K, MedR, MeanR, gmean (and mAP), with bootstrap intervals.

C captions, V videos, Q queries (captions, or videos that have captions), P relevant (caption, video) pairs.

Ties get the expected rank, so constant embeddings score as chance in both directions; NaN is an error. Percentages are
0 to 100, ranks count from 1.
"""

from typing import Any

import numpy as np
import torch

from model.ranks import Counts, count, owners
from model.similarity import SimilarityMatrix
from parse_config import Registry

METRICS = Registry("metric")
LEVELS = (1, 5, 10, 50)


@METRICS.register("t2v_metrics")
def t2v_metrics(
    sims: torch.Tensor | np.ndarray, owner: Any = None, relevant: Any = None
) -> dict[str, float]:
    """Text-to-video: `sims` (C, V); each caption is a query, its own video the answer.

    `owner[i]` is the video of caption i (None: equal counts, in order). `relevant`, a bool matrix like the similarities
    or pairs (caption, video), names all videos that are right answers (the own one always is) and adds "mAP".
    """
    source = SimilarityMatrix(sims)
    owner_C = owners(owner, *source.shape)
    extra_P2 = None if relevant is None else extra_pairs(relevant, owner_C)
    there, _ = count(source, owner_C, extra_P2)
    ranks_C = there.ranks()[: len(owner_C)]
    result = summarise(ranks_C)
    return (
        result
        if relevant is None
        else {
            **result,
            "mAP": 100
            * float(
                average_precision(
                    there, torch.cat([torch.arange(len(owner_C)), extra_P2[:, 0]])
                ).mean()
            ),
        }
    )


@METRICS.register("v2t_metrics")
def v2t_metrics(sims: torch.Tensor | np.ndarray, owner: Any = None) -> dict[str, float]:
    """Video-to-text: `sims` (C, V); each video with captions is a query, the best placed of its captions the answer."""
    source = SimilarityMatrix(sims)
    return summarise(count(source, owners(owner, *source.shape))[1].ranks())


def summarise(ranks_Q: np.ndarray) -> dict[str, float]:
    """R1, R5, R10, R50 in percent, MedR, MeanR, and the geometric mean of R1, R5, R10."""
    return _from_table(np.asarray(ranks_Q, np.float64), np.ones((1, len(ranks_Q)), np.int64))[0]


def intervals(
    ranks_Q: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, list[float]]:
    """Percentile bootstrap over queries: name -> [low, high]. One query has no spread, its interval is a point."""
    values, times = np.unique(np.asarray(ranks_Q, np.float64), return_counts=True)
    draws = _draws(times, resamples, seed)
    rows = [row for chunk in draws for row in _from_table(values, chunk)]
    ends = [50 * (1 - level), 50 * (1 + level)]
    return {name: np.percentile([row[name] for row in rows], ends).tolist() for name in rows[0]}


def mean_interval(
    values_Q: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float]:
    """The same for a plain mean, as of average precisions."""
    values, times = np.unique(np.asarray(values_Q, np.float64), return_counts=True)
    means = np.concatenate(
        [chunk @ values / chunk.sum(1) for chunk in _draws(times, resamples, seed)]
    )
    return np.percentile(means, [50 * (1 - level), 50 * (1 + level)]).tolist()


def _draws(times: np.ndarray, resamples: int, seed: int):
    """How often each distinct value is drawn, as many draws as queries, for each resample; in chunks."""
    generator, step = np.random.default_rng(seed), max(1, 2**21 // len(times))
    for start in range(0, resamples, step):
        yield generator.multinomial(
            times.sum(), times / times.sum(), size=min(step, resamples - start)
        )


def _from_table(ranks: np.ndarray, times: np.ndarray) -> list[dict[str, float]]:
    """`ranks` (N), and how often each occurs in each sample (samples, N) -> the metrics of each sample."""
    order = np.argsort(ranks, kind="stable")
    ranks, upto = ranks[order], np.cumsum(times[:, order], 1)
    total = upto[:, -1]
    found = {
        f"R{k}": 100 * np.pad(upto, ((0, 0), (1, 0)))[:, np.searchsorted(ranks, k, "right")] / total
        for k in LEVELS
    }
    middle = [
        [ranks[np.searchsorted(row, place + 1)] for place in ((n - 1) // 2, n // 2)]
        for row, n in zip(upto, total)
    ]
    mean = times[:, order] @ ranks / total
    with np.errstate(divide="ignore"):
        gmean = np.exp(np.mean(np.log([found["R1"], found["R5"], found["R10"]]), 0))
    columns = {**found, "MedR": np.mean(middle, 1), "MeanR": mean, "gmean": gmean}
    return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(times))]


def extra_pairs(relevant: Any, owner_C: torch.Tensor) -> torch.Tensor:
    """LongTensor (P, 2): relevant (caption, video) pairs besides each caption's own, from a bool matrix or pairs."""
    relevant = torch.as_tensor(relevant).cpu()
    pairs_P2 = (
        relevant.nonzero()
        if relevant.dtype == torch.bool
        else relevant.long().reshape(-1, 2).unique(dim=0)
    )
    return pairs_P2[owner_C[pairs_P2[:, 0]] != pairs_P2[:, 1]]


def same_words(captions: list[str], owner_C: torch.Tensor) -> torch.Tensor:
    """LongTensor (P, 2): a caption is also relevant to another video that one describes in the same words."""
    videos: dict[str, set[int]] = {}
    keys = [" ".join(caption.lower().split()).rstrip(". ") for caption in captions]
    for key, video in zip(keys, owner_C.tolist()):
        videos.setdefault(key, set()).add(video)
    pairs = [
        (i, video)
        for i, (key, own) in enumerate(zip(keys, owner_C.tolist()))
        for video in sorted(videos[key] - {own})
    ]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def average_precision(pairs: Counts, query_P: torch.Tensor) -> np.ndarray:
    """(Q) float64, 0 to 1: the average precision to expect under ties, of each query 0..Q-1 over its pairs.

    McSherry and Najork, ECIR 2008: with g places above, k level places of which r are relevant, and R relevant above,
    place g + j holds a relevant item with probability r / k, and then R + 1 + (j - 1)(r - 1) / (k - 1) are relevant to
    there on average. The sum over j is harmonic numbers: digamma.
    """
    order = np.lexsort((-pairs.score.double().numpy(), query_P.numpy()))
    query, score = query_P.numpy()[order], pairs.score.double().numpy()[order]
    g, k = (x.numpy()[order].astype(np.float64) for x in (pairs.greater, pairs.equal))
    first_of_query = np.searchsorted(query, query, "left")
    new_group = np.ones(len(query), bool)
    new_group[1:] = (query[1:] != query[:-1]) | (score[1:] != score[:-1])
    starts = np.flatnonzero(new_group)
    group = np.cumsum(new_group) - 1
    r = np.diff(np.append(starts, len(query)))[group]
    above = starts[group] - first_of_query
    slope = (r - 1) / np.maximum(k - 1, 1)
    harmonic = (
        torch.digamma(torch.from_numpy(g + k + 1)) - torch.digamma(torch.from_numpy(g + 1))
    ).numpy()
    harmonic = np.where(k == 1, 1 / (g + 1), harmonic)
    gain = ((above + 1 - slope * (g + 1)) * harmonic + slope * k) / k
    per_query = np.bincount(query)
    return np.bincount(query, weights=gain) / per_query
