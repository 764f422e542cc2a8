"""What an H.264 file says of itself before its first picture (ITU-T H.264, 7.3.2.1; ISO/IEC 14496-15, 5.3.3.1)."""

from typing import NamedTuple

from data_loader.readers.bits import BitReader, without_escapes
from data_loader.readers.packet_info import NotProven

# Profiles whose sequence parameter set holds the chroma format.
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}
SEQUENCE_PARAMETER_SET = 7  # nal_unit_type
PICTURE_PARAMETER_SET = 8
CHROMA_444 = 3
MAX_BITS = 16  # of the numbers in slice headers


class Sequence(NamedTuple):
    """What a sequence parameter set says of the numbers in slice headers, in bits.

    count_bits: of pic_order_cnt_lsb, 0 if pictures are shown in the order of decoding. number_bits: of frame_num.
    """

    count_bits: int
    number_bits: int


def _parse_sequence(sequence_set: bytes) -> Sequence:
    """Raises NotProven unless it promises whole frames, none left out on purpose, in an order that it tells."""
    bits = BitReader(without_escapes(sequence_set[1:64]))
    profile = bits.take(8)
    bits.take(16)  # constraint flags, level_idc
    bits.golomb()  # seq_parameter_set_id

    if profile in HIGH_PROFILES:
        if bits.golomb() == CHROMA_444 and bits.take(1):  # separate_colour_plane_flag
            raise NotProven
        bits.golomb()  # bit_depth_luma_minus8
        bits.golomb()  # bit_depth_chroma_minus8
        bits.take(1)  # qpprime_y_zero_transform_bypass_flag
        has_scaling_lists = bits.take(1)
        if has_scaling_lists:
            raise NotProven

    number_bits = bits.golomb() + 4  # log2_max_frame_num_minus4
    picture_order_type = bits.golomb()
    if picture_order_type == 1:
        raise NotProven
    count_bits = 0
    if picture_order_type == 0:
        count_bits = bits.golomb() + 4  # log2_max_pic_order_cnt_lsb_minus4

    bits.golomb()  # max_num_ref_frames
    gaps_allowed = bits.take(1)
    bits.golomb()  # pic_width_in_mbs_minus1
    bits.golomb()  # pic_height_in_map_units_minus1
    frames_only = bits.take(1)
    if gaps_allowed or not frames_only or max(number_bits, count_bits) > MAX_BITS:
        raise NotProven
    return Sequence(count_bits, number_bits)


def parameter_sets(extradata: bytes) -> tuple[int, set[bytes], Sequence]:
    """(bytes of a unit's length, parameter sets, what they say) of an avcC record.

    Raises NotProven if it is not plain.
    """
    if extradata[:1] != b"\1":
        raise NotProven
    try:
        sets, end = _split_record(extradata)
        sequence_sets = [
            data for data in sets if data[0] & 31 == SEQUENCE_PARAMETER_SET
        ]
        picture_set_ids = [
            BitReader(without_escapes(data[1:])).golomb()
            for data in sets
            if data[0] & 31 == PICTURE_PARAMETER_SET
        ]
        is_complete = end <= len(extradata) and len(sequence_sets) == 1
        if not is_complete or len(set(picture_set_ids)) != len(picture_set_ids):
            raise NotProven
        sequence = _parse_sequence(sequence_sets[0])
    except (IndexError, ValueError):  # cut short
        raise NotProven from None
    return (extradata[4] & 3) + 1, set(sets), sequence


def _split_record(extradata: bytes) -> tuple[list[bytes], int]:
    """The sequence and picture parameter sets of an avcC record, and where the last of them ends."""
    sets = []
    position = 5
    for count_mask in (31, 255):
        count = extradata[position] & count_mask
        position += 1
        for _ in range(count):
            length = int.from_bytes(extradata[position : position + 2], "big")
            position += 2
            sets.append(extradata[position : position + length])
            position += length
    return sets, position
