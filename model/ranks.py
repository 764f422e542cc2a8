"""Ranks without the matrix: similarities are made tile by tile, compared, counted and forgotten.

C captions, V videos, P asked (caption, video) pairs, R captions and K videos of one tile.

A rank is 1 + the places above + half the places tied. Both directions are counted on the same tile, so the product is
made once; only the tiles that hold a true pair are made before, to learn the scores to compare with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from model.similarity import CosineSimilarity, SimilarityMatrix, exact, tiles

Rescore = Callable[[torch.Tensor, torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]


class Counts(NamedTuple):
    """Of each asked item: how many candidates lie above it, how many are level with it (itself and its fellows too),
    how many of those are its fellows (itself too: other captions of the same video), and its score."""

    greater: torch.Tensor
    equal: torch.Tensor
    own: torch.Tensor
    score: torch.Tensor

    def ranks(self) -> np.ndarray:
        """float64, 1 = best: the rank to expect when what is level is ordered by chance.

        Alone among its fellows it is the mean of the tied places; with m fellows level among k it is the first of m
        among k, (k + 1) / (m + 1).
        """
        return (self.greater + (self.equal + 1).double() / (self.own + 1)).numpy()


def owners(
    owner: torch.Tensor | np.ndarray | list | None, captions: int, videos: int
) -> torch.Tensor:
    """LongTensor (C): the video of each caption; None means equal counts, in order. ValueError if it cannot be."""
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
        raise ValueError(f"owner names videos {low} to {high}; there are 0 to {videos - 1}")
    return owner_C.long()


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
    pairs_P2 = pairs_P2 if extra_P2 is None else torch.cat([pairs_P2, extra_P2.cpu()])
    order_C = owner_C.argsort(stable=True)
    place_C = torch.empty_like(order_C).scatter_(0, order_C, torch.arange(captions))
    by_place_P = place_C[pairs_P2[:, 0]].argsort(stable=True)
    place_P, video_P = place_C[pairs_P2[by_place_P, 0]], pairs_P2[by_place_P, 1]
    plan = _Plan(
        source, order_C, place_P, video_P, rescore or (lambda tile, rows, columns: (tile, tile))
    )
    with exact(source.device):
        there_P, back_P = plan.true_scores()
        is_own_P = by_place_P < captions
        best_V = torch.full((videos,), -torch.inf, dtype=source.dtype, device=source.device)
        own_video, own_score = (
            video_P[is_own_P].to(source.device),
            back_P[is_own_P.to(source.device)],
        )
        best_V.scatter_reduce_(0, own_video, own_score, "amax")
        own_V = torch.zeros(videos, dtype=torch.long).index_add_(
            0, own_video.cpu(), (own_score == best_V[own_video]).long().cpu()
        )
        above_P, level_P, above_V, level_V = plan.compare(there_P, best_V, extra_P2 is not None)
    back = torch.empty_like(by_place_P).scatter_(0, by_place_P, torch.arange(len(by_place_P)))
    there = Counts(above_P[back], level_P[back], torch.ones_like(back), there_P.cpu()[back])
    asked = own_V > 0
    return there, Counts(above_V[asked], level_V[asked], own_V[asked], best_V.cpu()[asked])


class _Plan(NamedTuple):
    """The two passes of `count`; pairs are sorted by their caption's place in `order_C`."""

    source: SimilarityMatrix | CosineSimilarity
    order_C: torch.Tensor
    place_P: torch.Tensor
    video_P: torch.Tensor
    rescore: Rescore

    def pairs_of(self, rows: slice) -> slice:
        """The asked pairs of one band of captions."""
        bounds = torch.searchsorted(self.place_P, torch.tensor([rows.start, rows.stop]))
        return slice(*bounds.tolist())

    def true_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of the asked pairs as text-to-video and as video-to-text see them, each (P)."""
        height, width = self.source.block
        scores = [
            torch.empty(len(self.video_P), dtype=self.source.dtype, device=self.source.device)
            for _ in range(2)
        ]

        def wanted(band):
            return (
                (self.video_P[self.pairs_of(slice(band * height, (band + 1) * height))] // width)
                .unique()
                .tolist()
            )

        for rows, columns, tile_RK in tiles(self.source, self.order_C, wanted):
            mine = self.pairs_of(rows)
            inside = (self.video_P[mine] // width == columns.start // width).nonzero()[
                :, 0
            ] + mine.start
            row = (self.place_P[inside] - rows.start).to(tile_RK.device)
            column = (self.video_P[inside] - columns.start).to(tile_RK.device)
            for score_P, seen_RK in zip(scores, self.rescore(tile_RK, self.order_C[rows], columns)):
                score_P[inside.to(tile_RK.device)] = seen_RK[row, column]
        return scores[0], scores[1]

    def compare(
        self, score_P: torch.Tensor, best_V: torch.Tensor, repeated: bool
    ) -> list[torch.Tensor]:
        """Above and level with the pairs' scores (P) among the videos, with the best ones (V) among the captions."""
        device = self.source.device
        totals = [
            torch.zeros(n, dtype=torch.float64, device=device)  # whole numbers: exact in any order
            for n in (len(score_P), len(score_P), len(best_V), len(best_V))
        ]
        flags_RK = torch.empty(
            self.source.block,
            device=device,  # float is the fast sum on CPU, bool on CUDA
            dtype=torch.bool if device.type == "cuda" else torch.float32,
        )
        for rows, columns, tile_RK in tiles(self.source, self.order_C):
            there_RK, back_RK = self.rescore(tile_RK, self.order_C[rows], columns)
            mine = self.pairs_of(rows)
            if repeated:
                there_RK = there_RK[(self.place_P[mine] - rows.start).to(device)]
            _tally(there_RK, score_P[mine, None], 1, totals[0][mine], totals[1][mine], flags_RK)
            _tally(back_RK, best_V[columns], 0, totals[2][columns], totals[3][columns], flags_RK)
        above_P, at_least_P, above_V, at_least_V = (total.cpu().long() for total in totals)
        return [above_P, at_least_P - above_P, above_V, at_least_V - above_V]


def _tally(
    tile_RK: torch.Tensor,
    bar: torch.Tensor,
    dim: int,
    above: torch.Tensor,
    at_least: torch.Tensor,
    flags_RK: torch.Tensor,
):
    """Add to `above` and `at_least` how many of the tile exceed the bar, and reach it, along `dim`."""
    height, width = tile_RK.shape
    out = (
        flags_RK[:height, :width] if height <= len(flags_RK) else flags_RK.new_empty(height, width)
    )
    for compare, total in ((torch.gt, above), (torch.ge, at_least)):
        compare(tile_RK, bar, out=out)
        total += out.sum(dim, dtype=torch.float32)
