"""Rows of the results table: ways to score, each of its own name; only the raw one is the headline.

C captions, V videos, R captions and K videos of one tile. Registered in `ROWS`; a row is called with embeddings and a
device and gives Counts of text-to-video and video-to-text, None where it says nothing.
"""

import math
from collections.abc import Iterator

import torch

from model.ranks import Counts, count
from model.similarity import CosineSimilarity, exact, log_sums, tiles, topk
from parse_config import ConfigError, Registry
from trainer.evaluation.embed import Embeddings

ROWS = Registry("row of the evaluation")
SMALLEST_TEMPERATURE = 1e-6  # below it float32 overflows
BothDirections = tuple[Counts, Counts | None]  # text-to-video, video-to-text


@ROWS.register("raw")
class Raw:
    """The headline: cosine similarity, nothing else."""

    about = "cosine similarity of the embeddings"

    def __call__(
        self,
        embeddings: Embeddings,
        device: torch.device,
        extra_P2: torch.Tensor | None = None,
    ) -> BothDirections:
        source = CosineSimilarity(
            embeddings.text_CE.to(device), embeddings.video_VE.to(device)
        )
        return count(source, embeddings.owner, extra_P2)


@ROWS.register("tta")
class Windows:
    """Test-time augmentation: a video is the mean of its sliding windows' embeddings (test.py -s STRIDE)."""

    about = "test-time augmentation: the windows of a sliding window averaged"

    def __call__(self, embeddings: Embeddings, device: torch.device) -> BothDirections:
        if embeddings.windows_VE is None:
            raise ConfigError(
                "evaluation.rows: tta needs sliding windows; add -s STRIDE"
            )
        return count(
            CosineSimilarity(
                embeddings.text_CE.to(device), embeddings.windows_VE.to(device)
            ),
            embeddings.owner,
        )


@ROWS.register("dsl")
class DualSoftmax:
    """Dual softmax (Cheng et al., arXiv 2109.04290): a similarity times its softmax over the queries.

    Looks at all test queries at once, so it is no retrieval of one query: a row of its own.

    Args:
        temperature: divisor of the similarities in the softmax
    """

    def __init__(self, temperature: float = 0.05):
        self.temperature = _positive(temperature, "dsl")
        self.about = f"dual softmax over the test queries, temperature {temperature:g}; sees all queries at once"

    def __call__(self, embeddings: Embeddings, device: torch.device) -> BothDirections:
        source = CosineSimilarity(
            embeddings.text_CE.to(device), embeddings.video_VE.to(device)
        )
        sums_C, sums_V = log_sums(source, self.temperature)

        def rescore(
            tile_RK: torch.Tensor, rows_R: torch.Tensor, columns: slice
        ) -> tuple[torch.Tensor, torch.Tensor]:
            logits_RK = tile_RK / self.temperature
            return (
                tile_RK * (logits_RK - sums_V[columns]).exp(),
                tile_RK * (logits_RK - sums_C[rows_R.to(device), None]).exp(),
            )

        return count(source, embeddings.owner, rescore=rescore)


@ROWS.register("qbnorm")
class QueryBank:
    """QB-Norm (Bogolin et al., arXiv 2112.12777): dynamic inverted softmax over a bank of training captions.

    A query whose best video is also the best of some caption of the bank has its similarities divided by what the bank
    gives each video; the others stay raw. Of videos that are tied as the best, each counts. The bank never holds test
    queries. Text-to-video only.

    Args:
        temperature: divisor of the similarities in the softmax
    """

    def __init__(self, temperature: float = 0.05):
        self.temperature = _positive(temperature, "qbnorm")
        self.about = f"QB-Norm, bank of training captions, temperature {temperature:g}"

    def __call__(self, embeddings: Embeddings, device: torch.device) -> BothDirections:
        if embeddings.bank_BE is None:
            raise ConfigError(
                "evaluation.rows: qbnorm needs a bank, the captions of the training split; embed with it"
            )
        video_VE = embeddings.video_VE.to(device)
        source = CosineSimilarity(embeddings.text_CE.to(device), video_VE)
        bank = CosineSimilarity(embeddings.bank_BE.to(device), video_VE)
        sums_V = log_sums(bank, self.temperature)[1]
        popular_V = torch.zeros(len(video_VE), dtype=torch.bool, device=device)
        for _, columns, is_best_RK in _best_videos(bank):
            popular_V[columns] |= is_best_RK.any(0)
        active_C = torch.zeros(source.shape[0], dtype=torch.bool, device=device)
        for rows, columns, is_best_RK in _best_videos(source):
            active_C[rows] |= (is_best_RK & popular_V[columns]).any(1)

        def rescore(
            tile_RK: torch.Tensor, rows_R: torch.Tensor, columns: slice
        ) -> tuple[torch.Tensor, torch.Tensor]:
            active_R = active_C[rows_R.to(device), None]
            normalized_RK = tile_RK / self.temperature - sums_V[columns]
            return torch.where(active_R, normalized_RK, tile_RK), tile_RK

        text_to_video, _ = count(source, embeddings.owner, rescore=rescore)
        return text_to_video, None


def _positive(temperature: float, row: str) -> float:
    """The temperature; ConfigError for one that gives no similarities."""
    if not SMALLEST_TEMPERATURE <= temperature < math.inf:
        raise ConfigError(
            f"evaluation.rows: {row}: temperature {temperature!r} is given, a number from {SMALLEST_TEMPERATURE:g} "
            "up is needed"
        )
    return temperature


def _best_videos(
    source: CosineSimilarity,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Tile by tile: captions, videos, and whether a video is (one of) the best of a caption, bool (R, K)."""
    best_C1, _ = topk(source, 1)
    with exact(source.device):
        for rows, columns, tile_RK in tiles(source):
            yield rows, columns, tile_RK == best_C1[rows]
