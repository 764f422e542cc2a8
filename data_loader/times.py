"""When the frames of a file are shown."""
import os

from data_loader.readers.image_reader import is_image
from data_loader.readers.source import Source


def frame_seconds(path: str | os.PathLike) -> list[float]:
    """Seconds after the first frame at which each frame begins, by the container's word and without decoding; [0.0] of
    an image. A damaged file may hold fewer frames. Raises BrokenVideo for what is no video, OSError."""
    path = os.fspath(path)
    if is_image(path):
        return [0.0]
    with Source(path) as source:
        stamps = [packet.pts for packet in source.packets() if not packet.is_discard]
        return source.seconds(stamps if None in stamps else sorted(stamps))
