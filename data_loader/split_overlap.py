"""One warning where a run validates on clips that it trains on."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from data_loader.base import TextVideoDataset

log = logging.getLogger(__name__)
# videos of both splits up to which every file is compared by its inode, so that links and other names are known
MAX_COMPARED = 20_000
# a file on disk (device and inode, or the path of one that is not there), and the part of it that is read
Identity = tuple[Any, str]


class Overlap(NamedTuple):
    """Validation clips that training uses too.

    clips: indices of those whose seconds are trained on. other_seconds: of those of which only other seconds of the
    same file are. example: path of the first. trained_by: names of the training data sets that have them.
    """

    clips: list[int]
    other_seconds: list[int]
    example: str
    trained_by: list[str]


def warn_of_shared_clips(train_loaders: Iterable[Any], valid_loader: Any) -> None:
    """Log one warning if clips of `valid_loader` (None: there is none) are also clips of `train_loaders`."""
    validation = getattr(valid_loader, "dataset", None)
    if not isinstance(validation, TextVideoDataset):
        return

    data_sets = [getattr(loader, "dataset", None) for loader in train_loaders]
    trainings = [data for data in data_sets if isinstance(data, TextVideoDataset)]
    overlap = find_overlap(trainings, validation)
    if overlap is not None:
        log.warning("%s", _describe(overlap, validation))


def _describe(overlap: Overlap, validation: TextVideoDataset) -> str:
    total = len(validation)
    counts = []
    if overlap.clips:
        counts.append(f"{len(overlap.clips)} of {total} clips are also trained on")
    if overlap.other_seconds:
        counts.append(
            f"{len(overlap.other_seconds)} of {total} clips are other seconds of files that are trained on"
        )
    return (
        f"{validation.name}: {', and '.join(counts)} ({', '.join(overlap.trained_by)}), such as {overlap.example}; "
        "what is measured on them says nothing of unseen videos: give each split its own files"
    )


def find_overlap(
    trainings: Iterable[TextVideoDataset], validation: TextVideoDataset
) -> Overlap | None:
    """Which clips of `validation` are also in one of `trainings`; None if there are none.

    Files are compared by inode in small data sets. In large ones those that are called alike are; the name of each
    training video is read once, and no file of training is touched otherwise.
    """
    clips_of_file: dict[Identity, list[int]] = defaultdict(list)
    clips: set[int] = set()
    files: set[int] = set()
    trained_by: list[str] = []

    for training in trainings:
        if not clips_of_file:
            for index in range(len(validation)):
                clips_of_file[_identity(validation, index)].append(index)

        shares_files = False
        for index in _candidates(training, validation):
            segment = training.segment(index)
            for shared in clips_of_file.get(_identity(training, index), ()):
                shares_files = True
                files.add(shared)
                if _overlap_in_time(segment, validation.segment(shared)):
                    clips.add(shared)
        if shares_files:
            trained_by.append(training.name)

    if not files:
        return None
    example = validation.paths[min(clips or files)]
    return Overlap(sorted(clips), sorted(files - clips), example, trained_by)


def _candidates(
    training: TextVideoDataset, validation: TextVideoDataset
) -> Iterable[int]:
    """Indices of the videos of `training` that `validation` may share."""
    if len(training) + len(validation) > MAX_COMPARED:
        return _videos_called_alike(training, validation)
    return range(len(training))


def _identity(dataset: TextVideoDataset, index: int) -> Identity:
    path, member = dataset.source_file(index)
    return _file_identity(path), member


@lru_cache(maxsize=1 << 16)
def _file_identity(path: str) -> Any:
    try:
        status = os.stat(path)
    except OSError:
        return os.path.abspath(path)
    return status.st_dev, status.st_ino


def _videos_called_alike(
    training: TextVideoDataset, validation: TextVideoDataset
) -> Iterator[int]:
    """Indices of the videos of `training` whose file name, without folders, `validation` has too."""
    names = {os.path.basename(path) for path in validation.selection.listed_paths()}
    names |= {os.path.basename(path) for path in validation.paths}
    for index, path in enumerate(training.selection.listed_paths()):
        if path.rpartition("/")[2] in names:
            yield index


def _overlap_in_time(
    first: Sequence[float | None], second: Sequence[float | None]
) -> bool:
    """Whether two segments (start, end) of one file have seconds in common; None: from its start, or to its end."""
    first_start, first_end = _seconds(first)
    second_start, second_end = _seconds(second)
    return first_start < second_end and second_start < first_end


def _seconds(segment: Sequence[float | None]) -> tuple[float, float]:
    start, end = segment
    return start or 0.0, float("inf") if end is None else end
