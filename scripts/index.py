"""An index over features for scripts/search.py.

    python scripts/index.py build FEATURES INDEX [--kind flat|ivf|hnsw] [--recall 0.95] [--queries TEXT_FEATURES]
    python scripts/index.py update INDEX [--features FEATURES]      after extract.py has taken what is new

FEATURES: a folder of scripts/extract.py. INDEX, which must not exist yet: a folder of index.faiss, rows.jsonl and
manifest.json. An update adds new rows and drops those that are gone; where faiss cannot (hnsw drops none) or should
not (ivf, once its rows have doubled or halved), it says that it rebuilds. Killed, it leaves the old index.

Similarity is the cosine: inner product of features of length 1. The kind goes by the number of rows:

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
import time
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError, cli_entry
from scripts.retrieval.faiss_index import (
    EFFORT_OPTION,
    KINDS,
    build_index,
    normalize,
    set_effort,
    to_gpus,
)
from scripts.retrieval.features import Features, Row
from scripts.retrieval.index_files import (
    read_faiss,
    read_manifest,
    read_rows,
    remove_unnamed,
    replace,
    write_new,
)
from scripts.retrieval.index_update import Change, find_change, update_vectors
from scripts.retrieval.stopping import one_line_on_ctrl_c
from trainer import lock

MAX_FLAT_ROWS = 100_000
MAX_HNSW_ROWS = 1_000_000
MAX_GROWTH = 2  # of an IVF index since its cells were trained, up or down
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
            f"{index_folder}: is there already; choose another name, remove it, or bring it to its features: "
            f"scripts/index.py update {index_folder}"
        )
    start_time = time.monotonic()
    features = open_features(features_folder)
    index_kind = kind or kind_by_size(len(features))
    manifest = describe(features, index_kind, min_recall, query_folder)
    if query_folder:
        _open_queries(query_folder, features)  # a mistake is said before the work
    rows_NE = read_normalized(features)
    manifest["kind_by_size"] = kind is None
    index = build_index(index_kind, rows_NE)
    manifest |= measure(index, index_kind, rows_NE, features, manifest)
    write_new(index_folder, index, map(_with_real_path, features.rows), manifest)
    print_result(index_folder, manifest, "", time.monotonic() - start_time)


def update(
    index_folder: Path,
    features_folder: Path | None = None,
    query_folder: Path | None = None,
) -> None:
    """Brings an index to its features; prints what has changed.

    features_folder, query_folder: where they are now; None: where they were. Killed at any moment, or for want of
    space, it leaves the old index. Raises UserError, FileNotFoundError, OSError.
    """
    start_time = time.monotonic()
    read_manifest(index_folder)  # before a lock is written into a folder that is none
    lock.acquire(index_folder)
    old = read_manifest(index_folder)
    remove_unnamed(index_folder)  # of an update that was killed
    features = open_features(features_folder or Path(old["features"]))
    check_same_features(index_folder, old, features)
    rows_NE = read_normalized(features)
    old_rows = read_rows(index_folder, old)
    index = read_faiss(index_folder, old)
    change = find_change(old_rows, index, old["index"], features.rows, rows_NE)
    if change.is_none:
        print(f"{index_folder}: is up to date, {len(old_rows)} rows")
        return
    index_kind = kind_by_size(len(features)) if old["kind_by_size"] else old["index"]
    why_rebuilt = reason_to_rebuild(old, index_kind, change, len(features))
    manifest = describe(
        features, index_kind, old["min_recall"], query_folder or old["queries"]
    )
    manifest["kind_by_size"] = old["kind_by_size"]
    rows = features.rows
    if why_rebuilt or index_kind == "flat":
        index = build_index(index_kind, rows_NE)
    else:
        manifest["trained_rows"] = old["trained_rows"]
        row_order = update_vectors(index, index_kind, change, rows_NE)
        rows = [rows[number] for number in row_order]
        rows_NE = rows_NE[row_order]
    manifest |= measure(index, index_kind, rows_NE, features, manifest)
    replace(index_folder, index, map(_with_real_path, rows), manifest)
    change_text = f"; {change.num_new} new, {change.num_changed} changed, {change.num_gone} gone{why_rebuilt}"
    print_result(index_folder, manifest, change_text, time.monotonic() - start_time)


def open_features(folder: Path) -> Features:
    """The features of an index. Raises UserError if there is none, FileNotFoundError."""
    features = Features(folder)
    if not len(features):
        raise UserError(f"{folder}: holds no row")
    return features


def reason_to_rebuild(
    old_manifest: dict[str, Any], new_kind: str, change: Change, num_rows: int
) -> str:
    """Why an index is built anew instead of updated, for the last line; "" if it is not."""
    old_kind = old_manifest["index"]
    if new_kind != old_kind:
        return f"; rebuilt as {new_kind}, the kind for so many rows"
    if old_kind == "hnsw" and change.drops_rows:
        return "; rebuilt, because hnsw cannot drop rows"
    growth = num_rows / old_manifest["trained_rows"]
    if old_kind == "ivf" and not 1 / MAX_GROWTH <= growth <= MAX_GROWTH:
        return f"; rebuilt, because its cells were trained on {old_manifest['trained_rows']} rows"
    return ""


def check_same_features(
    index_folder: Path, manifest: dict[str, Any], features: Features
) -> None:
    """Raises UserError if an index is not of these features."""
    for name in ("kind", "checkpoint_sha256", "segments", "precision", "width"):
        if manifest.get(name) != features.manifest[name]:
            raise UserError(
                f"{index_folder}: is of features with {name} {manifest.get(name)!r}, and those in "
                f"{features.folder} have {features.manifest[name]!r}; build a new index of them"
            )


def describe(
    features: Features, kind: str, min_recall: float, query_folder: Path | str | None
) -> dict[str, Any]:
    """The fields of an index's manifest that are known before it is measured."""
    return {
        "index": kind,
        "rows": len(features),
        "features": str(features.folder.resolve()),
        **{key: features.manifest[key] for key in FEATURE_KEYS},
        "video_params": features.manifest.get("video_params"),
        "min_recall": min_recall,
        "queries": str(Path(query_folder).resolve()) if query_folder else None,
        "trained_rows": len(features),
    }


