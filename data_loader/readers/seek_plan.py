"""Proof, without decoding, that frames of a file can be found by their time stamps and decoded separately.

What is shown for every packet of the file: it gives exactly one shown frame, it has a time of its own, and nothing
about the sequence changes on the way (`h264`, `hevc`, `vp9`, `av1`). Then packets and frames correspond one to one,
the n-th frame is the packet with the n-th time, and each can be decoded from a packet before it that depends on
nothing before itself. Whatever is not shown - other codecs, edit lists, damage - gets no plan.

A file's plan is kept for the next time that the file is read.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple, cast

import av
import numpy as np

from data_loader.readers.av1 import Av1Parser
from data_loader.readers.h264 import H264Parser
from data_loader.readers.hevc import HevcParser
from data_loader.readers.mp4_index import indexed_table
from data_loader.readers.packet_info import (
    UNKNOWN,
    NotProven,
    PacketBytes,
    PacketParser,
    PacketTable,
    display_order,
    merged,
)
from data_loader.readers.source import SLACK, Source
from data_loader.readers.vp9 import Vp9Parser

PARSERS: dict[str, Callable[[bytes], PacketParser]] = {
    "h264": H264Parser,
    "hevc": HevcParser,
    "vp9": Vp9Parser,
    "libdav1d": Av1Parser,
    "av1": Av1Parser,
}
# Containers that never change a stream's parameters on the way; others say so in a packet's side data.
STEADY_FORMATS = {"matroska,webm"}
BATCH = 128  # packets
CHUNK = 2 << 20  # bytes of packets whose headers are parsed at once
MAX_SHIFT = 64  # positions between decoding and showing; the standards allow 16
KEPT_PACKETS = 500_000  # in all plans that are kept; about 70 bytes each
PLAN_COST = 100  # packets that take about as much memory as a plan takes besides


class NotAsPlanned(Exception):
    """The file or the decoder gave other packets or frames than the plan promises."""


class SeekPlan(NamedTuple):
    """Where each frame of a file is, and from where it can be decoded. Packets are numbered in the order of decoding.

    order: packet of the n-th frame shown, int64 (N,).
    stamps: time stamp of the n-th frame shown, int64 (N,), ascending.
    starts: packets at which decoding can begin, int64 (S,), ascending.
    skips: per packet, whether no other one depends on it, bool (N,).
    table: the packets.
    keyed: whether the container's key frames are exactly the starts.
    depth: frames that a decoder must hold back to show them in order.
    parser: reads the packets' headers.
    """

    order: np.ndarray
    stamps: np.ndarray
    starts: np.ndarray
    skips: np.ndarray
    table: PacketTable
    keyed: bool
    depth: int
    parser: PacketParser

    def until(self, end: float | None, time_base: float) -> "SeekPlan":
        """The plan of the packets that `Source` reads with this `end`, in seconds."""
        dts = self.table.dts
        if end is None or dts[0] == UNKNOWN:
            return self
        limit = dts[0] + (end + SLACK) / time_base
        behind = np.flatnonzero(dts > limit)
        if not len(behind):
            return self
        count = int(behind[0])
        order = np.argsort(self.table.pts[:count])
        return self._replace(order=order, stamps=self.table.pts[order])

    def runs(self, positions: set[int]) -> list[tuple[int, list[int]]]:
        """[(start, requested packets that are decoded from it)], both ascending.

        positions: of frames in the order of showing
        """
        requested: dict[int, list[int]] = {}
        for number in sorted(int(self.order[position]) for position in positions):
            index = int(np.searchsorted(self.starts, number, "right")) - 1
            if self.table.facts.leading[number]:
                index -= 1
            requested.setdefault(int(self.starts[index]), []).append(number)
        return sorted(requested.items())

    def needed(self, start: int, requested: list[int]) -> list[int]:
        """The packets to decode for `requested` ones from `start` on by what the facts say, ascending."""
        stop = requested[-1] + 1
        next_index = int(np.searchsorted(self.starts, start, "right"))
        next_start = stop
        if next_index < len(self.starts):
            next_start = int(self.starts[next_index])

        is_needed = ~self.skips[start:stop]
        is_needed[np.array(requested) - start] = True
        # Leading pictures of the start itself depend on what is not decoded.
        is_needed[: next_start - start] &= ~self.table.facts.leading[
            start : min(next_start, stop)
        ]
        return [start + int(offset) for offset in np.flatnonzero(is_needed)]


CacheKey = tuple[str, int, int, int, int]


class KeptPlans:
    """The plans of files that were read, None where there is none; those not used for longest make room.

    A plan is kept with the `end` of the source that it was made from, None if it has all packets.
    size: what all that is kept costs, in packets.
    """

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[CacheKey, float | None], SeekPlan | None] = (
            OrderedDict()
        )
        self.size = 0

    def find(self, key: CacheKey, end: float | None) -> tuple[bool, SeekPlan | None]:
        """(whether something is kept, the plan or None)."""
        for kept_end in (None, end):
            if (key, kept_end) in self._plans:
                self._plans.move_to_end((key, kept_end))
                return True, self._plans[key, kept_end]
        return False, None

    def keep(
        self, key: CacheKey | None, end: float | None, plan: SeekPlan | None
    ) -> None:
        """Keep the plan, or that there is none; without a key nothing is kept."""
        if key is None:
            return
        if (key, end) in self._plans:
            self.size -= _cost(self._plans.pop((key, end)))
        self._plans[key, end] = plan
        self.size += _cost(plan)
        while self.size > KEPT_PACKETS:
            _, dropped = self._plans.popitem(last=False)
            self.size -= _cost(dropped)

    def clear(self) -> None:
        self._plans.clear()
        self.size = 0

    def items(
        self,
    ) -> list[tuple[tuple[CacheKey, float | None], SeekPlan | None]]:
        return list(self._plans.items())


def _cost(plan: SeekPlan | None) -> int:
    """Memory that a kept plan takes, in packets."""
    return PLAN_COST + (len(plan.table.pts) if plan else 0)


KEPT = KeptPlans()


@contextmanager
def open_with_plan(
    path: str, end: float | None = None, parsed: bool = False
) -> Iterator[tuple[Source, SeekPlan | None]]:
    """The open file, and its plan if it has one. Raises BrokenVideo.

    The plan needs a decoder that holds back enough frames. Of an mp4 its depth is known at once, elsewhere after a
    look at the first frames. `end`: seconds behind which nothing is needed. `parsed`: the packets are split and key
    frames found by ffmpeg's parsers, as other programs see them, and no plan is kept.
    """
    key = None if parsed else _cache_key(path)
    with Source(path, end, quick=not parsed) as source:
        plan = _find_plan(source, key)
        if plan is None or plan.depth <= _decoder_depth(source, plan):
            with _dropping_wrong_plan(key):
                yield source, plan
            return

    with Source(path, end) as source:
        if plan.depth > _decoder_depth(source, plan):
            KEPT.keep(key, None, None)
            plan = None
        with _dropping_wrong_plan(key):
            yield source, plan


@contextmanager
def _dropping_wrong_plan(key: CacheKey | None) -> Iterator[None]:
    """Within the block NotAsPlanned removes the plan of the file, which gets none again, and is raised on."""
    try:
        yield
    except NotAsPlanned:
        KEPT.keep(key, None, None)
        raise


def _decoder_depth(source: Source, plan: SeekPlan) -> int:
    """Frames that the source's decoder holds back before it shows the first."""
    if plan.parser.depth is not None:
        return plan.parser.depth
    return source.decoder.reorder_depth


