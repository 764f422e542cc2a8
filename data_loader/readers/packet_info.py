"""What the headers of packets say, for many packets at once. N packets."""

from typing import NamedTuple, Protocol

import av
import numpy as np

from data_loader.readers.bits import without_escapes

UNKNOWN = np.iinfo(np.int64).min  # a time stamp that is missing


class NotProven(Exception):
    """Something about a file is not as a plan needs it."""


class PacketBytes(NamedTuple):
    """Packets inside one buffer. data: uint8; starts, sizes: int64 (N,) where each packet lies in it."""

    data: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def slice(self, start: int, length: int) -> bytes:
        return self.data[start : start + length].tobytes()


class PacketFacts(NamedTuple):
    """Of packets that each give exactly one shown frame, in the order of decoding; each an array (N,).

    starts: decoding can begin here: what follows and is not leading does not depend on anything before.
    skips: within its layer no other packet depends on it.
    leading: it is shown before the last start and may depend on what is decoded before that.
    layers: temporal layer; a packet depends on none of a higher layer.
    counts: the lowest bits of the picture's number in the order of showing, 0 where that is the order of decoding.
    anchors: the next picture's number is told relative to that of this one.
    resets: numbers begin anew here.
    """

    starts: np.ndarray
    skips: np.ndarray
    leading: np.ndarray
    layers: np.ndarray
    counts: np.ndarray
    anchors: np.ndarray
    resets: np.ndarray


def facts_of_steady_order(starts: np.ndarray) -> PacketFacts:
    """The facts of packets that are shown in the order of decoding and of which none may be skipped."""
    nothing = np.zeros(len(starts), bool)
    zeros = np.zeros(len(starts), np.int64)
    return PacketFacts(starts, nothing, nothing, zeros, zeros, ~nothing, nothing)


def display_order(facts: PacketFacts, count_bits: int, shows_gaps: bool) -> np.ndarray:
    """The packets in the order in which a decoder shows them, int64 (N,).

    Raises NotProven if two pictures have one number, and with `shows_gaps` if numbers are missing.
    A picture's number is the one that ends with its `count_bits` lowest bits and is nearest to that of the last anchor
    before it (H.264, 8.2.1.1; H.265, 8.3.1).
    """
    packets = np.arange(len(facts.starts))
    if not count_bits:
        return packets
    if not facts.anchors[0]:
        raise NotProven
    half = 1 << (count_bits - 1)

    def nearest(differences: np.ndarray) -> np.ndarray:
        return (differences + half - 1) % (2 * half) - half + 1

    anchors = np.flatnonzero(facts.anchors)
    strides = np.diff(facts.counts[anchors], prepend=facts.counts[anchors[:1]])
    anchor_numbers = np.cumsum(nearest(strides))
    last_anchors = np.searchsorted(anchors, packets, "left") - 1
    last_anchors = np.maximum(last_anchors, 0)
    differences = facts.counts - facts.counts[anchors[last_anchors]]
    numbers = anchor_numbers[last_anchors] + nearest(differences)

    groups = np.cumsum(facts.resets)
    order = np.lexsort((numbers, groups))
    is_same_group = np.diff(groups[order]) == 0
    steps = np.diff(numbers[order])[is_same_group]
    if (steps <= 0).any() or (shows_gaps and (steps != steps[:1]).any()):
        raise NotProven
    return order


class PacketTable(NamedTuple):
    """All packets of a stream in the order of decoding; arrays (N,).

    pts, dts: time stamps of showing and of decoding, int64; dts is UNKNOWN where there is none. positions, sizes: where
    they lie in the file, in bytes. keys: whether the container calls them key frames.
    """

    pts: np.ndarray
    dts: np.ndarray
    positions: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    facts: PacketFacts


