"""A folder of features follows its source: new, changed, moved and lost files; killed anywhere; a full disk; Ctrl-C."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from parse_config import UserError
from scripts import extract, index
from scripts.retrieval import feature_growth, sources
from scripts.retrieval.clip_dataset import Clips
from scripts.retrieval.features import Features, read_lines, write_lines
from scripts.retrieval.search_index import SearchIndex
from scripts.synthetic.miniatures import write_media
from tests.helpers import search_home, tiny_run
from tests.helpers.processes import run
from tests.scripts.test_extract import content
from tests.test_house import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return search_home.checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def clips(tmp_path):
    """Seven clips and a broken one."""
    folder = tmp_path / "clips"
    for number, name in enumerate(("a", "b", "c", "d", "below/e", "below/f", "g")):
        write_media(folder / f"{name}.mp4", number, frames=5 + number)
    (folder / "page.mp4").write_bytes(b"<html>")
    return folder


@pytest.fixture
def extracted(monkeypatch):
    """Names of the files that are decoded, as they are."""
    names = []
    read_clip = Clips._read_clip

    def read(self, row):
        names.append(os.path.basename(row["path"]))
        return read_clip(self, row)

    monkeypatch.setattr(Clips, "_read_clip", read)
    return names


def arguments(checkpoint, source, out, *more):
    given = ["-r", str(checkpoint), str(source), str(out), "-d", "cpu"]
    return [*given, "--workers", "0", "--shard", "2", "--batch", "3", *more]


def change(clips):
    """One clip of each kind: new, changed, touched, moved, gone."""
    write_media(clips / "0new.mp4", 20)
    write_media(clips / "b.mp4", 21)
    os.utime(clips / "c.mp4", (1, 1))
    (clips / "d.mp4").rename(clips / "z.mp4")
    (clips / "g.mp4").unlink()


def fresh(checkpoint, clips, out, *more):
    """What an extraction into a new folder gives."""
    extract.cli(arguments(checkpoint, clips, out, *more))
    return without_times(content(out))


def without_times(files):
    """Times differ where files were touched between two runs."""
    return {
        name: re.sub(rb', "stamp": \[[^]]*\]', b"", data)
        for name, data in files.items()
    }


@pytest.mark.parametrize("more", [[], ["--segments", "0.25"], ["--files", "npy"]])
def test_only_what_is_new_or_changed_is_extracted(
    checkpoint, clips, tmp_path, extracted, capsys, more
):
    given = arguments(checkpoint, clips, tmp_path / "out", *more)
    extract.cli(given)
    change(clips)
    extracted.clear()
    divided = []
    with pytest.MonkeyPatch.context() as patch:
        duration = sources.duration

        def measure(path, deadline):
            divided.append(os.path.basename(path))
            return duration(path, deadline)

        patch.setattr(sources, "duration", measure)
        extract.cli(given)
    said = capsys.readouterr().out.splitlines()[-1]
    if "--segments" in more:
        assert sorted(divided) == ["0new.mp4", "b.mp4"]
    else:
        assert sorted(extracted) == ["0new.mp4", "b.mp4"]
        assert said.endswith("; 2 new or changed, 6 as they were, 2 gone")
    found = without_times(content(tmp_path / "out"))
    assert found == fresh(checkpoint, clips, tmp_path / "fresh", *more)
    extracted.clear()
    extract.cli(given)
    assert not extracted and without_times(content(tmp_path / "out")) == found


def test_a_change_that_keeps_size_and_time_is_seen(
    checkpoint, clips, tmp_path, extracted
):
    given = arguments(checkpoint, clips, tmp_path / "out")
    extract.cli(given)
    path = clips / "a.mp4"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    extracted.clear()
    extract.cli(given)
    assert extracted == ["a.mp4"]


def test_files_that_did_not_change_are_not_read_again(checkpoint, clips, tmp_path):
    given = arguments(checkpoint, clips, tmp_path / "out")
    extract.cli(given)
    times = {path: path.stat().st_atime_ns for path in clips.glob("*.mp4")}
    for path in times:
        os.utime(path, ns=(0, path.stat().st_mtime_ns))  # changes the ctime too
    extract.cli(given)
    known = feature_growth.known_contents(tmp_path / "out")
    assert len(known) == 8
    assert all(len(sha256) == 64 for _, sha256 in known.values())


def test_texts_follow_their_file_too(checkpoint, tmp_path):
    listed = tmp_path / "a.txt"
    listed.write_text("a dog\na cat\na man runs\n")
    given = arguments(checkpoint, listed, tmp_path / "out", "--texts")
    extract.cli(given)
    listed.write_text("a bird\na dog\na man runs\n")
    extract.cli(given)
    assert [row["text"] for row in Features(tmp_path / "out").rows] == [
        "a bird",
        "a dog",
        "a man runs",
    ]
    extract.cli(arguments(checkpoint, listed, tmp_path / "fresh", "--texts"))
    np.testing.assert_array_equal(
        Features(tmp_path / "out").read_all(), Features(tmp_path / "fresh").read_all()
    )


def test_a_folder_that_is_not_whole_takes_what_is_new(
    checkpoint, clips, tmp_path, extracted, monkeypatch
):
    """Stopped in the first extraction, then again in the second, for another list; nothing is done twice."""
    given = arguments(checkpoint, clips, tmp_path / "out", "--batch", "2")
    read_clip = Clips._read_clip

    def stop_after(count):
        def read(self, row):
            if len(extracted) >= count:
                raise KeyboardInterrupt
            return read_clip(self, row)

        return read

    with monkeypatch.context() as patch:
        patch.setattr(Clips, "_read_clip", stop_after(4))
        with pytest.raises(SystemExit, match="130"):
            extract.cli(given)
    change(clips)
    with monkeypatch.context() as patch:
        patch.setattr(Clips, "_read_clip", stop_after(6))
        with pytest.raises(SystemExit, match="130"):
            extract.cli(given)
    write_media(clips / "0newer.mp4", 30)
    extract.cli(given)
    assert without_times(content(tmp_path / "out")) == fresh(
        checkpoint, clips, tmp_path / "fresh"
    )
    assert not [
        path for path in (tmp_path / "out").iterdir() if path.name.startswith(".g")
    ]


def work(given):
    extract.cli(given)
    return True


@pytest.mark.parametrize("more", [[], ["--segments", "0.25"]])
def test_on_several_processes_it_grows_to_the_same_bytes(
    checkpoint, clips, tmp_path, more
):
    given = arguments(checkpoint, clips, tmp_path / "out", *more)
    assert run(work, 2, tmp_path, (given,)) == [True, True]
    change(clips)
    assert run(work, 2, tmp_path, (given,)) == [True, True]
    anew = arguments(checkpoint, clips, tmp_path / "fresh", *more)
    assert run(work, 2, tmp_path, (anew,)) == [True, True]
    found = without_times(content(tmp_path / "out"))
    assert found == without_times(content(tmp_path / "fresh"))


def test_a_data_set_follows_its_annotations(checkpoint, tmp_path, extracted):
    data = tiny_run.write_data(tmp_path / "data", ".mp4", test=4)
    config = tiny_run.save(
        tmp_path / "c.json",
        {"name": "c", "arch": {}, "data_loader": [tiny_run.loader(data, frames=4)]},
    )
    given = arguments(checkpoint, config, tmp_path / "out")
    extract.cli(given)
    rows = read_lines(data / "test.jsonl")
    rows[1] |= {"start": 0.1, "end": 0.5}
    del rows[2]
    write_lines(data / "test.jsonl", [rows[2], rows[0], rows[1]])
    extracted.clear()
    extract.cli(given)
    assert extracted == ["1.mp4"]  # the one whose seconds are others
    found = without_times(content(tmp_path / "out"))
    assert found == fresh(checkpoint, config, tmp_path / "fresh")


def test_an_index_follows_the_features(checkpoint, clips, tmp_path, capsys):
    given = arguments(checkpoint, clips, tmp_path / "features")
    extract.cli(given)
    index.cli(["build", str(tmp_path / "features"), str(tmp_path / "ix")])
    change(clips)
    extract.cli(given)
    capsys.readouterr()
    index.cli(["update", str(tmp_path / "ix")])
    assert "; 2 new, 1 changed, 2 gone" in capsys.readouterr().out
    index.cli(["build", str(tmp_path / "features"), str(tmp_path / "fresh")])
    updated, fresh_index = SearchIndex(tmp_path / "ix"), SearchIndex(tmp_path / "fresh")
    assert updated.rows == fresh_index.rows
    for row in range(len(updated)):
        query_E = updated.vector(row)
        assert updated.search(query_E) == fresh_index.search(query_E)


class Cut(BaseException):
    """A kill at a step of the change to the new state."""


def test_killed_at_any_step_of_the_change_it_is_finished_by_a_rerun(
    checkpoint, clips, tmp_path, monkeypatch
):
    given = arguments(checkpoint, clips, tmp_path / "first")
    extract.cli(given)
    old_ids = [row["id"] for row in Features(tmp_path / "first").rows]
    change(clips)
    right = fresh(checkpoint, clips, tmp_path / "fresh")
    new_ids = [row["id"] for row in Features(tmp_path / "fresh").rows]
    num_cuts = 0
    for step in range(100):
        out = tmp_path / f"out{step}"
        shutil.copytree(tmp_path / "first", out)
        with monkeypatch.context() as patch:
            cut_at(patch, step)
            try:
                extract.cli(arguments(checkpoint, clips, out))
            except Cut:
                num_cuts += 1
                assert_old_new_or_not_complete(out, old_ids, new_ids)
        extract.cli(arguments(checkpoint, clips, out))
        assert without_times(content(out)) == right
        if num_cuts <= step:
            break
    assert num_cuts >= 10


def cut_at(patch, step):
    """The step-th of the calls that change the file system in `feature_growth` does not happen."""
    steps = iter(range(1000))
    for module, name in ((os, "rename"), (shutil, "rmtree")):
        function = getattr(module, name)

        def call(*args, _function=function, **kwargs):
            if next(steps) == step:
                raise Cut
            return _function(*args, **kwargs)

        patch.setattr(module, name, call)
    unlink = feature_growth.Path.unlink

    def unlink_unless_cut(self, missing_ok=False):
        if self.name in feature_growth.CONTENT_NAMES and next(steps) == step:
            raise Cut
        return unlink(self, missing_ok=missing_ok)

    patch.setattr(feature_growth.Path, "unlink", unlink_unless_cut)


def assert_old_new_or_not_complete(out, old_ids, new_ids):
    try:
        found = Features(out)
        rows = found.read_all()
    except (UserError, FileNotFoundError):
        return
    assert [row["id"] for row in found.rows] in (old_ids, new_ids)
    assert len(rows) == len(found.rows)


def test_killed_anywhere_while_it_grows_the_old_features_stay(
    checkpoint, clips, tmp_path
):
    """kill -9 to the program itself, later and later."""
    out = tmp_path / "out"
    extract.cli(arguments(checkpoint, clips, out))
    before = Features(out).read_all()
    for number in range(12):
        write_media(clips / f"more{number}.mp4", number, frames=9)
    num_killed = 0
    for goal in (1, 3, 5):
        program = start_program(arguments(checkpoint, clips, out, "--shard", "2"))
        try:
            while count_growing_shards(out) < goal and program.poll() is None:
                time.sleep(0.001)
            num_killed += program.poll() is None
        finally:
            program.kill()
            program.communicate(timeout=60)
        np.testing.assert_array_equal(Features(out).read_all()[: len(before)], before)
    extract.cli(arguments(checkpoint, clips, out))
    assert num_killed and without_times(content(out)) == fresh(
        checkpoint, clips, tmp_path / "fresh"
    )


def start_program(given, **more):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/extract.py"), *given],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def error_lines(printed):
    return len(re.findall(r"(?:^|[\r\n])error: ", printed))


def count_growing_shards(out):
    return len(list(out.glob(".growing-*/shards/*.safetensors")))


def test_ctrl_c_ends_it_with_one_line_and_a_second_does_not_spoil_it(
    checkpoint, clips, tmp_path
):
    for number in range(40):
        write_media(clips / f"more{number}.mp4", number, frames=30)
    out = tmp_path / "out"
    given = arguments(checkpoint, clips, out, "--workers", "2", "--shard", "1")
    program = start_program(given, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not list(out.glob("shards/*.json")):
            assert program.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        for _ in range(2):  # as a terminal does: to every process of the program
            os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate(timeout=60)
    assert program.returncode == 130
    lines = errors.replace("\r", "\n").splitlines()
    assert lines[-1] == "stopped; the same command goes on from there"
    assert "Traceback" not in errors and "Exception ignored" not in errors
    assert not list(out.rglob("*.part"))
    extract.cli(given)
    assert len(Features(out)) == 47


def test_ctrl_c_while_the_program_loads_is_one_line_too(checkpoint, clips, tmp_path):
    program = start_program(arguments(checkpoint, clips, tmp_path / "out"))
    try:
        maps = Path(f"/proc/{program.pid}/maps")
        until = time.monotonic() + 60
        while "libtorch" not in maps.read_text():
            assert program.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    finally:
        program.kill()
        program.communicate(timeout=60)
    assert program.returncode == 130
    assert errors == "\nstopped; the same command goes on from there\n"


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES]
)
def test_a_disk_that_takes_no_more_is_one_line(
    checkpoint, clips, tmp_path, monkeypatch, capsys, code
):
    out = tmp_path / "out"
    given = arguments(checkpoint, clips, out)
    fsync = os.fsync
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SystemExit, match="2"):
            extract.cli(given)
    error = capsys.readouterr().err
    assert error_lines(error) == 1 and os.strerror(code) in error
    assert str(out) in error
    assert not list(out.rglob("*.part"))
    extract.cli(given)
    assert without_times(content(out)) == fresh(checkpoint, clips, tmp_path / "fresh")


@pytest.mark.parametrize("files", ["safetensors", "npy"])
def test_a_file_that_grows_too_large_leaves_nothing_half(
    checkpoint, clips, tmp_path, files
):
    """The system itself cuts the writing: files of at most 2000 bytes are allowed."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    given = arguments(checkpoint, clips, tmp_path / "out", "--files", files)
    for number in range(40):
        write_media(clips / f"more{number}.mp4", number)
    given += ["--shard", "40"]
    program = start_program(given, preexec_fn=limit)
    try:
        _, errors = program.communicate(timeout=90)
    finally:
        program.kill()
    assert program.returncode == 2 and error_lines(errors) == 1
    assert "File too large" in errors and "Traceback" not in errors
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(
        json.loads(path.read_text()) for path in written if path.suffix == ".json"
    )
    assert not list((tmp_path / "out").rglob(f"*.{files}"))


