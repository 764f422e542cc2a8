"""torchcodec, where its frames are proven to be those of a decode of the whole file; PyAV for the rest, said once.

It decodes with an FFmpeg of the system's, not with PyAV's. So two things must be shown beyond what decord needs: that
both turn the pictures into the same RGB (`conversion`), and that none is damaged: FFmpeg conceals damage, each release
in its own way, and tells only its log. torchcodec is imported when it is first used.
"""

import atexit
import ctypes
import logging
import mmap
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import torch

from data_loader.readers import READERS, BrokenVideo, Choose, Pictures, av_reader
from data_loader.readers.conversion import (
    ColourFormat,
    NotExact,
    colour_format,
    format_of_frame,
    write_noise,
)
from data_loader.readers.decord_reader import can_seek
from data_loader.readers.seek_plan import SeekPlan, open_with_plan
from data_loader.readers.source import Source
from parse_config import ConfigError

log = logging.getLogger(__name__)

# Of other codecs, damaged data gives other pictures with another release of FFmpeg, and nothing in its log.
CODECS = ("h264", "hevc")
AV_LOG_INFO = 32  # concealed damage is told at this level or a more urgent one, which has a lower number
ERRORS = (RuntimeError, IndexError, ValueError)  # that torchcodec raises
REMEDY = "or use reader 'av'"

_is_said = mmap.mmap(-1, 1)  # a byte that forked processes share


class _FFmpegLog(threading.local):
    """Whether FFmpeg has told anything in this thread."""

    has_messages = False


_ffmpeg_log = _FFmpegLog()


@READERS.register("torchcodec")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`. Raises ConfigError if torchcodec or the FFmpeg that it needs cannot be loaded."""
    torchcodec = load_torchcodec()
    with suppress(BrokenVideo), open_with_plan(path, parsed=True) as (source, plan):
        try:
            checked_plan = _check(torchcodec, source, plan)
            request = av_reader.positions_in_plan(
                source, checked_plan, choose, start, end
            )
            if request:
                positions, indices = request
                frames = _decode_positions(torchcodec, source, checked_plan, positions)
                return Pictures(frames, indices)
        except NotExact as reason:
            _say_once(path, reason)
    return av_reader.read(path, choose, start, end)


def load_torchcodec() -> ModuleType:
    """The module, if it finds an FFmpeg. Raises ConfigError."""
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        if getattr(error, "name", None) == "torchcodec":
            raise ConfigError(
                "reader 'torchcodec': torchcodec is not installed; "
                f"pip install 'miles-retrieval[torchcodec]', {REMEDY}"
            ) from None
        raise ConfigError(
            f"reader 'torchcodec': torchcodec cannot be loaded ({_first_line(error)}); "
            f"install the release that belongs to torch {torch.__version__}, {REMEDY}"
        ) from None

    if getattr(torchcodec, "core_library_path", None) is None:
        raise ConfigError(
            "reader 'torchcodec': torchcodec finds no FFmpeg that it can load, or is older than 0.17; install FFmpeg, "
            f"release 4 to 9 (apt-get install ffmpeg, or conda install ffmpeg), {REMEDY}"
        )
    return torchcodec


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _say_once(path: str, reason: NotExact) -> None:
    if not _is_said[0]:
        _is_said[0] = 1
        log.warning(
            "reader 'torchcodec': %s is read by 'av': it %s; so are other files that torchcodec is not proven "
            "to read exactly, without a further word",
            path,
            reason,
        )


def _check(torchcodec: ModuleType, source: Source, plan: SeekPlan | None) -> SeekPlan:
    """The plan, if torchcodec seeks correctly in this file and its colours are ours. Raises NotExact."""
    if source.decoder.name not in CODECS:
        raise NotExact("is neither H.264 nor HEVC")
    if plan is None or not can_seek(plan):
        raise NotExact("has no key frames that are proven to be right to seek to")
    if not _converts_alike(torchcodec, colour_format(source)):
        raise NotExact("has colours that torchcodec's FFmpeg converts differently")
    return plan


@cache
def _converts_alike(torchcodec: ModuleType, colours: ColourFormat) -> bool:
    """Whether torchcodec and PyAV turn a noisy picture of this format into the same RGB."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "noise.mp4"))
        try:
            write_noise(path, colours)
            with Source(path) as source:
                frame = next(source.frames())
                has_the_format = format_of_frame(frame) == colours
                ours_HWC = source.picture(frame)
                with _open(torchcodec, source) as decoder:
                    theirs_HWC = decoder.get_frames_at([0]).data[0]
        except (av.FFmpegError, *ERRORS, BrokenVideo, NotExact):
            return False
    return has_the_format and np.array_equal(ours_HWC, theirs_HWC.numpy())


@contextmanager
def _open(torchcodec: ModuleType, source: Source) -> Iterator[Any]:
    """torchcodec's decoder of the same stream, which reads our file object and nothing that the file may name."""
    with open(source.path, "rb", buffering=0) as file:
        yield torchcodec.decoders.VideoDecoder(
            file,
            stream_index=source.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
        )


def _decode_positions(
    torchcodec: ModuleType, source: Source, plan: SeekPlan, positions: list[int]
) -> list[np.ndarray]:
    """The pictures at `positions`. Raises NotExact."""
    _listen(torchcodec.core_library_path)
    try:
        with _open(torchcodec, source) as decoder:
            _ffmpeg_log.has_messages = False
            batch = decoder.get_frames_at(positions)
    except ERRORS as error:
        raise NotExact(f"is refused by torchcodec ({_first_line(error)})") from None

    if _ffmpeg_log.has_messages:
        raise NotExact("is damaged inside")
    stamps = torch.round(batch.pts_seconds / float(source.time_base)).long().tolist()
    same_stamps = stamps == plan.stamps[positions].tolist()
    if not same_stamps or len(decoder) != len(plan.stamps):
        raise NotExact("has other time stamps for torchcodec")
    return list(batch.data.numpy())


@cache
def _listen(core_library: str) -> Callable[..., None]:
    """Have torchcodec's FFmpeg tell `_ffmpeg_log` of its messages; the function that it calls, to be kept.

    It runs in the thread that decodes: the decoders have no others.
    """

    @ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    )
    def note(_context: Any, level: int, _text: bytes, _arguments: Any) -> None:
        if level % 256 <= AV_LOG_INFO:  # higher bits are for colours
            _ffmpeg_log.has_messages = True

    set_callback = ctypes.CDLL(str(core_library)).av_log_set_callback
    set_callback(note)
    atexit.register(set_callback, None)
    return note
