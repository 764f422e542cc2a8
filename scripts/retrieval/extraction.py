"""What scripts/extract.py does: list, read contents, divide, encode, write; on any number of processes."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from data_loader.base import TextVideoDataset
from data_loader.settings import VideoSettings
from model import load_model
from model.hub import is_hub_id
from model.miles import MILES
from model.text import own_files
from parse_config import ConfigError, UserError, to_plain
from scripts.retrieval import sources
from scripts.retrieval.contents import ROWS_PER_ROUND, KnownContents, with_contents
from scripts.retrieval.encode import extract_shards, joint_width
from scripts.retrieval.feature_growth import known_contents, known_segments
from scripts.retrieval.feature_writer import FeatureWriter
from scripts.retrieval.features import SHARD_FORMATS, Row, hash_checkpoint, hash_rows
from trainer import distributed, lock
from trainer.distributed import gather_objects, rank, run_on_main, world_size
from trainer.log import console
from trainer.precision import NAMES

T = TypeVar("T")


def extract(args: argparse.Namespace) -> None:
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
        writer.read_known()
        change = describe_change(writer)
        shards = pending[rank() :: world_size()]
        extract_shards(writer, model, datasets, shards, args)
        distributed.barrier()
        num_rows, num_bad = run_on_main_or_exit(writer.finish)
        if rank() == 0:
            num_resumed = writer.num_shards - len(pending)
            seconds = time.monotonic() - start_time
            print_summary(writer, num_rows, num_bad, num_resumed, seconds, change)
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
    """Lists the rows to extract in the folder, or finds that an earlier run with the same options and rows did."""
    options = describe_options(model, datasets, args)

    def list_and_prepare() -> tuple[list[Row], KnownContents]:
        rows = list_rows(datasets, args)
        writer.prepare(options)
        return rows, known_contents(writer.folder)

    rows, contents = run_on_main_or_exit(list_and_prepare)
    if not args.texts:
        rows = add_contents_on_all_processes(rows, contents, args.workers)
    identity = {**options, "listed_sha256": hash_rows(rows)}

    def choose_state() -> tuple[Path, bool]:
        return writer.choose_state(identity["listed_sha256"])

    writer.state, begun = run_on_main_or_exit(choose_state)
    if begun:
        return
    if args.segments:
        rows = divide_on_all_processes(rows, model, writer.folder, args)

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


def add_contents_on_all_processes(
    rows: list[Row], known: KnownContents, num_threads: int
) -> list[Row]:
    """The rows of videos with the contents of their files; each process reads a share of them."""
    rows_with_contents = []
    total = -(-len(rows) // world_size())
    with tqdm(total=total, desc="contents", disable=rank() != 0, leave=False) as bar:
        for round_start in range(0, len(rows), ROWS_PER_ROUND * world_size()):
            start = round_start + rank() * ROWS_PER_ROUND
            share = with_contents(
                rows[start : start + ROWS_PER_ROUND], known, num_threads, bar
            )
            for process_rows in gather_objects(share):
                rows_with_contents += process_rows
    return rows_with_contents


def describe_options(
    model: MILES,
    datasets: Sequence[TextVideoDataset],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What decides the features, besides the rows, for the manifest; a folder goes on with the same options only."""
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
        "video_params": to_plain([describe_video(video) for video in video_settings]),
    }


def describe_video(video: VideoSettings) -> dict[str, Any]:
    """The settings on which features depend."""
    settings = {**vars(video), "deadline": None}
    del settings["max_pixels"], settings["max_clip_bytes"]
    return settings


def divide_on_all_processes(
    rows: list[Row], model: MILES, folder: Path, args: argparse.Namespace
) -> list[Row]:
    """Rows of videos -> rows of their segments, on every process; each process reads the durations of its share."""
    start = rank() * len(rows) // world_size()
    end = (rank() + 1) * len(rows) // world_size()
    assert model.clip_reader is not None, "load_model sets it"
    share = sources.divide_into_segments(
        rows[start:end],
        args.segments,
        model.clip_reader.video.deadline,
        args.workers,
        known_segments(folder),
    )
    segment_rows = []
    for process_rows in gather_objects(share):
        segment_rows += process_rows
    return segment_rows


def describe_change(writer: FeatureWriter) -> str:
    """What a folder that follows its source takes, keeps and drops, for the last line; "" for any other."""
    if writer.state == writer.folder:
        return ""
    num_new = sum(row not in writer.known for row in writer.rows)
    num_gone = writer.known.count_gone(writer.rows)
    num_kept = len(writer.rows) - num_new
    return f"; {num_new} new or changed, {num_kept} as they were, {num_gone} gone"


def print_summary(
    writer: FeatureWriter,
    num_rows: int,
    num_bad: int,
    num_resumed: int,
    seconds: float,
    change: str,
) -> None:
    """Prints the last line. Raises UserError if no row could be read."""
    bad_list = " (bad_files.jsonl)" if num_bad else ""
    resumed = ""
    if num_resumed:
        resumed = f"; {num_resumed} of {writer.num_shards} shards were there"
    print(
        f"{writer.folder}: {num_rows} rows of {writer.width} in {writer.num_shards} shards, "
        f"{num_bad} could not be read{bad_list}; {seconds:.1f} s{resumed}{change}"
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


def parse_arguments(
    argv: Sequence[str] | None, description: str | None
) -> argparse.Namespace:
    """The arguments of scripts/extract.py. Raises ConfigError, SystemExit."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
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
    args = parser.parse_args(argv)
    if args.texts and args.segments:
        raise ConfigError("--segments: texts have no seconds; leave it out")
    return args


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


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
