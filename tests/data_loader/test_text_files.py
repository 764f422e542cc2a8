"""Annotation files as bytes: encodings, line ends, JSON, pickles and tables; a fault names its file and line."""

import codecs
import json
import pickle
import resource

import pytest

from data_loader.annotations import delimited
from data_loader.annotations.delimited import (
    first_row_is_header,
    read_csv,
    read_records,
    read_tsv,
)
from data_loader.annotations.left_out import LeftOut, left_out_text
from data_loader.annotations.shapes import (
    describe,
    expect,
    expect_member,
    expect_texts,
)
from data_loader.annotations.text_files import (
    read_json,
    read_lines,
    read_numbered_lines,
    read_pickle,
    read_rows,
    read_text,
)
from parse_config import UserError

TEXT = "ein Hund\nder H\u00fcgel\n\U0001f415 \u2028 \x85 \x0b end"


def write(tmp_path, content, name="list.txt"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def short(value):
    """Name of a test's argument, however long that is."""
    return ascii(describe(value) if isinstance(value, int) else value)[:30]


def error_of(call, *args):
    """The one line of the UserError that the call raises."""
    with pytest.raises(UserError) as error:
        result = call(*args)
        if not isinstance(result, str | list | dict):
            list(result)
    message = str(error.value)
    assert "\n" not in message
    return message


# Encodings and lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_are_read(tmp_path, encoding):
    path = write(tmp_path, TEXT.encode(encoding))
    assert read_text(path) == TEXT
    assert len(read_lines(path)) == 3


@pytest.mark.parametrize(
    "mark, encoding",
    [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_both_byte_orders(tmp_path, mark, encoding):
    path = write(tmp_path, mark + TEXT.encode(encoding))
    assert read_text(path) == TEXT


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path, newline):
    path = write(tmp_path, newline.join(["a", "", " b ", "c"]))
    assert read_lines(path) == ["a", "b", "c"]
    assert read_numbered_lines(path) == [(1, "a"), (3, "b"), (4, "c")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("line", [1, 3, 70_000])
def test_undecodable_bytes_name_their_line(tmp_path, newline, line, monkeypatch):
    """The last one lies beyond the first block that is searched; line ends may lie across blocks."""
    monkeypatch.setattr("data_loader.annotations.text_files.BLOCK", 1 << 16)
    lines = [b"a dog"] * (line - 1) + ["caf\u00e9".encode("cp1252"), b"more"]
    path = write(tmp_path, newline.encode().join(lines))
    message = error_of(read_text, path)
    assert message.startswith(f"{path}: line {line}: is not UTF-8 text; save it as")


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\nb".encode("utf-16-le"), "line 1: holds a NUL character: .*UTF-16"),
        (b"a\nb\0c", "line 2: holds a NUL character"),
        ("a\nb\n\ufeffc".encode(), "line 3: begins with a byte order mark"),
        (codecs.BOM_UTF8 + codecs.BOM_UTF8 + b"a", "line 1: begins with a byte order"),
        ("a\nb".encode("utf-32"), "line 1: is UTF-32 text; save it as UTF-8"),
        ("a\nb".encode("utf-16")[:-1], "line 2: is not UTF-16 text; save it as UTF-8"),
        ("a\nb".encode("utf-16") + b"\x00\xd8", "line 2: is not UTF-16 text"),
    ],
    ids=short,
)
def test_what_is_no_text(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=f"list.txt: {message}"):
        read_text(path)


def test_a_mark_within_a_line_stays(tmp_path):
    """It is a character of some captions on the web."""
    assert read_lines(write(tmp_path, "a\ufeffb")) == ["a\ufeffb"]


# JSON

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6: Expecting ':' delimiter; fetch"),
        ('{"a": 1}\n{"b": 2}', "line 2, column 1: Extra data"),
        ("", "line 1, column 1: Expecting value"),
        (DEEP, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("1" * 5000, "a number of thousands of digits"),
        ('[{"a": 1, "b": 2, "a": 3}]', "the key 'a' stands twice in one object"),
    ],
    ids=short,
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    path = write(tmp_path, content, "data.json")
    assert message in error_of(read_json, path)
    assert error_of(read_json, path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1}\n\n{"a" 1}', "line 3, column 6: Expecting ':' delimiter"),
        ('{"a": 1} {"b": 2}', "line 1, column 10: Extra data; write one whole object"),
        ('{\n"a": 1}', "line 1, column 2: Expecting property name"),
        ('{"a": 1}\n{"b": 1, "b": 2}', "line 2: the key 'b' stands twice"),
        ('{"a": 1}\n' + DEEP, "line 2: lists or objects are nested too deeply"),
        ('{"a": ' + "7" * 5000 + "}", "line 1: holds a number of thousands of digits"),
        ('[{"a": 1}]', "line 1: an object {...} is needed, not a list of 1"),
        ('{"a": 1}\nnull', "line 2: an object {...} is needed, not null"),
    ],
    ids=short,
)
def test_json_lines_that_cannot_be_read(tmp_path, content, message):
    path = write(tmp_path, content, "data.jsonl")
    assert error_of(read_rows, path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "content, message",
    [
        ('[\n{"a": 1},\n{"a": 1, "a": 2}]', "line 3, entry 1: the key 'a' stands"),
        ('[\n{"a": 1},\n\n 5]', "line 4, entry 1: an object {...} is needed, not 5"),
        ('[{"a": 1}\n{"a": 2}]', "line 2, column 1: Expecting ',' delimiter"),
        ('[{"a": 1},\n]', "line 2, column 1: Expecting value"),
        ('[{"a": 1}]\n[]', "line 2, column 1: Extra data"),
        ("[]\n1", "line 2, column 1: Extra data"),
        ("[", "line 1, column 2: Expecting value"),
        ('[\n{"a": ' + DEEP, "line 2, entry 0: lists or objects are nested"),
        ('{"a": 1}', "a list of objects is needed, one per video, not an object"),
        ('{"a": 1}\n{"a": 2}', "line 2, column 1: Extra data"),
    ],
    ids=short,
)
def test_lists_of_json_that_cannot_be_read(tmp_path, content, message):
    path = write(tmp_path, content, "data.json")
    assert error_of(read_rows, path).startswith(f"{path}: {message}")


