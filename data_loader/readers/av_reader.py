"""PyAV. Jumps between keyframes where that is proven to give the right frames, decodes from the start elsewhere.

The proof is in the packet table, which costs no decoding: in an mp4 or Matroska file every packet has a time stamp of
its own, none is marked as corrupt or to be discarded (edit lists), and frames carry the stamps of their packets. A
wanted frame is then found by its stamp, after a jump to a keyframe that is not later; a frame that is not where the
table says, or a landing that is, sends the whole clip to the decode from the start.
"""
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import av
import numpy as np

from data_loader.readers import READERS, BrokenVideo

CONTAINERS = {"mov", "mp4", "matroska", "webm"}
SKIPS = {"h264", "hevc"}  # here a frame that no other refers to can be left undecoded without touching the others
Choose = Callable[[int], Sequence[int]]


class NotThere(Exception):
    """The table of packets promised a frame that did not come."""


class Frames(NamedTuple):
    """The packet table: stamps in the order of display, those of keyframes, and whether jumps are proven right."""
    stamps: list[int]
    keys: list[int]
    proven: bool


@READERS.register("av")
def read(path: str, choose: Choose, start: float | None = None, end: float | None = None,
         ) -> tuple[np.ndarray, list[int]]:
    """See `data_loader.readers`."""
    try:
        with av.open(path, metadata_errors="ignore", timeout=(60.0, 60.0)) as container:
            stream = _best(container, path)
            table = _table(container, stream)
            if start is None and end is None or table.proven:
                first, last = _cut(table, stream, start, end)
                indices = [first + i for i in choose(last - first)] if last > first else []
                found = _collect(container, stream, table, indices) if indices else None
                if found:
                    return _stack(found, indices), [i - first for i in indices]
        return _from_the_start(path, choose, start, end)
    except (av.FFmpegError, ValueError, IndexError, EOFError) as error:
        if isinstance(error, BrokenVideo):
            raise
        raise BrokenVideo(path, f"{type(error).__name__}: {error}") from None


def count(path: str) -> int:
    """How many frames a decode from the start gives."""
    try:
        return sum(1 for _ in _decode_all(path))
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise BrokenVideo(path, f"{type(error).__name__}: {error}") from None


def _best(container, path: str):
    stream = container.streams.best("video")
    if stream is None:
        raise BrokenVideo(path, "has no video stream")
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    return stream


def _table(container, stream) -> Frames:
    packets = [p for p in container.demux(stream) if p.size]
    stamps = [p.pts for p in packets if p.pts is not None]
    keys = sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)
    proven = (bool(CONTAINERS & set(container.format.name.split(","))) and len(stamps) == len(packets) > 0
              and len(set(stamps)) == len(stamps) and bool(keys) and keys[0] == min(stamps)
              and not any(p.is_discard or p.is_corrupt for p in packets))
    return Frames(sorted(stamps) if proven else [0] * len(packets), keys, proven)


def _cut(table: Frames, stream, start: float | None, end: float | None) -> tuple[int, int]:
    """First and one past the last frame between `start` and `end` seconds after the first frame."""
    if start is None and end is None:
        return 0, len(table.stamps)
    seconds = [float((stamp - table.stamps[0]) * stream.time_base) for stamp in table.stamps]
    return _between(seconds, start, end)


def _between(seconds: list[float], start: float | None, end: float | None) -> tuple[int, int]:
    inside = [i for i, s in enumerate(seconds) if s >= (start or 0) - 1e-6 and (end is None or s < end - 1e-6)]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _collect(container, stream, table: Frames, indices: Sequence[int]) -> dict[int, np.ndarray] | None:
    """{index: picture}, or None if it takes a decode from the start."""
    if not 0 <= min(indices) <= max(indices) < len(table.stamps):
        raise IndexError(f"frame {max(indices)} of {len(table.stamps)} is asked for")
    container.seek(0) if not table.proven else None
    try:
        return _jump(container, stream, table, sorted(set(indices))) if table.proven else None
    except (NotThere, av.FFmpegError):
        return None


def _jump(container, stream, table: Frames, indices: list[int]) -> dict[int, np.ndarray]:
    """Decode from keyframe to wanted frame, going on without a jump where no keyframe lies between two of them."""
    wanted = {table.stamps[i]: i for i in indices}
    found: dict[int, np.ndarray] = {}
    order = sorted(wanted)
    groups: list[list[int]] = []
    for stamp in order:
        key = bisect_right(table.keys, stamp) - 1
        if groups and bisect_right(table.keys, groups[-1][-1]) - 1 == key:
            groups[-1].append(stamp)
        else:
            groups.append([stamp])
    for group in groups:
        key = table.keys[bisect_right(table.keys, group[0]) - 1]
        _decode_group(container, stream, key, set(group), wanted, found)
    return found


def _decode_group(container, stream, key: int, group: set[int], wanted: dict[int, int], found: dict[int, np.ndarray]):
    container.seek(key, stream=stream, backward=True)
    codec, missing, landed = stream.codec_context, set(group), False
    skips = codec.name in SKIPS
    for packet in container.demux(stream):
        if not landed and packet.pts is not None:
            landed = True
            if packet.pts > key or not packet.is_keyframe:
                raise NotThere
        if skips:
            codec.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
        for frame in packet.decode():
            if frame.pts in missing:
                found[wanted[frame.pts]] = _picture(frame)
                missing.discard(frame.pts)
        if not missing:
            return
    raise NotThere


def _picture(frame) -> np.ndarray:
    """uint8 (H, W, 3), turned upright."""
    turns = (frame.rotation // 90) % 4
    picture = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, turns) if turns else picture


def _stack(found: dict[int, np.ndarray], indices: Sequence[int]) -> np.ndarray:
    return np.stack([found[i] for i in indices])


def _decode_all(path: str):
    """Frames from the first on, until the end or the first damage behind a decoded frame."""
    with av.open(path, metadata_errors="ignore", timeout=(60.0, 60.0)) as container:
        stream, some = _best(container, path), False
        try:
            for frame in container.decode(stream):
                some = True
                yield frame
        except av.FFmpegError:
            if not some:
                raise


def _from_the_start(path: str, choose: Choose, start: float | None, end: float | None,
                    ) -> tuple[np.ndarray, list[int]]:
    """Two decodes: one that counts (and times), one that keeps the wanted frames."""
    seconds = [(frame.time, i) for i, frame in enumerate(_decode_all(path))]
    if not seconds:
        raise BrokenVideo(path, "holds no decodable frame")
    first, last = 0, len(seconds)
    if start is not None or end is not None:
        rate = _rate(path)
        base = seconds[0][0] or 0.0
        first, last = _between([i / rate if s is None else s - base for s, i in seconds], start, end)
    if last <= first:
        raise BrokenVideo(path, f"has no frame between {start} and {end} seconds")
    indices = [first + i for i in choose(last - first)]
    wanted, found = set(indices), {}
    for i, frame in enumerate(_decode_all(path)):
        if i in wanted:
            found[i] = _picture(frame)
        if len(found) == len(wanted):
            break
    if len(found) < len(wanted):
        raise IndexError(f"frame {max(wanted)} of {len(seconds)} is asked for")
    return _stack(found, indices), [i - first for i in indices]


def _rate(path: str) -> float:
    with av.open(path) as container:
        return float(_best(container, path).average_rate or 25)
