"""An index over features for scripts/search.py.

    python scripts/index.py build FEATURES INDEX [--kind flat|ivf|hnsw] [--recall 0.95] [--queries TEXT_FEATURES]

FEATURES: a folder of scripts/extract.py. INDEX, which must not exist yet: a folder of index.faiss, rows.jsonl and
manifest.json. Similarity is the cosine: inner product of features of length 1. The kind goes by the number of rows:

    flat   up to 100,000      every row is compared: exact
    hnsw   up to 1,000,000    a graph of neighbours: quick, and about 1.3 times the memory of the features
    ivf    above              cells: less memory, longer to train; the kind to take on a GPU

An approximate index compares more and more rows per query (efSearch, nprobe) until its recall@10 reaches --recall: the
share of the flat index's 10 nearest rows that it finds too. The queries are rows (themselves left out), or --queries,
features of texts. The recall it reached is printed and written to the manifest. Needs faiss (pip install faiss-cpu);
building runs on the GPUs if faiss is built for them and has any.
"""

import argparse
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError, cli_entry
from scripts.retrieval.faiss_index import (
    EFFORT_OPTION,
    KINDS,
    build_index,
    import_faiss,
    normalize,
    set_effort,
    to_gpus,
)
from scripts.retrieval.features import Features, Row, write_lines
from trainer.files import write_json

MAX_FLAT_ROWS = 100_000
MAX_HNSW_ROWS = 1_000_000
RECALL_K = 10
MAX_RECALL_QUERIES = 500
FEATURE_KEYS = (
    "kind",
    "checkpoint",
    "checkpoint_sha256",
    "source",
    "segments",
    "precision",
    "width",
)  # of the features' manifest, copied to the index's


def build(
    features_folder: Path,
    index_folder: Path,
    kind: str | None = None,
    min_recall: float = 0.95,
    query_folder: Path | None = None,
) -> None:
    """Builds and writes an index, atomically; prints its kind, size and recall.

    kind: flat, ivf or hnsw; None: by the number of rows. query_folder: features of texts to measure recall with; None:
    rows of the index. Raises UserError, FileNotFoundError.
    """
    if index_folder.exists():
        raise UserError(
            f"{index_folder}: is there already; choose another name, or remove it"
        )
    start_time = time.monotonic()
    features = Features(features_folder)
    if not len(features):
        raise UserError(f"{features_folder}: holds no row")
    queries = _open_queries(query_folder, features) if query_folder else None
    if kind is None:
        kind = kind_by_size(len(features))
    rows_NE = read_normalized(features)
    index = build_index(kind, rows_NE)
    manifest = {
        "index": kind,
        "rows": len(features),
        "features": str(features_folder.resolve()),
        **{key: features.manifest[key] for key in FEATURE_KEYS},
        "video_params": features.manifest.get("video_params"),
    }
    quality = "exact"
    if kind != "flat":
        queries_QE = normalize(queries.read_all()) if queries else None
        manifest |= tune(index, kind, rows_NE, queries_QE, min_recall)
        option = EFFORT_OPTION[kind]
        quality = f"{option} {manifest[option]}, recall@{RECALL_K} {manifest['recall@10']:.4f}"
    write_index(index_folder, index, features.rows, manifest)
    seconds = time.monotonic() - start_time
    print(
        f"{index_folder}: {kind} index of {len(features)} rows of {features.width}, {quality}; {seconds:.1f} s"
    )


def _open_queries(query_folder: Path, features: Features) -> Features:
    """The features of query texts. Raises UserError if another checkpoint made them."""
    queries = Features(query_folder)
    same_checkpoint = (
        queries.manifest["checkpoint_sha256"] == features.manifest["checkpoint_sha256"]
    )
    if not same_checkpoint or queries.width != features.width:
        raise UserError(
            f"{query_folder}: was made with another checkpoint than {features.folder}"
        )
    return queries


def kind_by_size(num_rows: int) -> str:
    """The kind of index for this many rows."""
    if num_rows <= MAX_FLAT_ROWS:
        return "flat"
    if num_rows <= MAX_HNSW_ROWS:
        return "hnsw"
    return "ivf"


def read_normalized(features: Features) -> np.ndarray:
    """Reads all features -> float32 (N, E), rows of length 1. Raises UserError for values that are not finite."""
    rows_NE = np.empty((len(features), features.width), np.float32)
    start = 0
    for shard_nE in features.shards():
        end = start + len(shard_nE)
        rows_NE[start:end] = normalize(shard_nE)
        start = end
    if not np.isfinite(rows_NE).all():
        raise UserError(
            f"{features.folder}: holds features that are not finite; extract them with --precision fp32"
        )
    return rows_NE


