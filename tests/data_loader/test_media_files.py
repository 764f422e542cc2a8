"""What a media file may be: odd metadata, kinds of pixels, sizes, files that are none, playlists, joined streams."""

import errno
import io
import os
import shutil
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from data_loader import transforms
from data_loader.decode import process, timestamps
from data_loader.decode.segments import read_segments
from data_loader.decode_cache import DecodeCache
from data_loader.reader import (
    READERS,
    BrokenVideo,
    Limits,
    count_frames,
    read_clip,
    read_frames,
)
from data_loader.readers import container, image_reader, source
from data_loader.readers.clock import Clock
from data_loader.readers.seek_plan import open_with_plan
from data_loader.settings import video_settings
from parse_config import ConfigError
from scripts.synthetic import clips
from scripts.synthetic.clip_files import write_clip

DEADLINES = [20, None]  # in a child process, and in this one
NUMBER = 37
ORIENTATION = 0x0112
EXIF_SHORT, EXIF_ASCII, EXIF_LONG, EXIF_RATIONAL = 3, 2, 4, 5


@pytest.fixture
def drawing() -> Image.Image:
    return Image.fromarray(clips.draw_number(NUMBER))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """h264.mp4, mpeg4.avi, h264.ts: 40 frames of 96 x 64."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("h264.mp4", "mpeg4.avi", "h264.ts"):
        clips.make(name, folder)
    return folder


def read_picture(path, deadline=20) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return read_frames(path, [0], deadline=deadline)[0].permute(1, 2, 0).numpy()


def numbers(frames_TCHW) -> list[int]:
    return [
        clips.read_number(frame_HWC)
        for frame_HWC in frames_TCHW.permute(0, 2, 3, 1).numpy()
    ]


def write_png(path, *chunks: tuple[bytes, bytes]) -> None:
    """Each chunk is a name and its data."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (*chunks, (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(data)


def end_child() -> None:
    """The next read has a child process of its own."""
    if process._idle_child is not None:
        process._idle_child.end()
        process._idle_child = None


def exif_of_type(value_type: int, count: int, value: bytes) -> bytes:
    """EXIF data whose orientation is of any type; up to 4 bytes of value stand in the entry, more behind it."""
    behind = b""
    if len(value) > 4:
        behind = value
        value = struct.pack("<I", 26)
    entry = struct.pack("<HHI", ORIENTATION, value_type, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + b"\1\0" + entry + bytes(4) + behind


# --- Odd metadata


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (exif_of_type(EXIF_SHORT, 1, b"\6\0"), True),
        (exif_of_type(EXIF_LONG, 1, b"\6\0\0\0"), True),
        (exif_of_type(EXIF_ASCII, 2, b"6\0"), False),
        (exif_of_type(EXIF_SHORT, 2, b"\6\0\6\0"), True),
        (exif_of_type(EXIF_RATIONAL, 1, struct.pack("<II", 6, 0)), False),
        (exif_of_type(EXIF_SHORT, 1, b"\x63\0"), False),
        (exif_of_type(99, 1, b"\6\0"), False),
        (exif_of_type(EXIF_ASCII, 2**31, b"6\0"), False),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
        (b"Exif\0\0nonsense", False),
    ],
)
@pytest.mark.parametrize("deadline", DEADLINES)
def test_a_jpeg_with_odd_exif_is_a_picture(tmp_path, drawing, exif, turned, deadline):
    path = tmp_path / "odd.jpg"
    drawing.save(path, exif=exif, quality=95)
    picture_HWC = read_picture(path, deadline)
    if turned:
        picture_HWC = np.rot90(picture_HWC)
    assert clips.read_number(picture_HWC) == NUMBER


@pytest.mark.parametrize("icc", [b"", b"x", b"nonsense" * 99, bytes(70000)])
def test_a_broken_colour_profile(tmp_path, drawing, icc):
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        drawing.save(tmp_path / name, icc_profile=icc)
        assert clips.read_number(read_picture(tmp_path / name)) == NUMBER


