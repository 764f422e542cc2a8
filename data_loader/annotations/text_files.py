"""Annotation files as text, lines, JSON and pickles. A fault is one line that names the file and, in text, the line.

Text is UTF-8, or UTF-16 with a byte order mark. Lines end with \\n, \\r\\n or \\r; the last one may have no end.
"""

import codecs
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_loader.annotations.shapes import describe
from parse_config import UserError

BYTE_ORDER_MARK = "\ufeff"
UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BLOCK = 1 << 20  # bytes
SAVE_AS_UTF8 = 'save it as UTF-8 (a spreadsheet calls that "CSV UTF-8")'


def text_encoding(path: Path) -> str:
    """Name of the encoding, by the byte order mark; UserError for one that is not read."""
    with open(path, "rb") as file:
        mark = file.read(4)
    if mark.startswith(UTF32_MARKS):
        raise UserError(f"{path}: line 1: is UTF-32 text; {SAVE_AS_UTF8}")
    if mark.startswith(UTF16_MARKS):
        return "utf-16"
    return "utf-8-sig"


def iterate_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines with their ends, which `newline` translates or keeps as in `open`.

    Raises UserError that names the line of what is no text: bytes of another encoding, a NUL character, a byte order
    mark that does not begin the file.
    """
    encoding = text_encoding(path)
    number = 0
    try:
        with open(path, encoding=encoding, newline=newline) as file:
            for line in file:
                number += 1
                if "\0" in line:
                    raise UserError(
                        f"{path}: line {number}: holds a NUL character: a damaged file, or UTF-16 without a byte order "
                        f"mark; {SAVE_AS_UTF8}"
                    )
                if line[0] == BYTE_ORDER_MARK:
                    raise UserError(
                        f"{path}: line {number}: begins with a byte order mark (U+FEFF), as where files were joined; "
                        "remove it"
                    )
                yield line
    except UnicodeError:
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise UserError(
            f"{path}: line {_undecodable_line(path, encoding)}: is not {name} text; {SAVE_AS_UTF8}"
        ) from None


def _undecodable_line(path: Path, encoding: str) -> int:
    """Number of the line that has the first undecodable byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line_ends = 0
    last_character = ""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            try:
                text = last_character + decoder.decode(block)
            except UnicodeDecodeError as error:
                decodable = error.object[: error.start].decode(error.encoding, "ignore")
                return line_ends + _count_line_ends(last_character + decodable) + 1
            # the last character is counted with the next block: \r and \n may lie on both sides
            line_ends += _count_line_ends(text[:-1]) - text.endswith("\r\n")
            last_character = text[-1:]
    return line_ends + _count_line_ends(last_character) + 1


def _count_line_ends(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


def read_text(path: Path) -> str:
    """All text, line ends as \\n. Raises UserError as `iterate_lines`."""
    return "".join(iterate_lines(path))


def read_numbered_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line) of the lines that are not blank, without surrounding white space."""
    return [
        (number, stripped)
        for number, line in enumerate(iterate_lines(path), 1)
        if (stripped := line.strip())
    ]


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without surrounding white space."""
    return [line for _, line in read_numbered_lines(path)]


