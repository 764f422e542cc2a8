"""Copy a data set with its videos re-encoded for training: a short side of 256 pixels and a keyframe every 12 frames.

    python scripts/prepare_data.py data/MSRVTT data/MSRVTT_256 [--side 256] [--keyframe 12] [--crf 20] [--workers 8]
    python scripts/prepare_data.py data/MSRVTT data/MSRVTT_256 --shards 1000 --dataset MSRVTT --split train

Works on any folder, linked folders in it included: videos become H.264 mp4 files of the same stem, pictures are made
smaller, everything else (annotations) is copied; the copy is used by pointing data_dir at it. The source is only read.
Each copy of a video is decoded again: it has the frames that the reader sees in the source, at the same seconds, or
stands in "failures" of manifest.json with the reason. What is done stays done: the same command goes on where it was
stopped, and copies anew what has another size or time than before. Copies whose source is gone are named and kept.
manifest.json also holds settings, counts, sizes and times, and a hash that training and evaluation write into their
logs. --shards also packs a split of the copy into tar files of so many videos (OUT/shards/SPLIT/00000.tar, read by the
data set TarShards).

Exit status: 0 every file was tried, 2 a mistake in what was given or a copy that cannot be written, 130 stopped.
"""

from parse_config import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds


import argparse
import io
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from data_loader.cpus import available_cpus
from data_loader.datasets import DATASETS
from parse_config import ConfigError, UserError, cli_entry, printable
from scripts.data_copy import pool, records
from scripts.data_copy.files import CopiedFile, run_job
from scripts.data_copy.listing import PARTS, SHARDS, Failure, Job, list_files, orphans
from scripts.data_copy.shards import ShardSettings, check_shards, pack_shards
from scripts.data_copy.video import Settings

VERSION = 2  # of what is written: raise it when the same settings give other files
MAX_LISTED = 5  # files that are listed by name
# (option, least, most)
LIMITS = (
    ("side", 2, 16384),
    ("keyframe", 1, 10_000),
    ("crf", 0, 51),
    ("workers", 1, 4096),
    ("deadline", 0, None),
    ("shards", 1, None),
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
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument(
        "--deadline",
        type=float,
        default=60.0,
        help="seconds after which a decoder that gives no frame is ended; 0: never",
    )
    _add_shard_options(parser)
    arguments = parser.parse_args(argv)
    for name, least, most in LIMITS:
        _check_limits(name, getattr(arguments, name), least, most)
    return arguments


def _add_shard_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tar files")
    group.add_argument(
        "--shards",
        type=int,
        metavar="VIDEOS",
        help="also pack into tar files of so many videos",
    )
    group.add_argument("--dataset", help="the data set's name, as in dataset_name")
    group.add_argument("--split", help="default: train")
    group.add_argument("--cut", help="which version of the lists, as in cut")
    group.add_argument(
        "--metadata-dir",
        "--metadata_dir",
        help="where the annotations are, if not in the source",
    )
    group.add_argument(
        "--dataset-args",
        "--dataset_args",
        metavar="JSON",
        help='further arguments of the loader, as {"dataset_params": {...}}',
    )


def _check_limits(name: str, value: float | None, least: int, most: int | None) -> None:
    if value is None:
        return
    if not value >= least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"--{name}: {value:g} is given, {allowed} is needed")


def shard_settings(arguments: argparse.Namespace) -> ShardSettings | None:
    """What --shards and the options beside it ask for. Raises ConfigError."""
    options = {
        "dataset_name": arguments.dataset,
        "split": arguments.split,
        "cut": arguments.cut,
        "metadata_dir": arguments.metadata_dir,
    }
    shard_args = {name: value for name, value in options.items() if value is not None}
    if not arguments.shards:
        if shard_args or arguments.dataset_args:
            raise ConfigError(
                "--dataset, --split, --cut, --metadata-dir and --dataset-args say what is packed into tar files: "
                "give --shards VIDEOS with them"
            )
        return None
    if not arguments.dataset:
        raise ConfigError(
            f"--shards: needs --dataset, one of {', '.join(DATASETS.names())}"
        )
    more_args = _json_object(arguments.dataset_args or "{}")
    dataset_args = {"split": "train", **more_args, **shard_args}
    return ShardSettings(dataset_args, arguments.shards)


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--dataset-args: is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--dataset-args: an object {{...}} is needed, not {text}")
    return content


