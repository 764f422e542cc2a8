"""Clips per second on one core, by reader: ours, the predecessors' way, and the bare decode, in one run.

    python scripts/bench.py loader [--clips 12] [--rounds 3] [--data FOLDER_OF_VIDEOS] [--only codecs]

Without --data it writes a set of 596x336 H.264 clips of 10 s (25 frames/s, x264's default keyframes and B-frames) and
a copy as scripts/prepare_data.py makes it. "predecessors" is the baseline, written here: decord, random access at full
size, the frames to float, then resize, crop and normalise. "bare decode" reads the same frames and drops them.

The second table is of training samples of a data set of small clips (64x64, 12 frames; 32 px, neither crop nor flip),
with video_params.decode_cache "none" and "memory". The third is of other codecs: scripts/benchmarks/loader_codecs.py.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from data_loader.annotations.file_lookup import is_video
from data_loader.annotations.media_scan import scan_media
from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.frames import FrameChoice, pick
from data_loader.reader import read_clip
from data_loader.transforms import build_transform
from scripts.benchmarks import loader_codecs
from scripts.benchmarks.bench_clips import prepare, write_set
from scripts.benchmarks.record import RESULTS, cpu_name, write_record

FRAMES, RES = 4, 224
FRAME_CHOICE = FrameChoice(FRAMES)
SMALL_CLIPS, SMALL_SIZE, SMALL_FRAMES, SMALL_RES = 200, (64, 64), 12, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def predecessors(path: Path) -> torch.Tensor:
    """decord's random access, float at full size, then the test transform."""
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    frames_THWC = torch.from_numpy(video.get_batch(pick(len(video), FRAMES)).asnumpy())
    frames_TCHW = frames_THWC.permute(0, 3, 1, 2).float() / 255
    transform = v2.Compose(
        [v2.Resize(256), v2.CenterCrop(256), v2.Resize(RES), v2.Normalize(MEAN, STD)]
    )
    return transform(frames_TCHW)


def ours(path: Path, reader: str, deadline: float | None = 60.0) -> torch.Tensor:
    """Our reader and test transform."""
    clip_TCHW, _ = read_clip(str(path), FRAME_CHOICE, reader, deadline=deadline)
    return build_transform(False, RES)(clip_TCHW, None)


def bare_decode(path: Path) -> torch.Tensor:
    """Our reader alone."""
    return read_clip(str(path), FRAME_CHOICE, "av", deadline=None)[0]


def rate(read: Callable[[Path], torch.Tensor], paths: list[Path], rounds: int) -> float:
    """Clips per second by the wall's clock: the median of `rounds` passes, after one clip to warm up.

    Processor time would miss a decoder that runs in a process of its own: run it on a quiet machine.
    """
    read(paths[0])
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for path in paths:
            read(path)
        seconds.append(time.perf_counter() - begun)
    return len(paths) / statistics.median(seconds)


def main(argv: list[str]) -> None:
    """Measure, print the tables, write results/bench/loader_DATE.json."""
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    tables = {
        "ways": measure_ways,
        "cache": measure_cache,
        "codecs": measure_codecs,
    }
    measurements: dict[str, Any] = {}
    for name, measure in tables.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                measurements.update(measure(Path(folder), arguments))
    device = f"{cpu_name()}, one core"
    write_record("loader", device, arguments, measurements, arguments.out)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py loader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--data", type=Path, help="a folder of videos instead of the generated ones"
    )
    parser.add_argument(
        "--codec-clips", type=int, default=2, help="clips of each codec"
    )
    parser.add_argument(
        "--only", choices=("ways", "cache", "codecs"), help="one of the three tables"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where the record is written"
    )
    return parser.parse_args(argv)