def test_lists_of_json_have_lines(tmp_path):
    rows = [{"a": 1}, {"b": [2, {"c": None}]}, {}]
    path = write(tmp_path, "\ufeff \n" + json.dumps(rows, indent=1) + "\r\n", "x.json")
    assert [row for _, row in read_rows(path)] == rows
    locations = [location for location, _ in read_rows(path)]
    assert locations[0].endswith("line 3, entry 0")
    assert locations[1].endswith("line 6, entry 1")
    assert list(read_rows(write(tmp_path, " [ \n ] ", "x.json"))) == []


# Pickles


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"N",
        b"\x80\x05K",
        b"(lp0\nI1\nR.",
        b"cos\nsystem\n(S'ls'\ntR.",
        b"\x80\x04\x8c\xff",
        b"]" * 10 + b"e.",
        pickle.dumps({"a": {1, 2}})[:-3],
        b"I1" + b"0" * 5000 + b"\n.",
    ],
    ids=short,
)
def test_pickles_that_cannot_be_read(tmp_path, content):
    path = write(tmp_path, content, "index.pkl")
    assert error_of(read_pickle, path).startswith(f"{path}: is no pickle of plain data")


# Tables


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_rows_and_their_first_lines(tmp_path, newline):
    lines = ["a,b", "", '"x', 'y, ""z""",2', '1,5 inch"', ",", '"",""', "last,row"]
    path = write(tmp_path, newline.join(lines))
    assert list(read_records(path, ",")) == [
        (1, ["a", "b"]),
        (3, [f'x{newline}y, "z"', "2"]),
        (5, ["1", '5 inch"']),
        (6, ["", ""]),
        (7, ["", ""]),
        (8, ["last", "row"]),
    ]