def test_several_pictures_in_one_jpeg(tmp_path, drawing):
    path = tmp_path / "several.jpg"
    other = Image.fromarray(clips.draw_number(5))
    drawing.save(path, "MPO", save_all=True, append_images=[other], quality=95)
    assert clips.read_number(read_picture(path)) == NUMBER
    data = bytearray(path.read_bytes())
    start = data.index(b"MPF\0") + 4
    data[start + 8 : start + 40] = b"\xff" * 32
    path.write_bytes(data)
    with suppress(BrokenVideo):
        assert clips.read_number(read_picture(path)) == NUMBER


def test_a_png_with_text_that_unpacks_to_much(tmp_path, drawing):
    path = tmp_path / "text.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (1 << 24), zip=True)
    drawing.save(path, pnginfo=info)
    with pytest.raises(BrokenVideo, match="text.png: is no image that can be decoded"):
        read_picture(path)


@pytest.mark.slow
@pytest.mark.parametrize("deadline", DEADLINES)
def test_whatever_the_bytes_it_is_frames_or_a_broken_video(tmp_path, drawing, deadline):
    """Single bytes are changed at random, mostly in the headers; nothing else is raised, nothing else ends."""
    more = [drawing.rotate(5)] * 2
    for name, options in (
        ("a.jpg", {"exif": exif_of_type(EXIF_SHORT, 1, b"\6\0")}),
        ("a.png", {"icc_profile": b"x" * 300}),
        ("a.webp", {}),
        ("a.tif", {}),
        ("a.bmp", {}),
        ("b.webp", {"save_all": True, "append_images": more}),
        ("b.png", {"save_all": True, "append_images": more}),
    ):
        drawing.save(tmp_path / name, **options)
    for name in ("h264-8.mp4", "mpeg4-3.avi", "h264.ts"):
        clips.make(name, tmp_path)
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "broken": 0}
    for path in sorted(tmp_path.iterdir()):
        original = path.read_bytes()
        for _ in range(20):
            data = bytearray(original)
            for position in rng.integers(0, min(400, len(data)), 6):
                data[position] = rng.integers(256)
            path.write_bytes(data)
            try:
                read_clip(path, lambda length: [0, length - 1], deadline=deadline)
                outcomes["read"] += 1
            except BrokenVideo as error:
                outcomes["broken"] += 1
                assert error.path == str(path) and "\n" not in error.reason
    assert min(outcomes.values()) > 10


# --- Kinds of pixels


def test_what_is_transparent_is_white(tmp_path):
    half_HW4 = np.zeros((4, 6, 4), np.uint8)
    half_HW4[:, :3] = (200, 100, 50, 255)
    half_HW4[:, 3:] = (0, 0, 0, 0)
    half_HW4[0, 0] = (0, 0, 0, 128)
    colour = Image.fromarray(half_HW4)
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.paste(0, (3, 0, 6, 4))
    grey = Image.fromarray(np.uint8([[10, 20]]))
    for name, image, options, expected in (
        ("rgba.png", colour, {}, {(1, 1): (200, 100, 50), (1, 4): (255,) * 3}),
        ("mixed.png", colour, {}, {(0, 0): (127,) * 3}),
        ("rgba.webp", colour, {"lossless": True}, {(1, 4): (255,) * 3}),
        ("rgba.tif", colour, {}, {(1, 1): (200, 100, 50), (1, 4): (255,) * 3}),
        (
            "la.png",
            colour.convert("LA"),
            {},
            {(1, 4): (255,) * 3, (1, 1): (124,) * 3},
        ),
        (
            "p.png",
            palette,
            {"transparency": 0},
            {(1, 1): (200, 100, 50), (1, 4): (255,) * 3},
        ),
        (
            "p-bytes.png",
            palette,
            {"transparency": b"\0\x80"},
            {(1, 4): (255,) * 3, (1, 1): (227, 177, 152)},
        ),
        ("p-opaque.png", palette, {}, {(1, 4): (0, 0, 0), (1, 1): (200, 100, 50)}),
        ("l-key.png", grey, {"transparency": 10}, {(0, 0): (255,) * 3}),
        (
            "rgb-key.png",
            colour.convert("RGB"),
            {"transparency": (200, 100, 50)},
            {(1, 1): (255,) * 3, (1, 4): (0, 0, 0)},
        ),
        ("gif.gif", palette, {"transparency": 0}, {(1, 4): (255,) * 3}),
    ):
        image.save(tmp_path / name, **options)
        picture_HWC = read_picture(tmp_path / name).astype(int)
        for position, colour_C in expected.items():
            assert abs(picture_HWC[position] - colour_C).max() <= 1, (name, position)


