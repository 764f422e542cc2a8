"""Which of its known layouts a data set is in; its readers are those of `text_files` and `delimited`."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_loader.annotations.delimited import first_row_is_header, read_csv, read_tsv
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.shapes import expect, expect_texts
from data_loader.annotations.split_folders import subfolder_names
from data_loader.annotations.text_files import (
    read_json,
    read_lines,
    read_numbered_lines,
    read_pickle,
    read_text,
)
from data_loader.file_kind import describe_absent_folder
from parse_config import UserError

__all__ = [
    "caption_texts",
    "find_layout",
    "first_row_is_header",
    "look_up_listed",
    "read_csv",
    "read_json",
    "read_lines",
    "read_numbered_lines",
    "read_pickle",
    "read_text",
    "read_tsv",
    "search_folders",
]
log = logging.getLogger(__name__)


def search_folders(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Each of `folders`, followed by the folders directly below it, without hidden ones and those of other programs.

    FileNotFoundError, saying what is there instead, if one of `folders` is no folder.
    """
    searched: list[Path] = []
    for folder in dict.fromkeys(os.fspath(folder) for folder in folders):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder or repr(folder)}: {describe_absent_folder(folder)}; data_dir and metadata_dir say where the "
                "data set lies"
            )
        root = Path(folder)
        searched += [root, *(root / name for name in subfolder_names(root))]
    return searched


def find_layout(
    dataset: str,
    folders: Iterable[str | os.PathLike],
    layouts: Mapping[str, Sequence[str]],
) -> tuple[str, list[Path]]:
    """That of `layouts` (its name -> its files) of which all files exist -> (name, paths of the files).

    Each file is looked for in `search_folders(folders)`. What lies in the first of `folders` comes before the second,
    and in a folder itself before the folders below it, which may hold older copies; among equals the first layout.
    Raises FileNotFoundError that lists what was looked for.
    dataset: data set and split, for the message.
    """
    roots = list(dict.fromkeys(os.fspath(folder) for folder in folders))
    searched = search_folders(roots)
    distances = _distances(roots, searched)
    complete: list[tuple[int, str, list[Path]]] = []
    for name, files in layouts.items():
        homes = [
            home for file in files if (home := _first_with(searched, file)) is not None
        ]
        if files and len(homes) == len(files):
            distance = max(distances[home] for home in homes)
            complete.append((distance, name, homes))

    if complete:
        nearest = min(distance for distance, _, _ in complete)
        _, name, homes = next(layout for layout in complete if layout[0] == nearest)
        paths = []
        for home, file in zip(homes, layouts[name]):
            paths.append(home / file)
            _warn_of_copies(home, file, distances)
        return name, paths

    descriptions = [
        name if list(files) == [name] else f"{name}: {', '.join(files)}"
        for name, files in layouts.items()
    ]
    looked_for = "; ".join(descriptions) or "nothing, no layout has that split"
    raise FileNotFoundError(
        f"{' and '.join(roots)}: no annotations of {dataset} here nor in a "
        f"folder below; looked for {looked_for}"
    )


def _distances(roots: Sequence[str], searched: Sequence[Path]) -> dict[Path, int]:
    """How late each of the searched folders comes: the first root, the folders below it, the second root, ..."""
    distances: dict[Path, int] = {}
    for number, root in enumerate(roots):
        for folder in searched:
            if folder == Path(root):
                distances.setdefault(folder, 2 * number)
            elif folder.parent == Path(root):
                distances.setdefault(folder, 2 * number + 1)
    return distances


def _first_with(folders: Sequence[Path], file: str) -> Path | None:
    """The first of `folders` that has `file`."""
    return next((folder for folder in folders if (folder / file).is_file()), None)


def _warn_of_copies(home: Path, file: str, distances: Mapping[Path, int]) -> None:
    """Log that `file`, which was found in `home`, is in another folder that is as near."""
    for folder, distance in distances.items():
        is_as_near = distance == distances[home] and folder != home
        if is_as_near and (folder / file).is_file():
            log.warning(
                "%s is read, and not %s; metadata_dir can say which",
                home / file,
                folder / file,
            )
            return


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
