"""Processor time to read four frames of a clip, by codec, beside what decord and torchcodec take for it.

Ours is the reader "auto" in this process (deadline 0), the others are their own random access as their documentation
shows it, each on one thread. Clips are of 20 s, as they were encoded and as scripts/prepare_data.py rewrites them, and
of 10 minutes: four frames of all of it, and of its seconds 570 to 590. An answer that is not ours, which is that of a
decode from the first frame on, is marked as wrong.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_loader.frames import FrameChoice, pick
from data_loader.reader import read_clip
from data_loader.readers.torchcodec_reader import load_torchcodec
from parse_config import ConfigError
from scripts.benchmarks.bench_clips import (
    H264,
    RATE,
    Encoding,
    prepare,
    repeat_video,
    write_set,
)

FRAMES = 4
SIZE = (596, 336)  # width, height
SECONDS = 20
REPEATS = 30  # of a clip in a long one
CUT = (570, 590)  # seconds of a long clip
ENCODINGS = {
    "H.264": H264,
    "HEVC": Encoding("libx265", ".mp4", {"x265-params": "log-level=none"}),
    "VP9": Encoding("libvpx-vp9", ".webm", {"deadline": "good", "cpu-used": "4"}),
    "AV1": Encoding("libsvtav1", ".mp4", {"preset": "8"}),
}
RAW = "20 s"
PREPARED = "20 s, prepared"
LONG = "10 min"
LONG_CUT = "10 min, 570 to 590 s"


class Request(NamedTuple):
    """Files of `length` frames of which FRAMES are read, between the seconds of `cut` or of all."""

    paths: list[Path]
    length: int
    cut: tuple[int, int] | None = None

    def positions(self) -> list[int]:
        """The frames to read, counted from the first of the file."""
        if not self.cut:
            return pick(self.length, FRAMES)
        start, end = self.cut
        return [RATE * start + index for index in pick(RATE * (end - start), FRAMES)]


Read = Callable[[Path, Request], np.ndarray]  # frames_THWC
Row = dict[str, dict[str, Any]]  # column -> measurement


def read_with_ours(
    path: Path, request: Request, deadline: float | None = None
) -> np.ndarray:
    start, end = request.cut or (None, None)
    frames_TCHW, _ = read_clip(path, FrameChoice(FRAMES), "auto", start, end, deadline)
    return frames_TCHW.permute(0, 2, 3, 1).numpy()


def read_with_decord(path: Path, request: Request) -> np.ndarray:
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    return video.get_batch(request.positions()).asnumpy()


def read_with_torchcodec(path: Path, request: Request) -> np.ndarray:
    video = load_torchcodec().decoders.VideoDecoder(
        str(path), dimension_order="NHWC", num_ffmpeg_threads=1
    )
    return video.get_frames_at(request.positions()).data.numpy()


def readers_that_load() -> dict[str, Read]:
    """Column -> reader; those whose library cannot be loaded are left out, with a line."""
    readers: dict[str, Read] = {"ours": read_with_ours}
    try:
        import decord  # noqa: F401 whether it is there

        readers["decord"] = read_with_decord
    except ImportError:
        print("left out: decord is not installed")
    try:
        load_torchcodec()
        readers["torchcodec"] = read_with_torchcodec
    except ConfigError as error:
        print(f"left out: {error}")
    return readers


def measure(folder: Path, clips: int, rounds: int) -> dict[str, Any]:
    """{"cpu_ms_by_codec": {codec: {kind of file: {column: ...}}}, "wall_ms_by_deadline": {kind of file: ...}}.

    Prints both as tables.
    """
    readers = readers_that_load()
    requests = {
        codec: write_requests(folder / codec, encoding, clips)
        for codec, encoding in ENCODINGS.items()
    }
    measure_row(readers, requests["H.264"][PREPARED], 1)  # loads the libraries
    show_head(readers)
    by_codec = {
        codec: measure_codec(codec, readers, requests[codec], rounds)
        for codec in ENCODINGS
    }
    guard = {
        file_kind: measure_guard(requests["H.264"][file_kind], rounds)
        for file_kind in (RAW, PREPARED)
    }
    show_guard(guard)
    return {"cpu_ms_by_codec": by_codec, "wall_ms_by_deadline": guard}


def measure_codec(
    codec: str, readers: dict[str, Read], requests: dict[str, Request], rounds: int
) -> dict[str, Row]:
    """{kind of file: {column: measurement}}."""
    rows: dict[str, Row] = {}
    for file_kind, request in requests.items():
        row = measure_row(readers, request, rounds)
        add_ratios(row, rows.get(RAW, row))
        rows[file_kind] = row
        show_row(f"{codec}, {file_kind}", row)
    return rows


def write_requests(folder: Path, encoding: Encoding, clips: int) -> dict[str, Request]:
    """{kind of file: what is read of it}; one long clip, which repeats the first."""
    folder.mkdir(parents=True)
    length = RATE * SECONDS
    raw = write_set(folder, clips, SIZE, length, encoding)
    long = folder / f"long{encoding.suffix}"
    repeat_video(raw[0], long, REPEATS)
    return {
        RAW: Request(raw, length),
        PREPARED: Request(prepare(raw, folder / "prepared"), length),
        LONG: Request([long], length * REPEATS),
        LONG_CUT: Request([long], length * REPEATS, CUT),
    }


def measure_row(readers: dict[str, Read], request: Request, rounds: int) -> Row:
    """{column: {"cpu_ms": mean, "cpu_ms_by_clip", "wrong": files} or {"error"}} of the readers on the same files.

    The first reader is the one whose frames are right.
    """
    row: Row = {}
    expected: list[np.ndarray] = []
    for column, read in readers.items():
        try:
            results = [timed(read, path, request, rounds) for path in request.paths]
        except Exception as error:  # noqa: BLE001 decord's errors are bare exceptions
            row[column] = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
            continue
        times = [milliseconds for milliseconds, _ in results]
        frames = [frames_THWC for _, frames_THWC in results]
        expected = expected or frames
        row[column] = {
            "cpu_ms": statistics.mean(times),
            "cpu_ms_by_clip": times,
            "wrong": sum(not np.array_equal(*pair) for pair in zip(frames, expected)),
        }
    return row


def timed(
    read: Read, path: Path, request: Request, rounds: int
) -> tuple[float, np.ndarray]:
    """(milliseconds of processor time, of all threads of this process: the median of `rounds`; frames_THWC)."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        frames_THWC = read(path, request)
        times.append(time.process_time() - begun)
    return 1e3 * statistics.median(times), frames_THWC