@pytest.mark.parametrize("codec", ["qtrle", "png"])
def test_what_is_transparent_in_a_video_is_white(tmp_path, codec):
    path = tmp_path / "a.mov"
    picture_HW4 = np.zeros((32, 32, 4), np.uint8)
    picture_HW4[:, :16] = (200, 100, 50, 255)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "argb" if codec == "qtrle" else "rgba"
        for _ in range(3):
            output.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture_HW4, format="rgba"))
            )
        output.mux(stream.encode())
    frame_HWC = read_frames(path, [2])[0].permute(1, 2, 0)
    assert frame_HWC[9, 9].tolist() == [200, 100, 50]
    assert frame_HWC[9, 20].tolist() == [255, 255, 255]


def test_cmyk_one_bit_and_palette(tmp_path):
    rgb = Image.new("RGB", (16, 16), (200, 30, 90))
    for name, image in (
        ("a.jpg", rgb.convert("CMYK")),
        ("a.tif", rgb.convert("CMYK")),
        ("p.png", rgb.quantize()),
        ("p.bmp", rgb.quantize()),
    ):
        image.save(tmp_path / name)
        assert abs(read_picture(tmp_path / name)[8, 8] - [200.0, 30, 90]).max() < 6
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "1.png")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "1.png")[..., 1], np.eye(8) * 255
    )


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_16_bits_is_scaled(tmp_path, name):
    values_HW = np.uint16([[0, 257, 128 * 257], [65535, 300, 40000]])
    Image.fromarray(values_HW).save(tmp_path / name)
    expected_HW = np.rint(values_HW / 257)
    np.testing.assert_array_equal(read_picture(tmp_path / name)[..., 0], expected_HW)