class _FaultyObject(ValueError):
    """An object of JSON that cannot be read; the message says why."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON decoder's (key, value) pairs. Raises _FaultyObject for a key that stands twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in members if keys.count(key) > 1)
        raise _FaultyObject(
            f"the key {describe(twice)} stands twice in one object; keep one"
        )
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


@dataclass(frozen=True)
class _JsonText:
    """Text of `path` from its line `first_line` on; `remedy` is added to errors of syntax."""

    path: Path
    text: str
    first_line: int
    remedy: str

    def parse(self, location: str) -> Any:
        """The JSON value that is all of the text; faults that have no position are put at `location`."""
        value, end = self.decode(0, location)
        self.require_end(end)
        return value

    def decode(self, start: int, location: str) -> tuple[Any, int]:
        """The JSON value that begins at or after `start`, and where it ends."""
        try:
            return _DECODER.raw_decode(self.text, self.skip_blanks(start))
        except json.JSONDecodeError as error:
            raise self.syntax_error(error.msg, error.pos) from None
        except RecursionError:
            raise UserError(
                f"{location}: lists or objects are nested too deeply; {self.remedy}"
            ) from None
        except _FaultyObject as error:
            raise UserError(f"{location}: {error}") from None
        except ValueError:
            # Python's limit of digits, sys.get_int_max_str_digits()
            raise UserError(
                f"{location}: holds a number of thousands of digits; {self.remedy}"
            ) from None

    def require_end(self, position: int) -> None:
        """UserError if anything but blanks follows."""
        position = self.skip_blanks(position)
        if position < len(self.text):
            raise self.syntax_error("Extra data", position)

    def skip_blanks(self, start: int) -> int:
        """Position of the first character at or after `start` that is no blank."""
        while self.text[start : start + 1] in (" ", "\t", "\n", "\r"):
            start += 1
        return start

    def syntax_error(self, message: str, position: int) -> UserError:
        """An error at `position` of the text."""
        error = json.JSONDecodeError(message, self.text, position)
        line = self.first_line + error.lineno - 1
        return UserError(
            f"{self.path}: line {line}, column {error.colno}: {message}; {self.remedy}"
        )


def read_json(path: Path) -> Any:
    """Parsed JSON; UserError naming file, line and column if it is not JSON, or a key stands twice in an object."""
    return _JsonText(path, read_text(path), 1, "fetch the file again").parse(str(path))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a .json list, or of the lines of any other file, each with its location for messages.

    Raises UserError that names the location of what is no object.
    """
    entries = _json_list(path) if path.suffix.lower() == ".json" else _json_lines(path)
    for location, entry in entries:
        if not isinstance(entry, dict):
            raise UserError(
                f"{location}: an object {{...}} is needed, not {describe(entry)}; write "
                '{"path": ..., "caption": ...}'
            )
        yield location, entry


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, value) of each line that is not blank."""
    for number, line in enumerate(iterate_lines(path), 1):
        if line.strip():
            location = f"{path}: line {number}"
            source = _JsonText(
                path, line.rstrip("\n"), number, "write one whole object per line"
            )
            yield location, source.parse(location)


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a list, parsed one by one, so that each has its line."""
    source = _JsonText(path, read_text(path), 1, "mend it or write the file again")
    text = source.text
    position = source.skip_blanks(0)
    if text[position : position + 1] != "[":
        value = source.parse(str(path))
        raise UserError(
            f"{path}: a list of objects is needed, one per video, not {describe(value)}; one object per line is called "
            ".jsonl"
        )

    line = 1 + text.count("\n", 0, position)
    separator = "["
    number = 0
    while separator in ("[", ","):
        start = source.skip_blanks(position + 1)
        if separator == "[" and text[start : start + 1] == "]":
            source.require_end(start + 1)
            return

        line += text.count("\n", position, start)
        location = f"{path}: line {line}, entry {number}"
        value, end = source.decode(start, location)
        yield location, value

        position = source.skip_blanks(end)
        line += text.count("\n", start, position)
        separator = text[position : position + 1]
        number += 1

    if separator != "]":
        raise source.syntax_error("Expecting ',' delimiter", position)
    source.require_end(position + 1)


class _PlainDataUnpickler(pickle._Unpickler):
    """Reads numbers, texts and containers; refuses every class and function.

    Python's own unpickler, not the one in C, which takes gigabytes for a number in a file of ten bytes.
    """

    stack: list[Any]  # of the base class, which types do not know
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, and only plain data is read"
        )

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._check_keys(items)
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self._check_keys(items)
        self.append(frozenset(items))

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("it holds a buffer of any size")

    def _set_items(self, keys_and_values: list[Any]) -> None:
        keys, values = keys_and_values[::2], keys_and_values[1::2]
        self._check_keys(keys)
        self.stack[-1].update(zip(keys, values, strict=True))

    def _check_keys(self, keys: list[Any]) -> None:
        """The hash of tuples in tuples may take a time that doubles with each level: none is read."""
        for key in keys:
            if not isinstance(key, str | int | float | bytes | None):
                raise pickle.UnpicklingError(f"a {type(key).__name__} is a key")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def read_pickle(path: Path) -> Any:
    """A pickle of plain data; UserError if it names any class or function, or is not a pickle."""
    try:
        with open(path, "rb") as file:
            return _PlainDataUnpickler(file, encoding="utf-8", errors="replace").load()
    except (
        # what damaged bytes raise
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"{path}: is no pickle of plain data ({error}); fetch the file again"
        ) from None
