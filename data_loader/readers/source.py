"""An open video file: its packets as often as wanted, its decoder, its frames from first to last, their pictures."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from data_loader.readers import BrokenVideo

HOLD = (
    256 << 20
)  # bytes of packets that stay in memory; a larger file is read from disk again instead
SLACK = 2.0  # seconds between the stamp at which reading ends and the last frame that is wanted
QUICK = {
    "skip_frame": "all",
    "probesize": "32",
    "fpsprobesize": "0",
}  # open without decoding any frame: 0.2 ms, not 5


class Source:
    """One video stream (the best, as ffmpeg chooses) and a decoder of one thread; a context manager.

    `quick` leaves out ffmpeg's look at the first frames, which only a stream that describes itself can do without.
    `end`: packets that are decoded later than that many seconds after the first are not read.
    """

    def __init__(self, path: str, end: float | None = None, quick: bool = False):
        self.path, self.end, self.quick, self.damage = path, end, quick, ""
        self._containers: list[Any] = []
        self._held: list[av.Packet] | None = None
        self.stream = self._open()
        self.decoder = self.stream.codec_context
        self.decoder.thread_count = 1
        self._unread, self._convert, self._size = True, VideoReformatter(), (None, None)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_):
        for container in self._containers:
            container.close()

    def _open(self):
        try:
            options = dict(QUICK) if self.quick else {}
            container = av.open(f"file:{self.path}", options=options, metadata_errors="ignore")
        except av.FFmpegError as error:
            raise BrokenVideo(
                self.path, _reason(self.path) or f"is no video ({error.strerror})"
            ) from None
        stream, reason = container.streams.best("video"), ""
        if stream is None or stream.disposition & Disposition.attached_pic:
            reason = "has no video stream"
        elif stream.codec_context is None:
            reason = "is in a format that this ffmpeg does not decode"
        if reason:
            container.close()
            raise BrokenVideo(self.path, reason)
        self._containers.append(container)
        return stream

    def packets(self) -> Iterator[av.Packet]:
        """The packets in the order of decoding, up to the end of the file or its first damage."""
        if self._held is not None:
            yield from self._held
            return
        stream = self.stream if self._unread else self._open()
        self._unread, held, size = False, [], 0
        for packet in self._demux(stream):
            size += packet.size
            held.append(packet) if size <= HOLD else held.clear()
            yield packet
        self._held = held if size <= HOLD else None

    def _demux(self, stream) -> Iterator[av.Packet]:
        limit = None
        with closing(
            stream.container.demux(stream)
        ) as packets:  # PyAV leaks if it is dropped half way, not closed
            try:
                for packet in packets:
                    if self.end is not None and packet.dts is not None:
                        limit = (
                            packet.dts + (self.end + SLACK) / stream.time_base
                            if limit is None
                            else limit
                        )
                        if packet.dts > limit:
                            return
                    if packet.size:
                        yield packet
            except av.FFmpegError as error:
                self.damage = self.damage or str(error)

    def frames(self) -> Iterator[av.VideoFrame]:
        """The decode from first to last. Behind a packet that cannot be decoded it goes on at the next key frame: what
        lies between would be patched together from frames that are not there."""
        lost = False
        for packet in self.packets():
            if not lost or packet.is_keyframe:
                decoded, lost = self._decode(packet)
                yield from decoded
                if lost:
                    yield from self._decode(None)[0]
                    self.decoder.flush_buffers()
        yield from self._decode(None)[0]

    def _decode(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], bool]:
        try:
            return self.decoder.decode(packet), False
        except av.FFmpegError as error:
            self.damage = self.damage or str(error)
            return [], True

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright; all of the first one's size, should the size change on the way."""
        try:
            picture = self._convert.reformat(frame, *self._size, "rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            raise BrokenVideo(
                self.path, f"has pictures that cannot be converted to RGB ({error})"
            ) from None
        self._size = picture.width, picture.height
        return np.rot90(picture.to_ndarray(), (frame.rotation // 90) % 4)

    def seconds(self, stamps: Iterable[int | None]) -> list[float]:
        """Seconds after the first frame; frames without time stamps are evenly spaced."""
        stamps = list(stamps)
        if None in stamps:
            rate = float(self.stream.average_rate or self.stream.guessed_rate or 25)
            return [number / rate for number in range(len(stamps))]
        unit = float(self.stream.time_base)
        return [(stamp - stamps[0]) * unit for stamp in stamps]


def cut(seconds: list[float], start: float | None, end: float | None) -> tuple[int, int]:
    """First and one past the last of the frames that begin in start <= t < end; if none does, the one then shown."""
    if start is None and end is None:
        return 0, len(seconds)
    start, end = start or 0.0, float("inf") if end is None else end
    inside = [i for i, t in enumerate(seconds) if start - 1e-6 <= t < end - 1e-6]
    if inside:
        return inside[0], inside[-1] + 1
    shown = [i for i, t in enumerate(seconds) if t <= start]
    frame = seconds[-1] / max(1, len(seconds) - 1) if seconds else 0.0
    if not shown or end <= start or start >= seconds[-1] + frame:
        return 0, 0
    return shown[-1], shown[-1] + 1


def _reason(path: str) -> str:
    """What a file is that is no video, if it is something usual."""
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a video"
    return "" if head else "is empty"
