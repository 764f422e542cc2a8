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
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from PIL import Image
from tqdm import tqdm

from data_loader.annotations.file_lookup import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from data_loader.datasets import DATASETS
from data_loader.loader import open_leniently
from data_loader.readers import BrokenVideo
from data_loader.readers.container import open_container
from data_loader.readers.image_reader import is_image, open_picture, upright_rgb
from data_loader.readers.regular_file import open_regular
from parse_config import Config, ConfigError, cli_entry
from trainer.files import write_json

VERSION = 1  # of what is written: raise it when the same settings give other files
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
TIME_BASE = Fraction(1, 90000)  # of the copies' time stamps, in seconds
DEFAULT_FRAME_RATE = Fraction(25)
FILE_TYPES = ("video", "image", "other")


class Settings(NamedTuple):
    """How files are rewritten: short side in pixels, frames between keyframes, x264's quality."""

    side: int
    keyframe: int
    crf: int


class Job(NamedTuple):
    """One file to copy: its path below the source and below the copy, and one of FILE_TYPES."""

    source: str
    target: str
    file_type: str


class CopiedFile(NamedTuple):
    """One file of the source: its path in the copy, its size and hash there, or why it failed."""

    source: str
    target: str
    size: int = 0
    sha256: str = ""
    failure: str = ""


