"""Writes a folder of features (see features.py): begin or resume, shard by shard, finish.

The features of a shard are the last file of it that is written, atomically: a shard exists and is complete, or does
not exist. Whenever a run is killed, the next one extracts the shards that are missing.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from scripts.retrieval.features import (
    FORMAT_VERSION,
    Row,
    load_shard,
    read_lines,
    save_shard,
    write_lines,
)
from trainer import lock
from trainer.files import write_json

FILE_NAMES = {"manifest.json", "rows.jsonl", "shards", "ids.jsonl", "bad_files.jsonl"}
INTERNAL_KEYS = (
    "set",
    "index",
    "reason",
)  # of a row: how it is read; left out of ids.jsonl


class FeatureWriter:
    """One folder of features (E,) with `width` E, in shards of `shard_rows` rows and format `shard_format`.

    `rows` is empty until `read_pending`.
    """

    def __init__(
        self, folder: Path, shard_format: str, shard_rows: int, width: int
    ) -> None:
        self.folder = folder
        self.shard_format = shard_format
        self.shard_rows = shard_rows
        self.width = width
        self.rows: list[Row] = []

    @property
    def manifest_path(self) -> Path:
        """Path of manifest.json."""
        return self.folder / "manifest.json"

    @property
    def num_shards(self) -> int:
        """Number of shards of the complete folder."""
        return -(-len(self.rows) // self.shard_rows)

    def path(self, shard: int) -> Path:
        """Path of the features of a shard."""
        return self.folder / "shards" / f"{shard:05d}.{self.shard_format}"

    def row_numbers(self, shard: int) -> range:
        """Numbers of the rows of a shard."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, len(self.rows)))

    def open(self, identity: dict[str, Any]) -> bool:
        """Makes and locks the folder -> whether an earlier run began it. Called by one process.

        identity: what decides the features. Raises UserError if the folder holds other files, or was begun with
        another identity.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; give a folder for the features")
        self.folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in self.folder.iterdir())
        foreign = [name for name in names if name not in FILE_NAMES and name[0] != "."]
        if foreign:
            raise UserError(
                f"{self.folder}: holds other files ({foreign[0]}); give a folder of its own"
            )
        lock.acquire(self.folder)
        (self.folder / "shards").mkdir(exist_ok=True)
        if not self.manifest_path.is_file():
            return False
        self._check_manifest(self._manifest_head(identity))
        return True

    def begin(self, identity: dict[str, Any], rows: list[Row]) -> None:
        """Writes the rows to extract, then the manifest. Called by one process."""
        write_lines(self.folder / "rows.jsonl", rows)
        manifest = {**self._manifest_head(identity), "complete": False}
        write_json(self.manifest_path, manifest, indent=1)

    def read_pending(self) -> list[int]:
        """Reads the rows -> the numbers of the shards that are still to be written."""
        self.rows = read_lines(self.folder / "rows.jsonl")
        return [
            shard for shard in range(self.num_shards) if not self.path(shard).is_file()
        ]

    def write_shard(
        self, shard: int, features: dict[int, np.ndarray], bad: dict[int, str]
    ) -> None:
        """Writes one shard: by row number, its features (E,) or why it could not be read."""
        numbers = self.row_numbers(shard)
        assert sorted([*features, *bad]) == list(numbers), (
            f"shard {shard}: not every row came exactly once"
        )
        features_nE = np.zeros((0, self.width), np.float32)
        if features:
            features_nE = np.stack([features[number] for number in sorted(features)])
        bad_rows = [[number, bad[number]] for number in sorted(bad)]
        write_json(self.path(shard).with_suffix(".json"), {"bad": bad_rows}, indent=1)
        save_shard(self.path(shard), features_nE)

    def finish(self) -> tuple[int, int]:
        """Writes ids.jsonl, bad_files.jsonl and the complete manifest -> (rows, bad rows). Called by one process."""
        bad = self._read_bad_rows()
        public_rows = [
            {key: value for key, value in row.items() if key not in INTERNAL_KEYS}
            for row in self.rows
        ]
        extracted = [row for number, row in enumerate(public_rows) if number not in bad]
        unreadable = [{**public_rows[number], "reason": bad[number]} for number in bad]
        write_lines(self.folder / "ids.jsonl", extracted)
        write_lines(self.folder / "bad_files.jsonl", unreadable)
        manifest = {
            **json.loads(self.manifest_path.read_text(encoding="utf-8")),
            "complete": True,
            "width": self.width,
            "rows": len(extracted),
            "bad": len(bad),
        }
        write_json(self.manifest_path, manifest, indent=1)
        return len(extracted), len(bad)

    def _manifest_head(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The fields of the manifest that an unfinished run already has."""
        return {
            "format": FORMAT_VERSION,
            **identity,
            "files": self.shard_format,
            "shard_rows": self.shard_rows,
        }

    def _check_manifest(self, expected: dict[str, Any]) -> None:
        """Raises UserError if the folder was begun with other fields than `expected`."""
        manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        for key, value in expected.items():
            if (
                key == "checkpoint"
            ):  # the same weights may have moved; their hash is compared
                continue
            if manifest.get(key) != value:
                raise UserError(
                    f"{self.folder}: was begun with {key} {manifest.get(key)!r}, now it is {value!r}; give "
                    "what it was begun with, or another folder"
                )

    def _read_bad_rows(self) -> dict[int, str]:
        """Row number -> why it could not be read, over all shards, after checking that each is complete."""
        bad: dict[int, str] = {}
        for shard in range(self.num_shards):
            path = self.path(shard)
            report = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            num_rows = len(load_shard(path)) + len(report["bad"])
            assert num_rows == len(self.row_numbers(shard)), f"{path}: is not whole"
            bad.update(dict(report["bad"]))
        return bad


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
