"""Packets of HEVC whose units stand behind their lengths (ITU-T H.265, 7.3 and 7.4; ISO/IEC 14496-15, 8.3.3).

Shown is that each packet holds exactly one whole picture, which is shown, and that nothing about the sequence changes
on the way. Then decoding can start at an IDR or a CRA picture. Leading pictures that may refer to what lies before
their CRA picture (RASL) are decoded from the start before it. A picture of the highest layer that no other of its
layer refers to need not be decoded. Annex B streams, BLA pictures, an end of sequence and several views are not proven.
"""

import av
import numpy as np

from data_loader.readers.bits import BitColumns, BitReader, without_escapes
from data_loader.readers.packet_info import (
    NotProven,
    PacketBytes,
    PacketFacts,
    Units,
    check_messages,
    check_sets,
    split_units,
)

# Values of nal_unit_type.
LAST_SUBLAYER_TYPE = (
    14  # up to here, even types are those that no picture of their layer refers to
)
RADL = (6, 7)
RASL = (8, 9)
IDR = (19, 20)
CRA = 21
TRAILING_AND_LEADING = range(10)
VIDEO_SET, SEQUENCE_SET, PICTURE_SET = 32, 33, 34
MESSAGES = (39, 40)
# Without a bearing on pictures: delimiters, filler, the metadata of Dolby Vision.
SILENT = (35, 38, 62)
PICTURES = (*TRAILING_AND_LEADING, *IDR, CRA)
KNOWN = (*PICTURES, VIDEO_SET, SEQUENCE_SET, PICTURE_SET, *MESSAGES, *SILENT)

HEADER_SIZE = 2
CHROMA_444 = 3
NO_PICTURE = -1
MAX_BITS = 16  # of a picture's number


class HevcParser:
    """See `packet_info.PacketParser`. `extradata`: an hvcC record. Raises NotProven for any other, or an odd one."""

    shows_gaps = True

    def __init__(self, extradata: bytes) -> None:
        try:
            self._length_size, sets = _split_record(extradata)
            by_type: dict[int, list[bytes]] = {}
            for data in sets:
                by_type.setdefault(data[0] >> 1 & 63, []).append(data)
            video_sets = by_type.get(VIDEO_SET, [])
            sequence_sets = by_type.get(SEQUENCE_SET, [])
            picture_sets = by_type.get(PICTURE_SET, [])
            if len(video_sets) != 1 or len(sequence_sets) != 1 or not picture_sets:
                raise NotProven
            depth, self.count_bits = _parse_sequence(sequence_sets[0])
            picture_set_facts = [_parse_picture_set(data) for data in picture_sets]
        except (IndexError, ValueError):  # cut short
            raise NotProven from None
        ids, extra_bits = zip(*picture_set_facts)
        if len(set(ids)) != len(ids) or len(set(extra_bits)) != 1:
            raise NotProven
        self._extra_bits = extra_bits[0]
        self.depth: int | None = depth
        self._known_sets = {*video_sets, *sequence_sets, *picture_sets}
        self.size: tuple[int, int] | None = None
        self._last_start_type = NO_PICTURE
        self._in_leading = False  # whether a leading picture may come next

    def excerpt(self, packet: av.Packet) -> bytes:
        return bytes(packet)

    def facts(self, packets: PacketBytes) -> PacketFacts:
        picture_types = np.full(len(packets.starts), NO_PICTURE)
        layers = np.zeros(len(packets.starts), np.int64)
        counts = np.zeros(len(packets.starts), np.int64)

        for units in split_units(packets, self._length_size):
            if (units.lengths < HEADER_SIZE).any():
                raise NotProven
            first_bytes = packets.data[units.starts]
            second_bytes = packets.data[units.starts + 1]
            types = first_bytes >> 1
            is_base_view = (first_bytes & 1 == 0) & (second_bytes >> 3 == 0)
            if not is_base_view.all() or not np.isin(types, KNOWN).all():
                raise NotProven

            is_set = (types >= VIDEO_SET) & (types <= PICTURE_SET)
            check_sets(packets, units, is_set, self._known_sets)
            check_messages(packets, units, np.isin(types, MESSAGES), HEADER_SIZE)

            is_picture = np.isin(types, PICTURES)
            pictures = Units(*(field[is_picture] for field in units))
            slice_types = types[is_picture].astype(np.int64)
            is_first = _add_pictures(packets, pictures, slice_types, picture_types)
            counts[pictures.numbers[is_first]] = self._picture_counts(
                packets, pictures.starts[is_first], slice_types[is_first]
            )
            layers[pictures.numbers] = (second_bytes[is_picture] & 7).astype(int) - 1

        if (picture_types == NO_PICTURE).any():
            raise NotProven
        return self._classify(picture_types, layers, counts)

    def _picture_counts(
        self, packets: PacketBytes, starts: np.ndarray, types: np.ndarray
    ) -> np.ndarray:
        """slice_pic_order_cnt_lsb of first slices, 0 of IDR pictures (H.265, 7.3.6.1)."""
        bits = BitColumns(packets.data, starts + HEADER_SIZE)
        try:
            bits.take(1)  # first_slice_segment_in_pic_flag
            bits.take(1, of=types > LAST_SUBLAYER_TYPE)  # no_output_of_prior_pics_flag
            bits.golomb()  # slice_pic_parameter_set_id
            if self._extra_bits:
                bits.take(self._extra_bits)
            bits.golomb()  # slice_type
            return bits.take(self.count_bits, of=~np.isin(types, IDR))
        except ValueError:
            raise NotProven from None

    def _classify(
        self, picture_types: np.ndarray, layers: np.ndarray, counts: np.ndarray
    ) -> PacketFacts:
        is_idr = np.isin(picture_types, IDR)
        is_start = is_idr | (picture_types == CRA)
        is_rasl = np.isin(picture_types, RASL)
        self._check_leading(picture_types, is_start, is_rasl)
        is_skippable = (picture_types <= LAST_SUBLAYER_TYPE) & (picture_types % 2 == 0)
        is_leading = is_rasl | np.isin(picture_types, RADL)
        return PacketFacts(
            starts=is_start,
            skips=is_skippable,
            leading=is_rasl,
            layers=layers,
            counts=counts,
            anchors=(layers == 0) & ~is_leading & ~is_skippable,
            resets=is_idr,
        )

    def _check_leading(
        self, picture_types: np.ndarray, is_start: np.ndarray, is_rasl: np.ndarray
    ) -> None:
        """Raises NotProven if leading pictures lack their start, or come after a picture that is not leading."""
        start_types = np.where(is_start, picture_types, NO_PICTURE)
        last_starts = np.maximum.accumulate(
            np.where(is_start, np.arange(len(start_types)), -1)
        )
        types_of_last = np.where(
            last_starts >= 0, start_types[last_starts], self._last_start_type
        )
        if (is_rasl & (types_of_last != CRA)).any():
            raise NotProven
        if (types_of_last == NO_PICTURE).any():
            raise NotProven
        is_leading = is_rasl | np.isin(picture_types, RADL)
        may_be_followed = np.append(self._in_leading, (is_start | is_leading)[:-1])
        if (is_leading & ~may_be_followed).any():
            raise NotProven
        self._in_leading = bool((is_start | is_leading)[-1])
        self._last_start_type = int(types_of_last[-1])

    def select(self, packets: list[av.Packet], wanted: set[int]) -> None:
        return None


