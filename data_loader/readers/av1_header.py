"""Headers of AV1 (AV1 Bitstream & Decoding Process Specification, 5.5 and 5.9), as far as a plan needs them."""

from typing import NamedTuple

from data_loader.readers.bits import BitReader
from data_loader.readers.packet_info import NotProven

KEY_FRAME, INTER_FRAME, INTRA_ONLY_FRAME, SWITCH_FRAME = range(4)
NO_REFERENCE = 7  # primary_ref_frame
NUM_REFERENCES = 7
NUM_SLOTS = 8
CHOSEN_PER_FRAME = 2
ALL_SLOTS = 255


class Sequence(NamedTuple):
    """What a sequence header says. size: (width, height); tools and whole vectors: 0, 1 or chosen per frame."""

    size: tuple[int, int]
    screen_content_tools: int
    whole_motion_vectors: int
    order_bits: int


class Frame(NamedTuple):
    """What a frame header says of other frames. A slot keeps a frame for later ones.

    is_existing: it shows the frame that is kept in its one reference. references: slots that it depends on. refreshed:
    bit mask of the slots that keep it. has_own_size: its size may differ from that of the sequence.
    """

    is_existing: bool
    is_key: bool
    references: tuple[int, ...]
    refreshed: int
    has_own_size: bool


def parse_sequence(data: bytes) -> Sequence:
    """Raises NotProven for several layers, frame numbers or a decoder model; ValueError for what is cut short."""
    bits = BitReader(data)
    bits.take(3)  # seq_profile
    bits.take(1)  # still_picture
    is_still = bits.take(1)  # reduced_still_picture_header
    if is_still:
        raise NotProven
    if bits.take(1):  # timing_info_present_flag
        bits.take(64)  # num_units_in_display_tick, time_scale
        if bits.take(1):  # equal_picture_interval
            bits.golomb()  # num_ticks_per_picture_minus_1
        has_decoder_model = bits.take(1)
        if has_decoder_model:
            raise NotProven
    _check_single_layer(bits)

    width_bits = bits.take(4) + 1
    height_bits = bits.take(4) + 1
    size = (bits.take(width_bits) + 1, bits.take(height_bits) + 1)
    has_frame_numbers = bits.take(1)
    if has_frame_numbers:
        raise NotProven
    bits.take(7)  # coding tools
    has_order = bits.take(1)
    if has_order:
        bits.take(2)  # enable_jnt_comp, enable_ref_frame_mvs

    tools = CHOSEN_PER_FRAME if bits.take(1) else bits.take(1)
    whole_vectors = CHOSEN_PER_FRAME
    if tools and not bits.take(1):
        whole_vectors = bits.take(1)
    order_bits = bits.take(3) + 1 if has_order else 0
    return Sequence(size, tools, whole_vectors, order_bits)


def _check_single_layer(bits: BitReader) -> None:
    """Pass over the operating points. Raises NotProven unless there is one, with one layer."""
    tells_delay = bits.take(1)
    further_points = bits.take(5)  # operating_points_cnt_minus_1
    layers = bits.take(12)  # operating_point_idc
    if further_points or layers:
        raise NotProven
    level = bits.take(5)
    if level > 7:
        bits.take(1)  # seq_tier
    if tells_delay and bits.take(1):
        bits.take(4)  # initial_display_delay_minus_1


def parse_frame(data: bytes, sequence: Sequence) -> Frame:
    """The beginning of a frame header. Raises ValueError for what is cut short."""
    bits = BitReader(data)
    if bits.take(1):  # show_existing_frame
        return Frame(True, False, (bits.take(3),), 0, False)
    frame_type = bits.take(2)
    is_shown = bits.take(1)
    if not is_shown:
        bits.take(1)  # showable_frame
    is_shown_key = frame_type == KEY_FRAME and is_shown == 1
    is_intra = frame_type in (KEY_FRAME, INTRA_ONLY_FRAME)

    is_resilient = frame_type == SWITCH_FRAME or is_shown_key or bits.take(1) == 1
    bits.take(1)  # disable_cdf_update
    has_tools = sequence.screen_content_tools
    if has_tools == CHOSEN_PER_FRAME:
        has_tools = bits.take(1)
    if has_tools and sequence.whole_motion_vectors == CHOSEN_PER_FRAME:
        bits.take(1)  # force_integer_mv
    has_own_size = frame_type == SWITCH_FRAME or bits.take(1) == 1
    bits.take(sequence.order_bits)  # order_hint
    if not is_intra and not is_resilient:
        bits.take(3)  # primary_ref_frame: one of the references

    refreshed = ALL_SLOTS
    if frame_type != SWITCH_FRAME and not is_shown_key:
        refreshed = bits.take(8)
    references = _references(bits, sequence, is_intra, is_resilient, refreshed)
    return Frame(False, frame_type == KEY_FRAME, references, refreshed, has_own_size)


def _references(
    bits: BitReader,
    sequence: Sequence,
    is_intra: bool,
    is_resilient: bool,
    refreshed: int,
) -> tuple[int, ...]:
    """The slots that a frame depends on; all of them where it compares itself with all."""
    compares_order = is_resilient and sequence.order_bits > 0
    if (not is_intra or refreshed != ALL_SLOTS) and compares_order:
        return tuple(range(NUM_SLOTS))
    if is_intra:
        return ()
    if sequence.order_bits and bits.take(1):  # frame_refs_short_signaling
        return tuple(range(NUM_SLOTS))
    return tuple(bits.take(3) for _ in range(NUM_REFERENCES))
