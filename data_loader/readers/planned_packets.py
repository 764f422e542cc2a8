"""The packets of a file with a plan, from wherever in the file they are needed."""

from collections.abc import Iterator

import av
import numpy as np

from data_loader.readers.packet_info import UNKNOWN, NotProven, Selected
from data_loader.readers.seek_plan import NotAsPlanned, SeekPlan
from data_loader.readers.source import Source


def packets_to_decode(
    source: Source, plan: SeekPlan, start: int, requested: list[int]
) -> list[Selected]:
    """Of the packets from `start` on, the `requested` ones and what these depend on. Raises NotAsPlanned."""
    packets = _read(source, plan, start, requested[-1])
    wanted = {number - start for number in requested}
    try:
        selected = plan.parser.select(packets, wanted)
    except NotProven:
        raise NotAsPlanned from None
    if selected is not None:
        return selected
    return [
        Selected(packets[number - start], True)
        for number in plan.needed(start, requested)
    ]


def _read(source: Source, plan: SeekPlan, first: int, last: int) -> list[av.Packet]:
    """The packets `first` to `last`: after a seek, or else from the beginning of the file."""
    time = int(plan.table.dts[first])
    if time == UNKNOWN:
        time = int(plan.table.pts[first])
    for packets in (source.packets_from(time), source.new_packets()):
        found = _matching(packets, plan, first, last)
        if found is not None:
            return found
    raise NotAsPlanned


def _matching(
    packets: Iterator[av.Packet], plan: SeekPlan, first: int, last: int
) -> list[av.Packet] | None:
    """The packets `first` to `last` out of some that begin at or before `first`; None if these are others."""
    found = []
    number = None
    for packet in packets:
        number = _number(packet, plan) if number is None else number + 1
        if number is None or number > first + len(found):
            return None
        if not _is_planned(packet, plan, number):
            return None
        if number >= first:
            found.append(packet)
        if number == last:
            return found
    return None


def _number(packet: av.Packet, plan: SeekPlan) -> int | None:
    """The one packet of the plan that lies in the same place and has the same time."""
    if packet.pts is None or packet.pos is None:
        return None
    is_same = (plan.table.positions == packet.pos) & (plan.table.pts == packet.pts)
    (numbers,) = np.nonzero(is_same)
    return int(numbers[0]) if len(numbers) == 1 else None


def _is_planned(packet: av.Packet, plan: SeekPlan, number: int) -> bool:
    table = plan.table
    if number >= len(table.pts):
        return False
    is_flagged = (
        packet.is_corrupt or packet.is_discard or packet.has_sidedata("new_extradata")
    )
    is_same = (
        packet.pts == table.pts[number]
        and packet.size == table.sizes[number]
        and packet.pos == table.positions[number]
    )
    return is_same and not is_flagged
