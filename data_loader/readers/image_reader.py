"""Images, recognised by their first bytes (the files of CC3M have no extension).

A still picture is a clip of one frame; an animated WebP, PNG or AVIF is a clip of its pictures. (An animated GIF is a
video like any other.) What is transparent is shown on white.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from data_loader.readers import (
    READERS,
    BrokenVideo,
    Choose,
    Pictures,
    progress,
    requested_indices,
)
from data_loader.readers.limits import check_clip, check_pixels, current_limits
from data_loader.readers.regular_file import open_regular
from data_loader.readers.source import frame_range

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
BMP = b"BM"
TIFF = (b"II*\0", b"MM\0*")
AVIF = (b"ftypavif", b"ftypavis")
ANIMATED_FORMATS = ("WEBP", "PNG", "AVIF")
ORIENTATION = 0x0112  # EXIF tag: how the camera was held
BITS_PER_SAMPLE = 258  # TIFF tag
WHITE = (255, 255, 255)
DEFAULT_DURATION_MS = 40.0


def is_image(path: str) -> bool:
    """Whether the file begins as a JPEG, PNG, WebP, BMP, TIFF or AVIF does.

    Raises BrokenVideo for what is no regular file, OSError if it cannot be read.
    """
    with open_regular(path) as file:
        header = file.read(12) or b""
    is_webp = header[:4] == b"RIFF" and header[8:] == b"WEBP"
    is_avif = header[4:12] in AVIF
    return is_webp or is_avif or header.startswith((JPEG, PNG, BMP, *TIFF))


@READERS.register("image")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`; `start` and `end` have no effect on a still picture."""
    with open_picture(path) as image:
        numbers = _frame_numbers(image)
        if len(numbers) == 1:
            return _read_still(path, image, choose)
        return _read_animation(path, image, numbers, choose, start, end)


def frame_seconds(path: str) -> list[float]:
    """Seconds at which each frame begins: [0.0] of a still picture. Raises BrokenVideo, OSError."""
    with open_picture(path) as image:
        numbers = _frame_numbers(image)
        return [0.0] if len(numbers) == 1 else _seconds(path, image, numbers)


@contextmanager
def open_picture(path: str) -> "Iterator[Picture]":
    """The open picture, not yet decoded. Raises BrokenVideo, OSError."""
    from PIL import Image

    limit = current_limits().max_pixels
    if Image.MAX_IMAGE_PIXELS is not None:  # our limit holds, should it be the higher
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata
        with decoder_errors(path):
            try:
                image = Image.open(file)
            except Image.DecompressionBombError as error:
                raise BrokenVideo(
                    path,
                    f"has more than the {limit:,} pixels of video_params.max_pixels ({error})",
                ) from None
        with image:
            check_pixels(path, *image.size)
            progress.describe(f"{image.format} picture, {image.width} x {image.height}")
            yield image


@contextmanager
def decoder_errors(path: str) -> Iterator[None]:
    """Whatever Pillow raises is a BrokenVideo, but for want of memory and a disk that fails."""
    try:
        yield
    except (BrokenVideo, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenVideo(path, f"is no image that can be decoded ({reason})") from None


def upright_rgb(path: str, image: "Picture") -> "Picture":
    """The current frame in RGB, on white, turned as the camera was held. Raises BrokenVideo."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    progress.decode_begins(*image.size)
    with decoder_errors(path):
        image.load()
        check_pixels(path, *image.size)
        rgb = _on_white(path, image)
        turn = turns.get(_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: "Picture") -> int:
    """The number in the metadata, 1 (upright) if they hold none or cannot be read."""
    with suppress(Exception):
        orientation = image.getexif().get(ORIENTATION, 1)
        if isinstance(orientation, int):
            return orientation
    return 1


def _on_white(path: str, image: "Picture") -> "Picture":
    """In RGB, of 8 bits; what is transparent is white."""
    from PIL import Image

    if image.mode in ("I", "F"):
        raise BrokenVideo(
            path,
            "holds brightness as numbers of 32 bits, whose range is not known; convert it to 8 or 16 bits",
        )
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")

    transparent = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, WHITE)
    opaque.paste(transparent, mask=transparent.getchannel("A"))
    return opaque


def _to_8_bits(image: "Picture") -> "Picture":
    """A grey picture of 16 bits (in a TIFF also of less, in 16), scaled."""
    from PIL import Image

    bits = 16
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(BITS_PER_SAMPLE, (bits,))[0]
    most = (1 << bits) - 1
    values_HW = np.asarray(image).astype(np.uint32)
    scaled_HW = ((values_HW * 255 + most // 2) // most).clip(0, 255).astype(np.uint8)
    grey = Image.fromarray(scaled_HW)
    transparent_value = image.info.get("transparency")
    if isinstance(transparent_value, int):
        opaque_HW = np.where(values_HW == transparent_value, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(opaque_HW))
    return grey


def _read_still(path: str, image: "Picture", choose: Choose) -> Pictures:
    indices = requested_indices(choose, 1)
    if set(indices) != {0}:
        raise IndexError(f"{path}: frame {max(indices, key=abs)} is asked of an image")
    check_clip(path, len(indices), *image.size)
    picture_HWC = np.asarray(upright_rgb(path, image))
    return Pictures([picture_HWC] * len(indices), indices)


def _frame_numbers(image: "Picture") -> range:
    """Pillow's numbers of the frames of an animation; 0 alone of anything else."""
    num_frames = 1
    if image.format in ANIMATED_FORMATS:
        num_frames = max(1, getattr(image, "n_frames", 1))
    # the picture that stands in for the animation where that is not understood
    has_stand_in = num_frames > 1 and getattr(image, "default_image", False)
    return range(1 if has_stand_in else 0, num_frames)


def _read_animation(
    path: str,
    image: "Picture",
    numbers: range,
    choose: Choose,
    start: float | None,
    end: float | None,
) -> Pictures:
    """The frames of an animation, decoded from the first one on."""
    first, stop = 0, len(numbers)
    if start is not None or end is not None:
        seconds = _seconds(path, image, numbers)
        first, stop = frame_range(seconds, start, end)
        if first == stop:
            raise BrokenVideo(
                path,
                f"has no frame between {start or 0:g} and {end or seconds[-1]:g} s",
            )

    indices = requested_indices(choose, stop - first)
    outside = [index for index in indices if not 0 <= index < stop - first]
    if outside:
        raise IndexError(f"{path}: frame {outside[0]} is asked of {stop - first}")
    check_clip(path, len(indices), *image.size)

    pictures: dict[int, np.ndarray] = {}
    for index in range(-first, max(indices) + 1):
        _seek(path, image, numbers[first + index])
        if index in indices:
            pictures[index] = np.asarray(upright_rgb(path, image))
    return Pictures([pictures[index] for index in indices], indices)


def _seek(path: str, image: "Picture", number: int) -> None:
    progress.decode_begins(*image.size)
    with decoder_errors(path):
        image.seek(number)


def _seconds(path: str, image: "Picture", numbers: range) -> list[float]:
    """When each frame of an animation begins, in seconds after the first."""
    milliseconds = 0.0
    seconds = []
    for number in numbers:
        _seek(path, image, number)
        with decoder_errors(path):
            image.load()
            duration = float(image.info.get("duration") or DEFAULT_DURATION_MS)
        seconds.append(milliseconds / 1000)
        milliseconds += duration
    return seconds
