"""Which folders, or tar files, hold which split, by their names."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from data_loader.annotations.file_lookup import entry_is_folder, is_foreign
from parse_config import UserError

log = logging.getLogger(__name__)
SPLIT_WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "valset", "dev"),
    "test": ("test", "testing", "testset"),
}
SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# words that may stand beside that of the split: train_videos
NEUTRAL_WORDS = {
    "video",
    "videos",
    "clip",
    "clips",
    "image",
    "images",
    "picture",
    "pictures",
    "set",
    "split",
    "data",
    "shard",
    "shards",
}


def split_of_folder(name: str) -> str | None:
    """The split that a folder's name says (Train, training, train_videos), or None."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    splits = [SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD]
    other_words = {word for word in words if word not in SPLIT_OF_WORD}
    if len(splits) == 1 and other_words <= NEUTRAL_WORDS:
        return splits[0]
    return None


def split_of_file(name: str) -> str | None:
    """The split that a file's name begins with (train-000.tar, train_000.tar), or None."""
    first_word = re.split(r"[\W_\d]+", name.lower())[0]
    return SPLIT_OF_WORD.get(first_word)


def subfolder_names(folder: str | os.PathLike) -> list[str]:
    """Names of the folders directly in `folder`, without hidden ones and those of other programs, sorted."""
    with os.scandir(Path(folder)) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not is_foreign(entry.name) and entry_is_folder(entry)
        )


def split_folders(top: str | os.PathLike, names: Iterable[str]) -> dict[str, str]:
    """{split: the one of the folders `names` in `top` that holds it}; UserError if two are named for one split."""
    folders: dict[str, str] = {}
    for name in names:
        split = split_of_folder(name)
        if split is None:
            continue
        if split in folders:
            raise UserError(
                f"{os.fspath(top)}: {folders[split]} and {name} are both named for split {split!r}; "
                "leave one, or move the files of both into it"
            )
        folders[split] = name
    return {split: folders[split] for split in SPLIT_WORDS if split in folders}


def warn_of_other_split(name: str, data_dir: str, split: str) -> None:
    """Log that a whole folder is read as `split` of the data set `name`, though it is named for another split."""
    folder = os.path.basename(os.path.abspath(data_dir))
    if split_of_folder(folder) not in (None, split):
        log.warning(
            "%s: all of data_dir is read, and it is called %s; data_dir is the folder above those of the splits",
            name,
            folder,
        )


def require_no_splits_below(top: str | os.PathLike, paths: Iterable[str]) -> None:
    """UserError if folders of two splits lie side by side among `paths` (under `top`): the one above is the data set.

    Otherwise the clips of all splits would be in each of them.
    """
    names_below: dict[str, set[str]] = {}
    for path in paths:
        components = path.split(os.sep)
        for depth in range(1, len(components)):
            folder = os.sep.join(components[:depth])
            names_below.setdefault(folder, set()).add(components[depth])

    for folder in sorted(names_below):
        below = os.path.join(top, folder)
        splits = split_folders(below, sorted(names_below[folder]))
        if len(splits) > 1:
            raise UserError(
                f"{os.fspath(top)}: no split has a folder here, but {' and '.join(sorted(splits.values()))} "
                f"lie below; set data_dir to {below}"
            )
