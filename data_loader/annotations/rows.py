"""Rows of tables of any data: one row, as the file has it -> the checked fields of one video."""

import ast
import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_loader.annotations.shapes import describe, require_encodable
from data_loader.file_kind import describe_path
from parse_config import UserError

PATH_KEYS = ("path", "video", "image")
CAPTION_KEYS = ("caption", "captions")
KNOWN_KEYS = (*PATH_KEYS, *CAPTION_KEYS, "id", "split", "start", "end")
# matches a path with "." or an empty part between its slashes
UNNORMALISED = re.compile(r"(?:^|/)\.?(?:/|$)")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f]")
# what a file's name rarely has: a slip, unless there is such a file
UNUSUAL = re.compile(r"[\x00-\x1f\\\ufeff]|:|^~|^\s|\s$")
# how a cell begins that holds a list of texts
LIST_BEGINNINGS = ('["', "['", "[]")


class Segment(NamedTuple):
    """A video, or the seconds from start to end of it."""

    path: str
    start: float | None
    end: float | None

    @property
    def name(self) -> str:
        """Id of a row that has none of its own."""
        if self.start is None and self.end is None:
            return self.path
        end = "" if self.end is None else _shortest(self.end)
        return f"{self.path}#{_shortest(self.start or 0.0)}-{end}"


class Row(NamedTuple):
    """The known fields of one row, by the names of KNOWN_KEYS, its location for messages, and the row as it is."""

    location: str
    fields: Mapping[str, Any]
    values: Mapping[str, Any]

    def split(self) -> str | None:
        """The split in lower case; None where the row names none."""
        value = self.fields.get("split")
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"{self.location}: split: {describe(value)} is no text; write train, val or test"
            )
        return (value or "").strip().lower() or None

    def id(self) -> str | None:
        """The row's own id as text; None where it has none."""
        value = self.fields.get("id")
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, float) and math.isfinite(value):
            return _shortest(value)
        if isinstance(value, str):
            require_encodable(value, f"{self.location}: id")
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise UserError(
            f"{self.location}: id: {describe(value)} is no text and no number; write one, or leave id out"
        )

    def segment(self, root: str) -> Segment:
        """The video and its seconds; `root` is the folder that paths are under."""
        start = self._seconds("start")
        end = self._seconds("end")
        if end is not None and end <= (start or 0.0):
            raise UserError(
                f"{self.location}: end: {end:g} is not after start, {start or 0:g}; both are seconds from the "
                "beginning of the file"
            )
        return Segment(self._path(root), start, end)

    def captions(self, hint: str = "") -> list[str]:
        """The texts of caption and captions; blank ones too, where there is no other.

        hint: what else to do where there is none. Raises UserError for anything that is no text.
        """
        lists = [
            self._texts(key, hint)
            for key in CAPTION_KEYS
            if self.fields.get(key) is not None
        ]
        if not lists:
            raise self._missing_text(CAPTION_KEYS, hint)
        with_text = [texts for texts in lists if any(text.strip() for text in texts)]
        first, *further_lists = with_text or lists[:1]
        return first + [
            text for texts in further_lists for text in texts if text not in first
        ]

    def _texts(self, key: str, hint: str) -> list[str]:
        """The texts of one field. Raises UserError for what is no text and no list of texts."""
        value = self.fields[key]
        if isinstance(value, str):
            value = _parse_list(value, f"{self.location}: {key}")
        if not isinstance(value, list) or not all(
            isinstance(text, str) for text in value
        ):
            raise self._missing_text(CAPTION_KEYS, hint)
        for text in value:
            require_encodable(text, f"{self.location}: {key}")
        return value

    def _path(self, root: str) -> str:
        """The path without "." and doubled slashes, so that one file has one path. Raises UserError."""
        paths: list[str] = []
        for key in PATH_KEYS:
            value = self.fields.get(key)
            if isinstance(value, str):
                paths.append(value)
            elif value is not None:
                raise self._missing_text(PATH_KEYS)
        if not paths:
            raise self._missing_text(PATH_KEYS)

        paths = [path for path in paths if path]
        if not paths:
            raise UserError(
                f"{self.location}: the path is empty; write the name of the file, or remove the row"
            )
        path = paths[0]
        cleaned = _clean_path(path)
        for further_path in paths[1:]:
            if _clean_path(further_path) != cleaned:
                raise UserError(
                    f"{self.location}: {self._named_paths()} are two files; keep one of them"
                )
        self._check_path(path, root)
        if not cleaned.strip("/"):
            raise UserError(
                f"{self.location}: path {describe(path)} names no file; write its name"
            )
        return cleaned

    def _named_paths(self) -> str:
        """ "path 'a.mp4' and video 'b.mp4'"."""
        return " and ".join(
            f"{key} {describe(self.fields[key])}"
            for key in PATH_KEYS
            if self.fields.get(key)
        )

    def _check_path(self, path: str, root: str) -> None:
        """UserError for what hardly is part of a file's name, unless there is such a file."""
        if not path.isascii() or "\0" in path:
            self._require_file_name(path)
        problem = _describe_unusual(path)
        if problem and not os.path.lexists(os.path.join(root, path)):
            raise UserError(f"{self.location}: path {describe(path)} {problem}")

    def _require_file_name(self, path: str) -> None:
        """UserError for NUL and for half a surrogate pair that stands for no byte of a name."""
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            require_encodable(path, f"{self.location}: path")
        if "\0" in path:
            require_encodable(path, f"{self.location}: path")

    def _seconds(self, key: str) -> float | None:
        """A number of seconds, 0 or more, or its text; None for an empty field."""
        value = self.fields.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        seconds = math.nan
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_text = isinstance(value, str) and "_" not in value
        if is_number or is_text:
            with contextlib.suppress(ValueError, OverflowError):
                seconds = float(value)
        if not math.isfinite(seconds) or seconds < 0:
            raise UserError(
                f"{self.location}: {key}: {describe(value)} is no number of seconds; write one of 0 or more, such as "
                f"12.5, or leave {key} out"
            )
        return seconds

    def _missing_text(self, keys: Sequence[str], hint: str = "") -> UserError:
        """The error of a row of which none of `keys` is text."""
        columns = ", ".join(map(describe, self.values)) or "none"
        message = f"{self.location}: no {' or '.join(keys)} that is text; its columns are {columns}"
        return UserError(f"{message}; {hint}" if hint else message)


