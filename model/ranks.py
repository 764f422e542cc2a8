"""Ranks without the matrix: similarities are computed tile by tile, compared, counted and dropped.

C captions, V videos, P relevant (caption, video) pairs, R captions and K videos of one tile.

What is tied is ordered by chance, so a rank is a distribution: `Counts` gives its mean and its probabilities. Both
directions are counted on the same tile, so the product is computed once; only the tiles that hold a relevant pair are
computed before, for the scores to compare with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from model.similarity import CosineSimilarity, SimilarityMatrix, exact, tiles

Rescore = Callable[
    [torch.Tensor, torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]
]


class Counts(NamedTuple):
    """Of each relevant item, one tensor entry each: how many candidates score above it (`greater`); how many score the
    same, itself included (`equal`); how many of those are right too, itself included (`tied_right`:
    captions of the same video); and its `score`."""

    greater: torch.Tensor
    equal: torch.Tensor
    tied_right: torch.Tensor
    score: torch.Tensor

    def ranks(self) -> np.ndarray:
        """float64, 1 = best: the expected rank when ties are broken at random.

        With one right candidate it is the mean of the tied ranks; with m right ones among k tied candidates it is the
        expected first of m among k, (k + 1) / (m + 1).
        """
        return (
            self.greater + (self.equal + 1).double() / (self.tied_right + 1)
        ).numpy()

    def hits(self, k: int) -> np.ndarray:
        """float64, 0 to 1: the probability to be among the first k when ties are broken at random; 0 or 1 without ties.

        Of e tied candidates n = k - greater are among the first k. All m right ones are behind them with probability
        C(e - m, n) / C(e, n) = product of (e - b - i) / (e - i) over i = 0 .. a - 1, of n and m a the less, b the more.
        """
        hits = (self.greater < k).double().numpy()
        is_open = (self.greater < k) & (self.equal > self.tied_right)
        equal = self.equal[is_open].double().numpy()
        right = self.tied_right[is_open].double().numpy()
        places = np.minimum(k - self.greater[is_open].double().numpy(), equal)
        less, more = np.minimum(places, right), np.maximum(places, right)
        miss = np.ones_like(equal)
        for i in range(int(less.max(initial=0))):
            behind = np.maximum(equal - more - i, 0)
            miss *= np.where(i < less, behind / np.maximum(equal - i, 1), 1)
        # the first is the second for one right answer, without its rounding
        hits[is_open.numpy()] = np.where(right == 1, places / equal, 1 - miss)
        return hits

    def first(self, count: int) -> "Counts":
        """Those of the first `count` items."""
        return Counts(*(column[:count] for column in self))


def owners(
    owner: torch.Tensor | np.ndarray | list | None, captions: int, videos: int
) -> torch.Tensor:
    """LongTensor (C): the video of each caption; None: every video has equally many, stored one after
    another. Raises ValueError for a wrong shape, type or index, or if the captions do not divide evenly."""
    if owner is None:
        if captions % videos:
            raise ValueError(
                f"{captions} captions do not divide evenly by {videos} videos: give owner, the video of "
                "each caption"
            )
        return torch.arange(videos).repeat_interleave(captions // videos)
    owner_C = torch.as_tensor(owner).cpu()
    if owner_C.shape != (captions,) or owner_C.is_floating_point():
        raise ValueError(
            f"owner must name one video (an integer) for each of the {captions} captions; "
            f"its shape is {tuple(owner_C.shape)}, its type {owner_C.dtype}"
        )
    low, high = int(owner_C.min()), int(owner_C.max())
    if low < 0 or high >= videos:
        raise ValueError(
            f"owner names videos {low} to {high}; there are 0 to {videos - 1}"
        )
    return owner_C.long()


def constant_counts(
    owner_C: torch.Tensor, videos: int, extra_pairs: int = 0
) -> tuple[Counts, Counts]:
    """What `count` gives where all similarities are equal: nothing is above, everything is tied.

    owner_C: the video of each of C captions, of 0 .. videos - 1. extra_pairs: length of `extra_P2` of `count`.
    """
    captions = len(owner_C)
    own_V = torch.bincount(owner_C.cpu(), minlength=videos)
    own_V = own_V[own_V > 0]
    one_P = torch.ones(captions + extra_pairs, dtype=torch.long)
    return _all_tied(one_P, videos), _all_tied(own_V, captions)


def _all_tied(right_Q: torch.Tensor, candidates: int) -> Counts:
    """Counts of queries of which all candidates are tied, `right_Q` of them right."""
    nothing_Q = torch.zeros_like(right_Q)
    return Counts(nothing_Q, nothing_Q + candidates, right_Q, nothing_Q.float())


def _inverse(permutation: torch.Tensor) -> torch.Tensor:
    """The permutation that undoes `permutation` (n,)."""
    numbers = torch.arange(len(permutation))
    return torch.empty_like(permutation).scatter_(0, permutation, numbers)


def _best_of_videos(
    score_C: torch.Tensor, video_C: torch.Tensor, videos: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(best score of each video's captions, -inf without any; how many captions have it, on the CPU)."""
    best_V = torch.full(
        (videos,), -torch.inf, dtype=score_C.dtype, device=score_C.device
    )
    best_V.scatter_reduce_(0, video_C, score_C, "amax")
    is_best_C = (score_C == best_V[video_C]).long().cpu()
    num_best_V = torch.zeros(videos, dtype=torch.long).index_add_(
        0, video_C.cpu(), is_best_C
    )
    return best_V, num_best_V


