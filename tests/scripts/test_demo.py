"""The demo's data and config: same arguments, same bytes; a gallery without doubles; read by the ordinary loader."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from data_loader import LOADERS
from data_loader.reader import count_frames, read_frames
from model import ARCHS
from parse_config import load_config
from scripts.synthetic import captions
from tests.helpers.tiny_run import ROOT

pytestmark = pytest.mark.slow

SMALL = ("--train", "60", "--val", "9", "--test", "12", "--frames", "8")


def make(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "make_demo_data.py"),
        "--out",
        str(out),
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def lines(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for line in (folder / "captions.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module", params=("1", "2"), ids=("one object", "two objects"))
def data(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / request.param
    result = make(folder, "--objects", request.param, *SMALL)
    assert result.returncode == 0, result.stderr
    return folder


def test_same_arguments_give_the_same_bytes(data, tmp_path):
    again = tmp_path / "again"
    assert make(again, "--objects", data.name, *SMALL).returncode == 0
    files = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    assert len([path for path in files if path.suffix == ".mp4"]) == 81
    assert files == sorted(
        path.relative_to(again) for path in again.rglob("*") if path.is_file()
    )
    assert [
        path
        for path in files
        if (data / path).read_bytes() != (again / path).read_bytes()
    ] == []


def test_what_is_there_is_kept(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    repeated = make(data, "--objects", data.name, *SMALL)
    assert (repeated.returncode, "already there" in repeated.stdout) == (0, True)
    other = make(data, "--objects", data.name, *SMALL, "--seed", "1")
    assert (
        other.returncode != 0
        and str(data) in other.stderr
        and "Traceback" not in other.stderr
    )
    assert before == {path: path.stat().st_mtime_ns for path in data.rglob("*")}


@pytest.mark.parametrize("reader", ["auto", "av", "sequential", "decord"])
def test_every_reader_reads_the_clips(data, reader):
    path = data / lines(data)[0]["path"]
    clip_TCHW = read_frames(path, [0, 3, 7], reader=reader)
    assert count_frames(path) == 8 and clip_TCHW.shape == (3, 3, 64, 64)
    assert torch.equal(clip_TCHW, read_frames(path, [0, 3, 7]))


@pytest.mark.parametrize("objects", (1, 2))
def test_the_gallery(objects):
    """At full size, before anything is drawn: 240 meanings, all different, a quarter of them new."""
    counts = {"train": 3000, "val": 120, "test": 240}
    split = (
        captions.split_single_objects if objects == 1 else captions.split_object_pairs
    )
    combinations = split(counts, numpy.random.default_rng(0))
    assert {name: len(shown) for name, shown in combinations.items()} == counts
    gallery = [frozenset(shown) for shown in combinations["test"]]
    train = {frozenset(shown) for shown in combinations["train"]}
    assert len(set(gallery)) == 240
    assert sum(shown not in train for shown in gallery) >= 60
    rng = numpy.random.default_rng(0)
    assert len({captions.describe(shown, rng) for shown in combinations["test"]}) == 240


def test_two_objects_come_in_pairs_that_differ_by_one_swap():
    counts = {"train": 10, "val": 40, "test": 240}
    gallery = captions.split_object_pairs(counts, numpy.random.default_rng(0))["test"]
    for first, second in zip(gallery[::2], gallery[1::2]):
        assert set(first) != set(second)
        for name in captions.ATTRIBUTES:
            values = {getattr(scene_object, name) for scene_object in first}
            assert values == {getattr(scene_object, name) for scene_object in second}


def test_the_config_takes_the_data(data, monkeypatch):
    """demo.json's own loader and model on the clips: batches of the right shape, no word unknown to the tokenizer."""
    monkeypatch.setenv("DEMO_DIR", str(data))
    overrides = ["data_loader.args.num_workers=0", "data_loader.args.batch_size=4"]
    config = load_config(ROOT / "configs" / "demo.json", overrides)
    model = ARCHS.build(config["arch"])
    loader = LOADERS.build(config["data_loader"], tokenize=model.tokenize)
    batch = next(iter(loader.epoch(0)))
    assert batch["video"].shape == (4, 4, 3, 32, 32)
    text_BE, video_BE = model(batch)
    assert text_BE.shape == video_BE.shape
    words = model.tokenize(list(loader.dataset.captions))["input_ids"]
    assert not (words == 1).any() and words.shape[1] <= 64
