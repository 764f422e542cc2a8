"""The folder of features while it is being made (see features.py): begin or go on, shard by shard, finish.

A shard is there or not: the file of its features appears last, by renaming. So whatever is killed, whenever, what is
there is right, and the next run makes what is not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from scripts.retrieval.features import FORMAT, Row, load, read_lines, save, write_json, write_lines
from trainer import lock

OURS = {"manifest.json", "rows.jsonl", "shards", "ids.jsonl", "bad_files.jsonl"}
PLACE = ("set", "index", "reason")  # of a row: where it is read, which is nobody else's business


class Store:
    """One folder, shards of `shard_rows` rows in files of the kind `files`, features of `width`. Raises UserError."""

    def __init__(self, folder: Path, files: str, shard_rows: int, width: int):
        self.folder, self.files, self.shard_rows, self.width = folder, files, shard_rows, width
        self.rows: list[Row] = []

    def open(self, identity: dict[str, Any]) -> bool:
        """Whether there is something to go on with; an error if it was begun otherwise. For one process."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; give a folder for the features")
        self.folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name not in OURS and path.name[0] != "."
        )
        if strange:
            raise UserError(
                f"{self.folder}: holds other files ({strange[0]}); give a folder of its own"
            )
        lock.acquire(self.folder)
        (self.folder / "shards").mkdir(exist_ok=True)
        manifest = self.folder / "manifest.json"
        if not manifest.is_file():
            return False
        there = json.loads(manifest.read_text(encoding="utf-8"))
        for key, value in {
            "format": FORMAT,
            **identity,
            "files": self.files,
            "shard_rows": self.shard_rows,
        }.items():
            if (
                key != "checkpoint" and there.get(key) != value
            ):  # the same weights may lie elsewhere by now
                raise UserError(
                    f"{self.folder}: was begun with {key} {there.get(key)!r}, now it is {value!r}; give "
                    "what it was begun with, or another folder"
                )
        return True

    def begin(self, identity: dict[str, Any], rows: list[Row]):
        """Write down what is to be done; the manifest last. For one process."""
        write_lines(self.folder / "rows.jsonl", rows)
        write_json(
            self.folder / "manifest.json",
            {
                "format": FORMAT,
                **identity,
                "files": self.files,
                "shard_rows": self.shard_rows,
                "complete": False,
            },
        )

    def look(self) -> list[int]:
        """Read the rows; the numbers of the shards that are not there yet."""
        self.rows = read_lines(self.folder / "rows.jsonl")
        return [shard for shard in range(self.shards) if not self.path(shard).is_file()]

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-len(self.rows) // self.shard_rows)

    def path(self, shard: int) -> Path:
        """Where the features of a shard are."""
        return self.folder / "shards" / f"{shard:05d}.{self.files}"

    def put(self, shard: int, features: dict[int, np.ndarray], bad: dict[int, str]):
        """Write one shard: features (E,) or why there are none, by number of row; every row exactly once."""
        numbers = range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, len(self.rows)))
        assert sorted([*features, *bad]) == list(numbers), (
            f"shard {shard}: not every row came exactly once"
        )
        kept = [features[number] for number in numbers if number in features]
        write_json(
            self.path(shard).with_suffix(".json"),
            {"bad": [[number, bad[number]] for number in sorted(bad)]},
        )
        save(self.path(shard), np.stack(kept) if kept else np.zeros((0, self.width), np.float32))

    def finish(self) -> tuple[int, int]:
        """Write ids.jsonl, bad_files.jsonl and the manifest's end -> (rows, bad). For one process."""
        bad: dict[int, str] = {}
        for shard in range(self.shards):
            listed = json.loads(self.path(shard).with_suffix(".json").read_text(encoding="utf-8"))[
                "bad"
            ]
            numbers = range(
                shard * self.shard_rows, min((shard + 1) * self.shard_rows, len(self.rows))
            )
            assert len(load(self.path(shard))) + len(listed) == len(numbers), (
                f"{self.path(shard)}: is not whole"
            )
            bad.update(dict(listed))
        public = [
            {key: value for key, value in row.items() if key not in PLACE} for row in self.rows
        ]
        write_lines(
            self.folder / "ids.jsonl",
            (row for number, row in enumerate(public) if number not in bad),
        )
        write_lines(
            self.folder / "bad_files.jsonl",
            ({**public[number], "reason": bad[number]} for number in bad),
        )
        manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        counts = {
            "complete": True,
            "width": self.width,
            "rows": len(self.rows) - len(bad),
            "bad": len(bad),
        }
        write_json(self.folder / "manifest.json", {**manifest, **counts})
        return counts["rows"], counts["bad"]
