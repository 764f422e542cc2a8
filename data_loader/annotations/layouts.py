"""Which of its known layouts a data set is in; its readers are those of `text_files` and `delimited`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_loader.annotations.delimited import first_row_is_header, read_csv, read_tsv
from data_loader.annotations.file_lookup import find_files
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.shapes import expect, expect_texts
from data_loader.annotations.text_files import (
    read_json,
    read_lines,
    read_numbered_lines,
    read_pickle,
    read_text,
)
from parse_config import UserError

__all__ = [
    "caption_texts",
    "find_layout",
    "first_row_is_header",
    "look_up_listed",
    "media_folder",
    "read_csv",
    "read_json",
    "read_lines",
    "read_numbered_lines",
    "read_pickle",
    "read_text",
    "read_tsv",
    "search_folders",
]


def search_folders(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """`folders`, then every folder directly below them. FileNotFoundError if one of `folders` does not exist."""
    roots = [
        Path(folder)
        for folder in dict.fromkeys(os.fspath(folder) for folder in folders)
    ]
    absent = [root for root in roots if not root.is_dir()]
    if absent:
        raise FileNotFoundError(
            f"{absent[0]}: no such folder; data_dir and metadata_dir say where the data set lies"
        )
    subfolders: list[Path] = []
    for root in roots:
        with os.scandir(root) as entries:
            subfolders += sorted(
                Path(entry.path) for entry in entries if entry.is_dir()
            )

    return roots + subfolders


def find_layout(
    dataset: str,
    folders: Iterable[str | os.PathLike],
    layouts: Mapping[str, Sequence[str]],
) -> tuple[str, list[Path]]:
    """The first of `layouts` (its name -> its files) of which all files exist -> (name, paths of the files).

    Each file is looked for in `search_folders(folders)`. Raises FileNotFoundError that lists what was looked for.
    dataset: data set and split, for the message.
    """
    searched = search_folders(folders)
    for name, files in layouts.items():
        paths = [
            path for file in files if (path := _first_file(searched, file)) is not None
        ]
        if len(paths) == len(files):
            return name, paths

    descriptions = [
        name if list(files) == [name] else f"{name}: {', '.join(files)}"
        for name, files in layouts.items()
    ]
    looked_for = "; ".join(descriptions) or "nothing, no layout has that split"
    raise FileNotFoundError(
        f"{' and '.join(dict.fromkeys(map(str, folders)))}: no annotations of {dataset} here nor in a "
        f"folder below; looked for {looked_for}"
    )


def _first_file(folders: Iterable[Path], file: str) -> Path | None:
    return next(
        (folder / file for folder in folders if (folder / file).is_file()), None
    )


def media_folder(
    root: str | os.PathLike, folders: Sequence[str], names: Sequence[str]
) -> str:
    """That of `folders` (under root) with most of the first 200 files `names`; the first folder if none has any."""

    def count_files(folder: str) -> int:
        paths = find_files(os.path.join(root, folder), names[:200])
        return sum(path is not None for path in paths)

    return max(folders, key=count_files)


def caption_texts(captions: Any, source: Path, where: str) -> list[str]:
    """A list of captions, each a text or a list of its words -> texts; UserError for another shape."""
    return [
        " ".join(expect_texts(caption, source, f"{where}[{number}]"))
        for number, caption in enumerate(expect(captions, list, source, where))
    ]


def look_up_listed(
    names: Iterable[str], captions: Any, source: Path, left_out: LeftOut
) -> dict[str, Any]:
    """{name: its captions} in the order of `names`; UserError if `source`, which has them, lacks some.

    left_out: counts names that are listed again.
    """
    names = list(names)
    captions = expect(captions, dict, source)
    listed = {name: captions.get(name) for name in names}
    left_out.add("names that are listed twice", len(names) - len(listed))
    absent = [name for name, captions_of_name in listed.items() if not captions_of_name]
    if absent:
        raise UserError(
            f"{source}: no captions for {len(absent)} of {len(listed)} listed videos, {absent[0]!r} first; "
            "lists and captions must come from one release"
        )
    return listed
