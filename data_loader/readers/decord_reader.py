"""decord, where its seeking is proven right; PyAV for the rest, where decord returns wrong frames without a word.

decord seeks to a key frame by its time of decoding. That finds the right one if the container calls exactly the IDR
pictures key frames and none is decoded before the one in front of it is shown. It gets only 4:2:0 pictures of 8 bits,
which its older ffmpeg decodes and converts as PyAV's does. decord is imported when it is first used, after torch: the
other order has crashed for users.
"""

import logging
from contextlib import suppress
from types import ModuleType

import numpy as np

from data_loader.readers import READERS, BrokenVideo, Choose, Pictures, av_reader
from data_loader.readers.h264_header import CHROMA_420, parameter_sets, picture_format
from data_loader.readers.packet_info import UNKNOWN, NotProven
from data_loader.readers.seek_plan import SeekPlan, open_with_plan
from data_loader.readers.source import Source
from parse_config import ConfigError

log = logging.getLogger(__name__)


@READERS.register("decord")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`. Raises ConfigError if decord is not installed."""
    try:
        import decord
    except ImportError:
        raise ConfigError(
            "reader 'decord': decord is not installed; pip install decord, or use reader 'av'"
        ) from None

    with suppress(BrokenVideo), open_with_plan(path, parsed=True) as (source, plan):
        if plan and is_plain_h264(source) and can_seek(plan):
            request = av_reader.positions_in_plan(source, plan, choose, start, end)
            if request:
                positions, indices = request
                with suppress(Exception):  # whatever decord raises, PyAV reads the file
                    frames = _seek(decord, path, len(plan.stamps), positions)
                    return Pictures(frames, indices)
    return av_reader.read(path, choose, start, end)


def is_plain_h264(source: Source) -> bool:
    """Whether the stream is H.264 of 4:2:0 pictures of 8 bits, by its sequence parameter set."""
    if source.decoder.name != "h264":
        return False
    try:
        _, sets, _ = parameter_sets(source.decoder.extradata or b"")
    except NotProven:
        return False
    return picture_format(sets) == (CHROMA_420, 8)


def can_seek(plan: SeekPlan) -> bool:
    """Whether a decoder that seeks to key frames by their time of decoding finds the right frames."""
    starts = plan.starts
    is_known = (plan.table.dts != UNKNOWN).all()
    is_shown_first = (plan.order[starts] == starts).all()
    if not (plan.keyed and is_known and is_shown_first):
        return False
    return bool((plan.table.dts[starts[1:]] > plan.stamps[starts[:-1]]).all())


def _seek(
    decord: ModuleType, path: str, length: int, positions: list[int]
) -> list[np.ndarray]:
    video = decord.VideoReader(path, num_threads=1)
    if len(video) != length:
        raise IndexError
    unique = sorted(set(positions))
    pictures = dict(zip(unique, video.get_batch(unique).asnumpy()))
    return [pictures[position] for position in positions]
