"""Packets of VP9 (VP9 Bitstream & Decoding Process Specification, 6 and Annex B).

Shown is that each packet, one frame or a superframe, shows exactly one frame, its last one, and that all key frames
have one size and color format. Then decoding can start at a packet that begins with a key frame, which replaces all
that is kept of earlier frames. No frame is left out: even one that no other refers to shapes the next one's motion
vectors and probabilities.
"""

import av
import numpy as np

from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    facts_of_steady_order,
)

FRAME_MARKER = 2
SUPERFRAME_MARKER = 6
SYNC_CODE = b"\x49\x83\x42"
RGB = 7  # color_space
HEADER_SIZE = 10  # bytes of a key frame's header up to its size


def _frame_flags(headers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shows a frame, is a key frame) of frames, by their first bytes (N,). Raises NotProven for what is no frame."""
    if (headers >> 6 != FRAME_MARKER).any():
        raise NotProven
    is_profile_3 = headers >> 4 & 3 == 3
    flags = np.where(is_profile_3, headers >> 0 & 7, headers >> 1 & 7)
    shows_existing = flags >> 2 & 1 == 1
    is_key = ~shows_existing & (flags >> 1 & 1 == 0)
    return shows_existing | (flags & 1 == 1), is_key


# The same of each first byte, without the marker.
SHOWS, IS_KEY = (
    flags.tolist()
    for flags in _frame_flags(np.arange(64, dtype=np.uint8) | FRAME_MARKER << 6)
)


class Vp9Parser:
    """See `packet_info.PacketParser`. The record in the container tells nothing that is needed."""

    depth: int | None = 0
    count_bits = 0
    shows_gaps = False

    def __init__(self, extradata: bytes) -> None:
        self.size: tuple[int, int] | None = None
        self._format: tuple[int, int] | None = None  # profile and color configuration

    def excerpt(self, packet: av.Packet) -> bytes:
        data = memoryview(packet)
        first_byte = data[0]
        last_byte = data[-1]
        if last_byte >> 5 == SUPERFRAME_MARKER or IS_KEY[first_byte & 63]:
            return bytes(data)
        return bytes((first_byte, last_byte))

    def facts(self, packets: PacketBytes) -> PacketFacts:
        count = len(packets.starts)
        if not count or (packets.sizes < 1).any():
            raise NotProven
        is_start = np.zeros(count, bool)
        last_bytes = packets.data[packets.starts + packets.sizes - 1]
        is_super = last_bytes >> 5 == SUPERFRAME_MARKER

        shows, is_key = _frame_flags(packets.data[packets.starts])
        if not shows[~is_super].all():
            raise NotProven
        is_start[:] = is_key
        for number in np.flatnonzero(is_super):
            self._check_superframe(packets, int(number))

        for start, size in zip(packets.starts[is_start], packets.sizes[is_start]):
            self._check_key_frame(packets.slice(start, min(size, HEADER_SIZE)))
        return facts_of_steady_order(is_start)

    def _check_superframe(self, packets: PacketBytes, number: int) -> None:
        """Raises NotProven unless the frames fill the packet, and the last one alone is shown."""
        data = packets.slice(packets.starts[number], packets.sizes[number])
        count = (data[-1] & 7) + 1
        width = (data[-1] >> 3 & 3) + 1
        index_size = 2 + width * count
        if len(data) <= index_size or data[-index_size] != data[-1]:
            raise NotProven
        index = data[1 - index_size : -1]

        position = 0
        for frame in range(count):
            length = int.from_bytes(
                index[frame * width : (frame + 1) * width], "little"
            )
            if not length or position + length > len(data) - index_size:
                raise NotProven
            first_byte = data[position]
            is_marked = first_byte >> 6 == FRAME_MARKER
            is_last = frame == count - 1
            if not is_marked or SHOWS[first_byte & 63] != is_last:
                raise NotProven
            if IS_KEY[first_byte & 63] and frame:
                raise NotProven
            position += length
        if position != len(data) - index_size:
            raise NotProven

    def _check_key_frame(self, header: bytes) -> None:
        """Raises NotProven if a key frame differs from the first one in size or format, or is cut short."""
        size, key_format = _key_frame_format(header)
        if self._format is None:
            self.size = size
            self._format = key_format
        if (size, key_format) != (self.size, self._format):
            raise NotProven

    def select(self, packets: list[av.Packet], wanted: set[int]) -> None:
        return None


def _key_frame_format(header: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """((width, height), (profile, color configuration)) of a key frame of the profiles 0 to 2, not RGB."""
    profile = (header[0] >> 5 & 1) + 2 * (header[0] >> 4 & 1)
    if len(header) < HEADER_SIZE or header[1:4] != SYNC_CODE or profile == 3:
        raise NotProven
    bits = int.from_bytes(header[4:10], "big")
    depth_bits = 1 if profile == 2 else 0
    subsampling_bits = 3 if profile == 1 else 0
    color_bits = depth_bits + 4 + subsampling_bits
    color = bits >> (48 - color_bits)
    color_space = bits >> (48 - depth_bits - 3) & 7
    if color_space == RGB:
        raise NotProven
    width = (bits >> (48 - color_bits - 16) & 0xFFFF) + 1
    height = (bits >> (48 - color_bits - 32) & 0xFFFF) + 1
    return (width, height), (profile, color)