def count(
    source: SimilarityMatrix | CosineSimilarity,
    owner_C: torch.Tensor,
    extra_P2: torch.Tensor | None = None,
    rescore: Rescore | None = None,
) -> tuple[Counts, Counts]:
    """Counts of text-to-video, then video-to-text, from one pass.

    Text-to-video: one entry for each caption with its own video, in the captions' order, then one for each row
    (caption, video) of `extra_P2`. Video-to-text: one for each video that has captions, of the best of them.
    `rescore(tile_RK, captions_R, columns)` -> the tile as text-to-video sees it, and as video-to-text does.
    """
    captions, videos = source.shape
    pairs_P2 = torch.stack([torch.arange(captions), owner_C], 1)
    if extra_P2 is not None:
        pairs_P2 = torch.cat([pairs_P2, extra_P2.cpu()])
    # Captions of one video together: their tiles are then few. Pairs in the order of their captions.
    captions_by_video_C = owner_C.argsort(stable=True)
    position_of_caption_C = _inverse(captions_by_video_C)
    pairs_by_position_P = position_of_caption_C[pairs_P2[:, 0]].argsort(stable=True)
    position_of_pair_P = position_of_caption_C[pairs_P2[pairs_by_position_P, 0]]
    video_P = pairs_P2[pairs_by_position_P, 1]
    rescore = rescore or _same_for_both
    pair_tiles = _PairTiles(
        source, captions_by_video_C, position_of_pair_P, video_P, rescore
    )
    with exact(source.device):
        t2v_score_P, v2t_score_P = pair_tiles.relevant_scores()
        is_own_P = pairs_by_position_P < captions
        own_video_C = video_P[is_own_P].to(source.device)
        own_score_C = v2t_score_P[is_own_P.to(source.device)]
        best_V, num_best_V = _best_of_videos(own_score_C, own_video_C, videos)
        comparison = pair_tiles.compare(
            t2v_score_P, best_V, repeated=extra_P2 is not None
        )
    inverse_order_P = _inverse(pairs_by_position_P)
    t2v = Counts(
        comparison.above_P[inverse_order_P],
        comparison.equal_P[inverse_order_P],
        torch.ones_like(inverse_order_P),
        t2v_score_P.cpu()[inverse_order_P],
    )
    has_captions = num_best_V > 0
    v2t = Counts(
        comparison.above_V[has_captions],
        comparison.equal_V[has_captions],
        num_best_V[has_captions],
        best_V.cpu()[has_captions],
    )
    return t2v, v2t


