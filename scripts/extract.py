"""Features of videos, pictures or texts, for search or for anything else.

    python scripts/extract.py -r CKPT FOLDER OUT [--segments 8]        every video and picture under a folder
    python scripts/extract.py -r CKPT CONFIG.json OUT [--split test]   a data set, or with --texts its captions
    python scripts/extract.py -r CKPT captions.txt OUT --texts         a text a line; or "text" of a .jsonl's lines
    torchrun --nproc_per_node=8 scripts/extract.py ...                 any number of processes

OUT gets shards of features (as encode_video and encode_text give them, not normalised), ids.jsonl, bad_files.jsonl,
manifest.json; see scripts/retrieval/features.py.
Whatever ends it, the same command goes on; another checkpoint or other options
are refused. --segments cuts videos into pieces of so many seconds, each a row; a rest of no more than a quarter of that
goes with the piece before. Files that cannot be read are listed and counted, and do not change the exit status.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import load_model
from model.miles import MILES
from parse_config import ConfigError, UserError, cli_entry, to_plain
from scripts.retrieval import sources
from scripts.retrieval.encode import encoder, fill, on_main, parts, width
from scripts.retrieval.feature_writer import Store
from scripts.retrieval.features import FILES, Row, digest, fingerprint
from trainer import distributed, lock
from trainer.distributed import gather_objects, rank, world_size
from trainer.log import console
from trainer.precision import NAMES


def main(given: argparse.Namespace):
    """Extract what is asked for; every process runs this."""
    began, device = time.monotonic(), distributed.start(given.device)
    try:
        console()
        overrides = {} if given.deadline is None else {"deadline": given.deadline}
        model = load_model(given.resume, device, video_params=overrides)
        store = Store(given.out, given.files, given.shard, width(model))
        sets = sources.data_sets(given.source, given.split)
        begin(store, model, sets, given)
        pending = on_main(store.look)
        store.look()
        mine = pending[rank() :: world_size()]
        fill(store, encoder(model, given), parts(store, model, sets, mine, given), len(mine))
        distributed.barrier()
        tell(store, *on_main(store.finish), store.shards - len(pending), time.monotonic() - began)
    finally:
        lock.release()
        distributed.stop()


def begin(store: Store, model: MILES, sets: list[Any], given: argparse.Namespace):
    """Make or check the folder; what is to be done is in it then."""

    def look() -> tuple[list[Row], dict[str, Any], bool]:
        rows = (
            sources.texts(given.source, sets)
            if given.texts
            else sources.clips(sets)
            if sets
            else sources.files(given.source)
        )
        settings = (
            [] if given.texts else [dataset.video for dataset in sets] or [model.clip_reader.video]
        )
        video = to_plain([{**vars(one), "deadline": None} for one in settings])
        identity = {
            "kind": "text" if given.texts else "video",
            "checkpoint": str(Path(given.resume).resolve()),
            "checkpoint_sha256": fingerprint(given.resume),
            "source": str(given.source.resolve()),
            "split": given.split if sets else None,
            "segments": given.segments,
            "precision": given.precision,
            "video_params": video,
            "listed_sha256": digest(rows),
        }
        return rows, identity, store.open(identity)

    rows, identity, begun = on_main(look)
    if not begun:
        if given.segments:
            share = rows[
                rank() * len(rows) // world_size() : (rank() + 1) * len(rows) // world_size()
            ]
            pieces = sources.cut(
                share, given.segments, model.clip_reader.video.deadline, given.workers
            )
            rows = [row for part in gather_objects(pieces) for row in part]
        on_main(lambda: store.begin(identity, rows))


def tell(store: Store, rows: int, bad: int, there: int, seconds: float):
    """The last line."""
    if rank() == 0:
        before = f"; {there} of {store.shards} shards were there" if there else ""
        print(
            f"{store.folder}: {rows} rows of {store.width} in {store.shards} shards, {bad} could not be read"
            f"{' (bad_files.jsonl)' if bad else ''}; {seconds:.1f} s{before}"
        )
        if not rows:
            raise UserError(f"{store.folder}: none of the {bad} could be read, see bad_files.jsonl")


def positive(number: type) -> Callable[[str], Any]:
    """For argparse: a number above 0."""

    def parse(text: str) -> Any:
        value = number(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"{number.__name__} above 0"
    return parse


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FOLDER_OR_CONFIG")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "-r", "--resume", required=True, metavar="CKPT", help="checkpoint or exported folder"
    )
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--texts", action="store_true", help="texts of a .txt or .jsonl, or captions of a config"
    )
    parser.add_argument("--split", default="test", help="of a config's data set (default: test)")
    parser.add_argument(
        "--segments", type=positive(float), metavar="SECONDS", help="cut videos into pieces so long"
    )
    parser.add_argument(
        "--files", choices=FILES, default=FILES[0], help="kind of the shards (default: safetensors)"
    )
    parser.add_argument(
        "--shard",
        type=positive(int),
        default=500,
        metavar="ROWS",
        help="of a shard: what a kill costs at most (default: 500)",
    )
    parser.add_argument("--batch", type=positive(int), default=32, help="clips a batch on a GPU")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, len(os.sched_getaffinity(0))),
        help="reading processes (default: a core each, 8 at most; 0: none)",
    )
    parser.add_argument(
        "--deadline", type=float, help="seconds for reading one clip (default: the checkpoint's)"
    )
    parser.add_argument("--precision", choices=NAMES, default="fp32")
    given = parser.parse_args(argv)
    if given.texts and given.segments:
        raise ConfigError("--segments: texts have no seconds; leave it out")
    main(given)


if __name__ == "__main__":
    cli()