def test_grey_of_16_bits_with_a_transparent_value(tmp_path):
    pixels = zlib.compress(b"\0" + struct.pack(">2H", 1000, 25700))
    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    write_png(
        tmp_path / "key.png",
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", 1000)),
        (b"IDAT", pixels),
    )
    assert read_picture(tmp_path / "key.png")[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_known_range_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "a.tif")
    with pytest.raises(BrokenVideo, match="whose range is not known"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_pictures_are_upright(tmp_path, drawing, name, orientation):
    inverse = {
        1: lambda picture: picture,
        2: lambda picture: picture[:, ::-1],
        3: lambda picture: picture[::-1, ::-1],
        4: lambda picture: picture[::-1],
        5: lambda picture: picture.transpose(1, 0, 2),
        6: lambda picture: np.rot90(picture),
        7: lambda picture: np.rot90(picture, 2).transpose(1, 0, 2),
        8: lambda picture: np.rot90(picture, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(inverse(np.asarray(drawing))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tmp_path / name, exif=exif)
    picture_HWC = read_picture(tmp_path / name)
    assert picture_HWC.shape == (64, 96, 3)
    assert clips.read_number(picture_HWC) == NUMBER


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_an_animated_picture_is_a_clip(tmp_path, name):
    pictures = [Image.fromarray(clips.draw_number(number)) for number in range(6)]
    options = {"lossless": True} if name == "a.webp" else {}
    durations = [100, 100, 400, 100, 100, 100]
    path = tmp_path / name
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        **options,
    )
    assert count_frames(path) == 6
    assert timestamps.frame_seconds(path) == [0, 0.1, 0.2, 0.6, 0.7, 0.8]
    frames_TCHW, indices = read_clip(path, lambda length: [length - 1, 0, 2, 2])
    assert (numbers(frames_TCHW), indices) == ([5, 0, 2, 2], [5, 0, 2, 2])
    frames_TCHW, indices = read_clip(path, range, start=0.2, end=0.75)
    assert (numbers(frames_TCHW), indices) == ([2, 3, 4], [0, 1, 2])
    with pytest.raises(IndexError, match=name):
        read_frames(path, [6])
    with pytest.raises(BrokenVideo, match="has no frame between 9 and 10 s"):
        read_clip(path, range, start=9, end=10)


def test_an_animated_png_may_have_a_picture_that_stands_in_for_it(tmp_path):
    pictures = [Image.fromarray(clips.draw_number(number)) for number in (9, 1, 2)]
    path = tmp_path / "a.png"
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], default_image=True
    )
    frames_TCHW, _ = read_clip(path, range)
    assert numbers(frames_TCHW) == [1, 2]


def test_pages_of_a_tiff_are_no_clip(tmp_path, drawing):
    path = tmp_path / "a.tif"
    drawing.save(path, save_all=True, append_images=[drawing.rotate(90)])
    assert count_frames(path) == 1 and clips.read_number(read_picture(path)) == NUMBER


def test_avif(tmp_path, drawing):
    drawing.save(tmp_path / "a.avif", quality=95)
    assert clips.read_number(read_picture(tmp_path / "a.avif")) == NUMBER


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_pictures_that_are_stored_in_tiles_are_refused(videos, tmp_path, brand):
    """ffmpeg would give one tile for the whole."""
    data = (videos / "h264.mp4").read_bytes()
    assert data[4:8] == b"ftyp"
    path = tmp_path / "a.heic"
    path.write_bytes(data[:8] + brand + data[12:])
    with pytest.raises(BrokenVideo, match="is a HEIF picture.*convert it to JPEG"):
        read_picture(path)


def test_a_mistake_in_the_choice_is_not_taken_for_a_broken_picture(tmp_path, drawing):
    drawing.save(tmp_path / "a.png")

    def wrong(length):
        raise KeyError("a mistake in the choice")

    for deadline in DEADLINES:
        with pytest.raises(KeyError, match="choice"):
            read_clip(tmp_path / "a.png", wrong, deadline=deadline)


# --- Sizes


