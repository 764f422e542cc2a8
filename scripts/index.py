"""An index over features for scripts/search.py.

    python scripts/index.py build FEATURES INDEX [--kind flat|ivf|hnsw] [--recall 0.95] [--queries TEXT_FEATURES]

FEATURES: a folder of scripts/extract.py. INDEX, which must not be there yet: a folder of index.faiss, rows.jsonl and
manifest.json. Similarity is the cosine: inner product of features of length 1. The kind goes by the number of rows:

    flat   up to 100,000      every row is compared: exact
    hnsw   up to 1,000,000    a graph of neighbours: quick, and about 1.3 times the memory of the features
    ivf    above              cells: less memory, longer to train; the kind to take on a GPU

An approximate index looks at more and more (efSearch, nprobe) until its recall@10 reaches --recall: of the 10 rows that
the flat index finds, the share that it finds too, for rows as queries (themselves left out), or for --queries, features
of texts. What was reached is printed and kept. Needs faiss (pip install faiss-cpu); building runs on the GPUs if faiss
is built for them and has any.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from parse_config import UserError, cli_entry
from scripts.retrieval.faiss_index import (
    EFFORT,
    KINDS,
    faiss,
    make,
    normalised,
    on_gpus,
    set_effort,
)
from scripts.retrieval.features import Features, write_json, write_lines

FLAT, HNSW = 100_000, 1_000_000  # rows up to which each is taken
K, QUERIES = 10, 500  # of the recall
KEPT = (
    "kind",
    "checkpoint",
    "checkpoint_sha256",
    "source",
    "segments",
    "precision",
    "width",
)  # of the features


def build(
    features: Path,
    out: Path,
    kind: str | None = None,
    wanted: float = 0.95,
    queries: Path | None = None,
):
    """Write the index, all of it or nothing; print what it is and what it finds. Raises UserError."""
    if out.exists():
        raise UserError(f"{out}: is there already; choose another name, or remove it")
    began, found = time.monotonic(), Features(features)
    if not len(found):
        raise UserError(f"{features}: holds no row")
    asked = Features(queries) if queries else None
    if asked and (asked.manifest["checkpoint_sha256"], asked.width) != (
        found.manifest["checkpoint_sha256"],
        found.width,
    ):
        raise UserError(f"{queries}: was made with another checkpoint than {features}")
    kind = kind or ("flat" if len(found) <= FLAT else "hnsw" if len(found) <= HNSW else "ivf")
    rows_NE = all_normalised(found)
    index = make(kind, rows_NE)
    about = {
        "index": kind,
        "rows": len(found),
        "features": str(features.resolve()),
        **{key: found.manifest[key] for key in KEPT},
    }
    if kind != "flat":
        about |= tune(index, kind, rows_NE, normalised(asked.all()) if asked else None, wanted)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    faiss().write_index(index, str(part / "index.faiss"))
    write_lines(part / "rows.jsonl", (located(row) for row in found.rows))
    write_json(part / "manifest.json", about)
    os.rename(part, out)
    exact = (
        "exact"
        if kind == "flat"
        else f"{EFFORT[kind]} {about[EFFORT[kind]]}, recall@{K} {about['recall@10']:.4f}"
    )
    print(
        f"{out}: {kind} index of {len(found)} rows of {found.width}, {exact}; {time.monotonic() - began:.1f} s"
    )


def all_normalised(found: Features) -> np.ndarray:
    """float32 (rows, E) of length 1. UserError for what is not finite."""
    rows_NE, start = np.empty((len(found), found.width), np.float32), 0
    for shard_nE in found.shards():
        rows_NE[start : start + len(shard_nE)] = normalised(shard_nE)
        start += len(shard_nE)
    if not np.isfinite(rows_NE).all():
        raise UserError(
            f"{found.folder}: holds features that are not finite; extract them with --precision fp32"
        )
    return rows_NE


def located(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the place that its file really has now, by which the server knows it again (see search_files)."""
    return {**row, "real": os.path.realpath(row["path"])} if "path" in row else row


def tune(
    index: Any, kind: str, rows_NE: np.ndarray, queries_QE: np.ndarray | None, wanted: float
) -> dict[str, Any]:
    """Raise the effort until the recall is reached or everything is looked at -> what is told of it."""
    own = queries_QE is None
    places = np.linspace(0, len(rows_NE) - 1, min(QUERIES, len(rows_NE))).astype(np.int64)
    queries_QE = rows_NE[places] if own else queries_QE[:QUERIES]
    exact = on_gpus(make("flat", rows_NE)).search(queries_QE, K + own)[1]
    most = index.nlist if kind == "ivf" else len(rows_NE)
    effort = 1 if kind == "ivf" else 16
    while True:
        set_effort(index, kind, effort)
        found = index.search(queries_QE, K + own)[1]
        reached = recall(exact, found, places if own else None)
        print(
            f"{EFFORT[kind]} {effort}: recall@{K} {reached:.4f} against flat, {len(queries_QE)} "
            f"{'rows' if own else 'texts'} as queries"
        )
        if reached >= wanted or effort >= most:
            return {
                EFFORT[kind]: effort,
                "recall@10": reached,
                "recall_queries": "rows" if own else "texts",
            }
        effort = min(2 * effort, most)


def recall(exact: np.ndarray, found: np.ndarray, own: np.ndarray | None = None) -> float:
    """Mean over queries of the share of `exact`'s first 10 places that are among `found`'s first 10; `own`: the place
    of each query itself, which does not count."""
    shares = []
    for query, (right, got) in enumerate(zip(exact, found)):
        right, got = (
            [place for place in places if own is None or place != own[query]][:K]
            for places in (right, got)
        )
        right = [place for place in right if place >= 0]
        shares.append(len(set(right) & set(got)) / len(right) if right else 1.0)
    return float(np.mean(shares))


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="build")
    one = commands.add_parser("build", help="make an index of a folder of features")
    one.add_argument("features", type=Path, metavar="FEATURES")
    one.add_argument("index", type=Path, metavar="INDEX")
    one.add_argument("--kind", choices=KINDS, help="default: by the number of rows")
    one.add_argument(
        "--recall",
        type=float,
        default=0.95,
        help="that an approximate index is to reach (default: 0.95)",
    )
    one.add_argument(
        "--queries", type=Path, metavar="TEXT_FEATURES", help="texts to measure the recall with"
    )
    given = parser.parse_args(argv)
    build(given.features, given.index, given.kind, given.recall, given.queries)


if __name__ == "__main__":
    cli()
