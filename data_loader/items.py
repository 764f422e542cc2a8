"""What an annotation file says of one video."""
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from data_loader.table import Chunk


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
        start, end = ([float("nan") if item[place] is None else item[place] for item in part] for place in (3, 4))
        yield {"id": [item.id for item in part], "path": [item.path for item in part],
               "caption": [caption for item in part for caption in item.captions],
               "count": [len(item.captions) for item in part], "start": start, "end": end}
