"""The packets that requested frames need, read by a file's seek plan."""

from collections.abc import Iterator
from itertools import chain

import av
import numpy as np

from data_loader.readers.packet_info import UNKNOWN, NotProven, Selected
from data_loader.readers.seek_plan import NotAsPlanned, SeekPlan
from data_loader.readers.source import Source


def packets_to_decode(
    source: Source, plan: SeekPlan, start: int, requested: list[int]
) -> list[Selected]:
    """Of the packets from `start` on, the `requested` ones and what these depend on. Raises NotAsPlanned.

    start, requested: numbers of packets in the order of decoding, ascending
    """
    packets = _read_packets(source, plan, start, requested[-1])
    requested_offsets = {number - start for number in requested}
    try:
        selected = plan.parser.select(packets, requested_offsets)
    except NotProven:
        raise NotAsPlanned from None
    if selected is not None:
        return selected
    return [
        Selected(packets[number - start], True)
        for number in plan.needed(start, requested)
    ]


def _read_packets(
    source: Source, plan: SeekPlan, first: int, last: int
) -> list[av.Packet]:
    """The packets `first` to `last`: after a seek, or else from the beginning of the file. Raises NotAsPlanned."""
    time = int(plan.table.dts[first])
    if time == UNKNOWN:
        time = int(plan.table.pts[first])
    planned_packets = _match_packets(source.packets_from(time), plan, first, last)
    if planned_packets is None:
        planned_packets = _match_packets(source.new_packets(), plan, first, last)
    if planned_packets is None:
        raise NotAsPlanned
    return planned_packets


def _match_packets(
    packets: Iterator[av.Packet], plan: SeekPlan, first: int, last: int
) -> list[av.Packet] | None:
    """The packets `first` to `last` of the plan out of `packets`.

    None if `packets` begin after `first`, or differ from the plan in time, position or size.
    """
    earliest = next(packets, None)
    number = None if earliest is None else _packet_number(earliest, plan)
    if earliest is None or number is None or number > first:
        return None

    expected = zip(
        *(
            field[number : last + 1].tolist()
            for field in (plan.table.pts, plan.table.positions, plan.table.sizes)
        )
    )
    matching_packets = []
    for (pts, position, size), packet in zip(expected, chain([earliest], packets)):
        is_same = packet.pts == pts and packet.pos == position and packet.size == size
        if not is_same or packet.is_corrupt or packet.is_discard:
            return None
        matching_packets.append(packet)
    if len(matching_packets) != last + 1 - number:
        return None
    return matching_packets[first - number :]


def _packet_number(packet: av.Packet, plan: SeekPlan) -> int | None:
    """The packet's number in the plan, by position and time; None unless exactly one fits."""
    if packet.pts is None or packet.pos is None:
        return None
    is_same = (plan.table.positions == packet.pos) & (plan.table.pts == packet.pts)
    numbers = np.flatnonzero(is_same)
    return int(numbers[0]) if len(numbers) == 1 else None
