"""An index checks that its files belong together, and follows its features, killed anywhere."""

import errno
import json
import os
import re
import shutil
import signal
import threading
from contextlib import contextmanager

import faiss
import numpy as np
import pytest

from parse_config import UserError
from scripts import index, search
from scripts.retrieval import index_files
from scripts.retrieval.features import read_lines
from scripts.retrieval.search_index import SearchIndex, VideoGroups
from tests.helpers import search_home
from tests.scripts.test_search import unit
from trainer.files import sha256, write_json

NUM_ROWS, WIDTH = 300, 16


def random_rows(seed, count=NUM_ROWS):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index of each kind over the same features."""
    folder = tmp_path_factory.mktemp("built")
    features = search_home.features(folder / "features", random_rows(0))
    for kind in ("flat", "ivf", "hnsw"):
        index.build(features, folder / kind, kind)
    return folder


@pytest.fixture
def flat(built, tmp_path):
    """A copy of the flat index, to be spoilt."""
    return shutil.copytree(built / "flat", tmp_path / "flat")


def edit_manifest(folder, **fields):
    path = folder / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), **fields})


def sign(folder):
    """Writes the hashes of the files as they are: as if a build had written them so."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"].values():
        entry["sha256"] = sha256(folder / entry["name"])
    edit_manifest(folder, files=manifest["files"])


def flat_index(rows_NE, metric="IP"):
    made = getattr(faiss, f"IndexFlat{metric}")(rows_NE.shape[1])
    made.add(rows_NE)
    return made


def refuse(folder, *said):
    """Opened, the folder gives one line that says what is wrong and what to do."""
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        SearchIndex(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    assert "index.py build" in message
    for part in said:
        assert part in message


def test_files_of_another_build_are_refused(built, flat, tmp_path):
    other = tmp_path / "other"
    features = search_home.features(tmp_path / "features", random_rows(1))
    index.build(features, other)
    for name in ("index.faiss", "rows.jsonl"):
        whole = (flat / name).read_bytes()
        (flat / name).write_bytes((built / "hnsw" / name).read_bytes())
        if name == "index.faiss":
            refuse(flat, f"{name}: is not the file that manifest.json was written with")
            (flat / name).write_bytes((other / name).read_bytes())
            refuse(flat, f"{name}: is not the file that manifest.json was written with")
        (flat / name).write_bytes(whole[:-20])
        refuse(flat, f"{name}: is not the file")
        (flat / name).write_bytes(b"")
        refuse(flat, f"{name}: is not the file")
        (flat / name).unlink()
        refuse(flat, f"holds no {name}")
        (flat / name).write_bytes(whole)
    SearchIndex(flat)
    (flat / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    refuse(flat, "is not the file")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            flat_index(random_rows(0)[:-1]),
            "299 vectors of 16, and manifest.json says 300",
        ),
        (flat_index(random_rows(0, 301)), "holds 301 vectors"),
        (flat_index(random_rows(0)[:, :8].copy()), "vectors of 8"),
        (flat_index(random_rows(0), "L2"), "another metric"),
        (faiss.IndexHNSWFlat(WIDTH, 4), "IndexHNSWFlat, and manifest.json says flat"),
    ],
)
def test_an_index_that_answers_otherwise_is_refused_whoever_signed_it(flat, made, said):
    faiss.write_index(made, str(flat / "index.faiss"))
    sign(flat)
    refuse(flat, said)


def test_what_is_no_faiss_index_is_refused(flat):
    for content in (b"", b"abc", (flat / "index.faiss").read_bytes()[:-50]):
        (flat / "index.faiss").write_bytes(content)
        sign(flat)
        refuse(flat, "index.faiss: cannot be read")