@pytest.mark.parametrize(
    "content, line, rest",
    [
        ('a,b\nc,"d\ne,f\n', 2, []),
        ('a,b\nc,"d" e\nf,g', 2, [["f", "g"]]),
        ('a,b\n1,2\nc,"d\ne,"f"\ng,h', 3, [["g", "h"]]),
        ('a,b\n1,2\nc,"' + "d" * 140_000 + '"\ng,h', 3, [["g", "h"]]),
    ],
    ids=short,
)
def test_a_lone_quotation_mark_swallows_nothing_in_silence(
    tmp_path, content, line, rest
):
    path = write(tmp_path, content, "table.csv")
    message = error_of(read_records, path, ",")
    assert message.startswith(f"{path}: line {line}: has a quotation mark that does")
    left_out = LeftOut()
    rows = [cells for _, cells in read_records(path, ",", left_out=left_out)]
    assert rows[-len(rest) :] == rest if rest else len(rows) == line - 1
    (reason,) = left_out.counts()
    assert reason == f"lines of a lone quotation mark (the first: line {line})"


def test_every_line_is_a_row_or_counted(tmp_path):
    path = write(tmp_path, 'a,b\nc,"d\ne,"f"\ng,h\ni,"j" k\nl,m\n')
    left_out = LeftOut()
    rows = list(read_records(path, ",", left_out=left_out))
    assert [cells for _, cells in rows] == [["a", "b"], ["g", "h"], ["l", "m"]]
    assert [line for line, _ in rows] == [1, 4, 6]
    assert list(left_out.counts().values()) == [3]


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_columns_of_a_table(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(delimited, "CHUNK", chunk)
    content = 'id,x,name\n0,,a\n1,"u,\nv",b\n2,c\n3,,,d\n4,,e\n5,"""",\n'
    path = write(tmp_path, content, "table.csv")
    left_out = LeftOut()
    chunks = list(read_csv(path, ["name", "id"], left_out))
    assert [n for rows in chunks for n in rows.numbers] == [0, 1, 4, 5]
    assert sum((rows.columns["id"] for rows in chunks), []) == ["0", "1", "4", "5"]
    assert sum((rows.columns["name"] for rows in chunks), []) == ["a", "b", "e", ""]
    assert left_out.counts() == {
        "rows of more or fewer than 3 cells (the first: line 5)": 2
    }
    message = error_of(read_csv, path, ["id"])
    assert message.startswith(f"{path}: line 5: has 2 cells where 3 are needed")


def test_columns_by_position(tmp_path):
    path = write(tmp_path, 'a "b\tx1\nc\nd\t"e"\tf\ng\tx2')
    left_out = LeftOut()
    (rows,) = read_tsv(path, ["caption", "file"], False, width=2, left_out=left_out)
    assert rows.columns == {"caption": ['a "b', "g"], "file": ["x1", "x2"]}
    assert list(left_out.counts().values()) == [2]
    assert not first_row_is_header(path)
    assert first_row_is_header(write(tmp_path, "text\twhere\na\tx1"))


@pytest.mark.parametrize("read", [lambda path: read_csv(path, ["a"]), read_text])
def test_tables_of_another_encoding(tmp_path, read):
    path = write(tmp_path, "a,b\n1,2\ncaf\u00e9,3".encode("cp1252"), "table.csv")
    assert error_of(read, path).startswith(f"{path}: line 3: is not UTF-8 text")
    path = write(tmp_path, "a,b\ncaf\u00e9,3".encode("utf-16"), "table.csv")
    (rows,) = read_csv(path, ["a"])
    assert rows.columns == {"a": ["caf\u00e9"]}


# Shapes


@pytest.mark.parametrize(
    "value, kind, message",
    [
        ({"a": 1}, list, "a list is needed, not an object with the keys 'a'; "),
        ([1, 2], dict, r"an object \{...\} is needed, not a list of 2; "),
        (None, str, "text is needed, not null; "),
        (True, int, "a whole number is needed, not True; "),
        (1.5, int, "a whole number is needed, not 1.5; "),
        ("x" * 200, list, f"a list is needed, not '{'x' * 60}'...; "),
        (10**6000, str, "text is needed, not a number of more than 60 digits; "),
        ({1, 2}, list, "a list is needed, not a set; "),
        ("a\ud800", str, r"half a surrogate pair \(\\ud800\); write the whole"),
        ("a\0", str, "holds a NUL character; remove it"),
    ],
    ids=short,
)
def test_a_value_of_another_shape(tmp_path, value, kind, message):
    with pytest.raises(UserError, match=rf"list.json: rows\[3\]: .*{message}"):
        expect(value, kind, tmp_path / "list.json", "rows[3]")


def test_members_and_texts(tmp_path):
    path = tmp_path / "x.json"
    assert expect_member({"a": [1]}, "a", list, path) == [1]
    assert expect_texts("a", path, "") == ["a"] == expect_texts(("a",), path, "")
    message = error_of(expect_member, {"b": 1}, "a", list, path, "row")
    assert message.startswith(f"{path}: row: no 'a' in it, it is an object with the")
    assert "row.a: a list is" in error_of(
        expect_member, {"a": 1}, "a", list, path, "row"
    )
    assert "text is needed, not 3" in error_of(expect_texts, ["a", 3], path, "")


def test_descriptions_are_short():
    many = {f"key {number}": number for number in range(100)}
    assert describe(many).endswith("'key 7', ...") and describe({}).endswith("no keys")
    assert describe("\u00e9\n") == r"'\xe9\n'"
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert describe(deep) == "a list of 1"


def test_what_is_left_out_is_one_short_text():
    left_out = LeftOut()
    left_out.add("rows", 0)
    assert left_out_text(left_out.counts()) == "nothing left out"
    for number in range(20):
        left_out.add(f"rows of split {number}", 20 - number, f"line {number}")
    left_out.add("rows of split 0", 1, "line 99")
    text = left_out_text(left_out.counts())
    assert text.startswith("left out: 21 rows of split 0 (the first: line 0), 19 rows")
    assert text.endswith(", 78 for other reasons")


def nested_tuples(levels, end):
    """A pickle of ((x, x), (x, x)), ... of so many levels: short, and of 2 ** levels leaves."""
    return b"\x80\x02}K\x01" + b"q\x01h\x01\x86" * levels + end


@pytest.mark.parametrize(
    "content, reason",
    [
        (
            b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
            "a buffer of any size",
        ),
        (nested_tuples(60, b"Ns."), "a tuple is a key"),
        (b"\x80\x02(" + nested_tuples(60, b"Nd.")[3:], "a tuple is a key"),
        (b"\x80\x04\x8f(" + nested_tuples(60, b"\x90.")[3:], "a tuple is a key"),
    ],
    ids=["buffer", "key", "dict", "set"],
)
def test_small_pickles_that_would_grow_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    assert reason in error_of(read_pickle, path)


def test_a_number_in_a_small_pickle_takes_no_memory(tmp_path):
    """Python's unpickler in C takes 4 GiB for it."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"Nr\xff\xff\xff\x0f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_pickle(path) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_plain_pickles_of_every_protocol_are_read(tmp_path):
    content = {
        "a": [1, 2.5, None, True, ("x", ["y"])],
        3: {"b": b"raw", "long": 1 << 80},
    }
    path = tmp_path / "a.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        if protocol < 3:  # bytes are a call there
            content[3]["b"] = "text"
        path.write_bytes(pickle.dumps(content, protocol))
        assert read_pickle(path) == content
