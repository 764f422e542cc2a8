"""scripts/prepare_data.py: the copy has the frames and times of the source, goes on where it stopped."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_loader.datasets import DATASETS
from data_loader.reader import count_frames, read_frames

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


def clip(path, codec="libx264", frames=30, size=(320, 200), rotation=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            picture = np.full((size[1], size[0], 3), 40, np.uint8)
            picture[:, : size[0] // 2] = 40 + 5 * i
            for packet in stream.encode(
                av.VideoFrame.from_ndarray(picture, format="rgb24")
            ):
                out.mux(packet)
        out.mux(stream.encode())


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    clip(folder / "videos/a.avi", "mpeg4")
    clip(folder / "videos/b.mp4")
    clip(folder / "videos/b.avi", "mpeg4", frames=7)
    clip(folder / "videos/small.mp4", size=(64, 48))
    (folder / "videos/broken.mp4").write_text("<html>gone</html>")
    rows = [
        {"path": f"videos/{name}", "caption": name}
        for name in ("a.avi", "b.mp4", "small.mp4")
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_copy_is_the_same_data_set(source, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in source.rglob("*")}
    result = run(
        source, tmp_path / "copy", "--side", 100, "--keyframe", 5, "--workers", 1
    )
    assert result.returncode == 0, result.stderr
    assert "5 videos" in result.stdout and "1 failed" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in source.rglob("*")} == before
    manifest = json.loads((tmp_path / "copy/manifest.json").read_text())
    assert [f["path"] for f in manifest["failures"]] == [
        "videos/broken.mp4"
    ] and manifest["counts"]["failed"] == 1
    names = {p.name for p in (tmp_path / "copy/videos").iterdir()}
    assert names == {"a.mp4", "b.mp4", "b.avi.mp4", "small.mp4"}
    for copy_name, source_name, count in (
        ("a.mp4", "a.avi", 30),
        ("b.mp4", "b.mp4", 30),
        ("b.avi.mp4", "b.avi", 7),
    ):
        copy = tmp_path / "copy/videos" / copy_name
        assert (
            count_frames(copy) == count == count_frames(source / "videos" / source_name)
        )
        new_TCHW = read_frames(copy, range(count))
        old_TCHW = read_frames(source / "videos" / source_name, range(count))
        assert new_TCHW.shape[2:] == (100, 160)
        new_brightness_T = new_TCHW[..., :70].float().mean((1, 2, 3))
        old_brightness_T = old_TCHW[..., :140].float().mean((1, 2, 3))
        assert abs(new_brightness_T - old_brightness_T).max() < 4
        with av.open(str(copy)) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.size]
            times = sorted(p.pts * stream.time_base for p in packets)
            assert [t - times[0] for t in times] == [
                Fraction(i, 10) for i in range(count)
            ]
            assert sum(p.is_keyframe for p in packets) >= count // 5
    assert read_frames(tmp_path / "copy/videos/small.mp4", [0]).shape[2:] == (48, 64)
    args = {
        "data_dir": str(tmp_path / "copy"),
        "split": "test",
        "video_params": {"input_res": 32},
    }
    data = DATASETS.build({"type": "JsonlDataset", "args": args})
    assert (
        len(data) == 3
        and data.manifest_hash == manifest["hash"]
        and data[0]["video"].shape == (4, 3, 32, 32)
    )


def test_it_goes_on_where_it_stopped_and_refuses_a_mixture(source, tmp_path):
    copy = tmp_path / "copy"
    assert run(source, copy, "--side", 100).returncode == 0
    first = json.loads((copy / "manifest.json").read_text())
    modified = (copy / "videos/a.mp4").stat().st_mtime_ns
    (copy / "videos/b.mp4").unlink()
    assert run(source, copy, "--side", 100).returncode == 0
    assert (copy / "videos/a.mp4").stat().st_mtime_ns == modified
    assert json.loads((copy / "manifest.json").read_text()) == first
    other = run(source, copy, "--side", 64)
    assert (
        other.returncode == 2
        and "give those settings or another folder" in other.stderr
    )
    assert run(source, source / "inside").returncode == 2
    assert run(tmp_path / "nowhere", copy).returncode == 2


def test_a_split_as_tar_shards(source, tmp_path):
    copy = tmp_path / "copy"
    result = run(
        source,
        copy,
        "--side",
        100,
        "--shards",
        2,
        "--dataset",
        "JsonlDataset",
        "--split",
        "test",
    )
    assert result.returncode == 0, result.stderr
    folder = copy / "shards" / "test"
    assert sorted(p.name for p in folder.iterdir()) == ["00000.tar", "00001.tar"]
    args = {"data_dir": str(folder), "split": "test", "video_params": {"input_res": 32}}
    shards = DATASETS.build({"type": "TarShards", "args": args})
    plain = DATASETS.build(
        {"type": "JsonlDataset", "args": {**args, "data_dir": str(copy)}}
    )
    assert (
        list(shards.captions) == list(plain.captions) == ["a.avi", "b.mp4", "small.mp4"]
    )
    for index in range(3):
        assert (shards[index]["video"] == plain[index]["video"]).all()
    assert run(source, copy, "--side", 100, "--shards", 2).returncode == 2