def test_the_progress_bar_counts_videos_and_says_the_time_left(
    checkpoint, clips, tmp_path, capfd
):
    extract.cli(arguments(checkpoint, clips, tmp_path / "out", "--segments", "0.25"))
    shown = capfd.readouterr().err
    assert re.search(r"videos: +\d+%\|.*\| [0-8]/8 \[\d\d:\d\d<", shown)
    (tmp_path / "a.txt").write_text("a dog\na cat\n")
    extract.cli(
        arguments(checkpoint, tmp_path / "a.txt", tmp_path / "texts", "--texts")
    )
    assert re.search(r"texts: +\d+%\|.*\| [0-2]/2 \[", capfd.readouterr().err)


def test_pipes_and_links_to_nowhere_do_not_stop_it(checkpoint, clips, tmp_path):
    os.mkfifo(clips / "pipe.mp4")
    (clips / "link.mp4").symlink_to(tmp_path / "nowhere")
    (clips / "folder.mp4").mkdir()
    rows = sources.list_files(clips)
    assert {row["id"] for row in rows} >= {"pipe.mp4", "link.mp4"}
    from tqdm import tqdm

    from scripts.retrieval.contents import with_contents

    with tqdm(disable=True) as bar:
        found = {row["id"]: row["sha256"] for row in with_contents(rows, {}, 2, bar)}
    assert found["pipe.mp4"] is None and found["link.mp4"] is None
    assert len(found["a.mp4"]) == 64


