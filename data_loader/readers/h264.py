"""Packets of H.264 whose units stand behind their lengths (ITU-T H.264, 7.3 and 7.4; ISO/IEC 14496-15).

Shown is that each packet holds exactly one whole picture and that nothing about the sequence changes on the way. Then
decoding can start at an IDR picture, and a picture that no other refers to (nal_ref_idc 0) need not be decoded.
Annex B streams, interlaced ones and data partitions are not proven.
"""

import av
import numpy as np

from data_loader.readers.h264_header import parameter_sets
from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    check_messages,
    check_sets,
    split_units,
)

SLICE = 1  # values of nal_unit_type
DATA_PARTITIONS = (2, 3, 4)
IDR_SLICE = 5
MESSAGES = 6
PARAMETER_SETS = (7, 8)


class H264Parser:
    """See `packet_info.PacketParser`. `extradata`: an avcC record. Raises NotProven for any other, or an odd one."""

    size: tuple[int, int] | None = None
    depth: int | None = None

    def __init__(self, extradata: bytes) -> None:
        self._length_size, self._known_sets = parameter_sets(extradata)
        if not self._length_size:
            raise NotProven

    def facts(self, packets: PacketBytes) -> PacketFacts:
        count = len(packets.starts)
        has_slice = np.zeros(count, bool)
        is_start = np.zeros(count, bool)
        is_reference = np.zeros(count, bool)

        for units in split_units(packets, self._length_size):
            headers = packets.data[units.starts]
            types = headers & 31
            if (headers & 128).any() or np.isin(types, DATA_PARTITIONS).any():
                raise NotProven
            check_sets(packets, units, np.isin(types, PARAMETER_SETS), self._known_sets)
            check_messages(packets, units, types == MESSAGES, header_size=1)

            is_slice = (types == SLICE) | (types == IDR_SLICE)
            numbers = units.numbers[is_slice]
            if (units.lengths[is_slice] < 2).any():
                raise NotProven
            # first_mb_in_slice is 0
            is_first = packets.data[units.starts[is_slice] + 1] >> 7 == 1
            is_idr = types[is_slice] == IDR_SLICE
            if (is_first == has_slice[numbers]).any():
                raise NotProven
            if (~is_first & (is_idr != is_start[numbers])).any():
                raise NotProven

            has_slice[numbers] = True
            is_start[numbers] = is_idr
            is_reference[numbers] |= headers[is_slice] >> 5 > 0

        if not has_slice.all():
            raise NotProven
        nothing = np.zeros(count, bool)
        return PacketFacts(is_start, ~is_reference, nothing, np.zeros(count, np.int64))

    def select(self, packets: list[av.Packet], wanted: set[int]) -> None:
        return None
