"""Checks of what was read from annotation files: a value of another shape is one line that says what is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from parse_config import UserError

Kind = TypeVar("Kind", str, list, dict, int)
NEEDED = {
    str: "text",
    list: "a list",
    dict: "an object {...}",
    int: "a whole number",
}
MAX_SHOWN = 60  # characters of a value in a message
MAX_KEYS = 8  # keys of an object in a message
REMEDY = "this is another layout or a damaged file: compare it with the release of the data set, or fetch it again"


def expect(value: Any, kind: type[Kind], path: Path, where: str = "") -> Kind:
    """`value`, if it is of `kind`; text must also be encodable.

    where: what the value is in the file ("sentences[3]"), "" for all of it.
    Raises UserError that names the file, what is needed there and what is there.
    """
    location = f"{path}: {where}" if where else str(path)
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(
            f"{location}: {NEEDED[kind]} is needed, not {describe(value)}; {REMEDY}"
        )
    if isinstance(value, str):
        require_encodable(value, location)
    return value


def expect_member(
    parent: Any, key: str, kind: type[Kind], path: Path, where: str = ""
) -> Kind:
    """parent[key], if `parent` is an object that has it and it is of `kind`; UserError as `expect`."""
    members = expect(parent, dict, path, where)
    if key not in members:
        location = f"{path}: {where}" if where else str(path)
        raise UserError(
            f"{location}: no {key!r} in it, it is {describe(members)}; {REMEDY}"
        )
    return expect(members[key], kind, path, f"{where}.{key}" if where else key)


def expect_texts(value: Any, path: Path, where: str) -> list[str]:
    """A text, or a list of texts -> a list of texts; UserError as `expect`."""
    if isinstance(value, str):
        value = [value]
    return [expect(text, str, path, where) for text in expect(value, list, path, where)]


def require_encodable(text: str, location: str) -> None:
    """UserError that begins with `location` for a NUL character or half a surrogate pair."""
    if "\0" in text:
        raise UserError(
            f"{location}: {describe(text)} holds a NUL character; remove it"
        )
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{location}: {describe(text)} holds half a surrogate pair (\\u{ord(text[error.start]):04x}); write the "
            "whole character"
        ) from None


def describe(value: Any) -> str:
    """A few words that say what a value is, however large it is."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return f"an object with {_describe_keys(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        excerpt = ascii(value[:MAX_SHOWN])
        return f"{excerpt}..." if len(value) > MAX_SHOWN else excerpt
    if isinstance(value, int) and abs(value) > 10**MAX_SHOWN:
        return f"a number of more than {MAX_SHOWN} digits"
    if isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def _describe_keys(members: Mapping[Any, Any]) -> str:
    if not members:
        return "no keys"
    names = [describe(key) for key in list(members)[:MAX_KEYS]]
    if len(members) > MAX_KEYS:
        names.append("...")
    return f"the keys {', '.join(names)}"
