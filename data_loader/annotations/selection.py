"""Which rows of a table take part: the share asked for, less what is missing on disk; and what a protocol expects."""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from data_loader import seeding
from data_loader.annotations.file_lookup import find, find_all
from data_loader.annotations.packed_strings import Lazy
from data_loader.annotations.protocols import PROTOCOLS
from data_loader.annotations.table import Table
from parse_config import ConfigError, UserError

log = logging.getLogger(__name__)


class Gallery:
    """The rows of `table` that a run uses, numbered 0..len - 1.

    rows: int64 (videos,) places in the table. listed: (videos, captions) before missing files were taken out.
    missing: names of the files that are not there, as the annotations list them; empty where nobody looked.
    """

    def __init__(self, table: Table, root: str, name: str):
        self.table, self.root, self.name = table, root, name
        self.rows = torch.arange(len(table))
        self.missing: list[str] = []
        self._looked = False
        self._elsewhere: dict[int, str] = {}  # row -> path, where it is not the listed one

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, subsample: float, need_captions: bool) -> None:
        """Keep the share `subsample` of the videos, the same in each run, 0.1 within 0.2; and, if `need_captions`,
        only videos that have one."""
        if not 0 < subsample <= 1:
            raise ConfigError(
                f"subsample: {subsample!r} is given, a share above 0 and up to 1 is needed"
            )
        if subsample < 1:
            kept = max(1, round(len(self) * subsample))
            self.rows = seeding.permutation(len(self), 0)[:kept].sort().values
        if need_captions and self.table.first is not None:
            told = torch.from_numpy(self.table.counts())[self.rows] > 0
            if not told.all():
                log.warning(
                    "%s: %d videos without a caption are left out", self.name, int((~told).sum())
                )
            self.rows = self.rows[told]
        if not len(self):
            raise UserError(f"{self.name}: there are no videos in the annotations")
        self.listed = self._size()

    def look(self, strict: bool) -> None:
        """Look for every file, listing each folder once. FileNotFoundError if all are missing, or any and `strict`."""
        there = torch.ones(len(self), dtype=torch.bool)
        paths = find_all(self.root, (self.table.path[row] for row in self._each_row()))
        for index, (row, path) in enumerate(zip(self._each_row(), paths)):
            listed = self.table.path[row]
            if path is None:
                there[index] = False
                self.missing.append(listed)
            elif path != os.path.join(self.root, listed):
                self._elsewhere[row] = path
        if self.missing:
            few = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
            text = f"{self.name}: {len(self.missing)} of {len(self)} videos are not in {self.root}: {few}"
            if len(self.missing) == len(self):
                raise FileNotFoundError(text)
            if strict:
                raise FileNotFoundError(text + '; video_params.loading "skip" goes on without them')
            log.warning("%s", text)
        self.rows, self._looked = self.rows[there], True

    def count(self, protocol: str | None, strict: bool) -> dict[str, Any]:
        """What is there beside what the protocol (without one: the annotations) lists; ConfigError if they differ and
        `strict`."""
        assert protocol is None or protocol in PROTOCOLS, protocol
        expected = tuple(PROTOCOLS[protocol][1:]) if protocol else self.listed
        here = self._size()
        if here != expected:
            text = (
                f"{self.name}{f', protocol {protocol}' if protocol else ''}: {here[0]} of {expected[0]} videos, "
                f"{here[1]} of {expected[1]} captions"
            )
            if strict:
                raise ConfigError(text + "; strict_protocol refuses that")
            log.warning("%s", text)
        return {
            "num_videos": here[0],
            "num_captions": here[1],
            "expected_videos": expected[0],
            "expected_captions": expected[1],
            "missing": self.missing,
        }

    def path(self, index: int) -> str | None:
        """Where the file of video `index` is; None if it is not there."""
        listed = self.paths[index]
        return listed if self._looked or os.path.isfile(listed) else find("", listed)

    @property
    def ids(self) -> Sequence[str]:
        """Id of each video."""
        return Lazy(len(self), lambda index: self.table.id[int(self.rows[index])])

    @property
    def paths(self) -> Sequence[str]:
        """Path of each video: found, or, where nobody looked, as listed."""
        return Lazy(len(self), self._path)

    def _path(self, index: int) -> str:
        row = int(self.rows[index])
        return self._elsewhere.get(row) or os.path.join(self.root, self.table.path[row])

    def _each_row(self) -> Iterator[int]:
        return itertools.chain.from_iterable(part.tolist() for part in self.rows.split(1 << 16))

    @cached_property
    def owner(self) -> torch.Tensor:
        """int64 (captions,): the number of the video that each caption belongs to."""
        return torch.repeat_interleave(
            torch.arange(len(self)), torch.from_numpy(self.table.counts())[self.rows]
        )

    @cached_property
    def _places(self) -> torch.Tensor:
        if self.table.first is None:
            return self.rows
        counts = torch.from_numpy(self.table.counts())[self.rows]
        offset = torch.from_numpy(np.array(self.table.first[:-1]))[self.rows] - (
            torch.cumsum(counts, 0) - counts
        )
        return torch.arange(len(self.owner)) + offset[self.owner]

    @property
    def captions(self) -> Sequence[str]:
        """All captions, video by video."""
        return Lazy(len(self._places), lambda index: self.table.caption[int(self._places[index])])

    def _size(self) -> tuple[int, int]:
        one_each = self.table.first is None
        return len(self), len(self) if one_each else int(
            self.table.counts()[self.rows.numpy()].sum()
        )