def _find_plan(source: Source, key: CacheKey | None) -> SeekPlan | None:
    """The kept plan, or one that is now made, of the packets up to the source's end."""
    if key is not None:
        is_kept, plan = KEPT.find(key, source.end)
        if is_kept:
            return plan and plan.until(source.end, float(source.time_base))

    make_parser = PARSERS.get(source.decoder.name)
    if make_parser is None:
        return None
    extradata = source.decoder.extradata or b""
    if key is not None:
        with suppress(NotProven, OSError):
            parser = make_parser(extradata)
            plan = _make_plan(indexed_table(source, parser), parser)
            KEPT.keep(key, None, plan)
            return plan.until(source.end, float(source.time_base))
    try:
        parser = make_parser(extradata)
        plan = _make_plan(demuxed_table(source, parser), parser)
    except NotProven:
        plan = None
    KEPT.keep(key, source.end, plan)
    return plan


def demuxed_table(source: Source, parser: PacketParser) -> PacketTable:
    """The table of the packets that the source gives. Raises NotProven."""
    may_change = source.container.format.name not in STEADY_FORMATS
    fields: list[list[int]] = [[], [], [], [], []]
    facts = []
    contents: list[bytes] = []
    content_size = 0
    packets = source.new_packets()
    while batch := list(islice(packets, BATCH)):
        if any(packet.is_corrupt or packet.is_discard for packet in batch):
            raise NotProven
        if may_change and any(map(_changes_parameters, batch)):
            raise NotProven
        for field, values in zip(fields, _fields(batch)):
            field += values
        excerpts = list(map(parser.excerpt, batch))
        contents += excerpts
        content_size += sum(map(len, excerpts))
        if content_size > CHUNK:
            facts.append(parser.facts(_joined(contents)))
            contents.clear()
            content_size = 0

    if contents:
        facts.append(parser.facts(_joined(contents)))
    if source.damage or not facts:
        raise NotProven
    pts, dts, positions, sizes, keys = (np.array(field, np.int64) for field in fields)
    return PacketTable(pts, dts, positions, sizes, keys == 1, merged(facts))


