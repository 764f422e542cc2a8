"""An open video file: its packets, its decoder, its frames from first to last, and their pictures."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from data_loader.readers import BrokenVideo

HOLD = (
    256 << 20
)  # bytes of packets that stay in memory; a larger file is read from disk again
SLACK = 2.0  # seconds between the stamp at which reading ends and the last frame that is requested
# Open without decoding any frame (0.2 ms, not 5) and give the packets as the container holds them.
QUICK = {
    "skip_frame": "all",
    "probesize": "32",
    "fpsprobesize": "0",
    "fflags": "+noparse",
}
DEFAULT_FRAME_RATE = 25
TOLERANCE = 1e-6  # seconds by which rounding may move a time stamp


class Source:
    """One video stream (the best, as ffmpeg chooses) and a decoder of one thread; a context manager.

    `quick` leaves out ffmpeg's look at the first frames, which only a stream that describes itself can do without.
    `end`: packets that are decoded later than that many seconds after the first are not read.
    """

    def __init__(
        self, path: str, end: float | None = None, quick: bool = False
    ) -> None:
        self.path = path
        self.end = end
        self.quick = quick
        self.damage = ""  # the first error that ffmpeg reported

        self._containers: list[InputContainer] = []
        self._held_packets: list[av.Packet] | None = None
        self._unread = True

        self.stream = self._open()
        assert (
            self.stream.time_base is not None
        )  # ffmpeg gives every stream of a file one
        self.time_base = self.stream.time_base
        self.decoder = self.stream.codec_context
        self.decoder.thread_count = 1

        self._reformatter = VideoReformatter()
        self._size: tuple[int | None, int | None] = (None, None)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        for container in self._containers:
            container.close()

    def _open(self) -> VideoStream:
        options = QUICK if self.quick else {}
        try:
            container = av.open(
                f"file:{self.path}", options=dict(options), metadata_errors="ignore"
            )
        except av.FFmpegError as error:
            reason = _not_video_reason(self.path) or f"is no video ({error.strerror})"
            raise BrokenVideo(self.path, reason) from None

        stream = container.streams.best("video")
        if (
            not isinstance(stream, VideoStream)
            or stream.disposition & Disposition.attached_pic
        ):
            container.close()
            raise BrokenVideo(self.path, "has no video stream")
        if stream.codec_context is None:
            container.close()
            raise BrokenVideo(
                self.path, "is in a format that this ffmpeg does not decode"
            )

        if self.quick:
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
        self._containers.append(container)
        return stream

    @property
    def container(self) -> InputContainer:
        """The file of `stream`."""
        return self._containers[0]

    def first_packet(self) -> av.Packet | None:
        """The packet that is decoded first."""
        return next(self.new_packets(), None)

    def packets_from(self, time: int) -> Iterator[av.Packet]:
        """The packets from a key frame at or before a time stamp on, to wherever the container then goes."""
        try:
            self.container.seek(time, stream=self.stream)
        except av.FFmpegError:
            return iter(())
        return self._demux(self.container, self.stream)

    def new_packets(self) -> Iterator[av.Packet]:
        """The packets from the first one on; none is held in memory."""
        stream = self.stream if self._unread else self._open()
        self._unread = False
        return self._demux(self._containers[-1], stream)

    def packets(self) -> Iterator[av.Packet]:
        """The packets in the order of decoding, up to the end of the file or its first damage.

        Can be called again: the packets are held in memory, or the file is read again.
        """
        if self._held_packets is not None:
            yield from self._held_packets
            return

        held: list[av.Packet] = []
        size = 0

        for packet in self.new_packets():
            size += packet.size
            if size <= HOLD:
                held.append(packet)
            else:
                held.clear()
            yield packet

        if size <= HOLD:
            self._held_packets = held

    def _demux(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.Packet]:
        limit = None  # time stamp of decoding after which nothing is read
        packets = cast("Generator[av.Packet]", container.demux(stream))
        with closing(
            packets
        ):  # PyAV leaks if the generator is dropped half way and not closed
            try:
                for packet in packets:
                    if self.end is not None and packet.dts is not None:
                        if limit is None:
                            limit = packet.dts + (self.end + SLACK) / self.time_base
                        if packet.dts > limit:
                            return
                    if packet.size:
                        yield packet
            except av.FFmpegError as error:
                self.damage = self.damage or str(error)

    def frames(self) -> Iterator[av.VideoFrame]:
        """The decode from first to last.

        After a packet that cannot be decoded it goes on at the next key frame: the frames before that refer to frames
        that are missing.
        """
        failed = False
        for packet in self.packets():
            if failed and not packet.is_keyframe:
                continue
            frames, failed = self._decode(packet)
            if frames and self._size == (None, None):
                self._size = (frames[0].width, frames[0].height)
            yield from frames
            if failed:
                yield from self._decode(None)[0]
                self.decoder.flush_buffers()
        yield from self._decode(None)[0]

    def _decode(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], bool]:
        """The frames that the decoder returns for a packet (None: the rest), and whether it failed."""
        try:
            return self.decoder.decode(packet), False
        except av.FFmpegError as error:
            self.damage = self.damage or str(error)
            return [], True

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright, in the size of the first frame, should the size change on the way."""
        width, height = self._size
        try:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            raise BrokenVideo(
                self.path, f"has pictures that cannot be converted to RGB ({error})"
            ) from None
        self._size = (rgb.width, rgb.height)
        return np.rot90(rgb.to_ndarray(), (frame.rotation // 90) % 4)

    def frame_rate(self) -> float:
        """Frames per second by the container's word."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate or DEFAULT_FRAME_RATE)

    def packet_seconds(self) -> list[float]:
        """When each frame begins by the packets' time stamps; a damaged file may hold fewer frames."""
        stamps = [packet.pts for packet in self.packets() if not packet.is_discard]
        if None not in stamps:
            stamps.sort()
        return self.seconds(stamps)

    def seconds(self, stamps: Sequence[int | None]) -> list[float]:
        """Time stamps in seconds after the first frame; frames without time stamps are evenly spaced."""
        if None in stamps:
            rate = self.frame_rate()
            return [number / rate for number in range(len(stamps))]
        known = cast("Sequence[int]", stamps)
        unit = float(self.time_base)
        return [(stamp - known[0]) * unit for stamp in known]


def frame_range(
    seconds: list[float], start: float | None, end: float | None
) -> tuple[int, int]:
    """(first, one past the last) of the frames that begin in start <= t < end.

    If none begins there, the frame that is then shown; (0, 0) if none is. `seconds`: when each frame begins.
    """
    if start is None and end is None:
        return 0, len(seconds)
    start = start or 0.0
    end = float("inf") if end is None else end

    inside = [
        i for i, t in enumerate(seconds) if start - TOLERANCE <= t < end - TOLERANCE
    ]
    if inside:
        return inside[0], inside[-1] + 1

    begun = [i for i, t in enumerate(seconds) if t <= start]
    if not begun or end <= start:
        return 0, 0
    frame_duration = seconds[-1] / max(1, len(seconds) - 1)
    if start >= seconds[-1] + frame_duration:
        return 0, 0
    return begun[-1], begun[-1] + 1


def _not_video_reason(path: str) -> str:
    """What a file is that is no video, if it is something common; else an empty text."""
    with open(path, "rb") as file:
        header = file.read(64).lstrip().lower()
    if header.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a video"
    if not header:
        return "is empty"
    return ""
