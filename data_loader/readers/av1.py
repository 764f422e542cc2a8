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
    Frame,
    Sequence,
    parse_frame,
    parse_sequence,
)
from data_loader.readers.packet_info import NotProven, PacketBytes, PacketFacts

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


class _Kept(NamedTuple):
    """What a slot keeps: the packet that brought it, and whether it is a key frame."""

    packet: int
    is_key: bool


class Av1Parser:
    """See `packet_info.PacketParser`.

    Decoding starts only where the sequence header is repeated: that in the container's record may differ from it.
    """

    depth = 0

    def __init__(self, extradata: bytes) -> None:
        self.size: tuple[int, int] | None = None
        self._header: bytes | None = None
        self._sequence: Sequence | None = None

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
                is_key
                & is_shown
                & has_sequence[numbers]
                & (num_frames[numbers] == 0)
            )
            if (is_existing & (units.types[is_frame] == FRAME)).any():
                raise NotProven
            num_shown[numbers] += is_shown
            num_frames[numbers] += 1

        if (num_shown != 1).any():
            raise NotProven
        if self.size is None:
            self._check_first_size(packets)
        nothing = np.zeros(count, bool)
        return PacketFacts(is_start, nothing, nothing, np.zeros(count, np.int64))

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
        frames = self._frames(first)
        if self._sequence is None or any(frame.has_own_size for frame in frames):
            raise NotProven
        self.size = self._sequence.size

    def _frames(self, packet: bytes) -> list[Frame]:
        """What the frame headers of one packet say. Raises NotProven."""
        assert self._sequence is not None
        try:
            return [
                parse_frame(packet[start : start + HEADER_BYTES], self._sequence)
                for start in _frame_headers(packet)
            ]
        except (IndexError, ValueError):
            raise NotProven from None

    def needed(self, packets: list[av.Packet], wanted: set[int]) -> set[int]:
        slots = [_Kept(0, False)] * NUM_SLOTS
        dependencies: list[set[int]] = []
        for number, packet in enumerate(packets):
            depends: set[int] = set()
            for frame in self._frames(bytes(packet)):
                depends |= {slots[reference].packet for reference in frame.references}
                is_key = frame.is_key
                refreshed = frame.refreshed
                if frame.is_existing and slots[frame.references[0]].is_key:
                    is_key = True
                    refreshed = ALL_SLOTS
                for slot in range(NUM_SLOTS):
                    if refreshed >> slot & 1:
                        slots[slot] = _Kept(number, is_key)
            dependencies.append(depends)

        needed = {0, *wanted}
        for number in range(max(needed), -1, -1):
            if number in needed:
                needed |= dependencies[number]
        return needed


def _frame_headers(packet: bytes) -> list[int]:
    """Where the frame headers of a packet begin whose units were found to fill it. Raises IndexError."""
    found = []
    position = 0
    while position < len(packet):
        header = packet[position]
        position += 1
        length = len(packet) - position
        if header & HAS_SIZE:
            length = 0
            shift = 0
            digit = 128
            while digit > 127:
                digit = packet[position]
                length |= (digit & 127) << shift
                shift += 7
                position += 1
        if header >> 3 in (FRAME, FRAME_HEADER):
            found.append(position)
        position += length
    return found


def _split_units(packets: PacketBytes) -> list[_ObuUnits]:
    """The first unit of each packet, the second, and so on. Raises NotProven unless units fill each packet exactly."""
    data = packets.data
    numbers = np.arange(len(packets.starts))
    cursors = packets.starts
    ends = packets.starts + packets.sizes
    if (cursors >= ends).any():
        raise NotProven

    rounds = []
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