def file_type(path: Path) -> str:
    """One of FILE_TYPES by extension, by the first bytes where there is none."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_EXTENSIONS:
        return "video"
    if suffix in IMAGE_EXTENSIONS or (not suffix and _begins_as_image(path)):
        return "image"
    return "other"


def _begins_as_image(path: Path) -> bool:
    try:
        return is_image(str(path))
    except (BrokenVideo, OSError):  # a pipe, or unreadable: copying it says why
        return False


def list_jobs(source: Path) -> Iterator[Job]:
    """Every file below `source`; a video keeps its stem where no other video beside it has the same."""
    for folder, subfolders, files in os.walk(source):
        subfolders.sort()
        video_stems = [
            Path(file).stem
            for file in files
            if Path(file).suffix.lower() in VIDEO_EXTENSIONS
        ]
        for file in sorted(files):
            path = Path(folder, file)
            target = path
            if file_type(path) == "video" and path.suffix.lower() != ".mp4":
                is_unique = video_stems.count(path.stem) == 1
                target = path.with_name(
                    f"{path.stem}.mp4" if is_unique else f"{file}.mp4"
                )
            yield Job(
                str(path.relative_to(source)),
                str(target.relative_to(source)),
                file_type(path),
            )


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with a short side of `side` (never enlarged), both even as H.264 wants them."""
    scale = min(1.0, side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def write_video(source: Path, target: Path, settings: Settings) -> None:
    """Every frame of the best video stream, upright, with its time stamp; no sound. Raises BrokenVideo, OSError."""
    with (
        open_container(str(source), {}) as container,
        av.open(str(target), "w", format="mp4") as output,
    ):
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise BrokenVideo(str(source), "has no video stream")

        rate = stream.average_rate or DEFAULT_FRAME_RATE
        encoder = None
        last_stamp = -1

        for number, frame in enumerate(_frames_until_damage(container, stream)):
            seconds = number / rate
            if frame.pts is not None and frame.time_base:
                seconds = frame.pts * frame.time_base

            frame = _upright(frame)
            if encoder is None:
                size = scaled_size(frame.width, frame.height, settings.side)
                encoder = _add_encoder(output, rate, size, settings)
            frame = frame.reformat(
                encoder.width, encoder.height, format="yuv420p", interpolation="AREA"
            )

            last_stamp = max(last_stamp + 1, round(seconds / TIME_BASE))
            frame.pts = last_stamp
            frame.time_base = TIME_BASE
            frame.pict_type = 0  # the encoder chooses
            output.mux(encoder.encode(frame))

        if encoder is None:
            raise BrokenVideo(str(source), "holds no decodable frame")
        output.mux(encoder.encode())


def _frames_until_damage(
    container: InputContainer, stream: VideoStream
) -> Iterator[av.VideoFrame]:
    """The frames up to the first damage; raises FFmpegError if there are none."""
    has_frames = False
    try:
        for frame in container.decode(stream):
            has_frames = True
            yield frame
    except av.FFmpegError:
        if not has_frames:
            raise


def _upright(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame turned as its rotation says."""
    quarter_turns = (frame.rotation // 90) % 4
    if not quarter_turns:
        return frame
    picture_HWC = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    upright_HWC = np.ascontiguousarray(np.rot90(picture_HWC, quarter_turns))
    return av.VideoFrame.from_ndarray(upright_HWC)


def _add_encoder(
    output: OutputContainer, rate: Fraction, size: tuple[int, int], settings: Settings
) -> VideoStream:
    """An H.264 stream of (width, height) pixels in the output."""
    options = {
        "crf": str(settings.crf),
        "preset": "veryfast",
        "g": str(settings.keyframe),
        "sc_threshold": "0",
        "movflags": "+faststart",
    }
    encoder = output.add_stream("libx264", rate=rate, options=options)
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = TIME_BASE
    encoder.codec_context.time_base = TIME_BASE
    encoder.codec_context.thread_count = 1
    return encoder


def write_image(source: Path, target: Path, settings: Settings) -> None:
    """A JPEG of the picture, upright and on white, with at most `side` pixels on its short side."""
    with open_picture(str(source)) as picture:
        image = upright_rgb(str(source), picture)
        scale = min(1.0, settings.side / min(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(target, format="JPEG", quality=95)


def copy_file(source: Path, target: Path, settings: Settings) -> None:
    """The same bytes. Raises BrokenVideo for what is no regular file."""
    open_regular(str(source)).close()
    shutil.copyfile(source, target)


WRITERS = {"video": write_video, "image": write_image, "other": copy_file}


def run_job(job: Job, source: Path, out: Path, settings: Settings) -> CopiedFile:
    """Write one file, under a temporary name until it is complete.

    A file that cannot be read is reported; raises OSError if the disk is full.
    """
    target = out / job.target
    temporary = out / f"{job.target}.part"
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[job.file_type](source / job.source, temporary, settings)
            os.replace(temporary, target)
        sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
        return CopiedFile(job.source, job.target, target.stat().st_size, sha256)
    except (av.FFmpegError, OSError, ValueError) as error:
        temporary.unlink(missing_ok=True)
        error_number = getattr(error, "errno", None)
        if error_number in DISK_FULL:
            raise OSError(
                error_number, f"no room left while writing {target}"
            ) from None
        return CopiedFile(
            job.source, job.target, failure=f"{type(error).__name__}: {error}"
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=256, help="short side, pixels")
    parser.add_argument(
        "--keyframe", type=int, default=12, help="frames between keyframes"
    )
    parser.add_argument(
        "--crf", type=int, default=20, help="x264's quality, lower is better and larger"
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--shards",
        type=int,
        metavar="VIDEOS",
        help="also pack into tar files of so many videos",
    )
    parser.add_argument(
        "--dataset", help="with --shards: the data set's name, as in dataset_name"
    )
    parser.add_argument("--split", default="train", help="with --shards")
    arguments = parser.parse_args(argv)
    if arguments.shards and not arguments.dataset:
        raise ConfigError(
            f"--shards: needs --dataset, one of {', '.join(DATASETS.names())}"
        )
    return arguments


@cli_entry
def main(argv: list[str] | None = None) -> None:
    """The command line; exit status 0 when every file was tried, whatever failed is in the manifest."""
    arguments = parse_arguments(argv)
    source = arguments.source.resolve()
    out = arguments.out.resolve()
    settings = Settings(arguments.side, arguments.keyframe, arguments.crf)
    check_folders(source, out)

    stamp = {"version": VERSION, **settings._asdict()}
    write_stamp(out, stamp)

    jobs = list(list_jobs(source))
    with ProcessPoolExecutor(max(1, arguments.workers)) as pool:
        work = partial(run_job, source=source, out=out, settings=settings)
        results = pool.map(work, jobs, chunksize=4)
        copied_files = list(tqdm(results, total=len(jobs), unit="file"))

    write_manifest(out, stamp, jobs, copied_files)
    if arguments.shards:
        pack_shards(out, arguments.dataset, arguments.split, arguments.shards)


def check_folders(source: Path, out: Path) -> None:
    """Raise FileNotFoundError if there is no source, ConfigError if one folder is inside the other."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ConfigError(
            f"{out}: the copy must lie beside the source {source}, not inside of it or around it"
        )


def write_stamp(out: Path, stamp: dict[str, int]) -> None:
    """Record the settings in the copy; raises ConfigError if it was begun with others."""
    path = out / "prepare.json"
    if path.is_file() and json.loads(path.read_text()) != stamp:
        raise ConfigError(
            f"{out}: was begun with {path.read_text().strip()}; give those settings or another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, stamp, indent=None)


def pack_shards(
    out: Path, dataset_name: str, split: str, videos_per_shard: int
) -> None:
    """Write the readable videos of a split, with their captions, into tar files."""
    import webdataset

    loader_args = {
        "dataset_name": dataset_name,
        "data_dir": str(out),
        "split": split,
        "check_files": True,
    }
    dataset = open_leniently(
        Config({"type": "TextVideoDataLoader", "args": loader_args})
    )

    folder = out / "shards" / split
    if any(dataset.segment(index) != (None, None) for index in range(len(dataset))):
        raise ConfigError(
            f"--shards: {dataset_name} cuts its videos in time, which tar shards cannot say; use {out}"
        )
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; remove it to pack anew")

    temporary = folder.with_name(f"{split}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)

    pattern = str(temporary / "%05d.tar")
    with webdataset.ShardWriter(
        pattern, maxcount=videos_per_shard, verbose=0
    ) as writer:
        for index in tqdm(range(len(dataset)), unit="video"):
            path = Path(dataset.paths[index])
            captions = list(dataset.captions_of(index))
            extension = path.suffix.lstrip(".").lower() or "jpg"
            writer.write(
                {
                    "__key__": f"{index:08d}",
                    extension: path.read_bytes(),
                    "json": {"id": dataset.ids[index], "captions": captions},
                }
            )

    temporary.rename(folder)
    print(f"{folder}: {len(dataset)} videos in tar files of {videos_per_shard}")


def write_manifest(
    out: Path, stamp: dict[str, int], jobs: list[Job], copied_files: list[CopiedFile]
) -> None:
    """Write manifest.json and print a summary of it."""
    failures = [
        {"path": file.source, "reason": file.failure}
        for file in copied_files
        if file.failure
    ]
    copy_hash = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode())
    for file in sorted(copied_files):
        copy_hash.update(f"{file.target}\0{file.sha256}\n".encode())

    counts = Counter(job.file_type for job in jobs)
    num_bytes = sum(file.size for file in copied_files)
    content = {
        "hash": copy_hash.hexdigest(),
        "settings": stamp,
        "failures": failures,
        "counts": {name: counts[name] for name in FILE_TYPES}
        | {"failed": len(failures)},
        "bytes": num_bytes,
    }
    write_json(out / "manifest.json", content)

    hint = " (see manifest.json)" if failures else ""
    print(
        f"{out}: {counts['video']} videos, {counts['image']} pictures, {counts['other']} other files, "
        f"{num_bytes / 2**20:.1f} MiB; {len(failures)} failed{hint}; hash {copy_hash.hexdigest()[:12]}"
    )


if __name__ == "__main__":
    main()
