"""An index of scripts/index.py, opened: vectors -> rows. E joint width."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from scripts.retrieval.faiss_index import EFFORT, faiss, normalised, on_gpus, set_effort
from scripts.retrieval.features import Row, fingerprint, read_lines


class SearchIndex:
    """`rows` and `manifest` of a folder, and the search in it. Raises UserError, FileNotFoundError."""

    def __init__(self, folder: Path):
        for name in ("manifest.json", "rows.jsonl", "index.faiss"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: holds no {name}; give a folder that scripts/index.py build made"
                )
        self.folder, module = folder, faiss()
        self.manifest: dict[str, Any] = json.loads(
            (folder / "manifest.json").read_text(encoding="utf-8")
        )
        self.rows: list[Row] = read_lines(folder / "rows.jsonl")
        try:
            self._kept = module.read_index(str(folder / "index.faiss"))
        except RuntimeError as error:
            raise UserError(
                f"{folder}/index.faiss: cannot be read ({str(error).splitlines()[-1]}); build it "
                "again"
            ) from None
        kind = self.manifest["index"]
        if kind == "ivf":
            self._kept.make_direct_map()
        if kind in EFFORT:
            set_effort(self._kept, kind, self.manifest[EFFORT[kind]])
        self._index = self._kept if kind == "hnsw" else on_gpus(self._kept)

    def __len__(self) -> int:
        return len(self.rows)

    def search(
        self, query_E: np.ndarray, k: int = 10, best_of_each: bool = False
    ) -> list[dict[str, Any]]:
        """The k best rows, best first: each its own fields, "row" (its number) and "score" (cosine, -1 to 1).

        Segments stay apart, also where one follows the other: a span of several would hide which of them was meant.
        `best_of_each`: of each video the best segment alone.
        """
        query_1E, wanted = normalised(np.asarray(query_E).reshape(1, -1)), min(k, len(self))
        while True:
            scores, places = self._index.search(query_1E, wanted)
            found = [
                {**self.rows[place], "row": int(place), "score": float(score)}
                for score, place in zip(scores[0], places[0])
                if place >= 0
            ]  # approximate ones may find fewer
            if best_of_each:
                found = list(
                    {hit.get("path", hit["row"]): hit for hit in reversed(found)}.values()
                )[::-1]
                found.sort(key=lambda hit: -hit["score"])
            if (
                not best_of_each
                or len(found) >= k
                or wanted == len(self)
                or len(places[0][places[0] >= 0]) < wanted
            ):
                return found[:k]
            wanted = min(4 * wanted, len(self))

    def vector(self, row: int) -> np.ndarray:
        """(E,) of a row, of length 1: a query for what is like it."""
        return self._kept.reconstruct(row)

    def checkpoint(self, given: str | None = None) -> str:
        """Path of the checkpoint that made the features, or `given` if its weights are the same."""
        path = given or self.manifest["checkpoint"]
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path}: no such checkpoint{'' if given else ', which made this index'}; give the "
                "place where it is with -r"
            )
        if fingerprint(path) != self.manifest["checkpoint_sha256"]:
            raise UserError(
                f"{path}: is not the checkpoint that made {self.folder}; features of different checkpoints "
                f"cannot be compared. It was {self.manifest['checkpoint']}"
            )
        return str(path)


def place(hit: Row) -> str:
    """Where a hit is, in words."""
    if "text" in hit:
        return hit["text"]
    span = (
        ""
        if hit["start"] is None and hit["end"] is None
        else f", from second {hit['start'] or 0:g}"
    )
    return hit["path"] + span + (f" to {hit['end']:g}" if hit["end"] is not None else "")