def test_rows_that_are_too_few_or_broken_are_refused(flat):
    lines = (flat / "rows.jsonl").read_text().splitlines(True)
    for changed, said in (
        (lines[:-1], "holds 299 rows, and manifest.json says 300"),
        ([*lines, lines[0]], "holds 301 rows"),
    ):
        (flat / "rows.jsonl").write_text("".join(changed))
        sign(flat)
        refuse(flat, said)
    (flat / "rows.jsonl").write_text("".join([lines[0], lines[1][:9]]))
    sign(flat)
    with pytest.raises(UserError, match="rows.jsonl, line 2: is no JSON object"):
        SearchIndex(flat)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rows": 7}, "says 7"),
        ({"width": 8}, "says 300 of 8"),
        ({"index": "ivf"}, "no 'nprobe'"),
        ({"index": "hnsw", "efSearch": 5}, "says hnsw"),
        ({"index": "hnsw", "efSearch": 0}, "efSearch is 0"),
        ({"index": "tree"}, "index is 'tree'; known: flat, ivf, hnsw"),
        ({"index": None}, "no valid 'index'"),
        ({"checkpoint_sha256": None}, "no valid 'checkpoint_sha256'"),
        ({"files": {}}, "does not name the file of its rows"),
        ({"files": {"rows": "x", "index": "y"}}, "does not name the file"),
        ({"format": 1}, "another version"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(flat, fields, said):
    edit_manifest(flat, **fields)
    refuse(flat, said)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_manifest_that_is_none_is_refused(flat, content):
    (flat / "manifest.json").write_bytes(content)
    refuse(flat, "manifest.json")


def test_a_manifest_names_no_file_elsewhere(flat, tmp_path):
    manifest = json.loads((flat / "manifest.json").read_text())
    shutil.copy(flat / "rows.jsonl", tmp_path / "rows2.jsonl")
    manifest["files"]["rows"]["name"] = "../rows2.jsonl"
    edit_manifest(flat, files=manifest["files"])
    refuse(flat, "holds no rows2.jsonl")


def test_a_query_of_another_model_is_refused(built):
    opened = SearchIndex(built / "flat")
    for best in (False, True):
        with pytest.raises(UserError, match="16 numbers, the query's 8: another model"):
            opened.search(np.ones(8), best_of_each=best)
        with pytest.raises(UserError, match="not finite"):
            opened.search(np.full(WIDTH, np.nan), best_of_each=best)


@pytest.mark.slow
def test_a_model_of_another_width_is_refused_before_it_serves(tmp_path, capsys):
    """The weights are those that made the index, by its manifest; its vectors are wider."""
    checkpoint = search_home.checkpoint(tmp_path)
    features = search_home.features(tmp_path / "features", np.ones((5, 24)))
    fields = {"checkpoint": str(checkpoint), "checkpoint_sha256": sha256(checkpoint)}
    edit_manifest(features, **fields)
    index.build(features, tmp_path / "ix")
    for more in (["a dog"], ["--serve", "--port", "0"]):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            search.cli([str(tmp_path / "ix"), *more])
        error = capsys.readouterr().err
        assert "24 numbers, the query's 16: another model made it" in error
        assert len(re.findall("^error: ", error, re.MULTILINE)) == 1


def test_the_command_line_says_it_in_a_line(flat, capsys):
    (flat / "index.faiss").write_bytes(b"half")
    for arguments in ([str(flat), "a dog"], [str(flat), "--serve", "--port", "0"]):
        with pytest.raises(SystemExit, match="2"):
            search.cli(arguments)
        assert re.fullmatch(r"error: .*is not the file.*\n", capsys.readouterr().err)


def lopsided(kind, folder):
    """An index of 4000 rows: one video has 3900 of them, the others one each."""
    rows_NE = random_rows(5, 4000)
    rows_NE[:3900] = rows_NE[0] + 0.01 * rows_NE[:3900]
    features = search_home.features(folder / "features", rows_NE)
    rows = read_lines(features / "ids.jsonl")
    for number, row in enumerate(rows):
        row["path"] = f"/nowhere/{max(0, number - 3899)}.mp4"
    index_files.write_lines(features / "ids.jsonl", rows)
    index.build(features, folder / "ix", kind, min_recall=1.0)
    return rows_NE, rows, SearchIndex(folder / "ix")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_best_of_each_video_is_that_of_brute_force(kind, tmp_path):
    """Also where one video fills all that a search for some rows finds."""
    rows_NE, rows, opened = lopsided(kind, tmp_path)
    if kind == "ivf":
        opened._cpu_index.nprobe = opened._cpu_index.nlist  # so that it is exact
    for query_E in (rows_NE[0], -rows_NE[0], random_rows(6, 1)[0]):
        scores = unit(rows_NE) @ unit(query_E)
        right = []
        for number in np.argsort(-scores, kind="stable").tolist():
            paths = [rows[found]["path"] for found in right]
            if rows[number]["path"] not in paths and len(right) < 20:
                right.append(number)
        hits = opened.search(query_E, 20, best_of_each=True)
        assert [hit["row"] for hit in hits] == right
        np.testing.assert_allclose(
            [hit["score"] for hit in hits], scores[right], atol=1e-5
        )
    assert len(opened.search(rows_NE[0], 5000, best_of_each=True)) == 101


@pytest.mark.parametrize("video_N", [[0, 0, 0, 1, 2, 3], [0, 1, 2, 1, 1, 0]])
def test_the_best_row_of_each_video(video_N):
    scores = np.array([0.1, 0.5, 0.5, 0.9, -np.inf, 0.9], np.float32)
    groups = VideoGroups(np.array(video_N))
    expected = {3: [3, 5, 1], 9: [3, 5, 1], 1: [3]}
    if video_N[-1] == 0:
        expected = {3: [3, 5, 2], 9: [3, 5, 2], 2: [3, 5]}
    for k, rows in expected.items():
        assert groups.best_rows(scores, k).tolist() == rows


def changed_features(folder, kind_of_change):
    """Features of which some rows are new, changed or gone."""
    rows_NE = random_rows(0)
    ids = list(range(NUM_ROWS))
    if kind_of_change == "new":
        rows_NE = np.concatenate([random_rows(8, 40), rows_NE])
        ids = [*range(1000, 1040), *ids]
    if kind_of_change == "all":
        rows_NE[10:20] = random_rows(9, 10)
        rows_NE = np.concatenate([rows_NE[5:], random_rows(8, 40)])
        ids = [*ids[5:], *range(1000, 1040)]
    made = search_home.features(folder, rows_NE)
    rows = read_lines(made / "ids.jsonl")
    for row, number in zip(rows, ids):
        row |= {"id": str(number), "path": f"/nowhere/{number}.mp4"}
        row |= {"start": None, "end": None}
    index_files.write_lines(made / "ids.jsonl", rows)
    return rows_NE, made


@pytest.fixture(params=["flat", "ivf", "hnsw"])
def followed(request, tmp_path):
    """(kind, index folder): to be brought to other features."""
    _, features = changed_features(tmp_path / "features", "none")
    index.build(features, tmp_path / "ix", request.param, min_recall=1.0)
    return request.param, tmp_path / "ix"


def assert_answers_as_brute_force(folder, rows_NE, features):
    opened = SearchIndex(folder)
    rows = read_lines(features / "ids.jsonl")
    assert len(opened) == len(rows)
    if opened.kind == "ivf":
        opened._cpu_index.nprobe = opened._cpu_index.nlist
    for query_E in rows_NE[::29]:
        scores = unit(rows_NE) @ unit(query_E)
        right = [rows[number]["id"] for number in np.argsort(-scores)[:5]]
        hits = opened.search(query_E, 5)
        assert [hit["id"] for hit in hits] == right
        np.testing.assert_allclose(
            opened.vector(hits[0]["row"]), unit(query_E), atol=1e-6
        )


@pytest.mark.slow
def test_an_update_takes_what_is_new_and_drops_what_is_gone(followed, tmp_path, capsys):
    kind, folder = followed
    rows_NE, features = changed_features(tmp_path / "new", "new")
    index.cli(["update", str(folder), "--features", str(features)])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("; 40 new, 0 changed, 0 gone")
    assert_answers_as_brute_force(folder, rows_NE, features)

    rows_NE, features = changed_features(tmp_path / "all", "all")
    index.cli(["update", str(folder), "--features", str(features)])
    said = capsys.readouterr().out.splitlines()[-1]
    reason = "; rebuilt, because hnsw cannot drop rows" if kind == "hnsw" else ""
    assert said.endswith(f"; 0 new, 10 changed, 5 gone{reason}")
    assert_answers_as_brute_force(folder, rows_NE, features)

    index.cli(["update", str(folder)])  # the features are where they were last
    assert "is up to date, 335 rows" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"manifest.json", "index.3.faiss", "rows.3.jsonl"}


