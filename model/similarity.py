"""Similarities tile by tile: the captions x videos matrix is made in pieces that stay in the cache, and never whole.

C captions, V videos, E joint width, R captions and K videos of one tile.

Every tile of a source comes out of a product of one shape (tiles at the edge are filled up): equal embeddings get equal
scores wherever they stand, and asking twice gives the same bits. That is what makes a tie a tie.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

BLOCKS = {"cpu": (1024, 1024), "cuda": (2048, 4096)}  # captions x videos of a tile


class SimilarityMatrix:
    """Given similarities, captions x videos, as a source of tiles. ValueError for NaN."""

    def __init__(self, sims_CV: torch.Tensor | np.ndarray, block: tuple[int, int] | None = None):
        self.sims = torch.as_tensor(sims_CV)
        if self.sims.ndim != 2 or 0 in self.sims.shape:
            raise ValueError(
                f"similarities are a matrix captions x videos, not of shape {tuple(self.sims.shape)}"
            )
        if not self.sims.is_floating_point():
            self.sims = self.sims.double()
        self.shape, self.device, self.dtype = (
            tuple(self.sims.shape),
            self.sims.device,
            self.sims.dtype,
        )
        self.block = block or BLOCKS.get(self.device.type, BLOCKS["cuda"])
        if any(bool(band.isnan().any()) for band in self.sims.split(self.block[0])):
            raise ValueError(
                "the similarities contain NaN: there is no rank; look at the embeddings"
            )

    def band(self, rows_R: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The tiles of these captions: a function of the videos' slice -> (R, K)."""
        sims_RV = self.sims[rows_R.to(self.device)]
        return lambda columns: sims_RV[:, columns]


class CosineSimilarity:
    """Cosine similarities of embeddings, made when asked, float32 (float64 if both are), as a source of tiles.

    Embeddings (C, E) and (V, E) on one device, of any length and any floating type. ValueError for NaN or infinity.
    """

    def __init__(
        self, text_CE: torch.Tensor, video_VE: torch.Tensor, block: tuple[int, int] | None = None
    ):
        for name, x in (("caption", text_CE), ("video", video_VE)):
            if x.ndim != 2 or not len(x) or x.shape[1] != text_CE.shape[1]:
                raise ValueError(
                    f"{name} embeddings of shape {tuple(x.shape)}: (count, width) is needed, equal widths"
                )
            if not all(bool(part.isfinite().all()) for part in x.split(65536)):
                raise ValueError(f"the {name} embeddings contain NaN or infinity: there is no rank")
        self.text, self.video = text_CE.detach(), video_VE.detach()
        self.shape, self.device = (len(text_CE), len(video_VE)), text_CE.device
        self.dtype = torch.promote_types(
            torch.promote_types(text_CE.dtype, video_VE.dtype), torch.float32
        )
        block = block or BLOCKS.get(self.device.type, BLOCKS["cuda"])
        self.block = tuple(
            min(side, -(-count // 64) * 64) for side, count in zip(block, self.shape)
        )
        self.norm_C, self.norm_V = self._norms(self.text), self._norms(self.video)
        width = text_CE.shape[1]
        self.rows_RE, self.columns_KE = (
            torch.zeros(side, width, dtype=self.dtype, device=self.device) for side in self.block
        )
        self.tile_RK = torch.empty(self.block, dtype=self.dtype, device=self.device)

    def _norms(self, x: torch.Tensor) -> torch.Tensor:
        norms = torch.cat(
            [part.to(self.dtype).norm(dim=1, keepdim=True) for part in x.split(65536)]
        )
        return norms.clamp_(min=1e-12)

    def band(self, rows_R: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """The tiles of these captions: a function of the videos' slice -> (R, K), valid until the next is made."""
        rows_R = rows_R.to(self.device)
        torch.div(self.text[rows_R], self.norm_C[rows_R], out=self.rows_RE[: len(rows_R)])

        def tile(columns: slice) -> torch.Tensor:
            width = columns.stop - columns.start
            torch.div(self.video[columns], self.norm_V[columns], out=self.columns_KE[:width])
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
    wanted: Callable[[int], list[int]] | None = None,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """(slice of `order_C`, slice of the videos, tile) band by band; `wanted(band)` names the tiles, default all."""
    (captions, videos), (height, width) = source.shape, source.block
    order_C = torch.arange(captions) if order_C is None else order_C
    for band, topk in enumerate(range(0, captions, height)):
        rows = slice(topk, min(topk + height, captions))
        tile = source.band(order_C[rows])
        for k in wanted(band) if wanted else range(-(-videos // width)):
            columns = slice(k * width, min((k + 1) * width, videos))
            yield rows, columns, tile(columns)


def log_sums(
    source: SimilarityMatrix | CosineSimilarity, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum exp(similarity / temperature): of each caption over the videos (C), of each video over the captions."""
    sums_C, sums_V = (
        torch.full((n,), -torch.inf, dtype=source.dtype, device=source.device) for n in source.shape
    )
    with exact(source.device):
        for rows, columns, tile_RK in tiles(source):
            logits_RK = tile_RK / temperature
            sums_C[rows] = torch.logaddexp(sums_C[rows], logits_RK.logsumexp(1))
            sums_V[columns] = torch.logaddexp(sums_V[columns], logits_RK.logsumexp(0))
    return sums_C, sums_V


def topk(source: SimilarityMatrix | CosineSimilarity, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k (at most V) best videos of each caption, best first: similarities and indices, both (C, k)."""
    k = min(k, source.shape[1])
    best_Ck = torch.full((source.shape[0], k), -torch.inf, dtype=source.dtype, device=source.device)
    where_Ck = torch.zeros(best_Ck.shape, dtype=torch.long, device=source.device)
    with exact(source.device):
        for rows, columns, tile_RK in tiles(source):
            score_Rk, place_Rk = tile_RK.topk(min(k, tile_RK.shape[1]))
            both = torch.cat([best_Ck[rows], score_Rk], 1)
            best_Ck[rows], keep_Rk = both.topk(k)
            where_Ck[rows] = torch.cat([where_Ck[rows], place_Rk + columns.start], 1).gather(
                1, keep_Rk
            )
    return best_Ck, where_Ck
