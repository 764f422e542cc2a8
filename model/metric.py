"""Similarities and the owner of each caption -> R@K, MedR, MeanR, gmean (and mAP), with bootstrap intervals.

C captions, V videos, Q queries (captions, or videos that have captions), P relevant (caption, video) pairs.

What is tied is ordered by chance: R@K is the probability to be among the first K, MeanR the mean of the expected ranks,
MedR their median over the queries, mAP the expected average precision. So constant embeddings score as chance in both
directions, for every K and any number of candidates; NaN is an error. Percentages are 0 to 100, ranks count from 1.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from model.ranks import Counts, constant_counts, count, owners
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
    if relevant is None:
        t2v, _ = count(source, owner_C)
        return summarise(t2v)
    extra_P2 = extra_pairs(relevant, owner_C)
    t2v, _ = count(source, owner_C, extra_P2)
    return summarise_pairs(t2v, len(owner_C), extra_P2)


@METRICS.register("v2t_metrics")
def v2t_metrics(sims: torch.Tensor | np.ndarray, owner: Any = None) -> dict[str, float]:
    """Video-to-text: `sims` (C, V); each video with captions is a query, the best placed of its captions the answer."""
    source = SimilarityMatrix(sims)
    _, v2t = count(source, owners(owner, *source.shape))
    return summarise(v2t)


def chance(
    owner_C: torch.Tensor, videos: int, extra_P2: torch.Tensor | None = None
) -> dict[str, dict[str, float]]:
    """{"t2v", "v2t"} -> the metrics of constant embeddings: what guessing gets.

    owner_C: the video of each caption. extra_P2: further relevant pairs (caption, video), which add "mAP".
    """
    if extra_P2 is None:
        t2v, v2t = constant_counts(owner_C, videos)
        return {"t2v": summarise(t2v), "v2t": summarise(v2t)}
    pairs, v2t = constant_counts(owner_C, videos, len(extra_P2))
    t2v_numbers = summarise_pairs(pairs, len(owner_C), extra_P2)
    return {"t2v": t2v_numbers, "v2t": summarise(v2t)}


def summarise_pairs(
    pairs: Counts, captions: int, extra_P2: torch.Tensor
) -> dict[str, float]:
    """What `summarise` gives of each caption's own video, and "mAP" over all relevant ones.

    pairs: Counts of text-to-video from `count` with `extra_P2`
    """
    query_P = torch.cat([torch.arange(captions), extra_P2[:, 0]])
    precision_C = average_precision(pairs, query_P)
    return {
        **summarise(pairs.first(captions)),
        "mAP": 100 * float(precision_C.mean()),
    }


def summarise(queries: Counts | np.ndarray) -> dict[str, float]:
    """R1, R5, R10, R50 in percent, MedR, MeanR, and the geometric mean of R1, R5, R10.

    queries: Counts of Q queries, or their ranks (Q) where nothing is tied
    """
    outcomes = _outcomes(queries)
    once = np.ones((1, len(outcomes.rank_Q)), np.int64)
    return _metrics_of_samples(outcomes, once)[0]


def intervals(
    queries: Counts | np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Percentile bootstrap over queries: name -> [low, high]. One query has no spread, its interval is a point.

    queries: Counts of Q queries, or their ranks (Q) where nothing is tied
    """
    values, counts = _distinct(_outcomes(queries))
    samples: list[dict[str, float]] = []
    for sample_counts in _resampled_counts(counts, resamples, seed):
        samples += _metrics_of_samples(values, sample_counts)
    percentiles = _percentiles(level)
    return {
        name: np.percentile([sample[name] for sample in samples], percentiles).tolist()
        for name in samples[0]
    }


def mean_interval(
    values_Q: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float]:
    """Percentile bootstrap of a plain mean over queries, for instance of average precisions: [low, high]."""
    values, counts = np.unique(np.asarray(values_Q, np.float64), return_counts=True)
    means = [
        sample_counts @ values / sample_counts.sum(1)
        for sample_counts in _resampled_counts(counts, resamples, seed)
    ]
    return np.percentile(np.concatenate(means), _percentiles(level)).tolist()


def _percentiles(level: float) -> list[float]:
    return [50 * (1 - level), 50 * (1 + level)]


