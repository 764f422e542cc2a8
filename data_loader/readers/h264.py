"""Proof, without decoding, that frames of an H.264 file can be found by their time stamps and decoded separately.

What is shown for every packet of the file (ITU-T H.264, 7.3 and 7.4): it holds exactly one whole picture, it has a
time of its own, and nothing about the sequence changes on the way. Then
- packets and frames correspond one to one, and the n-th frame is the packet with the n-th time;
- decoding can start at an IDR picture: nothing after it refers to anything before it, in decoding and in showing;
- a picture that no other refers to (nal_ref_idc 0) need not be decoded.
Whatever is not shown - other codecs, Annex B streams, interlaced ones, edit lists, damage - gets no plan.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from data_loader.readers.h264_header import (
    depends_on_x264_version,
    parameter_sets,
    picture_format,
)
from data_loader.readers.source import Source

SLICE = 1  # values of nal_unit_type
DATA_PARTITIONS = (2, 3, 4)
IDR_SLICE = 5
SEI = 6  # supplemental enhancement information
PARAMETER_SETS = (7, 8)


class SeekPlan(NamedTuple):
    """Where each frame of a file is, and from where it can be decoded. Packets are numbered in the order of decoding.

    order: packet of the n-th frame shown.
    stamps: time stamp of the n-th frame shown.
    starts: packets that are IDR pictures, ascending.
    skips: per packet, whether no other picture refers to it.
    times: per packet, its time stamp of decoding.
    keyed: whether the container's key frames are exactly the IDR pictures.
    depth: frames that a decoder must hold back to show them in order.
    """

    order: list[int]
    stamps: list[int]
    starts: list[int]
    skips: list[bool]
    times: list[int | None]
    keyed: bool
    depth: int


def _parse_picture(
    data: memoryview, length_size: int, known_sets: set[bytes], chroma_format: int
) -> tuple[bool, bool] | None:
    """(is an IDR picture, no other refers to it) of a packet that holds exactly one whole picture; else None.

    `data` is a sequence of units (a length of `length_size` bytes, then a header byte and its content);
    `known_sets`: the parameter sets of the file, which a packet may repeat but not change. A message on which the
    decoding of later pictures depends gives None too.
    """
    end = 0
    size = len(data)
    slice_types: set[int] = set()
    reference = 0

    while end + length_size < size:
        start = end + length_size
        length = int.from_bytes(data[end:start], "big")
        end = start + length
        header = data[start]
        unit_type = header & 31
        forbidden_bit = header & 128
        if not length or end > size or forbidden_bit or unit_type in DATA_PARTITIONS:
            return None

        if unit_type in PARAMETER_SETS and bytes(data[start:end]) not in known_sets:
            return None

        if unit_type == SEI and depends_on_x264_version(
            bytes(data[start:end]), chroma_format
        ):
            return None

        if unit_type in (SLICE, IDR_SLICE):
            if length < 2:
                return None
            is_first_slice = data[start + 1] >> 7 == 1  # first_mb_in_slice is 0
            if is_first_slice == bool(slice_types):
                return None
            slice_types.add(unit_type)
            reference |= header >> 5

    if end != size or len(slice_types) != 1:
        return None
    return IDR_SLICE in slice_types, not reference


@contextmanager
def open_with_plan(
    path: str, end: float | None = None
) -> Iterator[tuple[Source, SeekPlan | None]]:
    """The open file, and its plan if it has one. Raises BrokenVideo.

    The plan needs a decoder that holds back enough frames. Of an mp4 its depth is known at once, elsewhere after a
    look at the first frames.
    """
    with Source(path, end, quick=True) as source:
        plan = seek_plan(source)
        if plan is None or plan.depth <= source.decoder.reorder_depth:
            yield source, plan
            return

    with Source(path, end) as source:
        plan = seek_plan(source)
        if plan and plan.depth > source.decoder.reorder_depth:
            plan = None
        yield source, plan


def seek_plan(source: Source) -> SeekPlan | None:
    """The plan of an open file, or None if not everything that it needs can be shown."""
    if source.decoder.name != "h264":
        return None
    length_size, known_sets = parameter_sets(source.decoder.extradata or b"")
    if not length_size:
        return None
    chroma_format = picture_format(known_sets).chroma_format

    stamps: list[int] = []
    starts: list[int] = []
    skips: list[bool] = []
    times: list[int | None] = []
    keyed = True

    for packet in source.packets():
        picture = _parse_picture(
            memoryview(packet), length_size, known_sets, chroma_format
        )
        is_flagged = (
            packet.is_corrupt
            or packet.is_discard
            or packet.has_sidedata("new_extradata")
        )
        if picture is None or packet.pts is None or is_flagged:
            return None

        is_idr, is_skippable = picture
        if is_idr:
            starts.append(len(stamps))
        if is_idr != packet.is_keyframe:
            keyed = False
        stamps.append(packet.pts)
        skips.append(is_skippable)
        times.append(packet.dts)

    if source.damage or not starts or starts[0] != 0 or len(set(stamps)) != len(stamps):
        return None

    order = sorted(range(len(stamps)), key=stamps.__getitem__)
    if not _starts_separate(order, starts):
        return None
    sorted_stamps = [stamps[number] for number in order]
    return SeekPlan(
        order, sorted_stamps, starts, skips, times, keyed, _depth(stamps, starts)
    )


def _starts_separate(order: list[int], starts: list[int]) -> bool:
    """Whether each start is shown after all that is decoded before it, and before all that is decoded after it."""
    latest = -1  # of the packets shown so far, the last one in the order of decoding
    start_set = set(starts)
    for position, number in enumerate(order):
        if position in start_set and (number != position or latest >= position):
            return False
        latest = max(latest, number)
    return True


def _depth(stamps: list[int], starts: list[int]) -> int:
    """The most frames decoded before a frame, since the last start, that are shown after it."""
    depth = 0
    start_set = set(starts)
    decoded: list[int] = []  # stamps since the last start, sorted
    for number, stamp in enumerate(stamps):
        if number in start_set:
            decoded = []
        position = bisect_left(decoded, stamp)
        depth = max(depth, len(decoded) - position)
        decoded.insert(position, stamp)
    return depth
