"""Names and captions of other people on one line of a terminal."""


def one_line(text: str) -> str:
    """`text` with escapes in place of line ends, control characters and what no encoding can hold."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/check_data.py --help")
