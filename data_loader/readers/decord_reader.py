"""decord, where its seeking is proven right; PyAV for the rest, where decord returns wrong frames without a word.

decord seeks to a key frame by its time of decoding. That finds the right one if the container calls exactly the IDR
pictures key frames and none is decoded before the one in front of it is shown. decord is imported when it is first
used, after torch: the other order has crashed for users.
"""

from contextlib import suppress
from types import ModuleType

import numpy as np

from data_loader.readers import READERS, BrokenVideo, Choose, Pictures, av_reader
from data_loader.readers.h264 import H264Parser
from data_loader.readers.packet_info import UNKNOWN
from data_loader.readers.seek_plan import SeekPlan, open_with_plan
from parse_config import ConfigError


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
        if plan and isinstance(plan.parser, H264Parser) and can_seek(plan):
            request = av_reader.positions_in_plan(source, plan, choose, start, end)
            if request:
                positions, indices = request
                with suppress(RuntimeError, IndexError, decord.DECORDError):
                    frames = _seek(decord, path, len(plan.stamps), positions)
                    return Pictures(frames, indices)
    return av_reader.read(path, choose, start, end)


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