def _resampled_counts(
    counts: np.ndarray, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each distinct value is drawn, (resamples, values) in chunks; as many draws as there are queries."""
    generator = np.random.default_rng(seed)
    chunk_size = max(1, 2**21 // len(counts))
    num_queries = counts.sum()
    for start in range(0, resamples, chunk_size):
        size = min(chunk_size, resamples - start)
        yield generator.multinomial(num_queries, counts / num_queries, size=size)


class _Outcomes(NamedTuple):
    """Of Q queries: the expected rank, and for each K of LEVELS the probability (0 to 1) to be among the first K."""

    rank_Q: np.ndarray
    hits_LQ: np.ndarray


def _outcomes(queries: Counts | np.ndarray) -> _Outcomes:
    """The outcomes of Counts, or of ranks where nothing is tied, ascending by rank."""
    if isinstance(queries, Counts):
        rank_Q = queries.ranks()
        hits_LQ = np.stack([queries.hits(k) for k in LEVELS])
    else:
        rank_Q = np.asarray(queries, np.float64)
        hits_LQ = np.stack([(rank_Q <= k).astype(np.float64) for k in LEVELS])
    order = np.lexsort((*hits_LQ, rank_Q))
    return _Outcomes(rank_Q[order], hits_LQ[:, order])


def _distinct(outcomes: _Outcomes) -> tuple[_Outcomes, np.ndarray]:
    """The distinct outcomes, and how often each occurs."""
    table = np.concatenate([outcomes.rank_Q[None], outcomes.hits_LQ])
    is_new = np.ones(table.shape[1], bool)
    is_new[1:] = (table[:, 1:] != table[:, :-1]).any(0)
    starts = np.flatnonzero(is_new)
    counts = np.diff(np.append(starts, table.shape[1]))
    return _Outcomes(outcomes.rank_Q[starts], outcomes.hits_LQ[:, starts]), counts


def _metrics_of_samples(
    outcomes: _Outcomes, counts: np.ndarray
) -> list[dict[str, float]]:
    """Outcomes (N), and how often each occurs in each sample (samples, N) -> the metrics of each sample."""
    ranks = outcomes.rank_Q
    cumulative = np.cumsum(counts, 1)
    totals = cumulative[:, -1]
    columns = {
        f"R{k}": 100 * (counts @ hits) / totals
        for k, hits in zip(LEVELS, outcomes.hits_LQ, strict=True)
    }
    with np.errstate(divide="ignore"):
        logarithms = np.log([columns["R1"], columns["R5"], columns["R10"]])
    middle_pairs = [
        [
            ranks[np.searchsorted(row, (total - 1) // 2 + 1)],
            ranks[np.searchsorted(row, total // 2 + 1)],
        ]
        for row, total in zip(cumulative, totals)
    ]
    columns["MedR"] = np.mean(middle_pairs, 1)
    columns["MeanR"] = counts @ ranks / totals
    columns["gmean"] = np.exp(np.mean(logarithms, 0))
    return [
        {name: float(column[i]) for name, column in columns.items()}
        for i in range(len(counts))
    ]


def extra_pairs(relevant: Any, owner_C: torch.Tensor) -> torch.Tensor:
    """LongTensor (P, 2): relevant (caption, video) pairs besides each caption's own, from a bool matrix or pairs."""
    relevant = torch.as_tensor(relevant).cpu()
    if relevant.dtype == torch.bool:
        pairs_P2 = relevant.nonzero()
    else:
        pairs_P2 = relevant.long().reshape(-1, 2).unique(dim=0)
    return pairs_P2[owner_C[pairs_P2[:, 0]] != pairs_P2[:, 1]]


def same_words(captions: list[str], owner_C: torch.Tensor) -> torch.Tensor:
    """LongTensor (P, 2): a caption is also relevant to another video that one describes in the same words."""
    normalised = [
        " ".join(caption.lower().split()).rstrip(". ") for caption in captions
    ]
    owner = owner_C.tolist()
    videos_by_words: dict[str, set[int]] = {}
    for words, video in zip(normalised, owner):
        videos_by_words.setdefault(words, set()).add(video)
    pairs = [
        (caption, video)
        for caption, words in enumerate(normalised)
        for video in sorted(videos_by_words[words] - {owner[caption]})
    ]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def average_precision(pairs: Counts, query_P: torch.Tensor) -> np.ndarray:
    """(Q) float64, 0 to 1: the average precision to expect under ties, of each query 0..Q-1 over its pairs.

    McSherry and Najork, ECIR 2008: with g items above, k tied items of which r are relevant, and R relevant above,
    rank g + j holds a relevant item with probability r / k, and then R + 1 + (j - 1)(r - 1) / (k - 1) are relevant to
    there on average. The sum over j is harmonic numbers: digamma.
    """
    scores = pairs.score.double().numpy()
    order = np.lexsort((-scores, query_P.numpy()))
    query = query_P.numpy()[order]
    score = scores[order]
    g = pairs.greater.numpy()[order].astype(np.float64)
    k = pairs.equal.numpy()[order].astype(np.float64)
    first_of_query = np.searchsorted(query, query, "left")
    new_group = np.ones(len(query), bool)
    new_group[1:] = (query[1:] != query[:-1]) | (score[1:] != score[:-1])
    starts = np.flatnonzero(new_group)
    group = np.cumsum(new_group) - 1
    r = np.diff(np.append(starts, len(query)))[group]
    relevant_above = starts[group] - first_of_query
    slope = (r - 1) / np.maximum(k - 1, 1)
    harmonic = np.where(k == 1, 1 / (g + 1), _digamma(g + k + 1) - _digamma(g + 1))
    gain = ((relevant_above + 1 - slope * (g + 1)) * harmonic + slope * k) / k
    return np.bincount(query, weights=gain) / np.bincount(query)


def _digamma(values: np.ndarray) -> np.ndarray:
    return torch.digamma(torch.from_numpy(values)).numpy()
