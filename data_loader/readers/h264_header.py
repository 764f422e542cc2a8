"""What an H.264 file says of itself before its first picture (ITU-T H.264, 7.3.2.1; ISO/IEC 14496-15, 5.3.3.1)."""

import re
from functools import lru_cache
from typing import NamedTuple

from data_loader.readers.bits import BitReader, without_escapes
from data_loader.readers.packet_info import NotProven

# Profiles whose sequence parameter set holds the chroma format.
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}
SEQUENCE_PARAMETER_SET = 7  # nal_unit_type
PICTURE_PARAMETER_SET = 8
CHROMA_420 = 1
CHROMA_444 = 3
MAX_BITS = 16  # of the numbers in slice headers
X264_VERSION = re.compile(rb"x264 - core (\d+)")
# Of streams of older versions of x264, ffmpeg decodes some blocks in another way once it has seen the message that
# names the version: of 4:4:4 before version 151, of any stream before 34.
X264_VERSION_444 = 151
X264_VERSION_ANY = 34


class PictureFormat(NamedTuple):
    """chroma_format: 0 for grey, 1 for 4:2:0, 2 for 4:2:2, 3 for 4:4:4; bit_depth: the greater of luma and chroma."""

    chroma_format: int
    bit_depth: int


class Sequence(NamedTuple):
    """What a sequence parameter set says of the numbers in slice headers, in bits.

    count_bits: of pic_order_cnt_lsb, 0 if pictures are shown in the order of decoding. number_bits: of frame_num.
    """

    count_bits: int
    number_bits: int


def _parse_sequence(sequence_set: bytes) -> Sequence:
    """Raises NotProven unless it promises whole frames, none left out on purpose, in an order that it tells."""
    bits = BitReader(without_escapes(sequence_set[1:64]))
    is_high, _ = _take_picture_format(bits)
    if is_high:
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


def _take_picture_format(bits: BitReader) -> tuple[bool, PictureFormat]:
    """(whether the profile is one of HIGH_PROFILES, the format), from the beginning of a sequence parameter set.

    Raises NotProven for planes that are coded one by one.
    """
    profile = bits.take(8)
    bits.take(16)  # constraint flags, level_idc
    bits.golomb()  # seq_parameter_set_id
    if profile not in HIGH_PROFILES:
        return False, PictureFormat(CHROMA_420, 8)

    chroma_format = bits.golomb()
    if chroma_format == CHROMA_444 and bits.take(1):  # separate_colour_plane_flag
        raise NotProven
    luma_depth = 8 + bits.golomb()
    chroma_depth = 8 + bits.golomb()
    return True, PictureFormat(chroma_format, max(luma_depth, chroma_depth))


def picture_format(sets: set[bytes]) -> PictureFormat:
    """The format of the pictures, by the one sequence parameter set among `sets` (see `parameter_sets`)."""
    sequence_set = next(data for data in sets if data[0] & 31 == SEQUENCE_PARAMETER_SET)
    return _picture_format(sequence_set)


@lru_cache
def _picture_format(sequence_set: bytes) -> PictureFormat:
    return _take_picture_format(BitReader(without_escapes(sequence_set[1:64])))[1]


def depends_on_x264_version(message: bytes, chroma_format: int) -> bool:
    """Whether pictures are decoded in another way once the decoder has seen `message`, an SEI unit."""
    match = X264_VERSION.search(message)
    if match is None:
        return False
    version = int(match.group(1))
    if chroma_format == CHROMA_444:
        return version < X264_VERSION_444
    return version < X264_VERSION_ANY


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