def test_a_damaged_folder_is_said_in_a_line(checkpoint, clips, tmp_path, capsys):
    out = tmp_path / "out"
    given = arguments(checkpoint, clips, out)
    extract.cli(given)
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_media(clips / "new.mp4", 1)
    for name, data in (
        ("manifest.json", b"{"),
        ("manifest.json", b"[]"),
        ("rows.jsonl", b'{"id": "a.mp4", "pa'),
    ):
        (out / name).write_bytes(data)
        with pytest.raises(SystemExit, match="2"):
            extract.cli(given)
        error = capsys.readouterr().err
        assert error_lines(error) == 1 and str(out / name) in error
        (out / name).write_bytes(whole[out / name])
    for name, data in (
        ("ids.jsonl", whole[out / "ids.jsonl"][:-30]),
        ("ids.jsonl", b"".join(whole[out / "ids.jsonl"].splitlines(True)[1:])),
        ("manifest.json", b'{"complete": true}'),
        ("shards/00000.safetensors", whole[out / "shards/00000.safetensors"][:-9]),
    ):
        (out / name).write_bytes(data)
        with pytest.raises(UserError, match=re.escape(str(out / name))):
            Features(out).read_all()
        (out / name).write_bytes(whole[out / name])
    assert read_lines(out / "ids.jsonl")