@pytest.mark.slow
def test_cells_of_far_fewer_rows_are_trained_again(tmp_path, capsys):
    features = search_home.features(tmp_path / "f", random_rows(0, 100))
    index.build(features, tmp_path / "ix", "ivf")
    grown = search_home.features(tmp_path / "g", random_rows(0, 201))
    index.update(tmp_path / "ix", grown)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("rebuilt, because its cells were trained on 100 rows")
    assert SearchIndex(tmp_path / "ix").manifest["trained_rows"] == 201


def test_the_kind_goes_by_size_again_unless_it_was_chosen(
    tmp_path, monkeypatch, capsys
):
    features = search_home.features(tmp_path / "f", random_rows(0, 100))
    index.build(features, tmp_path / "by_size")
    index.build(features, tmp_path / "chosen", "flat")
    grown = search_home.features(tmp_path / "g", random_rows(0, 150))
    monkeypatch.setattr(index, "MAX_FLAT_ROWS", 120)
    index.update(tmp_path / "by_size", grown)
    assert "rebuilt as hnsw, the kind for so many rows" in capsys.readouterr().out
    index.update(tmp_path / "chosen", grown)
    assert SearchIndex(tmp_path / "by_size").kind == "hnsw"
    assert SearchIndex(tmp_path / "chosen").kind == "flat"


