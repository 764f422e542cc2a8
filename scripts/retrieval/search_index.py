"""Searches an index of scripts/index.py: vectors -> rows. N rows, V videos, E joint width."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.hub import is_hub_id
from parse_config import UserError
from scripts.retrieval.faiss_index import (
    EFFORT_OPTION,
    all_scores,
    normalize,
    set_effort,
    to_gpus,
)
from scripts.retrieval.features import Row, hash_checkpoint
from scripts.retrieval.index_files import read_faiss, read_manifest, read_rows

MAX_GPU_HITS = 2048  # that faiss finds per query on a GPU


class SearchIndex:
    """An opened index folder: `rows` and `manifest`. Raises UserError, FileNotFoundError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.rows = read_rows(folder, self.manifest)
        self.width: int = self.manifest["width"]
        self.kind: str = self.manifest["index"]
        self._videos = VideoGroups(number_videos(self.rows))
        self._cpu_index = read_faiss(folder, self.manifest)
        if self.kind == "ivf":
            self._cpu_index.make_direct_map()  # which reconstruct needs
        if self.kind in EFFORT_OPTION:
            set_effort(
                self._cpu_index, self.kind, self.manifest[EFFORT_OPTION[self.kind]]
            )
        self._index = self._cpu_index
        if self.kind != "hnsw":  # faiss has no HNSW on GPUs
            self._index = to_gpus(self._cpu_index)

    def __len__(self) -> int:
        return len(self.rows)

    def check_width(self, width: int) -> None:
        """Raises UserError if queries of this width cannot be compared with the vectors."""
        if width != self.width:
            raise UserError(
                f"{self.folder}: its vectors have {self.width} numbers, the query's {width}: another model made it; "
                "give the checkpoint that made the index's features with -r"
            )

    def search(
        self, query_E: np.ndarray, k: int = 10, best_of_each: bool = False
    ) -> list[dict[str, Any]]:
        """The k best rows, best first: each its own fields, "row" (its number) and "score" (cosine, -1 to 1).

        Segments of a video are separate hits, also adjacent ones: a span of several would hide which of them matched.
        `best_of_each`: only the best segment of each video. Raises UserError for a query of another width, or one that
        is not finite.
        """
        query_E = np.asarray(query_E).reshape(-1)
        self.check_width(len(query_E))
        if not np.isfinite(query_E).all():
            raise UserError(
                "the query's features are not finite; try another checkpoint"
            )
        query_E = normalize(query_E[None])[0]
        if best_of_each:
            numbers_K, scores_K = self._best_of_each(query_E, k)
        else:
            numbers_K, scores_K = self._nearest(query_E, k)
        return [
            {**self.rows[number], "row": number, "score": score}
            for number, score in zip(numbers_K.tolist(), scores_K.tolist())
        ]

    def _nearest(self, query_E: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and scores of the k best rows, best first; fewer if an approximate index finds fewer."""
        k = min(k, len(self))
        index = self._index if k <= MAX_GPU_HITS else self._cpu_index
        scores_1K, numbers_1K = index.search(query_E[None], k)
        is_found_K = numbers_1K[0] >= 0
        return numbers_1K[0][is_found_K], scores_1K[0][is_found_K]

    def _best_of_each(
        self, query_E: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and scores of the best rows of the k best videos, best first."""
        is_quick = self.kind != "flat" or self._index is not self._cpu_index
        if is_quick:
            numbers_K, scores_K = self._nearest(query_E, MAX_GPU_HITS)
            _, first_V = np.unique(self._videos.video_N[numbers_K], return_index=True)
            first_V.sort()
            if len(first_V) >= k or len(numbers_K) == len(self):
                return numbers_K[first_V[:k]], scores_K[first_V[:k]]
        scores_N = all_scores(self._cpu_index, self.kind, query_E)
        numbers_K = self._videos.best_rows(scores_N, k)
        return numbers_K, scores_N[numbers_K]

    def vector(self, row: int) -> np.ndarray:
        """The vector (E,) of a row, of length 1: a query for similar rows."""
        return self._cpu_index.reconstruct(row)

    def checkpoint(self, moved_to: str | None = None) -> str:
        """Path of the checkpoint that made the features, or `moved_to` if its weights are the same."""
        path = moved_to or self.manifest["checkpoint"]
        if not Path(path).exists() and not is_hub_id(path):
            which = "" if moved_to else ", which made this index"
            raise FileNotFoundError(
                f"{path}: no such checkpoint{which}; give the place where it is with -r"
            )
        if hash_checkpoint(path) != self.manifest["checkpoint_sha256"]:
            raise UserError(
                f"{path}: is not the checkpoint that made {self.folder}; features of different checkpoints "
                f"cannot be compared. It was {self.manifest['checkpoint']}"
            )
        return str(path)


def number_videos(rows: Sequence[Row]) -> np.ndarray:
    """int32 (N,): the number of each row's video, from 0; a row without a path is a video of its own."""
    numbers: dict[Any, int] = {}
    return np.array(
        [
            numbers.setdefault(row.get("path", position), len(numbers))
            for position, row in enumerate(rows)
        ],
        np.int32,
    )


class VideoGroups:
    """The rows of each video, in order, so that the best of each is found in one pass over the scores.

    video_N: the number of each row's video, from 0.
    """

    def __init__(self, video_N: np.ndarray) -> None:
        self.video_N = video_N
        is_in_order = bool((np.diff(video_N) >= 0).all())
        self._order_N = None if is_in_order else np.argsort(video_N, kind="stable")
        self._start_V = np.searchsorted(np.sort(video_N), np.unique(video_N))

    def best_rows(self, scores_N: np.ndarray, k: int) -> np.ndarray:
        """Numbers of the best rows of the k best videos, best first; of equal ones the first. Scores -inf are none."""
        if self._order_N is not None:
            scores_N = scores_N[self._order_N]
        best_V = np.maximum.reduceat(scores_N, self._start_V)
        k = min(k, len(best_V))
        best_videos = np.argpartition(-best_V, k - 1)[:k]
        best_videos = best_videos[best_V[best_videos] > -np.inf]
        end_V = np.append(self._start_V[1:], len(scores_N))
        best_positions = [
            self._start_V[video]
            + scores_N[self._start_V[video] : end_V[video]].argmax()
            for video in best_videos
        ]
        position_K = np.array(best_positions, np.int64)
        numbers_K = position_K if self._order_N is None else self._order_N[position_K]
        return numbers_K[np.lexsort((numbers_K, -scores_N[position_K]))]


def describe(hit: Row) -> str:
    """A hit's text, or its path and seconds."""
    if "text" in hit:
        return hit["text"]
    start, end = hit["start"], hit["end"]
    description = hit["path"]
    if start is not None or end is not None:
        description += f", from second {start or 0:g}"
    if end is not None:
        description += f" to {end:g}"
    return description


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/search.py --help")
