"""Searches an index of scripts/index.py: vectors -> rows. E joint width."""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from model.hub import is_hub_id
from parse_config import UserError
from scripts.retrieval.faiss_index import (
    EFFORT_OPTION,
    import_faiss,
    normalize,
    set_effort,
    to_gpus,
)
from scripts.retrieval.features import Row, hash_checkpoint, read_lines


class SearchIndex:
    """An opened index folder: `rows` and `manifest`. Raises UserError, FileNotFoundError."""

    def __init__(self, folder: Path) -> None:
        for name in ("manifest.json", "rows.jsonl", "index.faiss"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: holds no {name}; give a folder that scripts/index.py build made"
                )
        self.folder = folder
        faiss = import_faiss()
        manifest_text = (folder / "manifest.json").read_text(encoding="utf-8")
        self.manifest: dict[str, Any] = json.loads(manifest_text)
        self.rows: list[Row] = read_lines(folder / "rows.jsonl")
        try:
            self._cpu_index = faiss.read_index(str(folder / "index.faiss"))
        except RuntimeError as error:
            raise UserError(
                f"{folder}/index.faiss: cannot be read ({str(error).splitlines()[-1]}); build it "
                "again"
            ) from None
        kind = self.manifest["index"]
        if kind == "ivf":
            self._cpu_index.make_direct_map()  # which reconstruct needs
        if kind in EFFORT_OPTION:
            set_effort(self._cpu_index, kind, self.manifest[EFFORT_OPTION[kind]])
        self._index = self._cpu_index
        if kind != "hnsw":  # faiss has no HNSW on GPUs
            self._index = to_gpus(self._cpu_index)

    def __len__(self) -> int:
        return len(self.rows)

    def search(
        self, query_E: np.ndarray, k: int = 10, best_of_each: bool = False
    ) -> list[dict[str, Any]]:
        """The k best rows, best first: each its own fields, "row" (its number) and "score" (cosine, -1 to 1).

        Segments of a video are separate hits, also adjacent ones: a span of several would hide which of them matched.
        `best_of_each`: only the best segment of each video.
        """
        query_1E = normalize(np.asarray(query_E).reshape(1, -1))
        num_candidates = min(k, len(self))
        while True:
            scores_1K, row_numbers_1K = self._index.search(query_1E, num_candidates)
            hits = [
                {**self.rows[number], "row": int(number), "score": float(score)}
                for score, number in zip(scores_1K[0], row_numbers_1K[0])
                if number
                >= 0  # an approximate index may find fewer than it is asked for
            ]
            exhausted = num_candidates == len(self) or len(hits) < num_candidates
            if best_of_each:
                hits = _best_of_each_video(hits)
            if not best_of_each or len(hits) >= k or exhausted:
                return hits[:k]
            num_candidates = min(4 * num_candidates, len(self))

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


def _best_of_each_video(hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best hit of each video, best first; a hit without a path counts as a video of its own."""
    best: dict[Any, dict[str, Any]] = {}
    for hit in reversed(hits):  # from the worst to the best, which replaces it
        best[hit.get("path", hit["row"])] = hit
    best_hits = list(best.values())
    best_hits.reverse()
    best_hits.sort(key=itemgetter("score"), reverse=True)
    return best_hits


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
