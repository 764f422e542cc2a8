"""Ranking from embeddings, both directions: ours, the full-matrix sort of the family (numpy), the bare product.

    python scripts/bench.py eval [--sizes 1000 10000 100000 1000000] [--queries 10000] [--width 256] [--device cuda]

The bare product is one call into memory that is there already, or, where the matrix would not fit (--matrix-gib), the
same tiles as ours with nothing done to them. Times are the best of --repeat. Memory is the peak beyond the embeddings.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from model.ranks import Counts, count
from model.similarity import CosineSimilarity, exact, tiles
from trainer.versions import versions

ROOT = Path(__file__).resolve().parents[2]
MARK = Path("/proc/self/clear_refs")


def family(text_CE: torch.Tensor, video_VE: torch.Tensor, way: str) -> np.ndarray:
    """Ranks as the family takes them: the whole matrix, sorted; equal counts and row order only. The product is in."""
    text, video = (torch.nn.functional.normalize(x).numpy() for x in (text_CE, video_VE))
    distances = -(text @ video.T)
    if way == "t2v":
        ordered = np.sort(distances, axis=1)
        return np.where(ordered - np.diagonal(distances)[:, None] == 0)[1] + 1.0
    ranks = []
    for column, row in enumerate(distances.T):
        ordered = np.sort(row)
        ranks.append(np.where(ordered - row[column] == 0)[0].mean() + 1)
    return np.array(ranks)


def ours(
    text_CE: torch.Tensor, video_VE: torch.Tensor, owner_C: torch.Tensor
) -> tuple[Counts, Counts]:
    """Both directions."""
    return count(CosineSimilarity(text_CE, video_VE), owner_C)


def bare(text_CE: torch.Tensor, video_VE: torch.Tensor, out_CV: torch.Tensor | None):
    """The product alone."""
    with exact(text_CE.device):
        if out_CV is not None:
            torch.mm(text_CE, video_VE.T, out=out_CV)
            return
        for _ in tiles(CosineSimilarity(text_CE, video_VE)):
            pass


def best(function: Callable, repeat: int, device: torch.device) -> float:
    """Seconds of the fastest call."""
    seconds = []
    for _ in range(repeat):
        begun = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def peak(function: Callable, device: torch.device) -> float:
    """GiB that a call takes at most, beyond what is there before it; NaN where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    if not os.access(MARK, os.W_OK):
        return float("nan")
    MARK.write_text("5")  # the process's high-water mark starts anew
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 2**20


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def measure(videos: int, given: argparse.Namespace, device: torch.device) -> dict:
    """One line of the table."""
    captions, made = min(videos, given.queries), torch.Generator(device).manual_seed(0)
    video_VE = torch.randn(videos, given.width, generator=made, device=device)
    owner_C = torch.arange(captions) * (videos // captions)
    text_CE = video_VE[owner_C.to(device)]
    text_CE += 3 * torch.randn(captions, given.width, generator=made, device=device)
    fits = 4 * captions * videos <= given.matrix_gib * 2**30
    row = {"captions": captions, "videos": videos, "product": "one call" if fits else "tiles"}
    row["peak_gib"] = peak(lambda: ours(text_CE, video_VE, owner_C), device)
    repeat = given.repeat if captions * videos <= 10**9 else 1
    row["ours_s"] = best(lambda: ours(text_CE, video_VE, owner_C), repeat, device)
    place = [torch.zeros(captions, videos, device=device) if fits else None]
    row["bare_s"] = best(lambda: bare(text_CE, video_VE, place[0]), repeat, device)
    place.clear()
    row["family_s"] = row["family_peak_gib"] = None
    if (
        captions == videos
        and 16 * captions * videos <= given.matrix_gib * 2**30
        and device.type == "cpu"
    ):
        row["family_s"] = sum(
            best(lambda way=way: family(text_CE, video_VE, way), repeat, device)
            for way in ("t2v", "v2t")
        )
        row["family_peak_gib"] = peak(lambda: family(text_CE, video_VE, "t2v"), device)
        there, back = ours(text_CE, video_VE, owner_C)
        twins = [family(text_CE, video_VE, way) for way in ("t2v", "v2t")]
        row["largest_rank_difference"] = max(
            float(np.abs(counts.ranks() - twin).max()) for counts, twin in zip((there, back), twins)
        )
    return row


def main(argv: list[str]):
    """Measure, print the table, write results/bench/eval_DATE.json."""
    parser = argparse.ArgumentParser(
        prog="bench.py eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000], help="videos"
    )
    parser.add_argument(
        "--queries", type=int, default=1_000_000 if cuda else 10_000, help="captions, at most"
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--matrix-gib", type=float, default=60 if cuda else 4, help="largest matrix that is made"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench")
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{cpu_name()}, {torch.get_num_threads()} threads"
    )
    print(f"{name}; width {given.width}; seconds, both directions")
    print(
        f"{'captions':>9}{'videos':>9}{'ours':>10}{'bare product':>20}{'x bare':>8}{'numpy sort':>12}"
        f"{'speed-up':>10}{'peak GiB':>10}{'sort GiB':>10}"
    )
    rows = []
    for videos in given.sizes:
        rows.append(row := measure(videos, given, device))
        sort = (
            [
                f"{row['family_s']:.3f}",
                f"{row['family_s'] / row['ours_s']:.1f}x",
                f"{row['family_peak_gib']:.2f}",
            ]
            if row["family_s"]
            else ["-"] * 3
        )
        print(
            f"{row['captions']:>9}{row['videos']:>9}{row['ours_s']:>10.4f}"
            f"{row['bare_s']:>10.4f} ({row['product']:>8}){row['ours_s'] / row['bare_s']:>7.2f}x{sort[0]:>12}"
            f"{sort[1]:>10}{row['peak_gib']:>10.3f}{sort[2]:>10}",
            flush=True,
        )
    write(given, rows, name)


def cpu_name() -> str:
    """The processor as Linux calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(given: argparse.Namespace, rows: list[dict], name: str):
    """The JSON beside those of other days."""
    now = datetime.now(UTC)
    path = given.out / f"eval_{now:%Y%m%d_%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(given).items() if key != "out"}
    path.write_text(
        json.dumps(
            {
                "bench": "eval",
                "date": f"{now:%Y-%m-%d %H:%M} UTC",
                "device": name,
                "settings": settings,
                "rows": rows,
                "versions": versions(),
            },
            indent=2,
        )
        + "\n"
    )
    print(f"written: {path}")
