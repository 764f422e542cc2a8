"""bench.py loader: its ways to read give the same frames, and its record holds every figure."""

import argparse
import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from data_loader.readers import READERS
from scripts import bench
from scripts.benchmarks import bench_clips, loader, loader_codecs
from tests.helpers.fake_torchcodec import FakeTorchcodec, torchcodec_loads

KINDS = ["20 s", "20 s, prepared", "10 min", "10 min, 570 to 590 s"]


@pytest.mark.slow
def test_both_ways_read_the_same_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loader, "SMALL_CLIPS", 3)
    folder = tmp_path / "small"
    rates = loader.rates_by_cache(folder, argparse.Namespace(rounds=2))
    assert list(rates) == ["none", "memory"]
    assert rates["memory"] > rates["none"] > 0

    plain, cached = (loader.small_dataset(folder, way) for way in rates)
    for key in ((0, 0), (1, 0), (2, 1), (0, 2)):
        assert torch.equal(plain[key]["video"], cached[key]["video"])
    assert plain.cache is None and cached.cache.held.clips == 3
    assert plain[0]["video"].shape == (4, 3, 32, 32)

    loader.show_cache({"none": 50.0, "memory": 400.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["memory", "400.0", "8.00x", "2.500"]


@pytest.fixture
def short(monkeypatch):
    """Clips of one second, "long" ones of three."""
    for name, value in (
        ("SIZE", (96, 64)),
        ("SECONDS", 1),
        ("REPEATS", 3),
        ("CUT", (2, 3)),
    ):
        monkeypatch.setattr(loader_codecs, name, value)


@pytest.mark.slow
def test_codecs(short, tmp_path, capsys):
    arguments = ["--only", "codecs", "--codec-clips", "1", "--rounds", "1"]
    bench.main(["loader", *arguments, "--out", str(tmp_path)])
    record = json.loads(next(tmp_path.glob("loader_*.json")).read_text())
    columns = ["ours"]
    columns += ["decord"] if importlib.util.find_spec("decord") else []
    columns += ["torchcodec"] if torchcodec_loads() else []

    by_codec = record["cpu_ms_by_codec"]
    assert list(by_codec) == ["H.264", "HEVC", "VP9", "AV1"]
    for rows in by_codec.values():
        assert list(rows) == KINDS
        for row in rows.values():
            assert list(row) == columns
            assert row["ours"]["wrong"] == 0 and row["ours"]["to_ours"] == 1
        assert rows["20 s"]["ours"]["to_20s"] == 1
    row = by_codec["H.264"]["10 min"]
    for cell in row.values():
        assert cell["to_ours"] == cell["cpu_ms"] / row["ours"]["cpu_ms"] > 0
        assert cell["wrong"] == 0

    assert list(record["wall_ms_by_deadline"]) == KINDS[:2]
    for milliseconds in record["wall_ms_by_deadline"].values():
        assert list(milliseconds) == ["deadline 60", "deadline 0"]
        assert min(milliseconds.values()) > 0
    output = capsys.readouterr().out
    assert ("left out: reader 'torchcodec'" in output) != ("torchcodec" in columns)
    assert "AV1, 10 min, 570 to 590 s" in output and "wall ms per clip" in output


@pytest.mark.slow
@pytest.mark.parametrize("codec", loader_codecs.ENCODINGS)
def test_a_long_clip_repeats_a_short_one(short, tmp_path, codec):
    encoding = loader_codecs.ENCODINGS[codec]
    requests = loader_codecs.write_requests(tmp_path / "clips", encoding, 2)
    assert list(requests) == KINDS
    assert [len(request.paths) for request in requests.values()] == [2, 2, 1, 1]
    once, _ = READERS.get("sequential")(str(requests["20 s"].paths[0]), range)
    long, _ = READERS.get("sequential")(str(requests["10 min"].paths[0]), range)
    assert len(long) == 3 * len(once) == requests["10 min"].length
    for number, frame in enumerate(long):
        assert np.array_equal(frame, once[number % len(once)])
    assert requests["10 min"].positions() == [8, 27, 46, 65]
    assert requests["10 min, 570 to 590 s"].positions() == [52, 58, 64, 71]


def test_every_column_reads_the_same_frames(short, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchcodec", FakeTorchcodec())
    readers = loader_codecs.readers_that_load()
    assert list(readers)[::2] == ["ours", "torchcodec"]
    paths = bench_clips.write_set(tmp_path, 2, (96, 64), 75)
    for cut in (None, (1, 2)):
        request = loader_codecs.Request(paths, 75, cut)
        row = loader_codecs.measure_row(readers, request, 1)
        assert [cell["wrong"] for cell in row.values()] == [0] * len(readers)
        assert all(len(cell["cpu_ms_by_clip"]) == 2 for cell in row.values())

    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert "torchcodec" not in loader_codecs.readers_that_load()
    assert "left out: reader 'torchcodec'" in capsys.readouterr().out


def test_wrong_frames_and_refusals_are_told(tmp_path):
    paths = bench_clips.write_set(tmp_path, 1, (96, 64), 10)
    request = loader_codecs.Request(paths, 10)

    def read_wrongly(path, request):
        return loader_codecs.read_with_ours(path, request) + 1

    def refuse(path, request):
        raise RuntimeError("no such codec\nat all")

    readers = {"ours": loader_codecs.read_with_ours}
    readers |= {"wrong": read_wrongly, "refused": refuse}
    row = loader_codecs.measure_row(readers, request, 1)
    loader_codecs.add_ratios(row, row)
    assert row["ours"]["wrong"] == 0 and row["wrong"]["wrong"] == 1
    assert row["refused"] == {"error": "RuntimeError: no such codec"}

    show_cell = loader_codecs.show_cell
    assert show_cell(row["refused"]) == "refused"
    cell = {"cpu_ms": 12.4, "wrong": 1, "to_ours": 0.5, "to_20s": 1.25}
    assert show_cell(cell) == "12! 0.50x 1.25x"
    assert show_cell({"cpu_ms": 12.4, "wrong": 0, "to_ours": 2}) == "12 2.00x -"