@pytest.mark.parametrize("deadline", DEADLINES)
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((20_000, 4_000), "has pictures of 20000 x 4000, more than the 64,000,000"),
        ((20_000, 10_000), "has more than the 64,000,000 pixels of video_params.max"),
    ],
)
def test_a_small_file_may_not_hold_a_giant_picture(tmp_path, size, reason, deadline):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((size[0] // 8 + 1) * size[1]))
    write_png(path, (b"IHDR", header), (b"IDAT", pixels))
    assert path.stat().st_size < 100_000
    with pytest.raises(BrokenVideo, match=f"bomb.png: {reason}"):
        read_picture(path, deadline)


def test_a_higher_limit_is_followed(tmp_path, monkeypatch):
    """Also where Pillow's own would forbid it."""
    path = tmp_path / "large.png"
    Image.new("1", (60, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenVideo, match="more than the 2,399 pixels"):
        read_frames(path, [0], deadline=None, limits=Limits(max_pixels=2399))
    frames_TCHW = read_frames(path, [0], deadline=None)
    assert frames_TCHW.shape == (1, 3, 40, 60)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "h264.ts"])
@pytest.mark.parametrize("deadline", DEADLINES)
def test_limits_of_videos(videos, name, deadline):
    path = videos / name
    frame_bytes = 96 * 64 * 3
    fits = Limits(max_pixels=96 * 64, max_clip_bytes=4 * frame_bytes)
    frames_TCHW, _ = read_clip(
        path, lambda length: [0, 1, 2, 39], deadline=deadline, limits=fits
    )
    assert numbers(frames_TCHW) == [0, 1, 2, 39]
    with pytest.raises(BrokenVideo, match=f"{name}: has pictures of 96 x 64, more"):
        read_frames(path, [0], deadline=deadline, limits=Limits(max_pixels=96 * 64 - 1))
    for indices in (range(5), [7] * 5):  # repeats take memory, too
        with pytest.raises(BrokenVideo, match=r"5 frames of 96 x 64 take 92,160 bytes"):
            read_frames(path, indices, deadline=deadline, limits=fits)


def test_pictures_that_grow_on_the_way(tmp_path):
    for name, size in (("a.ts", (96, 64)), ("b.ts", (192, 128))):
        write_clip(tmp_path / name, length=10, size=size, options=clips.x264())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(
        (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    )
    limits = Limits(max_pixels=100 * 64)
    assert numbers(read_frames(joined, [0, 3], limits=limits)) == [0, 3]
    with pytest.raises(BrokenVideo, match="has pictures of 192 x 128, more"):
        read_frames(joined, [15], limits=limits)


def test_limits_of_segments(videos):
    segments = [(0.0, 0.4), (0.4, 0.8)]
    one_less = Limits(max_clip_bytes=8 * 96 * 64 * 3 - 1)
    assert len(read_segments(videos / "h264.mp4", segments, 4)) == 2
    with pytest.raises(BrokenVideo, match="8 frames of 96 x 64"):
        read_segments(videos / "h264.mp4", segments, 4, limits=one_less)


def test_limits_are_settings(tmp_path, drawing):
    settings = video_settings({"max_pixels": 10, "max_clip_bytes": 20}, "test")
    assert settings.limits == Limits(10, 20)
    assert video_settings({}, "test").limits == Limits(64_000_000, 1 << 30)
    with pytest.raises(ConfigError, match="max_pixels: 0 is given, 1 or more"):
        video_settings({"max_pixels": 0}, "test")


@READERS.register("test-memory")
def reader_without_memory(path, choose, start=None, end=None):
    np.empty(1 << 60, np.uint8)


@pytest.mark.parametrize("deadline", DEADLINES)
def test_want_of_memory_is_a_broken_video(videos, deadline):
    with pytest.raises(BrokenVideo, match="h264.mp4: needs more memory"):
        read_frames(videos / "h264.mp4", [0], "test-memory", deadline=deadline)


def test_pictures_that_do_not_fit_into_the_shared_memory(videos, monkeypatch):
    expected = read_frames(videos / "h264.mp4", range(40), deadline=None)
    monkeypatch.setattr(process.worker, "SHARED_SIZE", 8192 + 96 * 64 * 3)
    end_child()  # it would not know
    try:
        for indices in ([5], range(40)):
            frames_TCHW = read_frames(videos / "h264.mp4", indices)
            assert torch.equal(frames_TCHW, expected[list(indices)])
    finally:
        end_child()


def test_a_clip_that_is_too_large_to_be_held_is_read_frame_by_frame(videos):
    cache = DecodeCache(1, 1 << 24)
    limits = Limits(max_clip_bytes=4 * 96 * 64 * 3)

    def read(choose):
        return read_clip(videos / "h264.mp4", choose, limits=limits)

    for _ in range(2):
        frames_TCHW, indices = cache.read(0, lambda length: [0, 9, 39], read)
        assert numbers(frames_TCHW) == indices == [0, 9, 39]
    assert cache.held == (0, 0)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 50_001)])
