"""Writes a folder of features (see features.py): begin or resume, shard by shard, finish.

The features of a shard are the last file of it that is written, atomically: a shard exists and is complete, or does
not exist. Whenever a run is killed, the next one extracts the shards that are missing. If other rows are listed than
when the folder was begun, the new state is written beside the old one and replaces it (see feature_growth.py).
"""

from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from scripts.retrieval.feature_growth import (
    KnownFeatures,
    earlier_states,
    finish_change,
    growing_folder,
    remove_growing,
    take_place,
)
from scripts.retrieval.features import (
    EXTRACT_AGAIN,
    FORMAT_VERSION,
    Row,
    load_shard,
    read_json,
    read_lines,
    save_shard,
    write_lines,
)
from trainer import lock
from trainer.files import write_json

MANIFEST = "manifest.json"
FILE_NAMES = {MANIFEST, "rows.jsonl", "shards", "ids.jsonl", "bad_files.jsonl"}
INTERNAL_KEYS = (
    "set",
    "index",
    "reason",
    "whole",
    "sha256",
    "stamp",
)  # of a row: how it is read, and of what; left out of ids.jsonl


class FeatureWriter:
    """One folder of features (E,) with `width` E, in shards of `shard_rows` rows and format `shard_format`.

    `state` is the folder that is written to: `folder` itself, or the hidden one in it that will take its place. `rows`
    is empty until `read_pending`.
    """

    def __init__(
        self, folder: Path, shard_format: str, shard_rows: int, width: int
    ) -> None:
        self.folder = folder
        self.state = folder
        self.shard_format = shard_format
        self.shard_rows = shard_rows
        self.width = width
        self.rows: list[Row] = []
        self.known = KnownFeatures([])

    @property
    def num_shards(self) -> int:
        """Number of shards of the complete folder."""
        return -(-len(self.rows) // self.shard_rows)

    def path(self, shard: int) -> Path:
        """Path of the features of a shard."""
        return self.state / "shards" / f"{shard:05d}.{self.shard_format}"

    def row_numbers(self, shard: int) -> range:
        """Numbers of the rows of a shard."""
        start = shard * self.shard_rows
        return range(start, min(start + self.shard_rows, len(self.rows)))

    def prepare(self, options: dict[str, Any]) -> None:
        """Makes and locks the folder, and finishes a change that was cut. Called by one process.

        options: what decides the features, besides the rows. Raises UserError if the folder holds other files, or was
        begun with other options.
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
        finish_change(self.folder)
        if (self.folder / MANIFEST).is_file():
            self._check_manifest(self._manifest_head(options))

    def choose_state(self, listed_sha256: str) -> tuple[Path, bool]:
        """(the folder to write to, whether an earlier run began it) for the rows with this hash.

        Called by one process, after `prepare`.
        """
        state = self.folder
        if (state / MANIFEST).is_file():
            begun_with = read_json(state / MANIFEST, EXTRACT_AGAIN)["listed_sha256"]
            if begun_with != listed_sha256:
                state = growing_folder(self.folder, listed_sha256)
            else:
                remove_growing(self.folder)
        (state / "shards").mkdir(parents=True, exist_ok=True)
        return state, (state / MANIFEST).is_file()

    def begin(self, identity: dict[str, Any], rows: list[Row]) -> None:
        """Writes the rows to extract, then the manifest. Called by one process."""
        write_lines(self.state / "rows.jsonl", rows)
        manifest = {**self._manifest_head(identity), "complete": False}
        write_json(self.state / MANIFEST, manifest, indent=1)

    def read_pending(self) -> list[int]:
        """Reads the rows -> the numbers of the shards that are still to be written."""
        self.rows = read_lines(self.state / "rows.jsonl")
        return [
            shard for shard in range(self.num_shards) if not self.path(shard).is_file()
        ]

    def read_known(self) -> None:
        """Reads what is known of other states of the folder, which need not be extracted again."""
        states = earlier_states(self.folder)
        self.known = KnownFeatures(state for state in states if state != self.state)

    def unknown_rows(self, shard: int) -> list[int]:
        """Numbers of the rows of a shard that are to be extracted."""
        return [
            number
            for number in self.row_numbers(shard)
            if self.rows[number] not in self.known
        ]

    def write_shard(
        self, shard: int, features: dict[int, np.ndarray], bad: dict[int, str]
    ) -> None:
        """Writes one shard: by the number of each unknown row, its features (E,) or why it could not be read."""
        numbers = self.row_numbers(shard)
        features = dict(features)
        bad = dict(bad)
        for number in numbers:
            if number in features or number in bad:
                continue
            reason = self.known.reason(self.rows[number])
            if reason is None:
                features[number] = self.known.feature(self.rows[number])
            else:
                bad[number] = reason
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
        write_lines(self.state / "ids.jsonl", extracted)
        write_lines(self.state / "bad_files.jsonl", unreadable)
        manifest = {
            **read_json(self.state / MANIFEST, EXTRACT_AGAIN),
            "complete": True,
            "width": self.width,
            "rows": len(extracted),
            "bad": len(bad),
        }
        write_json(self.state / MANIFEST, manifest, indent=1)
        if self.state != self.folder:
            take_place(self.folder, self.state)
            self.state = self.folder
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
        manifest = read_json(self.folder / MANIFEST, EXTRACT_AGAIN)
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
            report = read_json(path.with_suffix(".json"), EXTRACT_AGAIN)
            num_rows = len(load_shard(path)) + len(report["bad"])
            if num_rows != len(self.row_numbers(shard)):
                raise UserError(
                    f"{path}: holds other rows than {path.with_suffix('.json').name} says; {EXTRACT_AGAIN}"
                )
            bad.update(dict(report["bad"]))
        return bad


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
