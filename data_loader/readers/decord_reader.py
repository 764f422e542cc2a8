"""decord, where its seeking is proven right; PyAV for the rest (decord returns wrong frames there without a word).

decord seeks to a key frame by its time of decoding. That finds the right one if the container calls exactly the IDR
pictures key frames and none is decoded before the one in front of it is shown. Imported when it is first used, after
torch: the other order has crashed for users.
"""

from contextlib import suppress
from itertools import pairwise

import numpy as np

from data_loader.readers import READERS, BrokenVideo, Choose, av_reader, chosen
from data_loader.readers.h264 import Plan, planned
from data_loader.readers.source import cut
from parse_config import ConfigError


@READERS.register("decord")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> av_reader.Pictures:
    """See `data_loader.readers`. Raises ConfigError if decord is not installed."""
    try:
        import decord
    except ImportError:
        raise ConfigError(
            "reader 'decord': decord is not installed; pip install decord, or use reader 'av'"
        ) from None
    with suppress(BrokenVideo), planned(path) as (source, plan):
        if plan and _seekable(plan):
            first, last = cut(source.seconds(plan.stamps), start, end)
            indices = chosen(choose, last - first) if last > first else []
            if indices and 0 <= min(indices) <= max(indices) < last - first:
                with suppress(RuntimeError, IndexError, decord.DECORDError):
                    return _seek(
                        decord, path, len(plan.stamps), [first + i for i in indices]
                    ), indices
    return av_reader.read(path, choose, start, end)


def _seekable(plan: Plan) -> bool:
    return (
        plan.keyed
        and None not in plan.times
        and all(plan.times[after] > plan.stamps[before] for before, after in pairwise(plan.starts))
    )


def _seek(decord, path: str, length: int, places: list[int]) -> list[np.ndarray]:
    video = decord.VideoReader(path, num_threads=1)
    if len(video) != length:
        raise IndexError
    once = sorted(set(places))
    pictures = dict(zip(once, video.get_batch(once).asnumpy()))
    return [pictures[place] for place in places]
