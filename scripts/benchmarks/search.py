"""Milliseconds of a search over many segments: for rows, and for the best segment of each video.

    python scripts/bench.py search [--rows 1000000] [--width 256] [--kind flat] [--segments 20 20000]

Vectors are random and of length 1. --segments: how many rows each video has, a table row each; with very many a search
for the nearest rows finds few videos.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from scripts.benchmarks.record import cpu_name, write_record
from scripts.retrieval.faiss_index import EFFORT_OPTION, KINDS, build_index, normalize
from scripts.retrieval.features import Row
from scripts.retrieval.index_files import write_new
from scripts.retrieval.search_index import SearchIndex, VideoGroups, number_videos

HITS = 100
EFFORT = 64


def main(argv: list[str]) -> None:
    """Measure, print the table, write results/bench/search_DATE.json."""
    parser = argparse.ArgumentParser(prog="bench.py search")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--kind", choices=KINDS, default="flat")
    parser.add_argument("--segments", type=int, nargs="+", default=[20, 20_000])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args(argv)
    print(
        f"{'segments per video':>18}{'rows, ms':>12}{'best of each, ms':>18}{'choosing, ms':>14}"
    )
    measured = {}
    for num_segments in arguments.segments:
        times = measure(arguments, num_segments)
        measured[str(num_segments)] = times
        rows_ms, best_ms = times["rows_ms"], times["best_of_each_ms"]
        choosing_ms = times["choosing_ms"]
        print(f"{num_segments:>18}{rows_ms:>12.1f}{best_ms:>18.1f}{choosing_ms:>14.1f}")
    write_record("search", cpu_name(), arguments, {"by_segments": measured})


def measure(arguments: argparse.Namespace, num_segments: int) -> dict[str, float]:
    """Medians, in milliseconds, of searches for 100 rows and for the best rows of 100 videos.

    "choosing_ms" is of choosing those from the scores of all rows.
    """
    with tempfile.TemporaryDirectory() as scratch:
        opened = write_index(Path(scratch) / "index", arguments, num_segments)
    queries_QE = random_vectors(1, arguments.rounds + 1, arguments.width)
    videos = VideoGroups(number_videos(opened.rows))
    scores_QN = random_vectors(2, arguments.rounds + 1, arguments.rows)
    return {
        "rows_ms": median_ms(lambda query_E: opened.search(query_E, HITS), queries_QE),
        "best_of_each_ms": median_ms(
            lambda query_E: opened.search(query_E, HITS, best_of_each=True), queries_QE
        ),
        "choosing_ms": median_ms(
            lambda scores_N: videos.best_rows(scores_N, HITS), scores_QN
        ),
    }


def write_index(
    folder: Path, arguments: argparse.Namespace, num_segments: int
) -> SearchIndex:
    """An index of random vectors, written and opened."""
    vectors_NE = random_vectors(0, arguments.rows, arguments.width)
    manifest = {
        "index": arguments.kind,
        "rows": arguments.rows,
        "width": arguments.width,
        "checkpoint": "",
        "checkpoint_sha256": "",
        "features": "",
        "min_recall": 0.0,
        "trained_rows": arguments.rows,
        "kind_by_size": False,
    }
    if arguments.kind in EFFORT_OPTION:
        manifest[EFFORT_OPTION[arguments.kind]] = EFFORT
    index = build_index(arguments.kind, vectors_NE)
    write_new(folder, index, segment_rows(arguments.rows, num_segments), manifest)
    return SearchIndex(folder)


def segment_rows(num_rows: int, num_segments: int) -> Iterator[Row]:
    """Yields the rows of videos that have `num_segments` segments each."""
    for number in range(num_rows):
        video, second = divmod(number, num_segments)
        path = f"/videos/{video}.mp4"
        yield {"id": path, "path": path, "start": second, "end": second + 1}


def random_vectors(seed: int, count: int, width: int) -> np.ndarray:
    """float32 (count, width) of length 1."""
    rng = np.random.default_rng(seed)
    return normalize(rng.standard_normal((count, width), dtype=np.float32))


def median_ms(work: Callable[[np.ndarray], object], inputs: np.ndarray) -> float:
    """Milliseconds of `work`: the median over the inputs, the first of which warms up."""
    milliseconds = []
    for one_input in inputs:
        begun = time.perf_counter()
        work(one_input)
        milliseconds.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(milliseconds[1:])


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py search --help")
