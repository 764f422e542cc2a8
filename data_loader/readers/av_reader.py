"""PyAV. A proven file (`h264.prove`) is read at the wanted places; any other is decoded from first to last."""

from bisect import bisect_right
from contextlib import suppress

import av
import numpy as np

from data_loader.readers import READERS, BrokenVideo, Choose, chosen
from data_loader.readers.h264 import Plan, planned
from data_loader.readers.source import Source, cut

Pictures = tuple[list[np.ndarray], list[int]]


class NotAsPlanned(Exception):
    """The decoder gave other frames than the plan promises: the file is damaged inside."""


@READERS.register("auto")
@READERS.register("av")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`."""
    with suppress(NotAsPlanned, BrokenVideo), planned(path, end) as (source, plan):
        if plan:
            first, last = cut(source.seconds(plan.stamps), start, end)
            indices = chosen(choose, last - first) if last > first else []
            if indices and 0 <= min(indices) <= max(indices) < last - first:
                seen = jump(source, plan, {first + i for i in indices})
                return [seen[first + i] for i in indices], indices
    return from_the_start(path, choose, start, end)


def jump(source: Source, plan: Plan, places: set[int]) -> dict[int, np.ndarray]:
    """{n: picture of the n-th frame}, decoding from the IDR picture before each what it can refer to."""
    wanted = {plan.order[place]: place for place in places}
    ends: dict[int, int] = {}  # start -> the last wanted packet behind it
    for number in sorted(wanted):
        ends[plan.starts[bisect_right(plan.starts, number) - 1]] = number
    needed = {
        number
        for start, end in ends.items()
        for number in range(start, end + 1)
        if number in wanted or not plan.skips[number]
    }
    stops, seen, sent, shown = set(ends.values()), {}, [], []
    places_of = {plan.stamps[place]: place for place in places}
    for number, packet in enumerate(source.packets()):
        if number not in needed:
            continue
        sent.append(packet.pts)
        for frame in _decoded(source, packet, last=number in stops):
            shown.append(frame.pts)
            if frame.is_corrupt:
                raise NotAsPlanned
            if frame.pts in places_of:
                seen[places_of[frame.pts]] = source.picture(frame)
        if number in stops:
            if shown != sorted(sent):
                raise NotAsPlanned
            sent, shown = [], []
            if len(seen) == len(places):
                break
    return seen


def _decoded(source: Source, packet: av.Packet, last: bool):
    try:
        yield from source.decoder.decode(packet)
        if last:
            yield from source.decoder.decode(None)
            source.decoder.flush_buffers()
    except av.FFmpegError:
        raise NotAsPlanned from None


@READERS.register("sequential")
def from_the_start(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """Decode the file from its first frame on, to the last wanted one, or to the end where frames must be counted.

    To count them in the same decode, the choice is made from what the container says; where that proves wrong, it is
    made again and the file decoded again.
    """
    if start is None and end is None and not callable(choose):
        indices = chosen(choose, 0)
        with Source(path) as source:
            seen, seconds = _walk(source, set(indices), stop=True)
            return _answer(source, indices, 0, seen, seconds)
    believed, seconds = None, None
    while seconds is None or believed != cut(seconds, start, end):
        with Source(path, end) as source:
            first, last = believed = cut(
                _promised(source) if seconds is None else seconds, start, end
            )
            indices = chosen(choose, last - first) if last > first else []
            seen, seconds = _walk(source, {first + i for i in indices})
    if seconds and not indices:
        raise BrokenVideo(path, f"has no frame between {start or 0:g} and {end or seconds[-1]:g} s")
    return _answer(source, indices, first, seen, seconds)


def _promised(source: Source) -> list[float]:
    """Seconds of the frames by the container's word."""
    stamps = [packet.pts for packet in source.packets() if not packet.is_discard]
    return source.seconds(stamps if None in stamps else sorted(stamps))


def _walk(
    source: Source, places: set[int], stop: bool = False
) -> tuple[dict[int, np.ndarray], list[float]]:
    """({n: picture of the n-th frame}, seconds of all frames); `stop`: not further than the last of them."""
    seen, stamps = {}, []
    for place, frame in enumerate(source.frames()):
        stamps.append(frame.pts)
        if place in places:
            seen[place] = source.picture(frame)
            if stop and len(seen) == len(places):
                break
    return seen, source.seconds(stamps)


def _answer(
    source: Source,
    indices: list[int],
    first: int,
    seen: dict[int, np.ndarray],
    seconds: list[float],
) -> Pictures:
    if not seconds:
        raise BrokenVideo(
            source.path, f"holds no frame that can be decoded ({source.damage or 'no packets'})"
        )
    missing = [i for i in indices if first + i not in seen]
    if missing:
        raise IndexError(f"{source.path}: frame {missing[0]} is asked of {len(seconds) - first}")
    return [seen[first + i] for i in indices], indices