def add_ratios(row: Row, raw: Row) -> None:
    """Enter "to_ours", and "to_20s": by the same reader's time for the clips that the long ones repeat."""
    for column, cell in row.items():
        if "error" in cell:
            continue
        cell["to_ours"] = cell["cpu_ms"] / row["ours"]["cpu_ms"]
        if "error" not in raw[column]:
            repeated = raw[column]["cpu_ms_by_clip"][: len(cell["cpu_ms_by_clip"])]
            cell["to_20s"] = cell["cpu_ms"] / statistics.mean(repeated)


def measure_guard(request: Request, rounds: int) -> dict[str, float]:
    """Milliseconds by the wall's clock per clip, with a decoder in a process of its own and without, in turns."""
    paths = request.paths
    deadlines = {"deadline 60": 60.0, "deadline 0": None}
    seconds: dict[str, list[float]] = {name: [] for name in deadlines}
    for deadline in deadlines.values():
        read_with_ours(paths[0], request, deadline)  # starts the process
    for _ in range(rounds):
        for path in paths:
            for name, deadline in deadlines.items():
                begun = time.perf_counter()
                read_with_ours(path, request, deadline)
                seconds[name].append(time.perf_counter() - begun)
    return {name: 1e3 * statistics.mean(times) for name, times in seconds.items()}


def show_head(readers: dict[str, Read]) -> None:
    """Print the first line of the table."""
    title = f"CPU ms per clip of {FRAMES} frames"
    cells = "".join(f"{column:>22}" for column in readers)
    print(f"\n{title:<26}{cells}   (x ours, x the 20 s clip)", flush=True)


def show_row(name: str, row: Row) -> None:
    """Print the line of one codec and kind of file."""
    print(f"{name:<26}" + "".join(f"{show_cell(cell):>22}" for cell in row.values()))


def show_cell(cell: dict[str, Any]) -> str:
    """Time, ratio to ours, ratio to the 20 s clip, "!" where frames are wrong."""
    if "error" in cell:
        return "refused"
    mark = "!" if cell["wrong"] else ""
    to_20s = f"{cell['to_20s']:.2f}x" if "to_20s" in cell else "-"
    return f"{cell['cpu_ms']:.0f}{mark} {cell['to_ours']:.2f}x {to_20s}"


def show_guard(guard: dict[str, dict[str, float]]) -> None:
    """Print what the process of its own costs."""
    print(
        f"\n{'wall ms per clip':<26}{'deadline 60':>14}{'deadline 0':>14}{'ratio':>10}"
    )
    for file_kind, milliseconds in guard.items():
        guarded, unguarded = milliseconds.values()
        ratio = guarded / unguarded
        print(f"H.264, {file_kind:<19}{guarded:>14.2f}{unguarded:>14.2f}{ratio:>9.3f}x")


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py loader --help")
