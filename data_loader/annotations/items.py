"""What annotation files say of videos: item by item, or in columns."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.annotations.table import Chunk, Table
from data_loader.annotations.table_cache import SMALL, cache_folder, cached


class Item(NamedTuple):
    """One video. path: absolute or under data_dir, as listed; captions: all of them; start, end: seconds of a cut."""

    id: str
    path: str
    captions: Sequence[str]
    start: float | None = None
    end: float | None = None


def chunks(items: Iterable[Item], size: int = 50_000) -> Iterator[Chunk]:
    """Items -> chunks of columns for a `Table`."""
    items = iter(items)
    while part := list(islice(items, size)):
        start, end = (
            [float("nan") if item[place] is None else item[place] for item in part]
            for place in (3, 4)
        )
        yield {
            "id": [item.id for item in part],
            "path": [item.path for item in part],
            "caption": [caption for item in part for caption in item.captions],
            "count": [len(item.captions) for item in part],
            "start": start,
            "end": end,
        }


class Annotations:
    """The part of a data set that its subclass writes: `items`, or for millions of rows `columns`; `sources` if what
    they find is worth keeping. Has data_dir, split, cut."""

    version = 1  # of a subclass's parser: raise it when the same files give other columns
    options: Mapping[
        str, Any
    ] = {}  # a subclass's own settings that change its columns (plain data)
    layout = ""  # set while parsing: which layout was found, in words for the log
    protocol: str | None = None  # set while parsing: name in PROTOCOLS
    validates_on_test = (
        False  # set while parsing: the split asked for does not exist, the test split stands in
    )

    def items(self) -> Iterable[Item]:
        """All videos of `self.split`. Sets `self.layout` and, for a gallery, `self.protocol`."""
        raise TypeError(f"{type(self).__name__} defines neither items nor columns")

    def columns(self) -> Iterable[Chunk]:
        """`items` as chunks of columns {"id", "path", "caption", "count", "start", "end"}, see `Table.from_columns`."""
        return chunks(self.items())

    def sources(self) -> Sequence[Path]:
        """The files that `columns` reads, called first; what is parsed from large ones is kept (see `cached`)."""
        return ()

    def parse(self, cache_dir: str | None = None) -> Table:
        """The table of `self.split`: in memory, or mapped from what was kept in `cache_dir`."""
        sources = self.sources()
        settings = [
            self.version,
            os.path.abspath(self.data_dir),
            self.split,
            self.cut,
            self.layout,
            dict(self.options),
        ]
        if sum(path.stat().st_size for path in sources) > SMALL:
            table = cached(
                cache_folder(cache_dir),
                type(self).__name__,
                sources,
                settings,
                self.columns,
                self._notes,
            )
        else:
            table = Table.from_chunks(self.columns(), self._notes)
        for name, value in table.notes.items():
            setattr(self, name, value)
        return table

    def _notes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("layout", "protocol", "validates_on_test")}
