"""PyAV. A file with a plan (`h264.seek_plan`) is decoded only where needed, any other from first to last."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np

from data_loader.file_kind import describe_file
from data_loader.readers import (
    READERS,
    BrokenVideo,
    Choose,
    Pictures,
    requested_indices,
)
from data_loader.readers.h264 import SeekPlan, open_with_plan
from data_loader.readers.source import Source, frame_range


class NotAsPlanned(Exception):
    """The decoder gave other frames than the plan promises: the file is damaged inside."""


@READERS.register("auto")
@READERS.register("av")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`."""
    with (
        suppress(NotAsPlanned, BrokenVideo),
        open_with_plan(path, end) as (source, plan),
    ):
        if plan:
            request = positions_in_plan(source, plan, choose, start, end)
            if request:
                positions, indices = request
                pictures = decode_positions(source, plan, set(positions))
                return Pictures([pictures[position] for position in positions], indices)
    return read_sequentially(path, choose, start, end)


def positions_in_plan(
    source: Source,
    plan: SeekPlan,
    choose: Choose,
    start: float | None,
    end: float | None,
) -> tuple[list[int], list[int]] | None:
    """(positions in the video, indices in the clip) of the requested frames; None if the plan lacks one of them."""
    first, stop = frame_range(source.seconds(plan.stamps), start, end)
    length = stop - first
    if not length:
        return None
    indices = requested_indices(choose, length)
    if min(indices) < 0 or max(indices) >= length:
        return None
    return [first + index for index in indices], indices


def decode_positions(
    source: Source, plan: SeekPlan, positions: set[int]
) -> dict[int, np.ndarray]:
    """{position: picture}: decodes, from the IDR picture before each position on, only what it can refer to.

    Raises NotAsPlanned.
    """
    needed, flush_after = _needed_packets(plan, positions)
    position_of_stamp = {plan.stamps[position]: position for position in positions}
    pictures: dict[int, np.ndarray] = {}
    sent_stamps: list[int] = []
    decoded_stamps: list[int | None] = []

    for number, packet in enumerate(source.packets()):
        if number not in needed:
            continue

        assert packet.pts is not None  # the plan shows it
        sent_stamps.append(packet.pts)
        for frame in _decode_planned(source, packet, flush=number in flush_after):
            decoded_stamps.append(frame.pts)
            if frame.is_corrupt:
                raise NotAsPlanned
            if frame.pts in position_of_stamp:
                pictures[position_of_stamp[frame.pts]] = source.picture(frame)

        if number in flush_after:
            if decoded_stamps != sorted(sent_stamps):
                raise NotAsPlanned
            sent_stamps = []
            decoded_stamps = []
            if len(pictures) == len(positions):
                break
    return pictures


def _needed_packets(plan: SeekPlan, positions: set[int]) -> tuple[set[int], set[int]]:
    """Numbers of the packets to decode, and of those after which the decoder is flushed."""
    requested = {plan.order[position] for position in positions}
    last_after: dict[
        int, int
    ] = {}  # IDR packet -> the last requested packet that refers to it
    for number in sorted(requested):
        last_after[plan.starts[bisect_right(plan.starts, number) - 1]] = number

    needed = {
        number
        for start, last in last_after.items()
        for number in range(start, last + 1)
        if number in requested or not plan.skips[number]
    }
    return needed, set(last_after.values())


def _decode_planned(
    source: Source, packet: av.Packet, flush: bool
) -> Iterator[av.VideoFrame]:
    source.decode_begins()
    try:
        yield from source.decoder.decode(packet)
        if flush:
            yield from source.decoder.decode(None)
            source.decoder.flush_buffers()
    except av.FFmpegError:
        raise NotAsPlanned from None


@READERS.register("sequential")
def read_sequentially(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """Decode from the first frame on, to the last requested one, or to the end where frames must be counted.

    To count them in the same decode, `choose` is first called with what the packets promise; where the decode proves
    that wrong, it is called again and the file decoded again.
    """
    if start is None and end is None and not callable(choose):
        indices = requested_indices(choose, 0)
        with Source(path) as source:
            pictures, seconds = decode_sequentially(
                source, set(indices), stop_early=True
            )
            return _pictures_at(source, indices, 0, pictures, seconds)

    with Source(path, end) as source:
        seconds = source.packet_seconds()
        clip = frame_range(seconds, start, end)
        indices, pictures, seconds = _decode_clip(source, choose, clip)

    while clip != (corrected := frame_range(seconds, start, end)):
        clip = corrected
        with Source(path, end) as source:
            indices, pictures, seconds = _decode_clip(source, choose, clip)

    if seconds and not indices:
        raise BrokenVideo(
            path, f"has no frame between {start or 0:g} and {end or seconds[-1]:g} s"
        )
    return _pictures_at(source, indices, clip[0], pictures, seconds)


def _decode_clip(
    source: Source, choose: Choose, clip: tuple[int, int]
) -> tuple[list[int], dict[int, np.ndarray], list[float]]:
    """(indices that `choose` requests, {position: picture}, seconds of all frames); `clip`: a frame range."""
    first, stop = clip
    indices = requested_indices(choose, stop - first) if stop > first else []
    pictures, seconds = decode_sequentially(
        source, {first + index for index in indices}
    )
    return indices, pictures, seconds


def decode_sequentially(
    source: Source, positions: set[int], stop_early: bool = False
) -> tuple[dict[int, np.ndarray], list[float]]:
    """({position: picture}, seconds of all frames); `stop_early`: not further than the last position."""
    pictures: dict[int, np.ndarray] = {}
    stamps = []
    for position, frame in enumerate(source.frames()):
        stamps.append(frame.pts)
        if position in positions:
            pictures[position] = source.picture(frame)
            if stop_early and len(pictures) == len(positions):
                break
    return pictures, source.seconds(stamps)


def _pictures_at(
    source: Source,
    indices: list[int],
    first: int,
    pictures: dict[int, np.ndarray],
    seconds: list[float],
) -> Pictures:
    """The requested pictures of a clip that begins at position `first`. Raises BrokenVideo, IndexError."""
    if not seconds:
        damage = source.damage or "no packets"
        reason = describe_file(source.path)
        raise BrokenVideo(
            source.path, reason or f"holds no frame that can be decoded ({damage})"
        )

    missing = [index for index in indices if first + index not in pictures]
    if missing:
        raise IndexError(
            f"{source.path}: frame {missing[0]} is asked of {len(seconds) - first}"
        )
    return Pictures([pictures[first + index] for index in indices], indices)