def _same_for_both(
    tile_RK: torch.Tensor, captions_R: torch.Tensor, columns: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `rescore` that changes nothing."""
    return tile_RK, tile_RK


class _Comparison(NamedTuple):
    """How many videos score above and equal to each pair (P), how many captions to the best one of each video (V)."""

    above_P: torch.Tensor
    equal_P: torch.Tensor
    above_V: torch.Tensor
    equal_V: torch.Tensor


class _PairTiles(NamedTuple):
    """Scores and counts of pairs, tile by tile.

    `position_of_pair_P`: the position in `captions_by_video_C` of each pair's caption, ascending.
    """

    source: SimilarityMatrix | CosineSimilarity
    captions_by_video_C: torch.Tensor
    position_of_pair_P: torch.Tensor
    video_P: torch.Tensor
    rescore: Rescore

    def pairs_of(self, rows: slice) -> slice:
        """The pairs of one band of captions."""
        bounds = torch.searchsorted(
            self.position_of_pair_P, torch.tensor([rows.start, rows.stop])
        )
        return slice(*bounds.tolist())

    def tiles_of(self, rows: slice) -> list[int]:
        """The tiles of one band of captions that hold a pair."""
        _, width = self.source.block
        return (self.video_P[self.pairs_of(rows)] // width).unique().tolist()

    def relevant_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of the pairs as text-to-video and as video-to-text see them, each (P)."""
        _, width = self.source.block
        device = self.source.device
        t2v_score_P = torch.empty(
            len(self.video_P), dtype=self.source.dtype, device=device
        )
        v2t_score_P = torch.empty_like(t2v_score_P)
        for rows, columns, tile_RK in tiles(
            self.source, self.captions_by_video_C, self.tiles_of
        ):
            band = self.pairs_of(rows)
            in_tile = self.video_P[band] // width == columns.start // width
            pairs = in_tile.nonzero()[:, 0] + band.start
            row = (self.position_of_pair_P[pairs] - rows.start).to(device)
            column = (self.video_P[pairs] - columns.start).to(device)
            pairs = pairs.to(device)
            t2v_RK, v2t_RK = self.rescore(
                tile_RK, self.captions_by_video_C[rows], columns
            )
            t2v_score_P[pairs] = t2v_RK[row, column]
            v2t_score_P[pairs] = v2t_RK[row, column]
        return t2v_score_P, v2t_score_P

    def compare(
        self, score_P: torch.Tensor, best_V: torch.Tensor, repeated: bool
    ) -> _Comparison:
        """Compare the pairs' scores with all videos, the videos' best scores with all captions.

        `repeated`: a caption may have several pairs.
        """
        device = self.source.device
        above_P = torch.zeros(len(score_P), dtype=torch.float64, device=device)
        at_least_P = torch.zeros_like(above_P)
        above_V = torch.zeros(len(best_V), dtype=torch.float64, device=device)
        at_least_V = torch.zeros_like(above_V)
        # Float is the fast sum on a CPU, bool on CUDA.
        flag_dtype = torch.bool if device.type == "cuda" else torch.float32
        flags_RK = torch.empty(self.source.block, device=device, dtype=flag_dtype)
        for rows, columns, tile_RK in tiles(self.source, self.captions_by_video_C):
            t2v_RK, v2t_RK = self.rescore(
                tile_RK, self.captions_by_video_C[rows], columns
            )
            band = self.pairs_of(rows)
            if repeated:
                t2v_RK = t2v_RK[(self.position_of_pair_P[band] - rows.start).to(device)]
            _tally(
                t2v_RK,
                score_P[band, None],
                1,
                above_P[band],
                at_least_P[band],
                flags_RK,
            )
            _tally(
                v2t_RK,
                best_V[columns],
                0,
                above_V[columns],
                at_least_V[columns],
                flags_RK,
            )
        return _Comparison(
            above_P.cpu().long(),
            (at_least_P - above_P).cpu().long(),
            above_V.cpu().long(),
            (at_least_V - above_V).cpu().long(),
        )


def _tally(
    tile_RK: torch.Tensor,
    threshold: torch.Tensor,
    dim: int,
    above: torch.Tensor,
    at_least: torch.Tensor,
    flags_RK: torch.Tensor,
) -> None:
    """Add to `above` and `at_least` how many of the tile exceed the threshold, and reach it, along `dim`.

    The sums are whole numbers in float64: exact in any order. `flags_RK` is memory to work in.
    """
    height, width = tile_RK.shape
    if height <= len(flags_RK):
        flags = flags_RK[:height, :width]
    else:
        flags = flags_RK.new_empty(height, width)
    torch.gt(tile_RK, threshold, out=flags)
    above += flags.sum(dim, dtype=torch.float32)
    torch.ge(tile_RK, threshold, out=flags)
    at_least += flags.sum(dim, dtype=torch.float32)
