"""Ranking from embeddings, both directions: ours, the full-matrix sort of Frozen-in-Time codebases
(numpy), the bare product.

    python scripts/bench.py eval [--sizes 1000 10000 100000 1000000] [--queries 10000] [--width 256] [--device cuda]

The bare product is one call into memory that is there already, or, where the matrix would not fit (--matrix-gib), the
same tiles as ours with nothing done to them. Times are the best of --repeat. Memory is the peak beyond the embeddings.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.ranks import Counts, count
from model.similarity import CosineSimilarity, exact, tiles
from scripts.benchmarks.record import RESULTS, device_name, write_record

HIGH_WATER_MARK = Path("/proc/self/clear_refs")


def sorted_ranks(
    text_CE: torch.Tensor, video_VE: torch.Tensor, direction: str
) -> np.ndarray:
    """Ranks as Frozen-in-Time codebases take them: the whole matrix, sorted; the time includes the product.

    For equal counts of captions and videos, row i of both belonging together. direction: "t2v" or "v2t".
    """
    text = torch.nn.functional.normalize(text_CE).numpy()
    video = torch.nn.functional.normalize(video_VE).numpy()
    distances = -(text @ video.T)
    if direction == "t2v":
        ordered = np.sort(distances, axis=1)
        return np.where(ordered - np.diagonal(distances)[:, None] == 0)[1] + 1.0
    ranks = []
    for column, row in enumerate(distances.T):
        ordered = np.sort(row)
        ranks.append(np.where(ordered - row[column] == 0)[0].mean() + 1)
    return np.array(ranks)


def our_ranks(
    text_CE: torch.Tensor, video_VE: torch.Tensor, owner_C: torch.Tensor
) -> tuple[Counts, Counts]:
    """Text-to-video and video-to-text."""
    return count(CosineSimilarity(text_CE, video_VE), owner_C)


def bare_product(
    text_CE: torch.Tensor, video_VE: torch.Tensor, out_CV: torch.Tensor | None
) -> None:
    """The product into `out_CV`, or in the same tiles as ours with nothing done to them."""
    with exact(text_CE.device):
        if out_CV is not None:
            torch.mm(text_CE, video_VE.T, out=out_CV)
            return
        for _ in tiles(CosineSimilarity(text_CE, video_VE)):
            pass


def fastest(function: Callable[[], Any], repeat: int, device: torch.device) -> float:
    """Seconds of the fastest of `repeat` calls."""
    seconds = []
    for _ in range(repeat):
        begun = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def peak_memory(function: Callable[[], Any], device: torch.device) -> float:
    """GiB that a call takes at most, beyond what is in use before it; NaN where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    if not os.access(HIGH_WATER_MARK, os.W_OK):
        return float("nan")
    HIGH_WATER_MARK.write_text("5")  # the process's high-water mark starts anew
    before = process_memory("VmRSS")
    function()
    return (process_memory("VmHWM") - before) / 2**20


def process_memory(key: str) -> int:
    """KiB of this process, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(
    videos: int, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """One line of the table."""
    captions = min(videos, arguments.queries)
    generator = torch.Generator(device).manual_seed(0)
    video_VE = torch.randn(videos, arguments.width, generator=generator, device=device)
    owner_C = torch.arange(captions) * (videos // captions)
    text_CE = video_VE[owner_C.to(device)]
    text_CE += 3 * torch.randn(
        captions, arguments.width, generator=generator, device=device
    )

    matrix_gib = 4 * captions * videos / 2**30
    fits = matrix_gib <= arguments.matrix_gib
    repeat = arguments.repeat if captions * videos <= 10**9 else 1
    rank = partial(our_ranks, text_CE, video_VE, owner_C)
    row: dict[str, Any] = {
        "captions": captions,
        "videos": videos,
        "product": "one call" if fits else "tiles",
        "peak_gib": peak_memory(rank, device),
        "ours_s": fastest(rank, repeat, device),
    }
    out_CV = torch.zeros(captions, videos, device=device) if fits else None
    row["bare_s"] = fastest(
        partial(bare_product, text_CE, video_VE, out_CV), repeat, device
    )
    del out_CV

    row["family_s"] = None
    row["family_peak_gib"] = None
    sort_fits = 4 * matrix_gib <= arguments.matrix_gib
    if captions == videos and sort_fits and device.type == "cpu":
        row |= measure_sort(text_CE, video_VE, rank(), repeat)
    return row


def measure_sort(
    text_CE: torch.Tensor,
    video_VE: torch.Tensor,
    ours: tuple[Counts, Counts],
    repeat: int,
) -> dict[str, float]:
    """Time and memory of the full-matrix sort, and the largest difference of its ranks from ours."""
    cpu = torch.device("cpu")
    ways = [
        partial(sorted_ranks, text_CE, video_VE, direction)
        for direction in ("t2v", "v2t")
    ]
    differences = [
        float(np.abs(counts.ranks() - sort()).max())
        for counts, sort in zip(ours, ways, strict=True)
    ]
    return {
        "family_s": sum(fastest(sort, repeat, cpu) for sort in ways),
        "family_peak_gib": peak_memory(ways[0], cpu),
        "largest_rank_difference": max(differences),
    }


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The arguments, with larger sizes where there is a GPU."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="bench.py eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1000, 10_000, 100_000, 1_000_000],
        help="videos",
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=1_000_000 if cuda else 10_000,
        help="captions, at most",
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--matrix-gib",
        type=float,
        default=60 if cuda else 4,
        help="largest matrix that is made",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure, print the table, write results/bench/eval_DATE.json."""
    arguments = parse_arguments(argv)
    device = torch.device(arguments.device)
    name = device_name(device)
    print(f"{name}; width {arguments.width}; seconds, both directions")
    print(
        f"{'captions':>9}{'videos':>9}{'ours':>10}{'bare product':>20}{'x bare':>8}{'numpy sort':>12}"
        f"{'speed-up':>10}{'peak GiB':>10}{'sort GiB':>10}"
    )
    rows = []
    for videos in arguments.sizes:
        rows.append(measure(videos, arguments, device))
        print(table_line(rows[-1]), flush=True)
    write_record("eval", name, arguments, {"rows": rows}, arguments.out)


def table_line(row: dict[str, Any]) -> str:
    """One line of the table; "-" where the sort was not measured."""
    sort_seconds = speed_up = sort_gib = "-"
    if row["family_s"]:
        sort_seconds = f"{row['family_s']:.3f}"
        speed_up = f"{row['family_s'] / row['ours_s']:.1f}x"
        sort_gib = f"{row['family_peak_gib']:.2f}"
    return (
        f"{row['captions']:>9}{row['videos']:>9}{row['ours_s']:>10.4f}"
        f"{row['bare_s']:>10.4f} ({row['product']:>8}){row['ours_s'] / row['bare_s']:>7.2f}x{sort_seconds:>12}"
        f"{speed_up:>10}{row['peak_gib']:>10.3f}{sort_gib:>10}"
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py eval --help")