def test_very_long_pictures_take_little_memory(tmp_path, monkeypatch, size):
    pixels = []
    original = transforms.F.resize_image

    def recorded(clip_TCHW, *args, **options):
        resized = original(clip_TCHW, *args, **options)
        pixels.append(resized.numel())
        return resized

    monkeypatch.setattr(transforms.F, "resize_image", recorded)
    Image.new("RGB", size, (9, 200, 60)).save(tmp_path / "long.png")
    frames_TCHW = read_frames(tmp_path / "long.png", [0])
    for train in (True, False):
        transform = transforms.build_transform(
            train, norm_mean=(0, 0, 0), norm_std=(1, 1, 1)
        )
        video_TCHW = transform(frames_TCHW, torch.Generator().manual_seed(0))
        assert video_TCHW.shape == (1, 3, 224, 224)
        colour_C = (video_TCHW * 255).mean((0, 2, 3))
        assert torch.allclose(colour_C, torch.tensor([9.0, 200, 60]), atol=0.01)
    assert max(pixels) <= 3 * 256 * 256 * 17


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_long_picture_the_middle_is_seen(turned):
    generator = torch.Generator().manual_seed(0)
    clip_TCHW = torch.randint(
        0, 256, (2, 3, 8, 400), dtype=torch.uint8, generator=generator
    )
    if turned:
        clip_TCHW = clip_TCHW.transpose(2, 3)
    options = {"input_res": 16, "norm_mean": (0, 0, 0), "norm_std": (1, 1, 1)}
    video_TCHW = transforms.build_transform(False, **options)(clip_TCHW, None)
    whole_TCHW = transforms.F.resize_image(clip_TCHW, [18], antialias=True)
    whole_TCHW = transforms.F.center_crop(whole_TCHW, [18, 18])
    whole_TCHW = transforms.F.resize_image(whole_TCHW, [16, 16], antialias=True)
    assert (video_TCHW * 255 - whole_TCHW).abs().max() <= 1.01


# --- Files that are none


@contextmanager
def no_file(kind, folder):
    """The path of something that is no regular file."""
    path = folder / f"{kind}.mp4"
    server = None
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        os.chdir(folder)  # the address of a socket is short
        server.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    try:
        yield path
    finally:
        if server is not None:
            server.close()


READS = {
    "clip": lambda path, deadline: read_clip(
        path, lambda length: [0], deadline=deadline
    ),
    "decord": lambda path, deadline: read_clip(
        path, lambda length: [0], "av", deadline=deadline
    ),
    "frames": lambda path, deadline: read_frames(path, [0], deadline=deadline),
    "count": count_frames,
    "duration": timestamps.duration,
    "seconds": timestamps.frame_seconds,
    "segments": lambda path, deadline: read_segments(
        path, [(0.0, 1.0)], 2, deadline=deadline
    ),
}


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("deadline", DEADLINES)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind, read, deadline):
    monkeypatch.chdir(tmp_path)
    errors = []

    def attempt():
        try:
            READS[read](path, deadline)
        except Exception as error:  # noqa: BLE001 looked at below
            errors.append(error)

    with no_file(kind, tmp_path) as path:
        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(15)
        if thread.is_alive() and kind == "pipe":  # let it go
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    assert [type(error) for error in errors] == [BrokenVideo]
    assert str(errors[0]) == f"{path}: is a {kind}, no regular file"


@pytest.mark.parametrize("deadline", DEADLINES)
def test_a_file_that_is_not_there(tmp_path, deadline):
    for read in READS.values():
        with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
            read(tmp_path / "none.mp4", deadline)


@pytest.mark.parametrize("deadline", DEADLINES)
def test_what_is_no_path(deadline):
    with pytest.raises(BrokenVideo, match="is no path"):
        read_frames("a\0b.mp4", [0], deadline=deadline)