def parse_row(values: Mapping[str, Any], location: str) -> Row:
    """The known fields of a row: blanks around a key and capitals do not matter.

    Raises UserError if two keys of the row are the same field and differ.
    """
    fields: dict[str, Any] = {}
    for key, value in values.items():
        name = key.strip().lower()
        if name not in KNOWN_KEYS:
            continue
        if name in fields and fields[name] != value:
            raise UserError(
                f"{location}: {name} stands twice, {describe(fields[name])} and {describe(value)}; keep one of them"
            )
        fields[name] = value
    return Row(location, fields, values)


def _parse_list(text: str, location: str) -> list[str]:
    """The texts of a list that is written as text, as in a cell of a table; any other text is one caption."""
    stripped = text.strip()
    if not stripped.startswith("["):
        return [text]
    value: Any = None
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        try:
            # as Python writes a list
            value = ast.literal_eval(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return value
    if isinstance(value, list) or stripped.startswith(LIST_BEGINNINGS):
        raise UserError(
            f"{location}: {describe(text)} begins like a list of texts and is none; write "
            '["a man", "a dog"]'
        )
    return [text]


def _clean_path(path: str) -> str:
    """ "a//./b" -> "a/b"."""
    if not UNNORMALISED.search(path):
        return path
    names = [name for name in path.split("/") if name not in ("", ".")]
    root = "/" if path.startswith("/") else ""
    return root + "/".join(names)


def _describe_unusual(path: str) -> str:
    """What is unusual in the name of a file, with the remedy; "" if nothing is."""
    if not UNUSUAL.search(path):
        return ""
    if path != path.strip():
        return "has blanks around it; remove them"
    if CONTROL_CHARACTER.search(path):
        return (
            "has a line break or tab in it; is a quotation mark before it never closed?"
        )
    if "\ufeff" in path:
        return "has a byte order mark (U+FEFF) in it; remove it"
    return describe_path(path)


def _shortest(number: float) -> str:
    """The shortest text of a number, 3 for 3.0."""
    return repr(number).removesuffix(".0")