def _add_pictures(
    packets: PacketBytes,
    pictures: Units,
    types: np.ndarray,
    picture_types: np.ndarray,
) -> np.ndarray:
    """Enter the types of some slices into the types of their packets; which of them are first ones, bool.

    Raises NotProven if one is not plain.
    """
    if (pictures.lengths <= HEADER_SIZE).any():
        raise NotProven
    content = packets.data[pictures.starts + HEADER_SIZE]
    is_first = content >> 7 == 1  # first_slice_segment_in_pic_flag
    known_types = picture_types[pictures.numbers]
    if (is_first != (known_types == NO_PICTURE)).any():
        raise NotProven
    if (~is_first & (known_types != types)).any():
        raise NotProven
    discards_earlier = content >> 6 & 1  # no_output_of_prior_pics_flag
    if discards_earlier[types > LAST_SUBLAYER_TYPE].any():
        raise NotProven
    picture_types[pictures.numbers] = types
    return is_first


def _split_record(extradata: bytes) -> tuple[int, list[bytes]]:
    """(bytes of a unit's length, all units) of an hvcC record."""
    if extradata[:1] != b"\1":
        raise NotProven
    length_size = (extradata[21] & 3) + 1
    units = []
    position = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            length = int.from_bytes(extradata[position : position + 2], "big")
            position += 2
            units.append(extradata[position : position + length])
            position += length
            if length <= HEADER_SIZE:
                raise NotProven
    if position > len(extradata):
        raise NotProven
    return length_size, units


def _parse_sequence(sequence_set: bytes) -> tuple[int, int]:
    """(sps_max_num_reorder_pics of the highest layer, bits of slice_pic_order_cnt_lsb) (H.265, 7.3.2.2.1)."""
    bits = BitReader(without_escapes(sequence_set[HEADER_SIZE:]))
    bits.take(4)  # sps_video_parameter_set_id
    higher_layers = bits.take(3)
    bits.take(1)  # sps_temporal_id_nesting_flag
    _skip_profile(bits, higher_layers)
    bits.golomb()  # sps_seq_parameter_set_id
    if bits.golomb() == CHROMA_444 and bits.take(1):  # separate_colour_plane_flag
        raise NotProven
    bits.golomb()  # pic_width_in_luma_samples
    bits.golomb()  # pic_height_in_luma_samples
    has_window = bits.take(1)
    for _ in range(4 * has_window):
        bits.golomb()
    bits.golomb()  # bit_depth_luma_minus8
    bits.golomb()  # bit_depth_chroma_minus8
    count_bits = bits.golomb() + 4  # log2_max_pic_order_cnt_lsb_minus4
    if count_bits > MAX_BITS:
        raise NotProven
    tells_each_layer = bits.take(1)

    depth = 0
    for _ in range(higher_layers + 1 if tells_each_layer else 1):
        bits.golomb()  # sps_max_dec_pic_buffering_minus1
        depth = bits.golomb()
        bits.golomb()  # sps_max_latency_increase_plus1
    return depth, count_bits


def _skip_profile(bits: BitReader, higher_layers: int) -> None:
    """Pass over profile_tier_level (H.265, 7.3.3)."""
    bits.take(88)  # the general profile
    bits.take(8)  # general_level_idc
    presence = [(bits.take(1), bits.take(1)) for _ in range(higher_layers)]
    if higher_layers:
        bits.take(2 * (8 - higher_layers))
    for has_profile, has_level in presence:
        bits.take(88 * has_profile + 8 * has_level)


def _parse_picture_set(picture_set: bytes) -> tuple[int, int]:
    """(pps_pic_parameter_set_id, num_extra_slice_header_bits). Raises NotProven if pictures may be hidden."""
    bits = BitReader(without_escapes(picture_set[HEADER_SIZE:]))
    number = bits.golomb()
    bits.golomb()  # pps_seq_parameter_set_id
    bits.take(1)  # dependent_slice_segments_enabled_flag
    may_hide_pictures = bits.take(1)  # output_flag_present_flag
    if may_hide_pictures:
        raise NotProven
    return number, bits.take(3)