def measure(
    index: Any,
    kind: str,
    rows_NE: np.ndarray,
    features: Features,
    manifest: dict[str, Any],
) -> dict[str, Any]:
    """Tunes an approximate index as `manifest` says and gives its fields of the manifest; a flat one has none."""
    if kind == "flat":
        return {}
    queries_QE = None
    if manifest["queries"]:
        queries = _open_queries(Path(manifest["queries"]), features)
        queries_QE = normalize(queries.read_all())
    return tune(index, kind, rows_NE, queries_QE, manifest["min_recall"])


def print_result(
    index_folder: Path, manifest: dict[str, Any], change: str, seconds: float
) -> None:
    """Prints the last line: kind, size, recall, and what has changed."""
    index_kind = manifest["index"]
    quality = "exact"
    if index_kind != "flat":
        option = EFFORT_OPTION[index_kind]
        quality = f"{option} {manifest[option]}, recall@{RECALL_K} {manifest['recall@10']:.4f}"
    print(
        f"{index_folder}: {index_kind} index of {manifest['rows']} rows of {manifest['width']}, {quality}; "
        f"{seconds:.1f} s{change}"
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        required=True, dest="command", metavar="build|update"
    )
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
    update_parser = commands.add_parser(
        "update", help="bring an index to its features, which have changed"
    )
    update_parser.add_argument("index", type=Path, metavar="INDEX")
    update_parser.add_argument(
        "--features",
        type=Path,
        metavar="FEATURES",
        help="where they are now (default: where they were)",
    )
    update_parser.add_argument(
        "--queries",
        type=Path,
        metavar="TEXT_FEATURES",
        help="likewise, of texts to measure the recall with",
    )
    return parser


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    args = make_parser().parse_args(argv)
    with one_line_on_ctrl_c("nothing has changed; the same command begins again"):
        if args.command == "build":
            build(args.features, args.index, args.kind, args.recall, args.queries)
            return
        try:
            update(args.index, args.features, args.queries)
        finally:
            lock.release()


if __name__ == "__main__":
    cli()
