"""Copy a data set with its videos re-encoded for training: a short side of 256 pixels and a keyframe every 12 frames.

    python scripts/prepare_data.py data/MSRVTT data/MSRVTT_256 [--side 256] [--keyframe 12] [--crf 20] [--workers 8]
    python scripts/prepare_data.py data/MSRVTT data/MSRVTT_256 --shards 1000 --dataset MSRVTT --split train

Works on any folder: videos become H.264 mp4 files of the same stem, pictures are made smaller, everything else
(annotations) is copied; the copy is used by pointing data_dir at it. The source is only read. What is done stays done:
the same command goes on where it was stopped. manifest.json holds settings, counts, failures and a hash that training
and evaluation write into their logs. --shards also packs a split of the copy into tar files of so many videos
(OUT/shards/SPLIT/00000.tar, read by the data set TarShards).
"""

import argparse
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_loader.annotations.file_lookup import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from data_loader.datasets import DATASETS
from data_loader.loader import open_leniently
from data_loader.readers import BrokenVideo
from data_loader.readers.image_reader import is_image
from parse_config import Config, ConfigError, cli_entry

VERSION = 1  # of what is written: raise it when the same settings give other files
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Settings(NamedTuple):
    """How files are rewritten: short side in pixels, frames between keyframes, x264's quality."""

    side: int
    keyframe: int
    crf: int


class Done(NamedTuple):
    """One file of the source: its place in the copy, its size and hash there, or why it failed."""

    source: str
    target: str
    size: int = 0
    sha256: str = ""
    failure: str = ""


def kind(path: Path) -> str:
    """ "video", "image" or "other" by extension, by first bytes where there is none."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_EXTENSIONS:
        return "video"
    return (
        "image" if suffix in IMAGE_EXTENSIONS or (not suffix and is_image(str(path))) else "other"
    )


def plan(source: Path) -> Iterator[tuple[str, str, str]]:
    """(path below source, path below the copy, kind) of every file; a video keeps its stem where that is free."""
    for folder, below, files in os.walk(source):
        below.sort()
        stems = [Path(file).stem for file in files if Path(file).suffix.lower() in VIDEO_EXTENSIONS]
        for file in sorted(files):
            path = Path(folder, file)
            what = kind(path)
            name = file
            if what == "video" and path.suffix.lower() != ".mp4":
                name = f"{path.stem}.mp4" if stems.count(path.stem) == 1 else f"{file}.mp4"
            yield str(path.relative_to(source)), str(path.with_name(name).relative_to(source)), what


def even(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) brought to a short side of `side` (never enlarged), both even as H.264 wants them."""
    scale = min(1.0, side / min(size))
    return tuple(max(2, round(length * scale / 2) * 2) for length in size)


