"""Which frames each reader returns: python scripts/frame_matrix.py [FILE ...] [--seed N]

Without files, clips of every container and codec are written that carry their number in the picture. Every frame is
read by itself and in a shuffled batch, and compared with a decode of the whole file, bit for bit. Columns: how the
file is read by av, its frames, wrong answers of each reader of this project, and of decord's and torchcodec's own
random access. Readers whose library cannot be loaded are left out. Ends with status 1 if a reader of this project is
wrong.
"""

import argparse
import importlib.util
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from data_loader.reader import (
    READERS,
    BrokenVideo,
    Limits,
    count_frames,
    read_clip,
    read_frames,
)
from data_loader.readers import Choose, Pictures
from data_loader.readers.seek_plan import open_with_plan
from data_loader.readers.torchcodec_reader import load_torchcodec
from parse_config import ConfigError
from scripts.synthetic import clips

MAX_SINGLE = 60  # frames of a file that are read one by one
DECORD_ALONE = "decord's own"
WHOLE_FILES = Limits(max_clip_bytes=1 << 40)
TORCHCODEC_ALONE = "torchcodec's own"


class Row(NamedTuple):
    """How a file is read, how many frames it has, and the result of each reader, in the order of the readers."""

    method: str
    num_frames: int
    results: list[str]


@READERS.register(DECORD_ALONE)
def read_with_decord(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """decord's random access as the Frozen-in-Time codebases use it."""
    import decord

    if not os.environ.get("MILES_DECORD_LOG"):
        # decord complains on stderr about every lost frame; this runs in the child process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    video = decord.VideoReader(path, num_threads=1)
    if callable(choose):
        choose = choose(len(video))
    indices = list(choose)
    return Pictures(list(video.get_batch(indices).asnumpy()), indices)


@READERS.register(TORCHCODEC_ALONE)
def read_with_torchcodec(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """torchcodec's random access as its documentation shows it."""
    video = load_torchcodec().decoders.VideoDecoder(path, dimension_order="NHWC")
    if callable(choose):
        choose = choose(len(video))
    indices = list(choose)
    return Pictures(list(video.get_frames_at(indices).data.numpy()), indices)


def readers_that_load() -> tuple[list[str], list[str]]:
    """(readers of this project, other ones) whose library is there."""
    project_readers = ["av", "sequential"]
    other_readers = []
    if importlib.util.find_spec("decord"):
        project_readers.append("decord")
        other_readers.append(DECORD_ALONE)
    try:
        load_torchcodec()
        project_readers.append("torchcodec")
        other_readers.append(TORCHCODEC_ALONE)
    except ConfigError as error:
        print(f"left out: {error}", file=sys.stderr)
    return project_readers, other_readers


def check_reader(
    path: str, reader: str, expected_TCHW: torch.Tensor, generator: random.Random
) -> str:
    """The cell of one file and reader: "ok", how many frames are wrong, or what else went wrong.

    `expected_TCHW`: all frames of the file. A random sample of them is read one by one, then in one batch.
    """
    length = len(expected_TCHW)
    positions = generator.sample(range(length), min(length, MAX_SINGLE))

    num_wrong = 0
    try:
        for position in positions:
            frame_1CHW = read_frames(path, [position], reader, limits=WHOLE_FILES)
            num_wrong += not torch.equal(frame_1CHW, expected_TCHW[[position]])
        frames_TCHW = read_frames(path, positions, reader, limits=WHOLE_FILES)
        for frame_CHW, position in zip(frames_TCHW, positions):
            num_wrong += not torch.equal(frame_CHW, expected_TCHW[position])
        _, indices = read_clip(path, range, reader, limits=WHOLE_FILES)
    except (BrokenVideo, RuntimeError, IndexError) as error:
        if "DECORDError" in str(error) or isinstance(error, IndexError):
            return "refused"
        return type(error).__name__

    if num_wrong:
        return f"{num_wrong} of {2 * len(positions)}"
    if len(indices) != length:
        return f"says {len(indices)} frames"
    return "ok"


def check_file(path: str, readers: list[str], generator: random.Random) -> Row:
    """The row of one file."""
    try:
        positions = range(count_frames(path))
        expected_TCHW = read_frames(path, positions, "sequential", limits=WHOLE_FILES)
    except BrokenVideo as error:
        return Row("broken", 0, [*(["-"] * (len(readers) - 1)), error.reason])
    with open_with_plan(path) as (_, plan):
        method = "jumps" if plan else "from the start"
    results = [
        check_reader(path, reader, expected_TCHW, generator) for reader in readers
    ]
    return Row(method, len(expected_TCHW), results)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if a reader of this project is wrong."""
    arguments = parse_arguments(argv)
    project_readers, other_readers = readers_that_load()
    readers = project_readers + other_readers

    generator = random.Random(arguments.seed)
    failed = False
    print_row("file", "read by", "frames", readers)

    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.files or [*clips.VIDEOS, *clips.BROKEN]:
            path = name if arguments.files else clips.make(name, Path(folder))
            row = check_file(path, readers, generator)
            print_row(Path(name).name, row.method, str(row.num_frames), row.results)
            project_results = set(row.results[: len(project_readers)])
            if row.method != "broken" and project_results != {"ok"}:
                failed = True
    return int(failed)


def print_row(name: str, method: str, num_frames: str, results: list[str]) -> None:
    cells = "  ".join(f"{result:16}" for result in results)
    print(f"{name:26} {method:15} {num_frames:>6}  {cells}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