def write_index(
    index_folder: Path, index: Any, rows: Iterable[Row], manifest: dict[str, Any]
) -> None:
    """Writes index.faiss, rows.jsonl and manifest.json into a temporary folder and renames it to `index_folder`."""
    temporary = index_folder.with_name(f".{index_folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    import_faiss().write_index(index, str(temporary / "index.faiss"))
    write_lines(temporary / "rows.jsonl", map(_with_real_path, rows))
    write_json(temporary / "manifest.json", manifest, indent=1)
    os.rename(temporary, index_folder)


def _with_real_path(row: Row) -> Row:
    """Adds the file's path with links resolved, which the server compares before it opens the file (see media.py)."""
    if "path" not in row:
        return row
    return {**row, "real": os.path.realpath(row["path"])}


def tune(
    index: Any,
    kind: str,
    rows_NE: np.ndarray,
    texts_QE: np.ndarray | None,
    min_recall: float,
) -> dict[str, Any]:
    """Doubles the effort of an approximate index until its recall reaches `min_recall` or it compares every row.

    texts_QE: query vectors; None: rows of the index, each without itself among its neighbours. Returns fields of the
    index's manifest.
    """
    query_rows = None
    num_neighbours = RECALL_K
    query_kind = "texts"
    if texts_QE is None:
        num_queries = min(MAX_RECALL_QUERIES, len(rows_NE))
        query_rows = np.linspace(0, len(rows_NE) - 1, num_queries).astype(np.int64)
        queries_QE = rows_NE[query_rows]
        num_neighbours = RECALL_K + 1  # a row finds itself too
        query_kind = "rows"
    else:
        queries_QE = texts_QE[:MAX_RECALL_QUERIES]

    _, exact_QK = to_gpus(build_index("flat", rows_NE)).search(
        queries_QE, num_neighbours
    )
    effort, max_effort = 16, len(rows_NE)
    if kind == "ivf":
        effort, max_effort = 1, index.nlist
    while True:
        set_effort(index, kind, effort)
        _, approximate_QK = index.search(queries_QE, num_neighbours)
        reached = recall(exact_QK, approximate_QK, rows_NE, queries_QE, query_rows)
        print(
            f"{EFFORT_OPTION[kind]} {effort}: recall@{RECALL_K} {reached:.4f} against flat, "
            f"{len(queries_QE)} {query_kind} as queries"
        )
        if reached >= min_recall or effort >= max_effort:
            break
        effort = min(2 * effort, max_effort)
    return {
        EFFORT_OPTION[kind]: effort,
        "recall@10": reached,
        "recall_queries": query_kind,
    }


def recall(
    exact_QK: np.ndarray,
    approximate_QK: np.ndarray,
    rows_NE: np.ndarray,
    queries_QE: np.ndarray,
    query_rows: np.ndarray | None = None,
) -> float:
    """Mean over queries of the share of the 10 exact neighbours that are among the 10 approximate ones.

    A row that is as near as the last of the exact ones is as good as that: which of equal rows are exact is arbitrary.
    Both (queries, K) of row numbers, -1 where faiss found fewer. query_rows: the row that each query is, which does not
    count as its neighbour.
    """
    shares = []
    for query in range(len(exact_QK)):
        query_row = None if query_rows is None else query_rows[query]
        exact = _neighbours(exact_QK[query], query_row)
        approximate = _neighbours(approximate_QK[query], query_row)
        share = 1.0
        if exact:
            query_E = queries_QE[query].astype(np.float64)
            farthest = (rows_NE[exact] * query_E).sum(1).min()
            is_near = (rows_NE[approximate] * query_E).sum(1) >= farthest
            share = np.count_nonzero(is_near) / len(exact)
        shares.append(share)
    return float(np.mean(shares))


def _neighbours(row_numbers: np.ndarray, query_row: int | None) -> list[int]:
    """The first 10 row numbers, without the query itself and faiss's -1."""
    neighbours = [row for row in row_numbers.tolist() if row >= 0 and row != query_row]
    return neighbours[:RECALL_K]


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="build")
    build_parser = commands.add_parser(
        "build", help="make an index of a folder of features"
    )
    build_parser.add_argument("features", type=Path, metavar="FEATURES")
    build_parser.add_argument("index", type=Path, metavar="INDEX")
    build_parser.add_argument(
        "--kind", choices=KINDS, help="default: by the number of rows"
    )
    build_parser.add_argument(
        "--recall",
        type=float,
        default=0.95,
        help="that an approximate index is to reach (default: 0.95)",
    )
    build_parser.add_argument(
        "--queries",
        type=Path,
        metavar="TEXT_FEATURES",
        help="texts to measure the recall with",
    )
    args = parser.parse_args(argv)
    build(args.features, args.index, args.kind, args.recall, args.queries)


if __name__ == "__main__":
    cli()
