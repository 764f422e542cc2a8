"""Tables: packed strings, chunks, in memory and on disk; cached for their sources, by one of many processes."""

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loader.annotations import table_cache
from data_loader.annotations.items import Annotations, Item, to_chunks
from data_loader.annotations.packed_strings import LazyStrings, PackedStrings
from data_loader.annotations.table import Table
from data_loader.annotations.table_cache import cache_folder, cached_table, load_table
from parse_config import UserError

ITEMS = [
    Item("a", "a.mp4", ("one", "zwei \u00fc", "NA")),
    Item("b", "b", (), 1.5, 2.5),
    Item("c\ud800", "x/c.avi", ("",), 3.0),
]


def content(table):
    rows = range(len(table))
    return [
        Item(
            table.id[i],
            table.path[i],
            tuple(table.caption[j] for j in table.caption_range(i)),
            *table.segment(i),
        )
        for i in rows
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text()))
def test_strings_are_the_list_they_were_made_of(values):
    packed = PackedStrings.from_strings(iter(values))
    assert (
        list(packed) == values
        and packed[1:] == values[1:]
        and packed[::-2] == values[::-2]
    )
    assert len(packed) == len(values) and (not values or packed[-1] == values[-1])
    with pytest.raises(IndexError):
        packed[len(values)]


def test_lazy_makes_what_is_asked_for():
    calls = []
    lazy = LazyStrings(5, lambda i: calls.append(i) or str(i))
    assert (
        lazy[-1] == "4"
        and lazy[1:3] == ["1", "2"]
        and calls == [4, 1, 2]
        and len(lazy) == 5
    )
    with pytest.raises(IndexError):
        lazy[5]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_memory_and_disk_hold_the_items_whatever_the_chunks(tmp_path, size):
    here = Table.from_chunks(to_chunks(ITEMS, size), lambda: {"layout": "x"})
    Table.write(tmp_path, to_chunks(ITEMS, size), lambda: {"layout": "x"})
    there = Table.open(tmp_path)
    assert content(here) == content(there) == ITEMS
    assert here.notes == there.notes == {
        "layout": "x"
    } and here.caption_counts().tolist() == [
        3,
        0,
        1,
    ]
    assert (
        content(pickle.loads(pickle.dumps(here)))
        == content(pickle.loads(pickle.dumps(there)))
        == ITEMS
    )


def test_one_caption_each_needs_no_counts():
    table = Table.from_columns(
        id=["1", "2"], path=["1.mp4", "2.mp4"], caption=np.array(["x", "y"], object)
    )
    assert content(table) == [Item("1", "1.mp4", ("x",)), Item("2", "2.mp4", ("y",))]
    assert table.caption_counts().tolist() == [1, 1]


def test_lone_surrogates_stay_in_names_and_leave_captions():
    table = Table.from_columns(
        id=["\udc80"], path=["\udc80.mp4"], caption=["a \ud83d b"]
    )
    assert table.path[0] == "\udc80.mp4" and table.caption[0] == "a ? b"


def test_an_empty_table_is_a_table(tmp_path):
    Table.write(tmp_path, [])
    assert len(Table.open(tmp_path)) == len(Table.from_chunks([])) == 0
    Table.write(tmp_path, [{"id": [], "path": [], "caption": []}])
    assert len(Table.open(tmp_path)) == 0


def test_a_mapped_table_travels_as_its_folder(tmp_path):
    Table.write(
        tmp_path,
        [{"id": ["x"] * 5000, "path": ["y"] * 5000, "caption": ["z" * 100] * 5000}],
    )
    assert len(pickle.dumps(Table.open(tmp_path))) < 1000


def keep(root, source, log, settings=("v1",), pause=0.0):
    def parse():
        with open(log, "a") as file:
            file.write("parsed\n")
        time.sleep(pause)
        yield from to_chunks(
            [Item(line, line, (line,)) for line in Path(source).read_text().split()]
        )

    return cached_table(
        Path(root),
        "Set",
        [Path(source)],
        list(settings),
        parse,
        lambda: {"protocol": None},
    )


