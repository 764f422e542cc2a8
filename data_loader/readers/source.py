"""An open video file: its packets, its decoder, its frames from first to last, and their pictures."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags as FormatFlags
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from data_loader.file_kind import describe_file
from data_loader.readers import BrokenVideo, progress
from data_loader.readers.clock import Clock
from data_loader.readers.container import open_container
from data_loader.readers.limits import check_clip, check_pixels, current_limits

# bytes of packets that stay in memory; a larger file is read from disk again
MAX_HELD_BYTES = 256 << 20
SLACK = 2.0  # seconds between the stamp at which reading ends and the last frame that is requested
# Open without decoding any frame (0.2 ms, not 5) and give the packets as the container holds them.
QUICK_OPTIONS = {
    "skip_frame": "all",
    "probesize": "32",
    "fpsprobesize": "0",
    "fflags": "+noparse",
}
DEFAULT_FRAME_RATE = 25
TS_DISCONT = cast("int", FormatFlags.ts_discont.value)
MARGIN_PIXELS = 1 << 20  # what the margins of a small picture may take
OPAQUE = 255  # alpha of a pixel through which nothing is seen
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

        self._opened = ExitStack()
        self._held_packets: list[av.Packet] | None = None
        self._unread = True

        self._reformatter = VideoReformatter()
        self._size: tuple[int | None, int | None] = (None, None)
        self._num_pictures = 0

        with self._opened as opened:
            self._container, self.stream = self._open()
            assert self.stream.time_base is not None  # ffmpeg gives every stream one
            self.time_base = self.stream.time_base
            self.decoder = self.stream.codec_context
            self.decoder.thread_count = 1
            check_pixels(path, self.decoder.width, self.decoder.height)
            # ffmpeg counts the margins of its buffers, too: this is for pictures that grow on the way
            max_pixels = 2 * current_limits().max_pixels + MARGIN_PIXELS
            self.decoder.options = {"max_pixels": str(max_pixels)}
            progress.describe(self._description())
            self._opened = opened.pop_all()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        options = QUICK_OPTIONS if self.quick else {}
        container = self._opened.enter_context(open_container(self.path, options))
        stream = container.streams.best("video")
        if (
            not isinstance(stream, VideoStream)
            or stream.disposition & Disposition.attached_pic
        ):
            reason = describe_file(self.path) or "has no video stream"
            raise BrokenVideo(self.path, reason)
        if stream.codec_context is None:
            raise BrokenVideo(
                self.path, "is in a format that this ffmpeg does not decode"
            )

        if self.quick:
            for other_stream in container.streams:
                if other_stream.index != stream.index:
                    other_stream.discard = Discard.all
        return container, stream

    @property
    def container(self) -> InputContainer:
        """The file of `stream`."""
        return self._container

    def first_packet(self) -> av.Packet | None:
        """The packet that is decoded first."""
        return next(self.new_packets(), None)

    def packets_from(self, time: int) -> Iterator[av.Packet]:
        """The packets from a key frame at or before a time stamp on, to wherever the container then goes."""
        self._unread = False
        try:
            self.container.seek(time, stream=self.stream)
        except av.FFmpegError:
            return iter(())
        return self._demux(self.container, self.stream)

    def new_packets(self) -> Iterator[av.Packet]:
        """The packets from the first one on; none is held in memory."""
        if not self._unread:
            self._container, self.stream = self._open()
        self._unread = False
        return self._demux(self._container, self.stream)

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
            if size <= MAX_HELD_BYTES:
                held.append(packet)
            else:
                held.clear()
            yield packet

        if size <= MAX_HELD_BYTES:
            self._held_packets = held

    def _demux(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[av.Packet]:
        """The packets that are not empty, up to `end` or the first damage, which is noted."""
        clock = self._clock()
        limit = float("inf")  # time of decoding after which nothing is read
        if self.end is not None:
            limit = float((self.end + SLACK) / self.time_base)
        packets = cast("Generator[av.Packet]", container.demux(stream))
        # PyAV leaks if the generator is dropped half way and not closed
        with closing(packets):
            try:
                for packet in packets:
                    stamp = None if self.end is None else packet.dts
                    if stamp is not None and clock.advance(stamp) > limit:
                        return
                    if packet.size:
                        yield packet
            except (MemoryError, OSError) as error:
                if not isinstance(error, av.FFmpegError):
                    raise
                self._note_damage(error)
            except Exception as error:  # noqa: BLE001 whatever the demuxer raises
                self._note_damage(error)

    def _note_damage(self, error: Exception) -> None:
        self.damage = self.damage or str(error) or type(error).__name__

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames in the order of showing, decoded from the first packet on.

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
        self.decode_begins()
        try:
            return self.decoder.decode(packet), False
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 whatever the decoder raises
            self._note_damage(error)
            return [], True

    def decode_begins(self) -> None:
        """To be called before each packet is decoded: a process that waits for it grants time for each picture."""
        progress.decode_begins(self.decoder.width, self.decoder.height)

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright, in the size of the first frame, should the size change on the way."""
        check_pixels(self.path, frame.width, frame.height)
        width, height = self._size
        self._num_pictures += 1
        check_clip(
            self.path,
            self._num_pictures,
            width or frame.width,
            height or frame.height,
        )
        try:
            rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
            self._size = (rgb.width, rgb.height)
            picture_HWC = rgb.to_ndarray()
            if _may_be_transparent(frame.format):
                picture_HWC = self._on_white(frame, picture_HWC)
            return np.rot90(picture_HWC, (frame.rotation // 90) % 4)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 whatever the converter raises
            raise BrokenVideo(
                self.path, f"has pictures that cannot be converted to RGB ({error})"
            ) from None

    def _on_white(self, frame: av.VideoFrame, rgb_HWC: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3): `rgb_HWC`, the frame in RGB, with white behind what is transparent."""
        rgba = self._reformatter.reformat(frame, *self._size, "rgba", threads=1)
        alpha_HW1 = rgba.to_ndarray()[:, :, 3:].astype(np.uint16)
        if alpha_HW1.min() == OPAQUE:
            return rgb_HWC
        mixed_HWC = rgb_HWC * alpha_HW1 + OPAQUE * (OPAQUE - alpha_HW1)
        return ((mixed_HWC + OPAQUE // 2) // OPAQUE).astype(np.uint8)

    def _description(self) -> str:
        """Codec, size and length, as far as the file says them before it is decoded."""
        properties = [
            self.decoder.name,
            f"{self.decoder.width} x {self.decoder.height}",
        ]
        if self.stream.frames:
            properties.append(f"{self.stream.frames:,} frames")
        if self.stream.duration:
            properties.append(f"{float(self.stream.duration * self.time_base):,.0f} s")
        return ", ".join(properties)

    def frame_rate(self) -> float:
        """Frames per second as the container says, DEFAULT_FRAME_RATE where it does not."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate or DEFAULT_FRAME_RATE)

    def packet_seconds(self) -> list[float]:
        """When each frame begins by the packets' time stamps; a damaged file may hold fewer frames."""
        packets = [packet for packet in self.packets() if not packet.is_discard]
        stamps = [packet.pts for packet in packets]
        if None not in stamps:
            stamps = self._sorted_between_restarts(packets)
        return self.seconds(stamps)

    def _sorted_between_restarts(self, packets: list[av.Packet]) -> list[int | None]:
        """The packets' time stamps in the order of showing; they may begin anew on the way."""
        stamps_of_runs: list[list[int]] = [[]]
        clock = self._clock()
        for packet in packets:
            if packet.dts is not None:
                clock.advance(packet.dts)
            if clock.restarts == len(stamps_of_runs):
                stamps_of_runs.append([])
            stamps_of_runs[-1].append(cast("int", packet.pts))
        return [stamp for run_stamps in stamps_of_runs for stamp in sorted(run_stamps)]

    def _clock(self) -> Clock:
        """A new clock of the stream's time stamps."""
        is_broadcast = bool(self._container.format.flags & TS_DISCONT)
        return Clock(self.time_base, 1 / self.frame_rate(), is_broadcast)

    def seconds(self, stamps: Sequence[int | None]) -> list[float]:
        """Time stamps in seconds after the first frame; frames without time stamps are evenly spaced.

        Where the time stamps begin anew, as in files that were joined, the seconds go on.
        """
        if None in stamps:
            rate = self.frame_rate()
            return [number / rate for number in range(len(stamps))]
        if not stamps:
            return []
        times = self._clock().times(np.array(stamps, np.int64))
        return (times * float(self.time_base)).tolist()


def _may_be_transparent(pixel_format: av.VideoFormat) -> bool:
    has_alpha = any(component.is_alpha for component in pixel_format.components)
    return has_alpha or pixel_format.has_palette


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