def measure_ways(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Clips per second by the way to read them."""
    if arguments.data:
        raw = videos_in(arguments.data)[: arguments.clips]
    else:
        raw = write_set(folder, arguments.clips)
    prepared = prepare(raw, folder / "prepared")
    rates = {
        name: rate(read, paths, arguments.rounds)
        for name, (read, paths) in ways_to_read(raw, prepared).items()
    }
    show(rates)
    return {"clips_per_s": rates}


def measure_cache(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Training samples per second by decode_cache."""
    rates = rates_by_cache(folder / "small", arguments)
    show_cache(rates)
    return {"clips_per_s_by_cache": rates}


def measure_codecs(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Processor time by codec and reader, and the cost of a process of its own."""
    return loader_codecs.measure(folder, arguments.codec_clips, arguments.rounds)


def ways_to_read(
    raw: list[Path], prepared: list[Path]
) -> dict[str, tuple[Callable[[Path], torch.Tensor], list[Path]]]:
    """{name: (what reads a clip, the files)}; the first is what the others are compared with."""
    guarded = partial(ours, reader="av")
    unguarded = partial(ours, reader="av", deadline=None)
    ways: dict[str, tuple[Callable[[Path], torch.Tensor], list[Path]]] = {
        "ours, av": (guarded, raw),
        "ours, av, no deadline": (unguarded, raw),
        "bare decode (av)": (bare_decode, raw),
        "prepared: ours, av": (guarded, prepared),
        "prepared: ours, av, no deadline": (unguarded, prepared),
        "prepared: bare decode": (bare_decode, prepared),
    }
    if importlib.util.find_spec("decord"):
        ways = {
            "predecessors (decord, float first)": (predecessors, raw),
            "ours, decord": (partial(ours, reader="decord"), raw),
            **ways,
        }
    return ways


def rates_by_cache(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Training samples per second of small clips, by decode_cache; the first epoch, which fills it, is not counted."""
    folder.mkdir()
    paths = write_set(folder, SMALL_CLIPS, SMALL_SIZE, SMALL_FRAMES)
    rows = [json.dumps({"path": path.name, "caption": path.stem}) for path in paths]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")

    rates = {}
    for decode_cache in ("none", "memory"):
        dataset = small_dataset(folder, decode_cache)
        seconds = []
        for epoch in range(1 + arguments.rounds):
            begun = time.perf_counter()
            for index in range(len(dataset)):
                dataset[index, epoch]
            seconds.append(time.perf_counter() - begun)
        rates[decode_cache] = len(dataset) / statistics.median(seconds[1:])
    return rates


def small_dataset(folder: Path, decode_cache: str) -> TextVideoDataset:
    """The clips in `folder` for training."""
    video_params = {
        "num_frames": FRAMES,
        "input_res": SMALL_RES,
        "randcrop_scale": [1, 1],
        "hflip": False,
        "decode_cache": decode_cache,
    }
    args = {"data_dir": str(folder), "video_params": video_params}
    return DATASETS.build({"type": "JsonlDataset", "args": args}, seed=0)


def videos_in(folder: Path) -> list[Path]:
    """Every video in and under a folder, sorted."""
    return sorted(
        folder / path for path in scan_media(folder).paths() if is_video(path)
    )


def show(rates: dict[str, float]) -> None:
    """Print the table of the ways to read."""
    baseline = next(iter(rates.values()))
    print(f"{'one core':<38}{'clips/s':>9}{'ratio':>8}")
    for name, clips_per_second in rates.items():
        print(f"{name:<38}{clips_per_second:>9.1f}{clips_per_second / baseline:>7.2f}x")
    print(
        f"of the bare decode: raw {rates['ours, av'] / rates['bare decode (av)']:.0%}, prepared "
        f"{rates['prepared: ours, av'] / rates['prepared: bare decode']:.0%}"
    )
    for prefix in ("", "prepared: "):
        cost = rates[f"{prefix}ours, av, no deadline"] / rates[f"{prefix}ours, av"] - 1
        print(f"{prefix}the process that guards the deadline costs {cost:.1%}")


def show_cache(rates: dict[str, float]) -> None:
    """Print the table of the cache of decoded clips."""
    print(
        f"\n{'small clips, decode_cache':<38}{'clips/s':>9}{'ratio':>8}{'ms/clip':>9}"
    )
    for name, clips_per_second in rates.items():
        ratio = clips_per_second / rates["none"]
        milliseconds = 1e3 / clips_per_second
        print(f"{name:<38}{clips_per_second:>9.1f}{ratio:>7.2f}x{milliseconds:>9.3f}")


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py loader --help")
