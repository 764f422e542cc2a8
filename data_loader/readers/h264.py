"""Proof, without decoding, that frames of an H.264 file can be found by their time stamps and decoded alone.

What is shown for every packet of the file (ITU-T H.264, 7.3 and 7.4): it holds exactly one whole picture, it has a
time of its own, and nothing about the sequence changes on the way. Then
- packets and frames correspond one to one, and the n-th frame is the packet with the n-th time;
- an IDR picture is a place to start: nothing after it refers to anything before it, in decoding and in showing;
- a picture that no other refers to (nal_ref_idc 0) need not be decoded.
Whatever is not shown - other codecs, Annex B streams, interlaced ones, edit lists, damage - gets no plan.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from data_loader.readers.h264_header import parameter_sets
from data_loader.readers.source import Source


class Plan(NamedTuple):
    """`order[n]`: number of the packet of the n-th frame shown; `stamps[n]`: its time. By packets in the order of
    decoding: `starts`, the numbers of the IDR pictures; `skips`, whether no other picture refers to it; `times`, of
    decoding. `keyed`: whether the container's key frames are exactly the starts. `depth`: frames that a decoder must
    hold back to show them in order."""

    order: list[int]
    stamps: list[int]
    starts: list[int]
    skips: list[bool]
    times: list[int | None]
    keyed: bool
    depth: int


def _picture(data: memoryview, width: int, known: set[bytes]) -> tuple[bool, bool] | None:
    """(is an IDR picture, nothing refers to it) of a packet that holds exactly one whole picture; else None."""
    at, size, types, refers = 0, len(data), set(), 0
    while at + width < size:
        length = int.from_bytes(data[at : at + width], "big")
        head, unit = data[at + width], at + width
        kind = head & 31
        at = unit + length
        if not length or at > size or head & 128 or 2 <= kind <= 4:
            return None
        if kind in (7, 8) and bytes(data[unit:at]) not in known:
            return None
        if kind in (1, 5):
            if length < 2:
                return None
            first = data[unit + 1] >> 7  # first_mb_in_slice is 0
            if bool(first) == bool(types):
                return None
            types.add(kind)
            refers |= head >> 5
    return (5 in types, not refers) if at == size and len(types) == 1 else None


@contextmanager
def planned(path: str, end: float | None = None) -> Iterator[tuple[Source, Plan | None]]:
    """The open file, and the plan if it can be read at any place. The depth that ffmpeg takes must be enough for it;
    of an mp4 that is known at once, elsewhere after a look at the first frames. Raises BrokenVideo."""
    with Source(path, end, quick=True) as source:
        plan = prove(source)
        if plan is None or plan.depth <= source.decoder.reorder_depth:
            yield source, plan
            return
    with Source(path, end) as source:
        plan = prove(source)
        yield source, plan if plan and plan.depth <= source.decoder.reorder_depth else None


def prove(source: Source) -> Plan | None:
    """The plan of an open file, or None."""
    width, known = (
        parameter_sets(source.decoder.extradata or b"")
        if source.decoder.name == "h264"
        else (0, set())
    )
    if not width:
        return None
    pts, starts, skips, times, keyed = [], [], [], [], True
    for packet in source.packets():
        seen = _picture(memoryview(packet), width, known)
        if (
            seen is None
            or packet.pts is None
            or packet.is_corrupt
            or packet.is_discard
            or packet.has_sidedata("new_extradata")
        ):
            return None
        if seen[0]:
            starts.append(len(pts))
        keyed &= seen[0] == packet.is_keyframe
        pts.append(packet.pts)
        skips.append(seen[1])
        times.append(packet.dts)
    if source.damage or not starts or starts[0] != 0 or len(set(pts)) != len(pts):
        return None
    order = sorted(range(len(pts)), key=pts.__getitem__)
    if not _in_order(order, starts):
        return None
    return Plan(order, [pts[n] for n in order], starts, skips, times, keyed, _depth(pts, starts))


def _in_order(order: list[int], starts: list[int]) -> bool:
    """Whether each start is shown after all that is decoded before it, and before all that is decoded after it."""
    last, heads = -1, set(starts)
    for place, number in enumerate(order):
        if place in heads and (number != place or last >= place):
            return False
        last = max(last, number)
    return True


def _depth(pts: list[int], starts: list[int]) -> int:
    depth, heads, later = 0, set(starts), []
    for number, stamp in enumerate(pts):
        if number in heads:
            later = []
        place = bisect_left(later, stamp)
        later.insert(place, stamp)
        depth = max(depth, len(later) - 1 - place)
    return depth
