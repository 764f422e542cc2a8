"""What the annotation files of a split hold: item by item, or in chunks of columns."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.table import Chunk


class Item(NamedTuple):
    """One video. path: absolute or under data_dir, as listed; captions: all of them; start, end: of a segment, in s."""

    id: str
    path: str
    captions: Sequence[str]
    start: float | None = None
    end: float | None = None


@dataclass
class Annotations:
    """The annotations of one split, as a data set returns them.

    items: all videos, read once. chunks: the same in columns {"id", "path", "caption", "count", "start", "end"}, in
    place of items, for millions of rows (see `Table.from_columns`). Both may be generators: they are not read where
    the table is cached.
    layout: which of its known layouts the data set is in, in words for the log.
    protocol: name in PROTOCOLS; None if the counts of the split are not published.
    validates_on_test: the requested split does not exist and the test split is used in its place.
    sources: the files that are read; the table of large ones is cached (see `load_table`).
    parser_version: raise it when the same files give other columns. options: settings of the data set that change its
    columns (plain data); with the sources they are the cache's key.
    remarks: appended to `layout`; may be filled while the videos are read.
    left_out: what the files hold and the data set does not use; may be filled while the videos are read.
    with_captions: false: captions are not used, and blank ones stay.
    """

    items: Iterable[Item] = ()
    layout: str = ""
    protocol: str | None = None
    validates_on_test: bool = False
    chunks: Iterable[Chunk] | None = None
    sources: Sequence[Path] = ()
    parser_version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    with_captions: bool = True

    def columns(self) -> Iterable[Chunk]:
        """The videos as chunks of columns, without blank captions and the videos that have no other."""
        chunks = to_chunks(self.items) if self.chunks is None else self.chunks
        if not self.with_captions:
            return chunks
        return (without_blank_captions(chunk, self.left_out) for chunk in chunks)

    def notes(self) -> dict[str, Any]:
        """What is stored beside the table; complete once `columns` was read."""
        notes: dict[str, Any] = {
            "layout": self.layout + "".join(self.remarks),
            "protocol": self.protocol,
            "validates_on_test": self.validates_on_test,
        }
        if left_out := self.left_out.counts():
            notes["left_out"] = left_out
        return notes


def to_chunks(items: Iterable[Item], size: int = 50_000) -> Iterator[Chunk]:
    """Items -> chunks of columns for a `Table`, `size` rows each."""
    remaining = iter(items)
    while rows := list(islice(remaining, size)):
        yield {
            "id": [item.id for item in rows],
            "path": [item.path for item in rows],
            "caption": [caption for item in rows for caption in item.captions],
            "count": [len(item.captions) for item in rows],
            "start": [_nan_if_none(item.start) for item in rows],
            "end": [_nan_if_none(item.end) for item in rows],
        }


def without_blank_captions(chunk: Chunk, left_out: LeftOut) -> Chunk:
    """`chunk` without captions of white space and without videos that have no other; `left_out` counts both.

    Videos without any caption stay.
    """
    captions = list(chunk["caption"])
    if all(map(str.strip, captions)):
        return {**chunk, "caption": captions}

    counts = chunk.get("count", [1] * len(captions))
    kept_captions: list[str] = []
    kept_counts: list[int] = []
    kept_videos: list[bool] = []
    remaining = iter(captions)
    for count in counts:
        captions_of_video = [
            caption for caption in islice(remaining, count) if caption.strip()
        ]
        kept_videos.append(bool(captions_of_video) or not count)
        if kept_videos[-1]:
            kept_captions += captions_of_video
            kept_counts.append(len(captions_of_video))
            left_out.add("blank captions", count - len(captions_of_video))

    left_out.add("videos with blank captions alone", kept_videos.count(False))
    columns = {
        name: list(compress(column, kept_videos))
        for name, column in chunk.items()
        if name not in ("caption", "count")
    }
    columns["caption"] = kept_captions
    if "count" in chunk:
        columns["count"] = kept_counts
    return columns


def _nan_if_none(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds
