"""Indices against numpy, recall against brute force, the command line; the server over HTTP, and what it refuses."""

import http.client
import io
import json
import os
import sys
import types

import faiss as real_faiss
import numpy as np
import pytest
from PIL import Image

from model import load_model
from parse_config import UserError
from scripts import extract, index, search
from scripts.retrieval import faiss_index
from scripts.retrieval.media import parse_range
from scripts.retrieval.search_index import SearchIndex, describe
from tests.helpers import search_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("search")
    search_home.build(made)
    return made


@pytest.fixture(scope="module")
def server(home):
    with search_home.serving(home / "index") as server:
        yield server


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """3000 rows in clumps, some of them zero or double, unequally long; and their features on disk."""
    made = np.random.default_rng(0)
    rows_NE = made.normal(size=(60, 24)).repeat(50, 0) + 0.7 * made.normal(
        size=(3000, 24)
    )
    rows_NE *= made.uniform(0.1, 9, (3000, 1))
    rows_NE[7] = 0
    rows_NE[2000] = 3 * rows_NE[1000]
    return rows_NE, search_home.features(
        tmp_path_factory.mktemp("cloud") / "features", rows_NE
    )


def unit(x):
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)


def test_flat_search_is_numpys_argsort(cloud, tmp_path):
    rows_NE, folder = cloud
    index.build(folder, tmp_path / "ix")
    opened = SearchIndex(tmp_path / "ix")
    assert opened.manifest["index"] == "flat" and len(opened) == 3000
    for query_E in np.random.default_rng(1).normal(size=(20, 24)) * 5:
        scores = unit(rows_NE) @ unit(query_E)
        order = np.argsort(-scores, kind="stable")[:12]
        hits = opened.search(query_E, 12)
        assert [hit["row"] for hit in hits] == order.tolist()
        np.testing.assert_allclose(
            [hit["score"] for hit in hits], scores[order], atol=1e-6
        )
        assert [hit["id"] for hit in hits] == [str(row) for row in order]
        best, seen = [], set()
        for row in np.argsort(
            -scores, kind="stable"
        ).tolist():  # rows 3i, 3i + 1, 3i + 2 are segments of one video
            if row // 3 not in seen and len(best) < 12:
                best.append(row)
                seen.add(row // 3)
        assert [
            hit["row"] for hit in opened.search(query_E, 12, best_of_each=True)
        ] == best
    assert len(opened.search(rows_NE[0], 5000)) == 3000
    assert len(opened.search(rows_NE[0], 5000, best_of_each=True)) == 1000
    assert {hit["row"] for hit in opened.search(opened.vector(1000), 2)} == {1000, 2000}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("queries", ["rows", "texts"])
def test_the_printed_recall_is_that_of_brute_force(
    cloud, tmp_path, capsys, kind, queries
):
    rows_NE, folder = cloud
    texts_QE = np.random.default_rng(2).normal(size=(40, 24))
    more = []
    if queries == "texts":
        more = ["--queries", str(search_home.features(tmp_path / "texts", texts_QE))]
    index.cli(
        [
            "build",
            str(folder),
            str(tmp_path / "ix"),
            "--kind",
            kind,
            "--recall",
            "0.8",
            *more,
        ]
    )
    told = json.loads((tmp_path / "ix" / "manifest.json").read_text())
    out = capsys.readouterr().out
    assert (
        f"recall@10 {told['recall@10']:.4f}" in out.splitlines()[-1]
        and told["recall_queries"] == queries
    )
    assert 0.8 <= told["recall@10"] <= 1
    opened, shares = SearchIndex(tmp_path / "ix"), []
    asked = np.linspace(0, 2999, 500).astype(int) if queries == "rows" else range(40)
    for number in asked:
        own = number if queries == "rows" else None
        query_E = rows_NE[number] if queries == "rows" else texts_QE[number]
        scores = (unit(rows_NE) @ unit(query_E)).astype(np.float32)
        right = [row for row in np.argsort(-scores, kind="stable") if row != own][:10]
        found = [hit["row"] for hit in opened.search(query_E, 11) if hit["row"] != own][
            :10
        ]
        shares.append(len(set(right) & set(found)) / 10)
    assert np.mean(shares) == pytest.approx(
        told["recall@10"], abs=0.004
    )  # zeros and doubles: ties fall as they fall
    if kind == "ivf":
        np.testing.assert_allclose(opened.vector(5), unit(rows_NE)[5], atol=1e-6)


def test_recall_takes_any_of_equal_rows():
    rows_NE = np.repeat(np.eye(4, dtype=np.float32), 30, axis=0)
    queries_QE = rows_NE[[0, 40]]
    exact_QK = np.array([range(11), range(30, 41)])
    other_QK = np.array([range(15, 26), range(45, 56)])
    wrong_QK = np.array([range(60, 71), range(90, 101)])
    rows = np.array([0, 40])
    assert index.recall(exact_QK, other_QK, rows_NE, queries_QE, rows) == 1
    assert index.recall(exact_QK, wrong_QK, rows_NE, queries_QE, rows) == 0
    half_QK = np.concatenate([other_QK[:, :5], wrong_QK[:, :5]], 1)
    assert index.recall(exact_QK, half_QK, rows_NE, queries_QE, rows) == 0.5
    nothing_QK = np.full((2, 11), -1)
    assert index.recall(exact_QK, nothing_QK, rows_NE, queries_QE, rows) == 0


def test_less_effort_finds_less_and_more_is_tried_until_it_is_enough(
    cloud, tmp_path, capsys
):
    index.build(cloud[1], tmp_path / "low", "ivf", 0.01)
    assert capsys.readouterr().out.count("nprobe") == 2
    index.build(cloud[1], tmp_path / "high", "ivf", 1.0)
    said = [
        float(line.split()[3])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("nprobe")
    ]
    low, high = (
        json.loads((tmp_path / name / "manifest.json").read_text())
        for name in ("low", "high")
    )
    assert (
        low["nprobe"] == 1
        and said == sorted(said)
        and said[0] == low["recall@10"]
        or len(said) > 2
    )
    assert high["recall@10"] > low["recall@10"] and high["recall@10"] > 0.99


def test_the_kind_goes_by_size(cloud, tmp_path, monkeypatch):
    for flat, hnsw, kind in (
        (2999, 3000, "hnsw"),
        (100, 2999, "ivf"),
        (3000, 9999, "flat"),
    ):
        monkeypatch.setattr(index, "MAX_FLAT_ROWS", flat)
        monkeypatch.setattr(index, "MAX_HNSW_ROWS", hnsw)
        index.build(cloud[1], tmp_path / kind)
        assert (
            json.loads((tmp_path / kind / "manifest.json").read_text())["index"] == kind
        )


def test_where_faiss_has_gpus_they_are_used(cloud, tmp_path, monkeypatch):
    """A faiss that says it has two, whose GPU indices are copies on the CPU."""
    moved = []

    def up(one):
        moved.append(type(one).__name__)
        return real_faiss.clone_index(one)

    fake = types.SimpleNamespace(
        **{
            **vars(real_faiss),
            "get_num_gpus": lambda: 2,
            "index_cpu_to_all_gpus": up,
            "index_gpu_to_cpu": real_faiss.clone_index,
        }
    )
    monkeypatch.setattr(faiss_index, "import_faiss", lambda: fake)
    index.build(cloud[1], tmp_path / "ix", "ivf")
    assert moved == [
        "IndexIVFFlat",
        "IndexFlatIP",
    ]  # trained there, recall's exact answers found there
    assert [
        hit["row"] for hit in SearchIndex(tmp_path / "ix").search(cloud[0][3], 1)
    ] == [3]


def test_without_faiss_it_is_named(cloud, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit, match="2"):
        index.cli(["build", str(cloud[1]), str(tmp_path / "ix")])
    assert (
        "pip install faiss-cpu" in capsys.readouterr().err
        and not (tmp_path / "ix").exists()
    )


def test_what_cannot_be_indexed_is_said(cloud, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        index.build(cloud[1], tmp_path / "there")
    with pytest.raises(FileNotFoundError, match="extract"):
        index.build(tmp_path, tmp_path / "ix")
    with pytest.raises(UserError, match="not finite"):
        index.build(
            search_home.features(tmp_path / "nan", np.full((3, 4), np.nan)),
            tmp_path / "ix",
        )
    with pytest.raises(UserError, match="another checkpoint"):
        index.build(
            cloud[1],
            tmp_path / "ix",
            "ivf",
            query_folder=search_home.features(tmp_path / "q", np.ones((3, 5))),
        )
    with pytest.raises(UserError, match="no row"):
        index.build(
            search_home.features(tmp_path / "none", np.zeros((0, 4))), tmp_path / "ix"
        )
    lost = search_home.features(tmp_path / "lost", np.ones((9, 4)), per_shard=3)
    (lost / "shards" / "00001.npy").unlink()
    with pytest.raises(UserError, match="a shard is gone"):
        index.build(lost, tmp_path / "ix")
    (lost / "shards" / "00001.npy").write_bytes(b"\x93NUMPY half")
    with pytest.raises(UserError, match="is damaged"):
        index.build(lost, tmp_path / "ix")
    assert not (tmp_path / "ix").exists()


def test_the_command_line_answers_words_and_videos(home, capsys):
    given = [str(home / "index"), "-k", "3"]
    model, opened = load_model(home / "ckpt.pth", "cpu"), SearchIndex(home / "index")
    for words in ("a red dog", 'he said "jump" & <left>', "\U0001f600", "cat " * 3000):
        search.cli([*given, words, "--json"])
        hits = json.loads(capsys.readouterr().out)
        query_E = unit(model.encode_text([words[:1000]])[0].numpy())
        rows_NE = np.stack([opened.vector(row) for row in range(len(opened))])
        assert [hit["row"] for hit in hits] == np.argsort(
            -rows_NE @ query_E, kind="stable"
        )[:3].tolist()
    search.cli([*given, "--video", str(home / "clips" / "below" / "a red.mp4")])
    first, *_, times = capsys.readouterr().out.splitlines()
    assert first.startswith("  1   1.0000  ") and first.endswith(
        f"{home}/clips/below/a red.mp4, from second 0 to 1"
    )
    assert "model loaded in" in times and "7 rows searched in" in times
    assert (
        describe({"path": "a.mp4", "start": 34.0, "end": 42.0})
        == "a.mp4, from second 34 to 42"
    )
    assert (
        describe({"path": "a.mp4", "start": None, "end": None}) == "a.mp4"
        and describe({"text": "a dog"}) == "a dog"
    )


def test_what_cannot_be_searched_is_said(home, tmp_path, capsys):
    other = tmp_path / "other.pth"
    other.write_bytes((home / "ckpt.pth").read_bytes() + b"0")
    for arguments, said in (
        ([str(home / "index")], "one thing is needed"),
        ([str(home / "index"), "  "], "is empty"),
        ([str(home / "index"), "a", "--serve"], "one thing"),
        ([str(tmp_path), "a"], "index.py"),
        ([str(home / "index"), "a", "-k", "0"], "1 or more"),
        (
            [str(home / "index"), "a", "-r", str(other)],
            "is not the checkpoint that made",
        ),
        (
            [str(home / "index"), "a", "-r", str(tmp_path / "no.pth")],
            "no such checkpoint",
        ),
        ([str(home / "index"), "--video", str(tmp_path / "no.mp4")], "no.mp4"),
        ([str(home / "index"), "--video", __file__], "test_search.py"),
    ):
        with pytest.raises(SystemExit, match="2"):
            search.cli(arguments)
        error = capsys.readouterr().err
        assert (
            said in error
            and len([line for line in error.splitlines() if line.startswith("error:")])
            == 1
        )


def test_captions_can_be_searched_too(home, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a dog\na red cat runs\nthe man\n")
    extract.cli(
        [
            "-r",
            str(home / "ckpt.pth"),
            str(tmp_path / "a.txt"),
            str(tmp_path / "f"),
            "--texts",
            "-d",
            "cpu",
        ]
    )
    index.cli(["build", str(tmp_path / "f"), str(tmp_path / "ix")])
    capsys.readouterr()
    search.cli([str(tmp_path / "ix"), "a red cat runs", "-k", "1"])
    assert capsys.readouterr().out.startswith("  1   1.0000  a red cat runs\n")
    with search_home.serving(tmp_path / "ix") as server:
        hits = json.loads(get(server, "/api/search?q=the+man&k=1")[2])["hits"]
        assert (
            hits[0]["name"] == "the man"
            and hits[0]["form"] == "text"
            and get(server, "/picture/0")[0] == 404
        )


def get(server, path, method="GET", host=None, **headers):
    """(status, headers, body) of a request, its path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def row_of(home, name):
    return next(
        i for i, row in enumerate(SearchIndex(home / "index").rows) if row["id"] == name
    )


def test_the_server_answers_as_the_command_line_does(home, server, capsys):
    assert server.server_address[0] == "127.0.0.1"
    status, headers, body = get(server, "/api/search?q=a+red+dog&k=3")
    search.cli([str(home / "index"), "a red dog", "-k", "3", "--json"])
    hits = json.loads(body)["hits"]
    assert status == 200 and [hit["row"] for hit in hits] == [
        hit["row"] for hit in json.loads(capsys.readouterr().out)
    ]
    assert (
        str(home).encode() not in body
        and headers["X-Content-Type-Options"] == "nosniff"
    )
    assert json.loads(get(server, "/api/like?row=2&k=1")[2])["hits"][0]["row"] == 2
    names = [
        hit["name"]
        for hit in json.loads(get(server, "/api/search?q=a&k=99&best=1")[2])["hits"]
    ]
    assert sorted(names) == [
        '<i>b"&.webm',
        "below/a red.mp4",
        "long.mp4",
        "old.avi",
        "still.png",
    ]
    for path, status in (
        ("/api/search", 400),
        ("/api/search?q=+%09", 400),
        ("/api/search?q=a&k=0", 200),
        ("/api/search?q=a&k=-1", 404),
        ("/api/like?row=7", 404),
        ("/api/like?row=x", 404),
        ("/api/other", 404),
        ("/api/search?q=%F0%9F%98%80%22%3Cb%3E%00%ff", 200),
    ):
        found = get(server, path)
        assert found[0] == status and json.loads(found[2]), path


def test_the_page_says_its_name_escaped(home, server):
    status, headers, body = get(server, "/")
    text = body.decode()
    assert status == 200 and "index: 7 rows" in text and "{{" not in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    word = (
        headers["Content-Security-Policy"]
        .partition("script-src 'nonce-")[2]
        .partition("'")[0]
    )
    assert f'<script nonce="{word}">' in text and get(server, "/")[2] != body
    os.symlink(home / "index", home / "<b>&")
    with search_home.serving(home / "<b>&") as other:
        assert (
            "&lt;b&gt;&amp;: 7 rows" in (text := get(other, "/")[2].decode())
            and "<b>&" not in text
        )
    assert get(server, "/", "HEAD")[2] == b"" and get(server, "/", "POST")[0] == 501


def test_files_are_sent_by_ranges(home, server):
    number, data = row_of(home, "long.mp4"), (home / "clips" / "long.mp4").read_bytes()
    size = len(data)
    status, headers, body = get(server, f"/video/{number}")
    assert (status, body, headers["Accept-Ranges"], headers["Content-Type"]) == (
        200,
        data,
        "bytes",
        "video/mp4",
    )
    for asked, first, end in (
        ("bytes=0-", 0, size),
        ("bytes=5-9", 5, 10),
        (f"bytes={size - 1}-", size - 1, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=3-{10 * size}", 3, size),
        (f"bytes=-{10 * size}", 0, size),
    ):
        status, headers, body = get(server, f"/video/{number}", Range=asked)
        assert status == 206 and body == data[first:end]
        assert headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
        assert int(headers["Content-Length"]) == end - first
        assert get(server, f"/video/{number}", "HEAD", Range=asked)[0::2] == (206, b"")
    for asked in (f"bytes={size}-", "bytes=-0"):
        status, headers, body = get(server, f"/video/{number}", Range=asked)
        assert (status, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")
    for asked in (
        "bytes=0-1,4-5",
        "seconds=1-2",
        "bytes=a-b",
        "bytes=9-5",
        "bytes",
        "bytes=--1",
        "bytes=\u00b2-",
    ):
        assert get(server, f"/video/{number}", Range=asked.encode("utf-8"))[0::2] == (
            200,
            data,
        )
    assert parse_range("bytes = 1-2", 10) == (1, 3) and parse_range(None, 10) is None


def test_pictures_and_previews(home, server):
    for name in ("below/a red.mp4", '<i>b"&.webm', "old.avi", "still.png"):
        status, headers, body = get(server, f"/picture/{row_of(home, name)}")
        image = Image.open(io.BytesIO(body))
        assert (status, headers["Content-Type"], image.format, image.size) == (
            200,
            "image/jpeg",
            "JPEG",
            (64, 48),
        )
    status, headers, body = get(server, f"/preview/{row_of(home, 'old.avi')}")
    image = Image.open(io.BytesIO(body))
    assert (status, headers["Content-Type"], image.format, image.n_frames) == (
        200,
        "image/webp",
        "WEBP",
        8,
    )
    assert all(
        get(server, f"/video/{row_of(home, name)}")[0] == 404
        for name in ("old.avi", "still.png")
    )
    first, second = (
        np.asarray(
            Image.open(
                io.BytesIO(get(server, f"/picture/{row_of(home, 'long.mp4') + i}")[2])
            ),
            int,
        )
        for i in (0, 1)
    )
    assert abs(first - second).max() > 50  # each segment its own moment
    forms = {
        hit["name"]: hit["form"]
        for hit in json.loads(get(server, "/api/search?q=a&k=99")[2])["hits"]
    }
    assert forms == {
        "below/a red.mp4": "video",
        '<i>b"&.webm': "video",
        "long.mp4": "video",
        "old.avi": "preview",
        "still.png": "picture",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/video/7",
        "/video/-1",
        "/video/99999999999999999999",
        "/video/",
        "/video/0/../../etc/passwd",
        "/video/%20",
        "/video/..%2f..%2f0",
        "/video/%2e%2e/%2e%2e/etc/passwd",
        "/video//etc/passwd",
        "/video/0%00",
        "/video/0.0",
        "/video/%c2%b2",
        "/video/+1",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/picture/7",
        "/preview/x",
        "/picture/../search.py",
        "/search_page.html",
        "/index.faiss",
        "/rows.jsonl",
        "file:///etc/passwd",
        "/video/0x1",
        "http://127.0.0.1/etc/passwd",
        "/api/../video/7",
        "/video/%30/../7",
        "/video/1_0",
        "/?/../etc/passwd/x",
        "http://[/",
        "/\\etc\\passwd",
        "*",
    ],
)
def test_nothing_else_is_served(home, server, path):
    status, headers, body = get(server, path)
    assert (
        b"root:" not in body
        and b"QueryEncoder" not in body
        and str(home).encode() not in body
    )
    assert status in (400, 404) or (path.startswith("/?") and status == 200)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:{port}.evil.example",
        "localhost:1",
        "127.0.0.1:{port}@evil.example",
        "",
    ],
)
def test_other_hosts_are_refused(server, host):
    for path in ("/", "/video/0", "/api/search?q=a"):
        assert (
            get(server, path, host=host.format(port=server.server_port) or " ")[0]
            == 403
        )
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_a_file_that_became_a_link_is_not_followed(home, tmp_path):
    """Also not a folder on the way to it; and no pipe, which would never end."""
    made = search_home.build(tmp_path)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((tmp_path / "clips" / "long.mp4").read_bytes())
    numbers = {row["id"]: i for i, row in enumerate(SearchIndex(made).rows)}
    with search_home.serving(made) as server:
        target = tmp_path / "clips" / "long.mp4"
        target.unlink()
        target.symlink_to(secret)
        for what in ("video", "picture", "preview"):
            assert get(server, f"/{what}/{numbers['long.mp4']}")[0] == 404
        inside = numbers["below/a red.mp4"]
        assert get(server, f"/video/{inside}")[0] == 200
        (tmp_path / "clips" / "below").rename(tmp_path / "elsewhere")
        (tmp_path / "clips" / "below").symlink_to(tmp_path / "elsewhere")
        assert (
            get(server, f"/video/{inside}")[0]
            == get(server, f"/picture/{inside}")[0]
            == 404
        )
        pipe = tmp_path / "clips" / '<i>b"&.webm'
        pipe.unlink()
        os.mkfifo(pipe)
        assert get(server, f"/video/{numbers[pipe.name]}")[0] == 404


def test_a_taken_port_is_said(home, server, capsys):
    with pytest.raises(SystemExit, match="2"):
        search.cli([str(home / "index"), "--serve", "--port", str(server.server_port)])
    assert "choose another" in capsys.readouterr().err
