"""Packets of AV1 (AV1 Bitstream & Decoding Process Specification, 5.3, 5.9 and 7.20).

Shown is that each packet is a temporal unit that shows exactly one frame, in a sequence that stays as it is. Then
decoding can start at a key frame that is shown at once, and a frame depends only on the frames in the slots that it
names. Streams of several layers are not proven.
"""

from typing import NamedTuple

import av
import numpy as np

from data_loader.readers.av1_header import (
    ALL_SLOTS,
    NUM_SLOTS,
    Sequence,
    parse_frame,
    parse_sequence,
)
from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    Selected,
    facts_of_steady_order,
)

# Values of obu_type.
SEQUENCE_HEADER, DELIMITER, FRAME_HEADER, TILE_GROUP = 1, 2, 3, 4
METADATA, FRAME, PADDING = 5, 6, 15
KNOWN = (
    SEQUENCE_HEADER,
    DELIMITER,
    FRAME_HEADER,
    TILE_GROUP,
    METADATA,
    FRAME,
    PADDING,
)
MAX_UNITS = 600  # of one packet
MAX_SIZE_BYTES = 8  # of a number in the code leb128
HAS_SIZE = 2  # bit of a unit's first byte
HEADER_BYTES = 16  # enough for the part of a frame header that is read


class _ObuUnits(NamedTuple):
    """At most one unit (OBU) of each packet; arrays (M,): the packet's number, its type, where its content lies."""

    numbers: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class _Unit(NamedTuple):
    """A unit of one packet: where it begins and ends, and the number of the frame that it or the last one belongs to.

    header: the beginning of its frame header, if it has one. is_common: it belongs to no frame alone.
    """

    start: int
    stop: int
    frame: int
    header: bytes | None
    is_common: bool


FrameNumber = tuple[int, int]  # of the packet, and of the frame in it


class _Kept(NamedTuple):
    """What a slot keeps: a frame, and whether it is a key frame."""

    frame: FrameNumber
    is_key: bool


class Av1Parser:
    """See `packet_info.PacketParser`.

    Decoding starts only where the sequence header is repeated: that in the container's record may differ from it.
    """

    depth: int | None = 0
    count_bits = 0
    shows_gaps = False

    def __init__(self, extradata: bytes) -> None:
        self.size: tuple[int, int] | None = None
        self._header: bytes | None = None
        self._sequence: Sequence | None = None

    def excerpt(self, packet: av.Packet) -> bytes:
        return bytes(packet)

    def facts(self, packets: PacketBytes) -> PacketFacts:
        count = len(packets.starts)
        num_shown = np.zeros(count, np.int64)
        num_frames = np.zeros(count, np.int64)
        is_start = np.zeros(count, bool)
        has_sequence = np.zeros(count, bool)

        for units in _split_units(packets):
            is_sequence = units.types == SEQUENCE_HEADER
            self._enter_sequence(packets, units, is_sequence)
            has_sequence[units.numbers[is_sequence]] = True
            is_frame = (units.types == FRAME) | (units.types == FRAME_HEADER)
            numbers = units.numbers[is_frame]
            if (units.lengths[is_frame] < 1).any():
                raise NotProven
            if (num_shown[numbers] > 0).any():  # the shown frame is the last one
                raise NotProven
            headers = packets.data[units.starts[is_frame]]
            is_existing = headers >> 7 == 1
            is_key = headers >> 5 == 0  # frame_type behind show_existing_frame
            is_shown = is_existing | (headers >> 4 & 1 == 1)
            is_start[numbers] |= (
                is_key & is_shown & has_sequence[numbers] & (num_frames[numbers] == 0)
            )
            if (is_existing & (units.types[is_frame] == FRAME)).any():
                raise NotProven
            num_shown[numbers] += is_shown
            num_frames[numbers] += 1

        if (num_shown != 1).any():
            raise NotProven
        if self.size is None:
            self._check_first_size(packets)
        return facts_of_steady_order(is_start)

    def _enter_sequence(
        self, packets: PacketBytes, units: _ObuUnits, chosen: np.ndarray
    ) -> None:
        """Raises NotProven if a sequence header is not the one that the file began with."""
        for start, length in zip(units.starts[chosen], units.lengths[chosen]):
            header = packets.slice(start, length)
            if self._header is None:
                self._header = header
                try:
                    self._sequence = parse_sequence(header)
                except ValueError:
                    raise NotProven from None
            if header != self._header:
                raise NotProven

    def _check_first_size(self, packets: PacketBytes) -> None:
        """Raises NotProven if the first frame is not of the sequence's size."""
        first = packets.slice(packets.starts[0], packets.sizes[0])
        if self._sequence is None:
            raise NotProven
        try:
            frames = [
                parse_frame(unit.header, self._sequence)
                for unit in _scan_units(first)
                if unit.header is not None
            ]
        except (IndexError, ValueError):
            raise NotProven from None
        if any(frame.has_own_size for frame in frames):
            raise NotProven
        self.size = self._sequence.size

    def select(self, packets: list[av.Packet], wanted: set[int]) -> list[Selected]:
        try:
            units = [_scan_units(bytes(packet)) for packet in packets]
            kept_frames = self._dependencies(units, wanted)
        except (IndexError, ValueError):
            raise NotProven from None

        selected = []
        for packet, packet_units, packet_frames in zip(packets, units, kept_frames):
            if not packet_frames:
                continue
            last_frame = packet_units[-1].frame
            is_shown = last_frame in packet_frames
            if len(packet_frames) <= last_frame:
                packet = _excerpt(packet, packet_units, packet_frames)
            selected.append(Selected(packet, is_shown))
        return selected

    def _dependencies(
        self, units: list[list[_Unit]], wanted: set[int]
    ) -> list[set[int]]:
        """The frames of each packet, counted from 0, that the shown frames of the `wanted` ones depend on."""
        assert self._sequence is not None
        slots = [_Kept((0, 0), False)] * NUM_SLOTS
        steps: list[tuple[FrameNumber, set[FrameNumber]]] = []
        for number, packet_units in enumerate(units):
            for unit in packet_units:
                if unit.header is None:
                    continue
                frame = parse_frame(unit.header, self._sequence)
                frame_number = (number, unit.frame)
                depends = {slots[reference].frame for reference in frame.references}
                steps.append((frame_number, depends))

                is_key = frame.is_key
                refreshed = frame.refreshed
                if frame.is_existing and slots[frame.references[0]].is_key:
                    is_key = True
                    refreshed = ALL_SLOTS
                for slot in range(NUM_SLOTS):
                    if refreshed >> slot & 1:
                        slots[slot] = _Kept(frame_number, is_key)

        needed = {(0, 0)} | {(number, units[number][-1].frame) for number in wanted}
        kept_frames: list[set[int]] = [set() for _ in units]
        for frame_number, depends in reversed(steps):
            if frame_number in needed:
                needed |= depends
                kept_frames[frame_number[0]].add(frame_number[1])
        return kept_frames