def test_other_features_are_refused(built, flat, tmp_path, capsys):
    def features(name, width=WIDTH, **fields):
        made = search_home.features(tmp_path / name, np.ones((5, width)))
        edit_manifest(made, **fields)
        return made

    before = (flat / "manifest.json").read_bytes()
    for made, said in (
        (features("a", width=8), "width 16"),
        (features("b", checkpoint_sha256="0" * 64), "checkpoint_sha256"),
        (features("c", segments=4), "segments 1"),
        (features("d", complete=False), "is not complete"),
        (tmp_path / "nowhere", "manifest.json"),
    ):
        with pytest.raises(SystemExit, match="2"):
            index.cli(["update", str(flat), "--features", str(made)])
        error = capsys.readouterr().err
        assert said in error and error.count("error: ") == 1
    assert (flat / "manifest.json").read_bytes() == before
    with pytest.raises(SystemExit, match="2"):
        index.cli(["update", str(tmp_path)])
    assert "index.py build" in capsys.readouterr().err
    assert not (tmp_path / ".lock").exists()


class Cut(BaseException):
    """A kill."""


@pytest.mark.slow
def test_killed_at_any_step_of_an_update_the_old_index_or_the_new_is_there(
    followed, tmp_path
):
    kind, folder = followed
    rows_NE, features = changed_features(tmp_path / "new", "all")
    old = [row["id"] for row in SearchIndex(folder).rows]
    new = [row["id"] for row in read_lines(features / "ids.jsonl")]
    for step in range(100):
        copy = shutil.copytree(folder, tmp_path / f"copy{step}")
        with pytest.MonkeyPatch.context() as patch:
            num_steps = cut_at(patch, step)
            try:
                index.update(copy, features)
            except Cut:
                pass
            finally:
                index.lock.release()
        assert [row["id"] for row in SearchIndex(copy).rows] in (old, new)
        index.update(copy, features)
        index.lock.release()
        assert_answers_as_brute_force(copy, rows_NE, features)
        leftovers = [path for path in copy.iterdir() if ".part" in path.name]
        assert not leftovers and len(list(copy.glob("*.faiss"))) == 1
        if len(num_steps) <= step:
            break
    assert step >= 6


