"""PyAV. A file with a plan (`seek_plan`) is decoded only where needed, any other from first to last."""

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
from data_loader.readers.planned_packets import packets_to_decode
from data_loader.readers.seek_plan import NotAsPlanned, SeekPlan, open_with_plan
from data_loader.readers.source import Source, frame_range

# A decoder that meets an error stops, and does not make up for what is missing with what it happened to decode before.
STRICT = {"err_detect": "explode"}


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
    first, stop = 0, len(plan.stamps)
    if start is not None or end is not None:
        first, stop = frame_range(source.seconds(plan.stamps.tolist()), start, end)
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
    """{position: picture}: decodes, from a start before each position on, only what it depends on.

    Raises NotAsPlanned.
    """
    source.decoder.options = {**source.decoder.options, **STRICT}
    position_of_stamp = {int(plan.stamps[position]): position for position in positions}
    pictures: dict[int, np.ndarray] = {}
    look = None  # size and pixel format of all frames

    for start, requested in plan.runs(positions):
        selected = packets_to_decode(source, plan, start, requested)
        decoded_stamps: list[int | None] = []
        for frame in _decode_planned(source, [packet for packet, _ in selected]):
            look = look or (*(plan.parser.size or _size(frame)), frame.format.name)
            if frame.is_corrupt or (*_size(frame), frame.format.name) != look:
                raise NotAsPlanned
            decoded_stamps.append(frame.pts)
            if frame.pts in position_of_stamp:
                pictures[position_of_stamp[frame.pts]] = source.picture(frame)
        shown_stamps = [packet.pts for packet, is_shown in selected if is_shown]
        if decoded_stamps != sorted(pts for pts in shown_stamps if pts is not None):
            raise NotAsPlanned
    return pictures


def _size(frame: av.VideoFrame) -> tuple[int, int]:
    return frame.width, frame.height


def _decode_planned(
    source: Source, packets: list[av.Packet]
) -> Iterator[av.VideoFrame]:
    """The frames of some packets, and all of them. Raises NotAsPlanned."""
    source.decode_begins()
    try:
        for packet in packets:
            yield from source.decoder.decode(packet)
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