def parsed(log):
    return Path(log).read_text().count("parsed")


def test_kept_until_source_or_settings_change(tmp_path):
    root, source, log = tmp_path / "cache", tmp_path / "list.txt", tmp_path / "log"
    source.write_text("a b")
    assert (
        list(keep(root, source, log).id)
        == list(keep(root, source, log).id)
        == ["a", "b"]
        and parsed(log) == 1
    )
    old = keep(root, source, log)
    source.write_text("a b c")
    assert list(keep(root, source, log).id) == ["a", "b", "c"] and parsed(log) == 2
    assert list(old.id) == ["a", "b"], "a table in use outlives its folder"
    os.utime(source, ns=(1, 1))
    assert len(keep(root, source, log)) == 3 and parsed(log) == 3
    assert len(keep(root, source, log, ("v2",))) == 3 and parsed(log) == 4
    assert len([path for path in root.iterdir() if path.is_dir()]) == 2, (
        "outdated tables are removed"
    )


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_kept_table_can_be_read_by_whom_the_umask_lets(tmp_path, umask):
    source = tmp_path / "list.txt"
    source.write_text("a b")
    previous = os.umask(umask)
    try:
        keep(tmp_path / "cache", source, tmp_path / "log")
    finally:
        os.umask(previous)
    for path in (tmp_path / "cache").rglob("*"):
        full_mode = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == full_mode & ~umask, path


def test_many_processes_make_it_once(tmp_path):
    source, log = tmp_path / "list.txt", tmp_path / "log"
    source.write_text("a b")
    context = multiprocessing.get_context("fork")
    asking = [
        context.Process(
            target=keep, args=(tmp_path / "cache", source, log), kwargs={"pause": 0.3}
        )
        for _ in range(4)
    ]
    [process.start() for process in asking]
    [process.join() for process in asking]
    assert [process.exitcode for process in asking] == [0] * 4 and parsed(log) == 1


def test_what_fails_while_parsing_leaves_nothing(tmp_path):
    source = tmp_path / "list.txt"
    source.write_text("a")

    def parse():
        yield from to_chunks([Item("a", "a", ("a",))])
        raise UserError("line 2 is wrong")

    with pytest.raises(UserError, match="line 2"):
        cached_table(tmp_path / "cache", "Set", [source], [], parse, dict)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_says_where_else(tmp_path):
    source, taken = tmp_path / "list.txt", tmp_path / "taken"
    source.write_text("a")
    taken.write_text("a file, not a folder")
    with pytest.raises(UserError, match="cache_dir or .MILES_CACHE"):
        keep(taken / "cache", source, tmp_path / "log")


def test_where_it_is_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("MILES_CACHE", raising=False)
    assert cache_folder() == Path("/x/miles") and cache_folder("/given") == Path(
        "/given"
    )
    monkeypatch.setenv("MILES_CACHE", "/y")
    assert cache_folder() == Path("/y")


def listed(file, log):
    """Annotations that count in `log` how often they are parsed."""
    annotations = Annotations(
        layout="a list", protocol="msrvtt-1k-A", validates_on_test=True, sources=[file]
    )

    def items():
        log.append("parsed")
        for line in file.read_text().split():
            yield Item(line, line, (line,))
        annotations.remarks.append("; all read")

    annotations.items = items()
    return annotations


def test_large_annotations_are_kept_with_what_was_found_in_them(tmp_path, monkeypatch):
    file = tmp_path / "list.txt"
    file.write_text("a b c")
    log = []

    def load():
        return load_table(
            listed(file, log), "Listed", ".", "test", None, str(tmp_path / "cache")
        )

    assert load().folder is None, "small ones stay in memory"
    monkeypatch.setattr(table_cache, "SMALL", 2)
    log.clear()
    first, second = load(), load()
    assert first.folder == second.folder and len(log) == 1
    assert (
        first.notes
        == second.notes
        == {
            "layout": "a list; all read",
            "protocol": "msrvtt-1k-A",
            "validates_on_test": True,
        }
    )
