"""Clips a second on one core, by reader: ours, the predecessors' way, and the bare decode, in one run.

    python scripts/bench.py loader [--clips 12] [--rounds 3] [--data FOLDER_OF_VIDEOS]

Without --data it writes a set of 596x336 H.264 clips of 10 s (25 frames/s, x264's default keyframes and B-frames) and
a copy as scripts/prepare_data.py makes it. "predecessors" is the baseline, written here: decord, random access at full
size, the frames to float, then resize, crop and normalise. "bare decode" reads the same frames and drops them.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import torch
from torchvision.transforms import v2

from data_loader.annotations.file_lookup import VIDEO_EXTENSIONS
from data_loader.frames import pick
from data_loader.reader import read_clip
from data_loader.transforms import build_transform
from scripts.prepare_data import Settings, write_video
from trainer.versions import versions

FRAMES, RES = 4, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_set(
    folder: Path, count: int, size: tuple[int, int] = (596, 336), frames: int = 250
) -> list[Path]:
    """Clips of drifting texture and moving boxes: something for motion vectors and residuals to do."""
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        ground = np.kron(rng.integers(0, 255, (24, 42, 3)), np.ones((32, 32, 1))).astype(np.uint8)
        noise = rng.integers(-12, 12, ground.shape).astype(np.int16)
        paths.append(folder / f"{number:03d}.mp4")
        with av.open(str(paths[-1]), "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for i in range(frames):
                top, left = (i * (1 + number % 3)) % 300, (2 * i) % 600
                view = (
                    (
                        ground[top : top + size[1], left : left + size[0]].astype(np.int16)
                        + np.roll(noise, i, 1)[: size[1], : size[0]]
                    )
                    .clip(0, 255)
                    .astype(np.uint8)
                )
                view[40:120, (5 * i) % 500 : (5 * i) % 500 + 80] = rng.integers(0, 255)
                out.mux(
                    stream.encode(
                        av.VideoFrame.from_ndarray(np.ascontiguousarray(view), format="rgb24")
                    )
                )
            out.mux(stream.encode())
    return paths


def predecessors(path: Path) -> torch.Tensor:
    """decord's random access, float at full size, then the test transform."""
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    frames = (
        torch.from_numpy(video.get_batch(pick(len(video), FRAMES)).asnumpy())
        .permute(0, 3, 1, 2)
        .float()
        / 255
    )
    return v2.Compose(
        [v2.Resize(256), v2.CenterCrop(256), v2.Resize(RES), v2.Normalize(MEAN, STD)]
    )(frames)


def ours(reader: str, deadline: float | None = 60.0) -> Callable[[Path], torch.Tensor]:
    """Our reader and test transform."""
    transform = build_transform(False, RES)
    return lambda path: transform(
        read_clip(str(path), lambda n: pick(n, FRAMES), reader, deadline=deadline)[0], None
    )


def bare(path: Path) -> torch.Tensor:
    """Our reader alone."""
    return read_clip(str(path), lambda n: pick(n, FRAMES), "av", deadline=None)[0]


def rate(way: Callable[[Path], torch.Tensor], paths: list[Path], rounds: int) -> float:
    """Clips a second by the wall's clock: the median of `rounds` passes, after one clip to warm up.

    Processor time would miss a decoder that runs in a process of its own: run it on a quiet machine.
    """
    way(paths[0])
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for path in paths:
            way(path)
        seconds.append(time.perf_counter() - begun)
    return len(paths) / statistics.median(seconds)


def main(argv: list[str]):
    """Measure, print the table, write results/bench/loader_DATE.json."""
    parser = argparse.ArgumentParser(prog="bench.py loader")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--data", type=Path, help="a folder of videos instead of the generated ones"
    )
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, copies = Path(scratch), []
        raw = (
            sorted(p for p in given.data.rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS)[
                : given.clips
            ]
            if given.data
            else write_set(folder, given.clips)
        )
        (folder / "prepared").mkdir()
        for path in raw:
            copies.append(folder / "prepared" / f"{path.stem}.mp4")
            write_video(path, copies[-1], Settings(256, 12, 20))
        rows = {
            "predecessors (decord, float first)": rate(predecessors, raw, given.rounds),
            "ours, av": rate(ours("av"), raw, given.rounds),
            "ours, av, no deadline": rate(ours("av", None), raw, given.rounds),
            "ours, decord": rate(ours("decord"), raw, given.rounds),
            "bare decode (av)": rate(bare, raw, given.rounds),
            "prepared: ours, av": rate(ours("av"), copies, given.rounds),
            "prepared: bare decode": rate(bare, copies, given.rounds),
        }
    show(rows, given)


def show(rows: dict[str, float], given: argparse.Namespace):
    """The table on the console and the JSON."""
    base = rows["predecessors (decord, float first)"]
    print(f"{'one core':<38}{'clips/s':>9}{'ratio':>8}")
    for name, found in rows.items():
        print(f"{name:<38}{found:>9.1f}{found / base:>7.2f}x")
    print(
        f"of the bare decode: raw {rows['ours, av'] / rows['bare decode (av)']:.0%}, prepared "
        f"{rows['prepared: ours, av'] / rows['prepared: bare decode']:.0%}"
    )
    now = datetime.now(UTC)
    path = (
        Path(__file__).resolve().parents[2] / "results/bench" / f"loader_{now:%Y%m%d_%H%M%S}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "bench": "loader",
        "date": f"{now:%Y-%m-%d %H:%M}",
        "device": platform.processor() or "CPU, one core",
        "settings": {k: str(v) for k, v in vars(given).items()},
        "clips_per_s": rows,
        "versions": versions(),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {path.name}")
