"""Packets of H.264 whose units stand behind their lengths (ITU-T H.264, 7.3 and 7.4; ISO/IEC 14496-15).

Shown is that each packet holds exactly one whole picture and that nothing about the sequence changes on the way. Then
decoding can start at an IDR picture, and a picture that no other refers to (nal_ref_idc 0) need not be decoded.
Annex B streams, interlaced ones and data partitions are not proven.
"""

import av
import numpy as np

from data_loader.readers.bits import BitColumns
from data_loader.readers.h264_header import (
    depends_on_x264_version,
    parameter_sets,
    picture_format,
)
from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    Units,
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
    shows_gaps = False

    def __init__(self, extradata: bytes) -> None:
        self._length_size, self._known_sets, self._sequence = parameter_sets(extradata)
        self._chroma_format = picture_format(self._known_sets).chroma_format
        self.count_bits = self._sequence.count_bits
        self._next_number = 0  # frame_num of the next picture

    def excerpt(self, packet: av.Packet) -> bytes:
        return bytes(packet)

    def facts(self, packets: PacketBytes) -> PacketFacts:
        count = len(packets.starts)
        has_slice = np.zeros(count, bool)
        is_start = np.zeros(count, bool)
        is_reference = np.zeros(count, bool)
        counts = np.zeros(count, np.int64)
        frame_numbers = np.zeros(count, np.int64)

        for units in split_units(packets, self._length_size):
            headers = packets.data[units.starts]
            types = headers & 31
            if (headers & 128).any() or np.isin(types, DATA_PARTITIONS).any():
                raise NotProven
            check_sets(packets, units, np.isin(types, PARAMETER_SETS), self._known_sets)
            check_messages(packets, units, types == MESSAGES, header_size=1)
            self._check_encoder(packets, units, types == MESSAGES)

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

            pictures = numbers[is_first]
            frame_numbers[pictures], counts[pictures] = self._picture_numbers(
                packets, units.starts[is_slice][is_first], is_idr[is_first]
            )
            has_slice[numbers] = True
            is_start[numbers] = is_idr
            is_reference[numbers] |= headers[is_slice] >> 5 > 0

        if not has_slice.all():
            raise NotProven
        self._check_frame_numbers(frame_numbers, is_start, is_reference)
        return PacketFacts(
            starts=is_start,
            skips=~is_reference,
            leading=np.zeros(count, bool),
            layers=np.zeros(count, np.int64),
            counts=counts,
            anchors=is_reference,
            resets=is_start,
        )

    def _check_encoder(
        self, packets: PacketBytes, units: Units, chosen: np.ndarray
    ) -> None:
        """Raises NotProven if a chosen unit names an encoder whose streams ffmpeg decodes in another way from there."""
        for start, length in zip(units.starts[chosen], units.lengths[chosen]):
            message = packets.slice(start, length)
            if depends_on_x264_version(message, self._chroma_format):
                raise NotProven

    def _picture_numbers(
        self, packets: PacketBytes, starts: np.ndarray, is_idr: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(frame_num, pic_order_cnt_lsb) of first slices (H.264, 7.3.3)."""
        bits = BitColumns(packets.data, starts + 1)
        try:
            bits.golomb()  # first_mb_in_slice
            bits.golomb()  # slice_type
            bits.golomb()  # pic_parameter_set_id
            frame_numbers = bits.take(self._sequence.number_bits)
            bits.golomb(of=is_idr)  # idr_pic_id
            if not self.count_bits:
                return frame_numbers, np.zeros(len(starts), np.int64)
            return frame_numbers, bits.take(self.count_bits)
        except ValueError:
            raise NotProven from None

    def _check_frame_numbers(
        self, numbers: np.ndarray, is_start: np.ndarray, is_reference: np.ndarray
    ) -> None:
        """Raises NotProven if a picture that others refer to is missing (H.264, 7.4.3, frame_num)."""
        if not is_reference[is_start].all() or numbers[is_start].any():
            raise NotProven
        modulus = 1 << self._sequence.number_bits
        following = np.where(is_reference, (numbers + 1) % modulus, -1)
        sources = np.maximum.accumulate(
            np.where(is_reference, np.arange(len(numbers)), -1)
        )
        next_numbers = np.where(sources >= 0, following[sources], self._next_number)
        expected = np.append(self._next_number, next_numbers[:-1])
        if (numbers != expected)[~is_start].any():
            raise NotProven
        self._next_number = int(next_numbers[-1])

    def select(self, packets: list[av.Packet], wanted: set[int]) -> None:
        return None
