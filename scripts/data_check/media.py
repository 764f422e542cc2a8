"""Which files of a data set can be read, and which hold fewer frames than their container promises."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import av
import torch
from av.container import InputContainer
from av.stream import Stream
from tqdm import tqdm

from data_loader.base import TextVideoDataset
from data_loader.decode import process
from data_loader.reader import BrokenVideo, count_frames
from data_loader.readers.container import open_container
from data_loader.readers.image_reader import is_image
from data_loader.readers.source import Source

# Containers whose header says how long the video is and not how many frames it has.
HEADERS_WITH_SECONDS = ("matroska", "webm", "flv")
SLACK = 1.0  # seconds by which sound may last longer than the pictures


class CutShort(NamedTuple):
    """A file, the frames that decode, and the frames that its container promises."""

    path: str
    decoded: int
    promised: int


class DecodeReport(NamedTuple):
    """What a try of some files of a data set gave.

    tried: indices of the videos. broken: index -> (path, reason). cut_short: of the files that are not broken.
    uncounted: files whose frames were not counted: members of tar files, and files too long for the deadline.
    """

    tried: list[int]
    broken: dict[int, tuple[str, str]]
    cut_short: list[CutShort]
    uncounted: int

    @property
    def readable(self) -> list[int]:
        """Indices of the videos that can be read."""
        return [index for index in self.tried if index not in self.broken]


def spread_indices(dataset: TextVideoDataset, count: int) -> list[int]:
    """At most `count` video indices, evenly spread over the data set."""
    if not len(dataset) or not count:
        return []
    positions = torch.linspace(0, len(dataset) - 1, count, dtype=torch.float64)
    return positions.long().unique().tolist()


def try_files(dataset: TextVideoDataset, count: int) -> DecodeReport:
    """Read the middle frame of `count` videos, evenly spread, and count the frames of their files.

    A progress bar is shown; a decoder that does not return is ended after `video_params.deadline`.
    """
    tried = spread_indices(dataset, count)
    broken: dict[int, tuple[str, str]] = {}
    cut_short: list[CutShort] = []
    counted: set[str] = set()
    uncounted = 0

    for index in tqdm(tried, unit="file", leave=False, disable=None):
        try:
            dataset.read_clip(index, _middle_frame)
        except BrokenVideo as error:
            broken[index] = (error.path, error.reason)
            continue

        path = dataset.video_path(index)
        if path in counted:
            continue
        if path is None or not os.path.isfile(path):
            uncounted += 1
            continue
        counted.add(path)
        try:
            frame_counts = compare_with_container(path, dataset.video.deadline)
        except (BrokenVideo, OSError):
            uncounted += 1
            continue
        if frame_counts.decoded < frame_counts.promised:
            cut_short.append(frame_counts)
    return DecodeReport(tried, broken, cut_short, uncounted)


def _middle_frame(length: int) -> Sequence[int]:
    return [length // 2]


def compare_with_container(path: str, deadline: float | None) -> CutShort:
    """The frames of a file that decode beside those that it promises.

    `deadline`: seconds, see `data_loader.reader.read_clip`. Raises BrokenVideo, OSError.
    """
    decoded = count_frames(path, deadline)
    if is_image(path):
        return CutShort(path, decoded, decoded)
    promised = process.call(promised_frames, path, path=path, deadline=deadline)
    return CutShort(path, decoded, promised)


def promised_frames(path: str) -> int:
    """Frames whose packets are in the file, and frames that its header knows of and whose packets are not there.

    A transport stream, for one, promises nothing: its missing end does not show.
    """
    with Source(path) as source:
        num_shown = len(source.packet_seconds())
    return num_shown + _missing_packets(path)


def _missing_packets(path: str) -> int:
    # Without edit lists all packets are seen, those too that are not shown.
    options = {"ignore_editlist": "1"}
    with open_container(path, options) as file:
        stream = file.streams.best("video")
        assert stream is not None and stream.time_base is not None
        num_packets = 0
        stamps: list[int] = []
        # an error is the end of what is there
        with suppress(av.FFmpegError):
            for packet in file.demux(stream):
                num_packets += packet.size > 0 or packet.dts is not None
                if packet.pts is not None:
                    stamps.append(packet.pts)

        if stream.frames:
            return max(0, stream.frames - num_packets)
        if len(stamps) < 2 or not file.format.name.startswith(HEADERS_WITH_SECONDS):
            return 0
        last = float(max(stamps) * stream.time_base)
        first = float(min(stamps) * stream.time_base)
        frame_seconds = (last - first) / (len(stamps) - 1)
        promised, slack = _promised_seconds(file, stream)
        missing = promised - last - frame_seconds
        if missing <= slack + 2 * frame_seconds or not frame_seconds:
            return 0
        return round(missing / frame_seconds)


def _promised_seconds(file: InputContainer, stream: Stream) -> tuple[float, float]:
    """(when the pictures end, seconds by which that may be wrong) by the header."""
    time_fields = stream.metadata.get("DURATION", "").strip("\0").split(":")
    with suppress(ValueError):
        hours, minutes, seconds = map(float, time_fields)
        return hours * 3600 + minutes * 60 + seconds, 0.0
    return (file.duration or 0) / av.time_base, SLACK


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/check_data.py --help")
