"""Features of videos, pictures or texts, for search or for anything else.

    python scripts/extract.py -r CKPT FOLDER OUT [--segments 8]        every video and picture under a folder
    python scripts/extract.py -r CKPT CONFIG.json OUT [--split test]   a data set, or with --texts its captions
    python scripts/extract.py -r CKPT captions.txt OUT --texts         one text per line; or "text" of a .jsonl's rows
    torchrun --nproc_per_node=8 scripts/extract.py ...                 any number of processes

OUT gets shards of features (as encode_video and encode_text give them, not normalized), ids.jsonl, bad_files.jsonl,
manifest.json; see scripts/retrieval/features.py.
However a run ends, the same command resumes it; another checkpoint or other options are refused. --segments divides
videos into segments of that many seconds, each a row; a remainder of no more than a quarter of that joins the segment
before. Files that cannot be read are listed and counted, and do not change the exit status.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_loader.base import TextVideoDataset
from model import load_model
from model.hub import is_hub_id
from model.miles import MILES
from model.text import own_files
from parse_config import ConfigError, UserError, cli_entry, to_plain
from scripts.retrieval import sources
from scripts.retrieval.encode import (
    joint_width,
    make_encoder,
    read_batches,
    write_features,
)
from scripts.retrieval.feature_writer import FeatureWriter
from scripts.retrieval.features import SHARD_FORMATS, Row, hash_checkpoint, hash_rows
from trainer import distributed, lock
from trainer.distributed import gather_objects, rank, run_on_main, world_size
from trainer.log import console
from trainer.precision import NAMES

T = TypeVar("T")


def main(args: argparse.Namespace) -> None:
    """Extract the features of a source; every process runs this."""
    start_time = time.monotonic()
    device = distributed.start(args.device)
    try:
        console()
        video_overrides = {}
        if args.deadline is not None:
            video_overrides["deadline"] = args.deadline
        model = load_model(args.resume, device, video_params=video_overrides)
        writer = FeatureWriter(args.out, args.files, args.shard, joint_width(model))
        datasets = sources.open_data_sets(args.source, args.split)
        begin_or_resume(writer, model, datasets, args)
        pending = run_on_main_or_exit(writer.read_pending)
        writer.read_pending()  # the rows, on every process
        shards = pending[rank() :: world_size()]
        encode = make_encoder(model, args.precision)
        batches = read_batches(writer, model, datasets, shards, args)
        write_features(writer, encode, batches, len(shards))
        distributed.barrier()
        num_rows, num_bad = run_on_main_or_exit(writer.finish)
        if rank() == 0:
            num_resumed = writer.num_shards - len(pending)
            seconds = time.monotonic() - start_time
            print_summary(writer, num_rows, num_bad, num_resumed, seconds)
    finally:
        lock.release()
        distributed.stop()


def run_on_main_or_exit(function: Callable[[], T]) -> T:
    """`run_on_main`, after whose UserError or OSError the other processes exit silently: process 0 reports it."""
    try:
        return run_on_main(function)
    except (UserError, OSError):
        if rank() == 0:
            raise
        raise SystemExit(2) from None


def begin_or_resume(
    writer: FeatureWriter,
    model: MILES,
    datasets: Sequence[TextVideoDataset],
    args: argparse.Namespace,
) -> None:
    """Lists the rows to extract in the folder, or checks that an earlier run with the same options did."""

    def list_and_open() -> tuple[list[Row], dict[str, Any], bool]:
        rows = list_rows(datasets, args)
        identity = describe_run(rows, model, datasets, args)
        return rows, identity, writer.open(identity)

    rows, identity, resumed = run_on_main_or_exit(list_and_open)
    if resumed:
        return
    if args.segments:
        rows = divide_on_all_processes(rows, model, args)

    def begin() -> None:
        writer.begin(identity, rows)

    run_on_main_or_exit(begin)


def list_rows(
    datasets: Sequence[TextVideoDataset], args: argparse.Namespace
) -> list[Row]:
    """The texts or videos of the source, before videos are divided into segments."""
    if args.texts:
        return sources.list_texts(args.source, datasets)
    if datasets:
        return sources.list_videos(datasets)
    return sources.list_files(args.source)


def describe_run(
    rows: list[Row],
    model: MILES,
    datasets: Sequence[TextVideoDataset],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Everything that decides the features, for the manifest; a run with another description cannot be resumed."""
    video_settings: list[Any] = []
    if not args.texts:
        video_settings = [dataset.video for dataset in datasets]
        if not datasets and model.clip_reader is not None:
            video_settings = [model.clip_reader.video]
    checkpoint = os.path.expanduser(args.resume)
    if not is_hub_id(checkpoint):
        checkpoint = str(Path(checkpoint).resolve())
    return {
        "kind": "text" if args.texts else "video",
        "checkpoint": checkpoint,
        "checkpoint_sha256": hash_checkpoint(args.resume),
        "text_sha256": own_files.digest(model.text_files()) if args.texts else None,
        "source": str(args.source.resolve()),
        "split": args.split if datasets else None,
        "segments": args.segments,
        "precision": args.precision,
        "video_params": to_plain(
            [{**vars(video), "deadline": None} for video in video_settings]
        ),
        "listed_sha256": hash_rows(rows),
    }


