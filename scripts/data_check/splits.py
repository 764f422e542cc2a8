"""Videos and captions that two splits have in common."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from data_loader.base import TextVideoDataset
from data_loader.loader import open_leniently
from parse_config import Config, UserError

SPLITS = ("train", "val", "test")


class Overlap(NamedTuple):
    """Names of two data sets, how many files and caption texts both have, and the first files."""

    first: str
    second: str
    num_files: int
    num_captions: int
    examples: list[str]


def other_splits(
    block: Config, dataset: TextVideoDataset
) -> Iterator[TextVideoDataset]:
    """The other splits of the same data that exist, and are not the same videos under another name."""
    for split in SPLITS:
        if split == dataset.split:
            continue
        candidate = _open_quietly(block, split)
        if candidate is None or candidate.validates_on_test:
            continue
        if len(candidate) != len(dataset) or files_of(candidate) != files_of(dataset):
            yield candidate


def _open_quietly(block: Config, split: str) -> TextVideoDataset | None:
    """The split; None if there is none. What is missing in it is not told: nobody asked for it."""
    changes: dict[str, Any] = {"split": split, "check_files": True}
    if split != "train":
        changes["with_captions"] = True
    logger = logging.getLogger("data_loader")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return open_leniently(block, **changes)
    except (UserError, OSError):
        return None
    finally:
        logger.setLevel(level)


def files_of(dataset: TextVideoDataset) -> set[str]:
    """The files of a data set; several videos may be parts of one."""
    return set(map(os.path.normpath, dataset.paths))


def overlap(first: TextVideoDataset, second: TextVideoDataset, count: int) -> Overlap:
    """What both have, and `count` of the files."""
    small, large = sorted((first, second), key=len)
    files = _common(files_of(small), map(os.path.normpath, large.paths))
    captions: set[str] = set()
    if first.with_captions and second.with_captions:
        captions = _common(set(small.captions), large.captions)
    examples = sorted(files)[:count]
    return Overlap(first.name, second.name, len(files), len(captions), examples)


def _common(few: set[str], many: Iterable[str]) -> set[str]:
    """What is in both, without a set of the many."""
    return {text for text in many if text in few}


def overlaps(
    datasets: Sequence[TextVideoDataset],
    others: Sequence[TextVideoDataset],
    count: int,
) -> Iterator[Overlap]:
    """`overlap` of each data set with each of another split."""
    for position, first in enumerate(datasets):
        for second in (*datasets[position + 1 :], *others):
            if first.split != second.split:
                yield overlap(first, second, count)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/check_data.py --help")