def cut_at(patch, step):
    """From the step-th renaming, synchronising or removing of a file on none happens any more -> those that came."""
    steps = []
    for name in ("replace", "fsync", "unlink"):
        function = getattr(os, name)

        def call(*args, _function=function, **kwargs):
            steps.append(args)
            if len(steps) > step:
                raise Cut
            return _function(*args, **kwargs)

        patch.setattr(os, name, call)
    return steps


@pytest.mark.parametrize("command", ["build", "update"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    flat, tmp_path, monkeypatch, capsys, command, code, failing
):
    rows_NE, features = changed_features(tmp_path / "new", "all")
    given = {
        "build": ["build", str(features), str(tmp_path / "new_index")],
        "update": ["update", str(flat), "--features", str(features)],
    }[command]
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SystemExit, match="2"):
            index.cli(given)
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{os.strerror(code)}.*\n", error)
    assert not (tmp_path / "new_index").exists()
    assert not list(tmp_path.glob(".*.part")) and not list(flat.glob("*.2.*"))
    assert len(SearchIndex(flat)) == NUM_ROWS
    index.cli(given)
    folder = flat if command == "update" else tmp_path / "new_index"
    assert_answers_as_brute_force(folder, rows_NE, features)


def test_a_disk_that_fills_within_the_vectors_is_noticed(tmp_path, monkeypatch):
    """faiss's own writing to a file says nothing of its last block."""

    @contextmanager
    def write_to_full_disk(path, mode):
        with open("/dev/full", mode) as file:
            yield file

    monkeypatch.setattr(index_files, "atomic_write", write_to_full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        index_files._write_faiss(tmp_path / "x.faiss", flat_index(random_rows(0)))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "update"])
def test_ctrl_c_is_one_line_and_a_second_does_not_spoil_it(
    flat, tmp_path, monkeypatch, capsys, command
):
    """Real signals: one while the rows are written, one while what was written is removed, one at the end."""
    _, features = changed_features(tmp_path / "new", "all")
    given = {
        "build": ["build", str(features), str(tmp_path / "new_index")],
        "update": ["update", str(flat), "--features", str(features)],
    }[command]
    presses = []

    def press(*_):
        presses.append(command)
        os.kill(os.getpid(), signal.SIGINT)

    def pressing_again(function):
        def remove(*args, **kwargs):
            if presses:
                press()
            return function(*args, **kwargs)

        return remove

    handler = signal.getsignal(signal.SIGINT)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(index_files, "write_lines", press)
            patch.setattr(shutil, "rmtree", pressing_again(shutil.rmtree))
            remove_unnamed = pressing_again(index_files.remove_unnamed)
            patch.setattr(index_files, "remove_unnamed", remove_unnamed)
            with pytest.raises(SystemExit, match="130"):
                index.cli(given)
            press()  # the program is still ending
    finally:
        signal.signal(signal.SIGINT, handler)
    error = capsys.readouterr().err
    assert error == "\nstopped; nothing has changed; the same command begins again\n"
    assert len(presses) == 3 and not list(tmp_path.glob(".*.part"))
    assert not (tmp_path / "new_index").exists()
    assert len(SearchIndex(flat)) == NUM_ROWS
    index.cli(given)


def test_ctrl_c_in_another_thread_or_ignored_is_left_alone(built, tmp_path):
    """A program that runs the command in a thread, or under nohup, keeps its own handling."""
    errors = []

    def work():
        try:
            index.cli(["build", str(built / "features"), str(tmp_path / "ix")])
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not errors and signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        index.cli(["build", str(built / "features"), str(tmp_path / "ignored")])
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