@cli_entry
def main(argv: list[str] | None = None) -> None:
    """The command line; exit status 0 when every file was tried, whatever failed is in the manifest."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # any file name can be shown
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parse_arguments(argv)
    source = arguments.source.resolve()
    out = arguments.out.resolve()
    shards = shard_settings(arguments)
    check_folders(source, out)
    if shards:
        check_shards(source, out, shards)
    settings = Settings(arguments.side, arguments.keyframe, arguments.crf)

    with stoppable(), one_line_for_system_errors(out):
        records.begin(out, {"version": VERSION, **settings._asdict()})
        with records.locked(out):
            shutil.rmtree(out / PARTS, ignore_errors=True)
            try:
                (out / PARTS).mkdir()
                copy_all(source, out, settings, arguments)
                if shards:
                    print(pack_shards(out, shards))
            finally:
                shutil.rmtree(out / PARTS, ignore_errors=True)


def check_folders(source: Path, out: Path) -> None:
    """Raise FileNotFoundError if there is no source, ConfigError if one folder is inside the other."""
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise ConfigError(
            f"{out}: the copy must lie beside the source {source}, not inside of it or around it"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is no folder; name a new one")


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the run with one line; what is complete stays."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def one_line_for_system_errors(out: Path) -> Iterator[None]:
    """A full, read-only or broken disk is one line."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # said in words already
            raise
        path = error.filename or out
        raise UserError(
            f"{path}: {error.strerror or error}; make room there or make it writable, or choose another folder"
        ) from None


def copy_all(
    source: Path, out: Path, settings: Settings, arguments: argparse.Namespace
) -> None:
    """Copy what has no copy yet, or that of an earlier file; write the manifest and a summary."""
    jobs, failures = list_files(source, out)
    known = records.read_records(out)
    files = {
        job.source: known[job.source]
        for job in jobs
        if records.is_current(job, known.get(job.source), source, out)
    }
    waiting = [job for job in jobs if job.source not in files]
    work = partial(
        run_job, source=source, out=out, settings=settings, deadline=arguments.deadline
    )
    with (
        open(out / records.JOURNAL, "a", encoding="utf-8") as journal,
        closing(pool.results(work, waiting, arguments.workers)) as results,
    ):
        progress = tqdm(
            results, total=len(jobs), initial=len(files), unit="file", disable=None
        )
        for file in progress:
            if file.failure:
                failures.append(Failure(file.source, file.failure))
            else:
                files[file.source] = file
                records.add_to_journal(journal, file)

    finish(out, settings, jobs, list(files.values()), failures)
    packed = sorted((out / SHARDS).glob("*/"))
    if waiting and packed:
        folders = ", ".join(map(str, packed))
        print(
            f"  {folders}: packed before this; remove it and give --shards again if its videos have changed"
        )


def finish(
    out: Path,
    settings: Settings,
    jobs: Sequence[Job],
    files: Sequence[CopiedFile],
    failures: Sequence[Failure],
) -> None:
    """Write the manifest, and what it says in short."""
    without_source = orphans(out, jobs, failures)
    stamp = {"version": VERSION, **settings._asdict()}
    manifest = records.write_manifest(out, stamp, jobs, files, failures, without_source)
    counts = manifest["counts"]
    hint = " (see manifest.json)" if failures else ""
    print(
        f"{out}: {counts['video']} videos, {counts['image']} pictures, {counts['other']} other files, "
        f"{manifest['bytes'] / 2**20:.1f} MiB; {counts['failed']} failed{hint}; hash {manifest['hash'][:12]}"
    )
    for failure in sorted(failures)[:MAX_LISTED]:
        print(f"  failed: {printable(failure.path)}: {failure.reason}")
    if without_source:
        examples = printable(", ".join(without_source[:MAX_LISTED]))
        more = ", ..." if len(without_source) > MAX_LISTED else ""
        print(
            f"  {len(without_source)} files here have no source any more and are kept: {examples}{more}"
        )


if __name__ == "__main__":
    main()