class PacketParser(Protocol):
    """Reads the packets of one stream, chunk by chunk in the order of decoding.

    size: (width, height) of every picture, None if the decoder may be asked. depth: frames that the decoder holds back
    to show them in order, None if the decoder may be asked. Both are right once the first chunk is read.
    count_bits: how many bits of a picture's number are told, 0 if pictures are shown in the order of decoding.
    shows_gaps: whether nothing but a gap in the numbers tells that a picture is missing that others refer to.
    """

    size: tuple[int, int] | None
    depth: int | None
    count_bits: int
    shows_gaps: bool

    def excerpt(self, packet: av.Packet) -> bytes:
        """As much of a packet as `facts` reads; it may be given in place of the packet."""
        ...

    def facts(self, packets: PacketBytes) -> PacketFacts:
        """Raises NotProven unless every packet gives exactly one shown frame and the sequence stays as it is."""
        ...

    def select(
        self, packets: list[av.Packet], wanted: set[int]
    ) -> "list[Selected] | None":
        """What must be decoded of the packets from a start on to show the `wanted` ones; None: as the facts tell.

        Raises NotProven.
        """
        ...


class Selected(NamedTuple):
    """A packet to decode, whole or in part, and whether it then shows its frame."""

    packet: av.Packet
    is_shown: bool


def merged(parts: list[PacketFacts]) -> PacketFacts:
    """The facts of chunks that follow each other."""
    return PacketFacts(*(np.concatenate(field) for field in zip(*parts)))


MAX_UNITS = 600  # units of one packet; the standards allow 600 slices

# Supplemental messages that change how later pictures look: film grain, frame packing, display orientation.
LASTING_MESSAGES = {19, 45, 47}


class Units(NamedTuple):
    """At most one unit (NAL unit) of each packet; arrays (M,): the packet's number, where the unit lies, its length."""

    numbers: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def split_units(packets: PacketBytes, length_size: int) -> list[Units]:
    """The first unit of each packet, the second, and so on. Raises NotProven unless units fill each packet exactly.

    A unit stands behind its length, a number of `length_size` bytes.
    """
    data = packets.data
    numbers = np.arange(len(packets.starts))
    cursors = packets.starts
    ends = packets.starts + packets.sizes

    rounds: list[Units] = []
    while len(numbers):
        if len(rounds) == MAX_UNITS or (cursors + length_size >= ends).any():
            raise NotProven
        lengths = np.zeros(len(numbers), np.int64)
        for offset in range(length_size):
            lengths = lengths << 8 | data[cursors + offset]
        starts = cursors + length_size
        cursors = starts + lengths
        if (lengths == 0).any() or (cursors > ends).any():
            raise NotProven
        rounds.append(Units(numbers, starts, lengths))

        left = cursors < ends
        numbers, cursors, ends = numbers[left], cursors[left], ends[left]
    return rounds


def check_sets(
    packets: PacketBytes, units: Units, chosen: np.ndarray, known_sets: set[bytes]
) -> None:
    """Raises NotProven if a chosen unit is not one of the parameter sets that the file began with."""
    for start, length in zip(units.starts[chosen], units.lengths[chosen]):
        if packets.slice(start, length) not in known_sets:
            raise NotProven


def check_messages(
    packets: PacketBytes, units: Units, chosen: np.ndarray, header_size: int
) -> None:
    """Raises NotProven if a chosen unit, supplemental messages behind a header, changes how later pictures look."""
    for start, length in zip(units.starts[chosen], units.lengths[chosen]):
        unit = without_escapes(packets.slice(start, length))
        if message_types(unit[header_size:]) & LASTING_MESSAGES:
            raise NotProven


def message_types(messages: bytes) -> set[int]:
    """The types of supplemental messages (H.264 7.3.2.3.1, H.265 7.3.5). Raises NotProven if they are cut short."""
    types = set()
    position = 0
    while position < len(messages) and messages[position:] != b"\x80":
        numbers = []
        for _ in ("type", "size"):
            number = 0
            while position < len(messages) and messages[position] == 255:
                number += 255
                position += 1
            if position >= len(messages):
                raise NotProven
            numbers.append(number + messages[position])
            position += 1
        types.add(numbers[0])
        position += numbers[1]
    if position > len(messages):
        raise NotProven
    return types
