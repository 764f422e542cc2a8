"""The clips that scripts/bench.py loader reads: any codec, copies as for training, and very long ones."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream

from scripts.data_copy.video import Settings, write_video

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise

RATE = 25  # frames per second


class Encoding(NamedTuple):
    """An encoder of FFmpeg's, the extension of its files, its options."""

    encoder: str
    suffix: str
    options: dict[str, str]


H264 = Encoding("libx264", ".mp4", {"crf": "23"})


def write_set(
    folder: Path,
    clips: int,
    size: tuple[int, int] = (596, 336),
    frames: int = 250,
    encoding: Encoding = H264,
) -> list[Path]:
    """Clips of drifting texture and moving boxes: something for motion vectors and residuals to do."""
    paths = []
    for number in range(clips):
        paths.append(folder / f"{number:03d}{encoding.suffix}")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream(
                encoding.encoder, rate=RATE, options=encoding.options
            )
            assert isinstance(stream, VideoStream)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for picture_HWC in moving_pictures(number, size, frames):
                frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return paths


def moving_pictures(
    seed: int, size: tuple[int, int], frames: int
) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3): a window that drifts over a texture, noise, and a box of changing grey that moves right."""
    width, height = size
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 255, (24, 42, 3)), np.ones((32, 32, 1))).astype(
        np.uint8
    )
    noise = rng.integers(-12, 12, ground.shape).astype(np.int16)
    for i in range(frames):
        top = (i * (1 + seed % 3)) % 300
        left = (2 * i) % 600
        window = ground[top : top + height, left : left + width].astype(np.int16)
        window += np.roll(noise, i, 1)[:height, :width]
        picture = window.clip(0, 255).astype(np.uint8)
        box_left = (5 * i) % 500
        picture[40:120, box_left : box_left + 80] = rng.integers(0, 255)
        yield np.ascontiguousarray(picture)


def prepare(paths: list[Path], folder: Path) -> list[Path]:
    """Copies as scripts/prepare_data.py makes them."""
    folder.mkdir()
    copies = [folder / f"{path.stem}.mp4" for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        write_video(path, copy, Settings(256, 12, 20))
    return copies


def repeat_video(path: Path, target: Path, times: int) -> None:
    """The video `times` over in one file, its packets as they are: each round begins with a key frame."""
    with av.open(str(path)) as container, av.open(str(target), "w") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream, opaque=True)
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = [packet.pts for packet in packets if packet.pts is not None]
        duration = round(
            (max(stamps) - min(stamps)) * len(packets) / (len(packets) - 1)
        )

        for number in range(times):
            for packet in packets:
                assert packet.pts is not None and packet.dts is not None
                repeated = av.Packet(bytes(packet))
                repeated.pts = packet.pts + number * duration
                repeated.dts = packet.dts + number * duration
                repeated.duration = packet.duration
                repeated.time_base = packet.time_base
                repeated.is_keyframe = packet.is_keyframe
                repeated.stream = copy
                output.mux(repeated)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py loader --help")
