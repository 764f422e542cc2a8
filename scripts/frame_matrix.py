"""Which frames each reader returns: python scripts/frame_matrix.py [FILE ...] [--seed N]

Without files, clips of every container and codec are written that carry their number in the picture. Every frame is
asked for alone and in a shuffled batch, and compared with a decode of the whole file, bit for bit. Columns: how the
file is read, its frames, wrong answers of each reader of this project, and of decord's own random access. Ends with
status 1 if a reader of this project is wrong.
"""

import argparse
import importlib.util
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from data_loader.reader import READERS, BrokenVideo, count_frames, read_clip, read_frames
from data_loader.readers.h264 import open_with_plan
from scripts.synthetic import clips

MOST = 60  # frames of a file that are asked for alone


@READERS.register("decord's own")
def alone(path, choose, start=None, end=None):
    """decord as the predecessors use it."""
    import decord

    if not os.environ.get("MILES_DECORD_LOG"):
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 2
        )  # in the child process: it complains about every lost frame
    video = decord.VideoReader(path, num_threads=1)
    indices = list(choose(len(video)) if callable(choose) else choose)
    return list(video.get_batch(indices).asnumpy()), indices


def wrong(path: str, reader: str, truth_TCHW: torch.Tensor, generator: random.Random) -> str:
    """How many frames differ from the truth, of those asked for alone and in a batch; or what else went wrong."""
    length = len(truth_TCHW)
    places = generator.sample(range(length), min(length, MOST))
    bad = 0
    try:
        for indices in ([place] for place in places):
            bad += not torch.equal(read_frames(path, indices, reader), truth_TCHW[indices])
        batch = read_frames(path, places, reader)
        bad += sum(not torch.equal(mine, truth_TCHW[place]) for mine, place in zip(batch, places))
        said = len(read_clip(path, range, reader)[1])
    except (BrokenVideo, RuntimeError, IndexError) as error:
        return (
            "refused"
            if "DECORDError" in str(error) or isinstance(error, IndexError)
            else type(error).__name__
        )
    return (
        f"{bad} of {2 * len(places)}" if bad else "ok" if said == length else f"says {said} frames"
    )


def row(path: str, readers: list[str], generator: random.Random) -> list[str]:
    """The cells of one file."""
    try:
        truth_TCHW = read_frames(path, range(count_frames(path)), "sequential")
    except BrokenVideo as error:
        return ["broken", "0", *(["-"] * (len(readers) - 1)), error.reason]
    with open_with_plan(path) as (_, plan):
        how = "jumps" if plan else "from the start"
    return [
        how,
        str(len(truth_TCHW)),
        *(wrong(path, reader, truth_TCHW, generator) for reader in readers),
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 if one of our readers is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    there = importlib.util.find_spec("decord") is not None
    ours, generator, failed = ["av", *["decord"] * there], random.Random(args.seed), False
    readers = [*ours, *["decord's own"] * there]
    print(
        f"{'file':26} {'read by':15} {'frames':>6}  " + "  ".join(f"{name:14}" for name in readers)
    )
    with tempfile.TemporaryDirectory() as folder:
        names = args.files or [*clips.VIDEOS, *clips.BROKEN]
        for name in names:
            path = name if args.files else clips.make(name, Path(folder))
            how, frames, *cells = row(path, readers, generator)
            print(
                f"{Path(name).name:26} {how:15} {frames:>6}  "
                + "  ".join(f"{it:14}" for it in cells),
                flush=True,
            )
            failed |= how != "broken" and set(cells[: len(ours)]) != {"ok"}
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