def test_a_disk_that_fails_is_an_oserror(videos, monkeypatch):
    """The data set says then which file it is, and tries it again."""

    def fail(size):
        raise OSError(errno.EIO, "Input/output error")

    original = container._InputFile.__init__

    def broken_file(self, path):
        original(self, path)
        self.read = fail

    monkeypatch.setattr(container._InputFile, "__init__", broken_file)
    with pytest.raises(OSError, match="Input/output error"):
        read_frames(videos / "h264.mp4", [0], "sequential", deadline=None)


def test_a_file_that_cannot_be_read_closes_what_it_opened(tmp_path, videos):
    (tmp_path / "page.mp4").write_text("<html>")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(BrokenVideo):
            read_frames(tmp_path / "page.mp4", [0], deadline=None)
        with pytest.raises(BrokenVideo):
            limits = Limits(max_pixels=1)
            read_frames(videos / "h264.mp4", [0], deadline=None, limits=limits)
    assert len(os.listdir("/proc/self/fd")) == before


# --- Files that name other files


SESSION = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
MANIFEST = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1.6S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
    'bandwidth="1"><BaseURL>{video}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
PLAYLISTS = {
    "list.mp4": "ffconcat version 1.0\nfile {video}\n",
    "list.ffconcat": "ffconcat version 1.0\nfile h264.mp4\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\n{video}\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nh264.ts\n#EXT-X-ENDLIST\n",
    "address.sdp": SESSION,
    "address.mp4": SESSION,
    "manifest.mpd": MANIFEST,
    "manifest.mp4": MANIFEST,
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("reader", ["av", "decord", "sequential"])
def test_playlists_are_refused(tmp_path, videos, name, reader):
    if reader == "decord":
        pytest.importorskip("decord")
    for video in ("h264.mp4", "h264.ts"):
        shutil.copy(videos / video, tmp_path)
    text = PLAYLISTS[name].format(video=tmp_path / "h264.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(BrokenVideo, match="is a playlist, which only names other"):
        read_frames(tmp_path / name, [0], reader)


def test_a_pattern_of_names_is_a_name(tmp_path, drawing, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        drawing.save(f"a{number}.ppm")
        Image.fromarray(clips.draw_number(5)).save(f"b{number}.gif")
    for name in ("a%d.ppm", "a*.ppm", "a%d.gif"):
        with pytest.raises(FileNotFoundError):
            read_frames(name, [0])
    shutil.copy("a1.ppm", "b%d.ppm")
    shutil.copy("b1.gif", "c%d.gif")
    assert numbers(read_frames("b%d.ppm", [0])) == [NUMBER]
    assert numbers(read_frames("c%d.gif", [0])) == [5]


def test_what_ffmpeg_would_fetch_is_a_name(tmp_path, monkeypatch, videos):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    shutil.copy(videos / "h264.mp4", tmp_path / "http:/h264.mp4")
    for reader in ("av", "sequential"):
        assert numbers(read_frames("http:/h264.mp4", [3], reader)) == [3]


def test_nothing_else_is_opened(videos, monkeypatch):
    """The demuxers are those of the list, no protocol is open to them."""
    assert container.CONTAINER_OPTIONS["protocol_whitelist"] == "none"
    formats = set(container.CONTAINER_OPTIONS["format_whitelist"].split(","))
    others = {"concat", "hls", "dash", "sdp", "rtsp", "image2", "lavfi", "tty", "imf"}
    assert not formats & others
    with pytest.raises(av.FFmpegError):
        av.open(
            io.BytesIO(b"ffconcat version 1.0\nfile x.mp4\n"),
            container_options=container.CONTAINER_OPTIONS,
        )


# --- Joined streams


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ts", {"options": clips.x264()}),
        ("b.ts", {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}),
        ("a.mpg", {"codec": "mpeg1video", "options": {"bf": "2", "g": "12"}}),
    ],
)
def test_seconds_go_on_where_time_stamps_begin_anew(tmp_path, name, options):
    write_clip(tmp_path / name, length=20, **options)
    path = tmp_path / f"joined-{name}"
    path.write_bytes((tmp_path / name).read_bytes() * 3)
    expected = [number / 25 for number in range(60)]
    assert timestamps.frame_seconds(path) == pytest.approx(expected)
    assert timestamps.duration(path) == pytest.approx(2.4)
    with source.Source(str(path)) as clip:
        stamps = [frame.pts for frame in clip.frames()]
        assert clip.seconds(stamps) == pytest.approx(expected)
    frames_TCHW, _ = read_clip(path, range, start=0.6, end=1.0)
    assert numbers(frames_TCHW) == [15, 16, 17, 18, 19, 0, 1, 2, 3, 4]
    frames_TCHW, _ = read_clip(path, range, start=2.2)
    assert numbers(frames_TCHW) == [15, 16, 17, 18, 19]


def test_a_clock():
    def times(stamps, is_broadcast):
        clock = Clock(Fraction(1, 100), 0.04, is_broadcast)
        at_once = Clock(Fraction(1, 100), 0.04, is_broadcast).times(np.array(stamps))
        one_by_one = [clock.advance(stamp) for stamp in stamps]
        assert at_once.tolist() == one_by_one
        return one_by_one, clock.restarts

    assert times([7, 11, 15, 7, 11, 15], True) == ([0, 4, 8, 12, 16, 20], 1)
    assert times([7, 11, 15, 7, 11, 15], False) == ([0, 4, 8, 12, 16, 20], 1)
    assert times([500, 504, 300, 304], False) == ([0, 4, 8, 12], 1)
    # a jump ahead of more than ten seconds is a joint of a broadcast, and a pause elsewhere
    assert times([0, 4, 2000, 2004], True) == ([0, 4, 8, 12], 1)
    assert times([0, 4, 2000, 2004], False) == ([0, 4, 2000, 2004], 0)
    assert times([0, 4, 900], True) == ([0, 4, 900], 0)
    # frames out of order are no joint
    assert times([0, 8, 4, 12], False) == ([0, 8, 4, 12], 0)
    assert times([0, 8, 4, 12], True) == ([0, 8, 4, 12], 0)


# --- Proofs


@pytest.mark.parametrize(
    ("version", "pix_fmt", "has_plan"),
    [
        (b"165", "yuv444p", True),
        (b"151", "yuv444p", True),
        (b"150", "yuv444p", False),
        (b"150", "yuv420p", True),
        (b"034", "yuv420p", True),
        (b"033", "yuv420p", False),
    ],
)
def test_no_plan_where_decoding_depends_on_the_version_of_x264(
    tmp_path, version, pix_fmt, has_plan
):
    """ffmpeg knows it from the first packet, which a jump leaves out."""
    path = tmp_path / "a.mp4"
    write_clip(path, pix_fmt=pix_fmt, options=clips.x264())
    data = path.read_bytes()
    start = data.index(b"x264 - core ") + 12
    path.write_bytes(data[:start] + version + data[start + 3 :])
    with open_with_plan(str(path)) as (_, plan):
        assert (plan is not None) == has_plan
    expected = read_frames(path, range(40), "sequential")
    assert torch.equal(read_frames(path, [30, 17]), expected[[30, 17]])


def test_a_disk_that_does_not_answer_costs_the_deadline(videos, monkeypatch):
    """Opening happens in the child, within the deadline."""
    monkeypatch.setattr(os, "stat", lambda *args, **options: time.sleep(1000))
    end_child()
    try:
        with pytest.raises(BrokenVideo, match="did not return within 0.3 s; raise"):
            read_clip(str(videos / "h264.mp4"), lambda length: [0], deadline=0.3)
    finally:
        monkeypatch.undo()


def test_image_reader_says_what_it_is():
    assert READERS.get("image") is image_reader.read
