"""Which videos of a table a run uses: the requested share, less missing files; and what the protocol expects."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from data_loader import seeding
from data_loader.annotations.file_lookup import FileLookup, find_file
from data_loader.annotations.left_out import left_out_text
from data_loader.annotations.media_folders import describe_nearby
from data_loader.annotations.packed_strings import LazyStrings
from data_loader.annotations.protocols import PROTOCOLS
from data_loader.annotations.table import Table
from data_loader.file_kind import describe_absent_folder, describe_file, describe_path
from parse_config import ConfigError, UserError

log = logging.getLogger(__name__)
FEW_MISSING = 0.05  # share below which missing videos are not looked for elsewhere
NUM_SAMPLES = 100  # videos that are looked for where not every one is
FOOTAGE_HINT = "with_captions false trains masked visual modeling alone on such footage"


class Size(NamedTuple):
    """Numbers of videos and of their captions."""

    videos: int
    captions: int


class VideoSelection:
    """The rows of `table` that a run uses, numbered 0..len - 1 ("video index").

    Ids, paths and captions are read from the table when they are indexed: of millions of videos, only the row numbers
    are held here.

    root: the folder that listed paths are under. name: of the data set, for messages.
    rows: int64 (videos,) row in the table of each video.
    missing: files that do not exist, as the annotations list them; empty before `remove_missing`.
    left_out: reason -> number of the videos that are in the table and not here.
    """

    def __init__(self, table: Table, root: str, name: str) -> None:
        self.table = table
        self.root = root
        self.name = name
        self.rows = torch.arange(len(table))
        self.missing: list[str] = []
        self.left_out: Counter[str] = Counter()

        # counts before missing files were removed
        self._listed_size = self._size()
        # what `keep` left out
        self._left_out = Size(0, 0)
        # whether every file was looked for
        self._files_exist = False
        # row -> path, where it is not the listed one
        self._renamed: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, mask: torch.Tensor) -> None:
        """Keep the videos of a bool mask (videos,); a protocol's numbers are then expected less the others."""
        before = self._size()
        self.rows = self.rows[mask]
        self._listed_size = self._size()
        self._left_out = Size(
            before.videos - len(self), before.captions - self._listed_size.captions
        )

    def subsample(self, share: float, need_captions: bool) -> None:
        """Keep a share of the videos, the same ones in each run; those of 0.1 are among those of 0.2.

        share: above 0, 1 at most; anything else raises ConfigError.
        need_captions: keep only videos that have a caption.
        Raises UserError if no video is left.
        """
        if not 0 < share <= 1:
            raise ConfigError(
                f"subsample: {share!r} is given, a share above 0 and up to 1 is needed"
            )
        if share < 1:
            count = max(1, round(len(self) * share))
            before = len(self)
            drawn = seeding.permutation(len(self), 0)[:count].sort().values
            self.rows = self.rows[drawn]
            self.left_out[f"videos beyond the share of {share:g}"] = before - count

        if need_captions and self.table.caption_offsets is not None:
            has_caption = self._caption_counts() > 0
            if not has_caption.all():
                count = int((~has_caption).sum())
                self.left_out["videos without a caption"] = count
                log.warning(
                    "%s: %d videos without a caption are left out", self.name, count
                )
            if len(self) and not has_caption.any():
                raise UserError(f"{self.name}: no video has a caption; {FOOTAGE_HINT}")
            self.rows = self.rows[has_caption]

        if not len(self):
            reasons = left_out_text(self.table.notes.get("left_out", {}))
            raise UserError(
                f"{self.name}: there are no videos in the annotations, {reasons}"
            )
        self._listed_size = self._size()

    def remove_missing(self, strict: bool) -> None:
        """Look for every file, listing each folder once, and leave out videos without one.

        Raises FileNotFoundError if all are missing, or, if `strict`, any.
        """
        exists = torch.ones(len(self), dtype=torch.bool)
        lookup = FileLookup(self.root)

        for index, row in enumerate(self._iterate_rows()):
            listed = self.table.path[row]
            path = lookup.find(listed)
            if path is None:
                exists[index] = False
                self.missing.append(listed)
            elif path != os.path.join(self.root, listed):
                self._renamed[row] = path

        if lookup.choices:
            taken, alternative = lookup.choices[0]
            log.warning(
                "%s: several files fit %d of the listed videos; %s is taken, not %s",
                self.name,
                len(lookup.choices),
                taken,
                alternative,
            )
        if self.missing:
            self.left_out["videos without a file"] = len(self.missing)
            self._report_missing(strict)
        self.rows = self.rows[exists]
        self._files_exist = True

    def require_some(self) -> None:
        """FileNotFoundError if none of `NUM_SAMPLES` videos exists: cheap where not every file is looked for."""
        step = max(1, len(self) // NUM_SAMPLES)
        listed = [
            self.table.path[row] for row in self.rows[::step][:NUM_SAMPLES].tolist()
        ]
        if any(find_file(self.root, path) is not None for path in listed):
            return
        raise FileNotFoundError(
            f"{self.name}: none of {len(listed)} videos that were looked for is in {self.root}: "
            f"{', '.join(listed[:3])}{self._missing_hint(listed)}"
        )

    def _report_missing(self, strict: bool) -> None:
        """Log a warning, or raise FileNotFoundError if all are missing, or any and `strict`."""
        examples = ", ".join(self.missing[:3])
        if len(self.missing) > 3:
            examples += ", ..."

        message = (
            f"{self.name}: {len(self.missing)} of {len(self)} videos are not in {self.root}: "
            f"{examples}{self._missing_hint(self.missing)}"
        )
        if len(self.missing) == len(self):
            raise FileNotFoundError(message)
        if strict:
            raise FileNotFoundError(
                message + '; video_params.loading "skip" goes on without them'
            )
        log.warning("%s", message)

    def _missing_hint(self, missing: Sequence[str]) -> str:
        """What is wrong with the first of the missing paths, or where files of those names are; or an empty text."""
        if not os.path.isdir(self.root):
            return f"; {self.root} {describe_absent_folder(self.root)}"
        reason = describe_path(missing[0])
        if not reason:
            reason = describe_file(os.path.join(self.root, missing[0]))
        if reason:
            return f"; {missing[0]} {reason}"
        if len(missing) < FEW_MISSING * len(self):
            return ""
        return describe_nearby(self.root, missing)

    def compare_with_protocol(
        self, protocol: str | None, strict: bool
    ) -> dict[str, Any]:
        """Numbers of videos and captions beside the expected ones, and the missing files.

        protocol: name in PROTOCOLS, whose numbers are expected; None: those of the annotations.
        strict: raise ConfigError if the numbers differ; otherwise a warning is logged.
        """
        assert protocol is None or protocol in PROTOCOLS, protocol
        expected = self._listed_size
        if protocol is not None:
            expected = Size(
                PROTOCOLS[protocol].videos - self._left_out.videos,
                PROTOCOLS[protocol].captions - self._left_out.captions,
            )

        actual = self._size()
        if actual != expected:
            gallery = (
                self.name if protocol is None else f"{self.name}, protocol {protocol}"
            )
            message = (
                f"{gallery}: {actual.videos} of {expected.videos} videos, "
                f"{actual.captions} of {expected.captions} captions"
            )
            if strict:
                raise ConfigError(message + "; strict_protocol refuses that")
            log.warning("%s", message)

        return {
            "num_videos": actual.videos,
            "num_captions": actual.captions,
            "expected_videos": expected.videos,
            "expected_captions": expected.captions,
            "missing": self.missing,
        }

    def find_path(self, index: int) -> str | None:
        """Path of the file of video `index`; None if it does not exist.

        Costs no access to the disk after `remove_missing`.
        """
        path = self._path(index)
        if self._files_exist or os.path.isfile(path):
            return path
        return find_file("", path)

    def segment(self, index: int) -> tuple[float | None, float | None]:
        """(start, end) of video `index` in its file, in seconds; None where there is none."""
        return self.table.segment(int(self.rows[index]))

    def captions_of(self, index: int) -> Sequence[str]:
        """The captions of video `index`."""
        caption_range = self.table.caption_range(int(self.rows[index]))

        def get(position: int) -> str:
            return self.table.caption[caption_range[position]]

        return LazyStrings(len(caption_range), get)

    @property
    def ids(self) -> Sequence[str]:
        """Id of each video."""

        def get(index: int) -> str:
            return self.table.id[int(self.rows[index])]

        return LazyStrings(len(self), get)

    @property
    def paths(self) -> Sequence[str]:
        """Path of each video: of the existing file after `remove_missing`, before it as listed."""
        return LazyStrings(len(self), self._path)

    def listed_path(self, index: int) -> str:
        """Path of video `index` as the annotations list it."""
        return self.table.path[int(self.rows[index])]

    def listed_paths(self) -> Iterator[str]:
        """Path of each video as listed: quick, for millions of them."""
        rows = self.rows.numpy()
        if len(rows) == len(self.table):
            yield from self.table.path
            return
        is_selected = np.zeros(len(self.table), bool)
        is_selected[rows] = True
        yield from itertools.compress(self.table.path, is_selected)

    def _path(self, index: int) -> str:
        row = int(self.rows[index])
        return self._renamed.get(row) or os.path.join(self.root, self.table.path[row])

    @property
    def captions(self) -> Sequence[str]:
        """All captions, video by video."""
        rows = self._caption_rows

        def get(index: int) -> str:
            return self.table.caption[int(rows[index])]

        return LazyStrings(len(rows), get)

    @cached_property
    def owner(self) -> torch.Tensor:
        """int64 (captions,): the index of the video that each caption belongs to."""
        return torch.repeat_interleave(torch.arange(len(self)), self._caption_counts())

    @cached_property
    def _caption_rows(self) -> torch.Tensor:
        """int64 (captions,): index in `table.caption` of each caption."""
        if self.table.caption_offsets is None:
            return self.rows

        counts = self._caption_counts()
        first_in_table = torch.from_numpy(np.array(self.table.caption_offsets[:-1]))[
            self.rows
        ]
        first_in_selection = torch.cumsum(counts, 0) - counts
        shift = first_in_table - first_in_selection
        return torch.arange(len(self.owner)) + shift[self.owner]

    def _caption_counts(self) -> torch.Tensor:
        """int64 (videos,): how many captions each video has."""
        return torch.from_numpy(self.table.caption_counts())[self.rows]

    def _iterate_rows(self) -> Iterator[int]:
        # in pieces: a list of all rows would be a Python object per row
        return itertools.chain.from_iterable(
            piece.tolist() for piece in self.rows.split(1 << 16)
        )

    def _size(self) -> Size:
        if self.table.caption_offsets is None:
            return Size(len(self), len(self))
        return Size(len(self), int(self._caption_counts().sum()))