def _scan_units(packet: bytes) -> list[_Unit]:
    """The units of a packet that was found to be filled by them. Raises IndexError."""
    units = []
    start = 0
    frame = -1
    while start < len(packet):
        first_byte = packet[start]
        position = start + 1
        length = len(packet) - position
        if first_byte & HAS_SIZE:
            length = 0
            shift = 0
            digit = 128
            while digit > 127:
                digit = packet[position]
                length |= (digit & 127) << shift
                shift += 7
                position += 1
        header = None
        unit_type = first_byte >> 3
        if unit_type in (FRAME, FRAME_HEADER):
            frame += 1
            header = packet[position : position + HEADER_BYTES]
        is_common = unit_type not in (FRAME, FRAME_HEADER, TILE_GROUP)
        units.append(_Unit(start, position + length, frame, header, is_common))
        start = position + length
    return units


def _excerpt(packet: av.Packet, units: list[_Unit], kept: set[int]) -> av.Packet:
    """A packet with only some of its frames."""
    data = bytes(packet)
    excerpt = av.Packet(
        b"".join(
            data[unit.start : unit.stop]
            for unit in units
            if unit.is_common or unit.frame in kept
        )
    )
    excerpt.pts = packet.pts
    excerpt.dts = packet.dts
    excerpt.time_base = packet.time_base
    excerpt.is_keyframe = packet.is_keyframe
    return excerpt


def _split_units(packets: PacketBytes) -> list[_ObuUnits]:
    """The first unit of each packet, the second, and so on. Raises NotProven unless units fill each packet exactly."""
    data = packets.data
    numbers = np.arange(len(packets.starts))
    cursors = packets.starts
    ends = packets.starts + packets.sizes
    if (cursors >= ends).any():
        raise NotProven

    rounds: list[_ObuUnits] = []
    while len(numbers):
        headers = data[cursors]
        types = headers >> 3 & 15
        has_extension = headers >> 2 & 1 == 1
        is_odd = (headers >> 7 == 1) | has_extension | ~np.isin(types, KNOWN)
        if is_odd.any() or len(rounds) == MAX_UNITS:
            raise NotProven
        starts, lengths = _contents(data, cursors + 1, ends, headers & HAS_SIZE > 0)
        rounds.append(_ObuUnits(numbers, types, starts, lengths))

        cursors = starts + lengths
        left = cursors < ends
        numbers, cursors, ends = numbers[left], cursors[left], ends[left]
    return rounds


def _contents(
    data: np.ndarray, cursors: np.ndarray, ends: np.ndarray, has_size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the contents of units; one that does not tell its size (leb128) reaches to the end."""
    starts = cursors.copy()
    lengths = np.zeros(len(cursors), np.int64)
    goes_on = has_size.copy()
    for position in range(MAX_SIZE_BYTES):
        if not goes_on.any():
            break
        if (starts[goes_on] >= ends[goes_on]).any():
            raise NotProven
        digits = np.zeros(len(starts), np.int64)
        digits[goes_on] = data[starts[goes_on]]
        lengths |= (digits & 127) << (7 * position)
        starts += goes_on
        goes_on &= digits > 127
    if goes_on.any():
        raise NotProven
    lengths[~has_size] = (ends - starts)[~has_size]
    if (starts + lengths > ends).any():
        raise NotProven
    return starts, lengths
