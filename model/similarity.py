"""Similarities tile by tile: the captions x videos matrix is made in pieces that stay in the cache, and never whole.

C captions, V videos, E joint width, R captions and K videos of one tile.

Every tile of a source comes out of a product of one shape (tiles at the edge are filled up): equal embeddings get equal
scores wherever they stand, and asking twice gives the same bits.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from parse_config import UserError

BLOCKS = {"cpu": (1024, 1024), "cuda": (2048, 4096)}  # captions x videos of a tile
CHUNK = 65536  # embeddings that are converted or checked at once


class SimilarityMatrix:
    """A matrix of similarities, captions x videos, as a source of tiles. UserError for NaN."""

    def __init__(
        self, sims_CV: torch.Tensor | np.ndarray, block: tuple[int, int] | None = None
    ) -> None:
        self.sims = torch.as_tensor(sims_CV)
        if self.sims.ndim != 2 or 0 in self.sims.shape:
            raise ValueError(
                f"similarities are a matrix captions x videos, not of shape {tuple(self.sims.shape)}"
            )
        if not self.sims.is_floating_point():
            self.sims = self.sims.double()
        self.shape = tuple(self.sims.shape)
        self.device = self.sims.device
        self.dtype = self.sims.dtype
        self.block = block or BLOCKS.get(self.device.type, BLOCKS["cuda"])
        if any(bool(band.isnan().any()) for band in self.sims.split(self.block[0])):
            raise UserError(
                "the similarities contain NaN: there is no rank; look at the embeddings"
            )

    def band(self, rows_R: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The tiles of these captions: a function of the videos' slice -> (R, K)."""
        sims_RV = self.sims[rows_R.to(self.device)]

        def tile(columns: slice) -> torch.Tensor:
            return sims_RV[:, columns]

        return tile


class CosineSimilarity:
    """Cosine similarities of embeddings, computed tile by tile, float32 (float64 if either is), as a source of tiles.

    Embeddings (C, E) and (V, E) on one device, of any length and any floating type. UserError for NaN or infinity.
    """

    def __init__(
        self,
        text_CE: torch.Tensor,
        video_VE: torch.Tensor,
        block: tuple[int, int] | None = None,
    ) -> None:
        for name, x in (("caption", text_CE), ("video", video_VE)):
            if x.ndim != 2 or not len(x) or x.shape[1] != text_CE.shape[1]:
                raise ValueError(
                    f"{name} embeddings of shape {tuple(x.shape)}: (count, width) is needed, equal widths"
                )
            if not all(bool(rows.isfinite().all()) for rows in x.split(CHUNK)):
                raise UserError(
                    f"the {name} embeddings contain NaN or infinity: there is no rank; look at the checkpoint"
                )
        self.text = text_CE.detach()
        self.video = video_VE.detach()
        self.shape = (len(text_CE), len(video_VE))
        self.device = text_CE.device
        common_dtype = torch.promote_types(text_CE.dtype, video_VE.dtype)
        self.dtype = torch.promote_types(common_dtype, torch.float32)
        captions_per_tile, videos_per_tile = block or BLOCKS.get(
            self.device.type, BLOCKS["cuda"]
        )
        self.block = (
            min(captions_per_tile, _round_up(self.shape[0], 64)),
            min(videos_per_tile, _round_up(self.shape[1], 64)),
        )
        self.norm_C = self._norms(self.text)
        self.norm_V = self._norms(self.video)
        factory: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.rows_RE = torch.zeros(self.block[0], text_CE.shape[1], **factory)
        self.columns_KE = torch.zeros(self.block[1], text_CE.shape[1], **factory)
        self.tile_RK = torch.empty(self.block, **factory)

    def _norms(self, x: torch.Tensor) -> torch.Tensor:
        norms = [
            rows.to(self.dtype).norm(dim=1, keepdim=True) for rows in x.split(CHUNK)
        ]
        return torch.cat(norms).clamp_(min=1e-12)

    def band(self, rows_R: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The tiles of these captions: a function of the videos' slice -> (R, K), valid until the next is made."""
        rows_R = rows_R.to(self.device)
        torch.div(
            self.text[rows_R], self.norm_C[rows_R], out=self.rows_RE[: len(rows_R)]
        )

        def tile(columns: slice) -> torch.Tensor:
            width = columns.stop - columns.start
            torch.div(
                self.video[columns], self.norm_V[columns], out=self.columns_KE[:width]
            )
            torch.mm(self.rows_RE, self.columns_KE.T, out=self.tile_RK)
            return self.tile_RK[: len(rows_R), :width]

        return tile


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Full float32 products and no autocast, whatever the caller has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def tiles(
    source: SimilarityMatrix | CosineSimilarity,
    order_C: torch.Tensor | None = None,
    tiles_of_band: Callable[[slice], list[int]] | None = None,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yields (slice of `order_C`, slice of the videos, tile), band of captions after band.

    Args:
        source: where the tiles come from
        order_C: the captions' order; default: their own
        tiles_of_band: slice of `order_C` -> numbers of the tiles to compute of that band; default: all
    """
    captions, videos = source.shape
    height, width = source.block
    order_C = torch.arange(captions) if order_C is None else order_C
    for start in range(0, captions, height):
        rows = slice(start, min(start + height, captions))
        tile = source.band(order_C[rows])
        numbers = (
            range(-(-videos // width)) if tiles_of_band is None else tiles_of_band(rows)
        )
        for number in numbers:
            columns = slice(number * width, min((number + 1) * width, videos))
            yield rows, columns, tile(columns)


def log_sums(
    source: SimilarityMatrix | CosineSimilarity, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum exp(similarity / temperature).

    Returns:
        of each caption over the videos (C), of each video over the captions (V)
    """
    captions, videos = source.shape
    sums_C = torch.full(
        (captions,), -torch.inf, dtype=source.dtype, device=source.device
    )
    sums_V = torch.full((videos,), -torch.inf, dtype=source.dtype, device=source.device)
    with exact(source.device):
        for rows, columns, tile_RK in tiles(source):
            logits_RK = tile_RK / temperature
            sums_C[rows] = torch.logaddexp(sums_C[rows], logits_RK.logsumexp(1))
            sums_V[columns] = torch.logaddexp(sums_V[columns], logits_RK.logsumexp(0))
    return sums_C, sums_V


def topk(
    source: SimilarityMatrix | CosineSimilarity, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k (at most V) best videos of each caption, best first: similarities and indices, both (C, k)."""
    captions, videos = source.shape
    k = min(k, videos)
    best_Ck = torch.full(
        (captions, k), -torch.inf, dtype=source.dtype, device=source.device
    )
    index_Ck = torch.zeros(best_Ck.shape, dtype=torch.long, device=source.device)
    with exact(source.device):
        for rows, columns, tile_RK in tiles(source):
            tile_best, tile_index = tile_RK.topk(min(k, tile_RK.shape[1]))
            candidates = torch.cat([best_Ck[rows], tile_best], 1)
            candidate_indices = torch.cat(
                [index_Ck[rows], tile_index + columns.start], 1
            )
            best_Ck[rows], positions = candidates.topk(k)
            index_Ck[rows] = candidate_indices.gather(1, positions)
    return best_Ck, index_Ck


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