def write_video(source: Path, target: Path, settings: Settings):
    """Every frame of the first-choice video stream, upright, with its time stamp; no sound."""
    with (
        av.open(str(source), metadata_errors="ignore") as read,
        av.open(str(target), "w", format="mp4") as write,
    ):
        stream = read.streams.best("video")
        if stream is None:
            raise BrokenVideo(str(source), "has no video stream")
        rate, out, last = stream.average_rate or Fraction(25), None, -1
        for number, frame in enumerate(_until_damage(read, stream)):
            turns = (frame.rotation // 90) % 4
            size = even(
                (frame.height, frame.width) if turns % 2 else (frame.width, frame.height),
                settings.side,
            )
            if out is None:
                out = _stream(write, rate, size, settings)
            time = (
                frame.pts * frame.time_base
                if frame.pts is not None and frame.time_base
                else number / rate
            )
            if turns:
                upright = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
                frame = av.VideoFrame.from_ndarray(upright)
            frame = frame.reformat(out.width, out.height, format="yuv420p", interpolation="AREA")
            last = max(last + 1, round(time / Fraction(1, 90000)))
            frame.pts, frame.time_base, frame.pict_type = last, Fraction(1, 90000), 0
            write.mux(out.encode(frame))
        if out is None:
            raise BrokenVideo(str(source), "holds no decodable frame")
        write.mux(out.encode())


def _until_damage(read, stream) -> Iterator[av.VideoFrame]:
    some = False
    try:
        for frame in read.decode(stream):
            some = True
            yield frame
    except av.FFmpegError:
        if not some:
            raise


def _stream(write, rate: Fraction, size: tuple[int, int], settings: Settings):
    options = {
        "crf": str(settings.crf),
        "preset": "veryfast",
        "g": str(settings.keyframe),
        "sc_threshold": "0",
        "movflags": "+faststart",
    }
    out = write.add_stream("libx264", rate=rate, options=options)
    out.width, out.height = size
    out.pix_fmt, out.time_base = "yuv420p", Fraction(1, 90000)
    out.codec_context.time_base, out.codec_context.thread_count = Fraction(1, 90000), 1
    return out


def write_image(source: Path, target: Path, settings: Settings):
    """A JPEG of the picture at most `side` pixels on its short side."""
    with Image.open(source) as image:
        image = image.convert("RGB")
        scale = min(1.0, settings.side / min(image.size))
        image.resize(
            tuple(max(1, round(length * scale)) for length in image.size), Image.Resampling.BICUBIC
        ).save(target, format="JPEG", quality=95)


def rewrite(job: tuple[str, str, str], source: Path, out: Path, settings: Settings) -> Done:
    """One file, under a temporary name until it is whole; a full disk is raised, a broken file reported."""
    name, goal, what = job
    target, part = out / goal, out / f"{goal}.part"
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            {
                "video": write_video,
                "image": write_image,
                "other": lambda a, b, _: shutil.copyfile(a, b),
            }[what](source / name, part, settings)
            os.replace(part, target)
        return Done(
            name, goal, target.stat().st_size, hashlib.sha256(target.read_bytes()).hexdigest()
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        if getattr(error, "errno", None) in NO_ROOM:
            raise OSError(error.errno, f"no room left while writing {target}") from None
        return Done(name, goal, failure=f"{type(error).__name__}: {error}")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=256, help="short side, pixels")
    parser.add_argument("--keyframe", type=int, default=12, help="frames between keyframes")
    parser.add_argument(
        "--crf", type=int, default=20, help="x264's quality, lower is better and larger"
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--shards", type=int, metavar="VIDEOS", help="also pack into tar files of so many videos"
    )
    parser.add_argument("--dataset", help="with --shards: the data set's name, as in dataset_name")
    parser.add_argument("--split", default="train", help="with --shards")
    given = parser.parse_args(argv)
    if given.shards and not given.dataset:
        raise ConfigError(f"--shards: needs --dataset, one of {', '.join(DATASETS.names())}")
    return given


@cli_entry
def main(argv: list[str] | None = None):
    """The command line; exit status 0 when every file was tried, whatever failed is in the manifest."""
    given = arguments(argv)
    source, out, settings = (
        given.source.resolve(),
        given.out.resolve(),
        Settings(given.side, given.keyframe, given.crf),
    )
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ConfigError(
            f"{out}: the copy must lie beside the source {source}, not inside of it or around it"
        )
    stamp, content = out / "prepare.json", {"version": VERSION, **settings._asdict()}
    if stamp.is_file() and json.loads(stamp.read_text()) != content:
        raise ConfigError(
            f"{out}: was begun with {stamp.read_text().strip()}; give those settings or another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(content) + "\n")
    jobs = list(plan(source))
    with ProcessPoolExecutor(max(1, given.workers)) as pool:
        work = partial(rewrite, source=source, out=out, settings=settings)
        done = list(tqdm(pool.map(work, jobs, chunksize=4), total=len(jobs), unit="file"))
    manifest(out, content, jobs, done)
    if given.shards:
        pack(out, given.dataset, given.split, given.shards)


def pack(out: Path, name: str, split: str, videos: int):
    """Write the readable videos of a split, with their captions, into tar files of `videos` each."""
    import webdataset

    args = {"dataset_name": name, "data_dir": str(out), "split": split, "check_files": True}
    data = open_leniently(Config({"type": "TextVideoDataLoader", "args": args}))
    folder = out / "shards" / split
    if any(data.segment(index) != (None, None) for index in range(len(data))):
        raise ConfigError(
            f"--shards: {name} cuts its videos in time, which tar shards cannot say; use {out}"
        )
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; remove it to pack anew")
    part = folder.with_name(f"{split}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with webdataset.ShardWriter(str(part / "%05d.tar"), maxcount=videos, verbose=0) as write:
        for index in tqdm(range(len(data)), unit="video"):
            path = Path(data.paths[index])
            captions = list(data.captions_of(index))
            write.write(
                {
                    "__key__": f"{index:08d}",
                    path.suffix.lstrip(".").lower() or "jpg": path.read_bytes(),
                    "json": {"id": data.ids[index], "captions": captions},
                }
            )
    part.rename(folder)
    print(f"{folder}: {len(data)} videos in tar files of {videos}")


def manifest(out: Path, settings: dict, jobs: list[tuple[str, str, str]], done: list[Done]):
    """Write manifest.json and say what came of it."""
    failures = [{"path": item.source, "reason": item.failure} for item in done if item.failure]
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for item in sorted(done):
        whole.update(f"{item.target}\0{item.sha256}\n".encode())
    kinds = [what for _, _, what in jobs]
    content = {
        "hash": whole.hexdigest(),
        "settings": settings,
        "failures": failures,
        "counts": {name: kinds.count(name) for name in ("video", "image", "other")}
        | {"failed": len(failures)},
        "bytes": sum(item.size for item in done),
    }
    part = out / "manifest.json.part"
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, out / "manifest.json")
    print(
        f"{out}: {kinds.count('video')} videos, {kinds.count('image')} pictures, {kinds.count('other')} other files, "
        f"{content['bytes'] / 2**20:.1f} MiB; {len(failures)} failed"
        f"{' (see manifest.json)' if failures else ''}; hash {content['hash'][:12]}"
    )


if __name__ == "__main__":
    main()