def divide_on_all_processes(
    rows: list[Row], model: MILES, args: argparse.Namespace
) -> list[Row]:
    """Rows of videos -> rows of their segments, on every process; each process reads the durations of its share."""
    start = rank() * len(rows) // world_size()
    end = (rank() + 1) * len(rows) // world_size()
    assert model.clip_reader is not None, "load_model sets it"
    share = sources.divide_into_segments(
        rows[start:end], args.segments, model.clip_reader.video.deadline, args.workers
    )
    segment_rows = []
    for process_rows in gather_objects(share):
        segment_rows += process_rows
    return segment_rows


def print_summary(
    writer: FeatureWriter, num_rows: int, num_bad: int, num_resumed: int, seconds: float
) -> None:
    """Prints the last line. Raises UserError if no row could be read."""
    bad_list = " (bad_files.jsonl)" if num_bad else ""
    resumed = (
        f"; {num_resumed} of {writer.num_shards} shards were there"
        if num_resumed
        else ""
    )
    print(
        f"{writer.folder}: {num_rows} rows of {writer.width} in {writer.num_shards} shards, "
        f"{num_bad} could not be read{bad_list}; {seconds:.1f} s{resumed}"
    )
    if not num_rows:
        raise UserError(
            f"{writer.folder}: none of the {num_bad} could be read, see bad_files.jsonl"
        )


def positive(number: type) -> Callable[[str], Any]:
    """For argparse: parses a finite number above 0 of the type `number`."""

    def parse(text: str) -> Any:
        value = number(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"{number.__name__} above 0"  # argparse's error names it
    return parse


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FOLDER_OR_CONFIG")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "-r",
        "--resume",
        required=True,
        metavar="CKPT",
        help="checkpoint or exported folder",
    )
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--texts",
        action="store_true",
        help="texts of a .txt or .jsonl, or captions of a config",
    )
    parser.add_argument(
        "--split", default="test", help="of a config's data set (default: test)"
    )
    add_reading_options(parser)
    return parser


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Options about how videos are read and features are written."""
    parser.add_argument(
        "--segments",
        type=positive(float),
        metavar="SECONDS",
        help="divide videos into segments so long",
    )
    parser.add_argument(
        "--files",
        choices=SHARD_FORMATS,
        default=SHARD_FORMATS[0],
        help="format of the shards (default: safetensors)",
    )
    parser.add_argument(
        "--shard",
        type=positive(int),
        default=500,
        metavar="ROWS",
        help="per shard: what a kill costs at most (default: 500)",
    )
    parser.add_argument(
        "--batch", type=positive(int), default=32, help="clips per batch on a GPU"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, len(os.sched_getaffinity(0))),
        help="reading processes (default: one per core, 8 at most; 0: none)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        help="seconds for reading one clip (default: the checkpoint's)",
    )
    parser.add_argument("--precision", choices=NAMES, default="fp32")


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    args = make_parser().parse_args(argv)
    if args.texts and args.segments:
        raise ConfigError("--segments: texts have no seconds; leave it out")
    main(args)


if __name__ == "__main__":
    cli()