def _changes_parameters(packet: av.Packet) -> bool:
    return packet.has_sidedata("new_extradata")


def _fields(packets: list[av.Packet]) -> tuple[list[int], ...]:
    """Of some packets, what a table has of each. Raises NotProven if one is not shown at a time of its own."""
    pts = [packet.pts for packet in packets]
    if None in pts:
        raise NotProven
    dts = [packet.dts for packet in packets]
    if None in dts:
        dts = [UNKNOWN if time is None else time for time in dts]
    return (
        cast("list[int]", pts),
        cast("list[int]", dts),
        [packet.pos or 0 for packet in packets],
        [packet.size for packet in packets],
        [packet.is_keyframe for packet in packets],
    )


def _joined(contents: list[bytes]) -> PacketBytes:
    """The contents of some packets in one array."""
    sizes = np.array([len(content) for content in contents], np.int64)
    data = np.frombuffer(b"".join(contents), np.uint8)
    return PacketBytes(data, np.cumsum(sizes) - sizes, sizes)


def _make_plan(table: PacketTable, parser: PacketParser) -> SeekPlan:
    """The plan of the packets of a table. Raises NotProven if their times do not fit their headers."""
    facts = table.facts
    count = len(table.pts)
    order = np.argsort(table.pts, kind="stable")
    stamps = table.pts[order]
    starts = np.flatnonzero(facts.starts)
    if not len(starts) or starts[0] != 0 or (np.diff(stamps) <= 0).any():
        raise NotProven
    if (order != display_order(facts, parser.count_bits, parser.shows_gaps)).any():
        raise NotProven
    first_stop = starts[1] if len(starts) > 1 else count
    if facts.leading[:first_stop].any():  # no decoder shows these
        raise NotProven

    ranks = np.empty(count, np.int64)
    ranks[order] = np.arange(count)
    latest = np.maximum.accumulate(ranks)
    # All that is decoded before a start is shown before all that is decoded from there on.
    if (latest[starts[1:] - 1] != starts[1:] - 1).any():
        raise NotProven
    skips = facts.skips & (facts.layers == facts.layers.max())
    keyed = bool((table.keys == facts.starts).all())
    return SeekPlan(order, stamps, starts, skips, table, keyed, _depth(ranks), parser)


def _depth(ranks: np.ndarray) -> int:
    """The most frames decoded before a frame that are shown after it; `ranks`: positions in the order of showing.

    Raises NotProven if frames are shown much earlier or later than decoded.
    """
    shift = int(np.abs(ranks - np.arange(len(ranks))).max())
    if shift > MAX_SHIFT:
        raise NotProven
    counts = np.zeros(len(ranks), np.int64)
    for distance in range(1, 2 * shift + 1):
        counts[distance:] += ranks[:-distance] > ranks[distance:]
    return int(counts.max())


def _cache_key(path: str) -> CacheKey | None:
    """What changes whenever the file does."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (
        os.path.abspath(path),
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
