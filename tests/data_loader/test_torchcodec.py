"""The reader torchcodec: exact or read by av, with the library where it loads and with a stand-in everywhere."""

import ctypes
import logging
import mmap
import os
import re
import sys
from importlib.machinery import ModuleSpec

import av
import numpy as np
import pytest

from data_loader.reader import READERS, BrokenVideo, read_frames
from data_loader.readers import conversion, torchcodec_reader
from data_loader.readers.source import Source
from parse_config import ConfigError
from scripts.synthetic import clips
from scripts.synthetic.clip_files import write_clip
from tests.helpers.fake_torchcodec import FakeTorchcodec, torchcodec_loads

BOTH = ["fake", *(["real"] if torchcodec_loads() else [])]
BY_TORCHCODEC = [
    "h264.mp4",
    "h264.mov",
    "h264.flv",
    "h264-one-key.mp4",
    "h264-intra.mp4",
    "h264-pyramid.mp4",
    "h264-slices.mp4",
    "h264-baseline.mp4",
    "h264-inband.mp4",
    "h264-bt709.mp4",
    "h264-vfr.mp4",
    "h264-audio.mp4",
    "h264-two-streams.mp4",
    "h264-fragments.mp4",
    "h264-1.mp4",
    "h264-3.mp4",
    "hevc.mp4",
]
BY_AV = {  # name -> why
    "h264-10bit.mp4": "yuv420p10le",
    "h264-444-odd.mp4": "yuv444p",
    "h264-rotated-90.mp4": "is rotated",
    "h264-rotated-180.mp4": "is rotated",
    "h264-rotated-270.mp4": "is rotated",
    "h264-interlaced.mp4": "key frames",
    "h264-open-gop.mp4": "key frames",
    "hevc-open-gop.mp4": "key frames",
    "h264-short-gops.mp4": "key frames",
    "h264-edit-list.mp4": "key frames",
    "h264-truncated.mp4": "key frames",
    "h264-hole.mp4": "key frames",
    "h264.ts": "key frames",
    "vp9.webm": "neither H.264 nor HEVC",
    "av1.mp4": "neither H.264 nor HEVC",
    "mpeg4.avi": "neither H.264 nor HEVC",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in [*BY_TORCHCODEC, *BY_AV, "page.mp4"]:
        clips.make(name, folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(torchcodec_reader, "_is_said", bytearray(1))


@pytest.fixture
def fake(monkeypatch):
    module = FakeTorchcodec()
    monkeypatch.setitem(sys.modules, "torchcodec", module)
    monkeypatch.setattr(torchcodec_reader, "_listen", lambda library: None)
    return module


@pytest.fixture(params=BOTH)
def opened(request, monkeypatch):
    """The files that torchcodec, or its stand-in, has opened."""
    if request.param == "fake":
        return request.getfixturevalue("fake").opened

    files: list[str] = []
    open_video = torchcodec_reader._open

    def count(torchcodec, source):
        if not source.path.endswith("noise.mp4"):
            files.append(source.path)
        return open_video(torchcodec, source)

    monkeypatch.setattr(torchcodec_reader, "_open", count)
    return files


def read(path, choose, reader="torchcodec", **cut) -> tuple[list[np.ndarray], list]:
    frames, indices = READERS.get(reader)(str(path), choose, **cut)
    return list(frames), indices


def assert_as_by_av(path, choose, reader="torchcodec", **cut):
    frames, indices = read(path, choose, reader, **cut)
    expected, expected_indices = read(path, choose, "sequential", **cut)
    assert indices == expected_indices
    assert len(frames) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(frames, expected))


@pytest.mark.parametrize("name", BY_TORCHCODEC)
def test_what_is_proven_is_read_by_torchcodec(folder, opened, name, caplog):
    assert_as_by_av(folder / name, lambda length: [length - 1, 0, length // 2, 0])
    assert_as_by_av(folder / name, range)
    assert opened == [str(folder / name)] * 2
    assert not caplog.records


@pytest.mark.parametrize("name", BY_AV)
def test_the_rest_is_read_by_av(folder, opened, name, caplog):
    assert_as_by_av(folder / name, lambda length: [length - 1, 0, length // 2, 0])
    assert opened == []
    assert BY_AV[name] in caplog.text and f"{name} is read by 'av'" in caplog.text


@pytest.mark.parametrize("name", ["h264.mp4", "h264-vfr.mp4"])
def test_cut_by_seconds(folder, opened, name):
    for start, end in ((0.4, 0.8), (None, 0.2), (1.2, None), (0.41, 0.415)):
        assert_as_by_av(folder / name, range, start=start, end=end)
    assert len(opened) == 4
    for start, end in ((9, 10), (0.8, 0.4)):
        with pytest.raises(BrokenVideo, match="has no frame between"):
            read(folder / name, lambda length: [0], start=start, end=end)


def test_odd_requests(folder, opened, tmp_path):
    for indices in ([40], [0, 99], [-1]):
        with pytest.raises(IndexError, match=r"h264\.mp4"):
            read(folder / "h264.mp4", indices)
    with pytest.raises(BrokenVideo, match="web page"):
        read(folder / "page.mp4", [0])
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "none.mp4", [0], "torchcodec", deadline=None)
    assert opened == []


def test_names_that_ffmpeg_would_take_for_something_else(folder, opened, tmp_path):
    for name in ("a:b.mp4", "http:x.mp4", "50%d.mp4", "-x.mp4", "\u00fcber.mp4"):
        (tmp_path / name).write_bytes((folder / "h264.mp4").read_bytes())
        assert_as_by_av(tmp_path / name, [7])
    assert len(opened) == 5


def test_gaps_between_time_stamps(opened, tmp_path):
    times_ms = [40 * number + 3000 * (number > 9) for number in range(40)]
    write_clip(tmp_path / "gap.mp4", times_ms=times_ms, options=clips.x264())
    assert_as_by_av(tmp_path / "gap.mp4", [12, 9, 10, 11])
    assert_as_by_av(tmp_path / "gap.mp4", lambda length: [0], start=1.0, end=2.0)
    assert_as_by_av(tmp_path / "gap.mp4", range, start=3.0, end=3.6)
    assert len(opened) == 3


def test_pixels_that_are_not_square(opened, tmp_path):
    options = clips.x264(sar="2/1")
    write_clip(tmp_path / "wide.mp4", options=options)
    assert_as_by_av(tmp_path / "wide.mp4", [5])
    assert len(opened) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 64), (98, 66), (100, 62), (320, 240)])
@pytest.mark.parametrize("space", [1, 2, 5, 9])  # bt709, unspecified, bt601, bt2020
@pytest.mark.parametrize("pixels", conversion.FORMATS)
def test_colours(opened, tmp_path, monkeypatch, size, space, pixels):
    """Noise in every size and colour space: both FFmpegs come to the same RGB."""
    path = str(tmp_path / "colours.mp4")
    width, height = size
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "NOISE_HEIGHT", height)
        conversion.write_noise(path, conversion.ColourFormat(pixels, width, space))
    assert_as_by_av(path, [0])
    assert opened == [path]


# Pictures made of fields: by the arrangement of all pictures, or by the clock's mark of a picture.
ALL_FIELDS = b"\x06\x01\x01\x32\x80"
CLOCK_OF_FIELDS = b"\x06\x01\x07\x0a\0\x11\x11\x11\x11\x40\x80"
PROGRESSIVE = b"\x06\x01\x01\x04\x80"


def with_picture_timing(source, target, message: bytes, numbers: range) -> None:
    """Copy an H.264 file; the packets with these numbers get another message of picture timing."""
    unit = len(PROGRESSIVE).to_bytes(4, "big") + PROGRESSIVE
    changed_unit = len(message).to_bytes(4, "big") + message
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            data = bytes(packet)
            if number in numbers:
                assert data.count(unit) == 1
                data = data.replace(unit, changed_unit)
            new_packet = av.Packet(data)
            new_packet.pts, new_packet.dts = packet.pts, packet.dts
            new_packet.time_base = packet.time_base
            new_packet.is_keyframe = packet.is_keyframe
            new_packet.stream = copy
            output.mux(new_packet)


@pytest.mark.parametrize(
    ("message", "numbers"),
    [(ALL_FIELDS, range(40)), (CLOCK_OF_FIELDS, range(20, 30))],
    ids=["all", "middle"],
)
def test_pictures_flagged_as_interlaced(opened, tmp_path, message, numbers, caplog):
    """By a message in front of each picture, from the first or from the middle of the file on."""
    write_clip(tmp_path / "plain.mp4", options=clips.x264(pic_struct=1))
    path = tmp_path / "fields.mp4"
    with_picture_timing(tmp_path / "plain.mp4", path, message, numbers)
    with av.open(str(path)) as container:
        flags = [frame.interlaced_frame for frame in container.decode(video=0)]
    assert sum(flags) == len(numbers)

    assert_as_by_av(path, range)
    assert opened == [] and "interlac" in caplog.text


def test_messages_in_front_of_pictures(folder, tmp_path):
    buffering_period, timing, user_data = 0, 1, 5
    params = "hrd=1:vbv-bufsize=1000:vbv-maxrate=1000:" + clips.X265.format(0)
    write_clip(tmp_path / "timing.mp4", options=clips.x264(pic_struct=1))
    write_clip(tmp_path / "hrd.mp4", "libx265", options={"x265-params": params})
    expected = {
        folder / "h264.mp4": {user_data},
        folder / "hevc.mp4": set(),
        tmp_path / "timing.mp4": {user_data, timing},
        tmp_path / "hrd.mp4": {buffering_period, timing},
    }
    for path, types in expected.items():
        with Source(str(path)) as source:
            assert conversion.message_types(source) == types


@pytest.mark.parametrize(
    ("content", "types"),
    [
        (b"\x05\x02ab\x01\x01\x04\x80", [5, 1]),
        (b"\x05\xff\x01" + b"a" * 256 + b"\x2f\x01\x00\x80", [5, 47]),
        (b"\xff\x10\x01a\x13\x01a\x80", [271, 19]),
        (b"\x05\x04\0\0\3\1a\x2f\x01a\x80", [5, 47]),
        (b"\x80", []),
        (b"", []),
        (b"\x05\xff", []),
    ],
)
def test_types_of_messages(content, types):
    assert list(conversion.types_in_unit(content)) == types


@pytest.mark.parametrize(
    ("fault", "value", "reason"),
    [
        ("shift_colours", 1, "colours"),
        ("shift_seconds", 0.04, "time stamps"),
        ("extra_frames", 1, "time stamps"),
        ("error", RuntimeError("no more frames\nin the file"), r"\(no more frames\)"),
        ("error", IndexError(""), r"refused by torchcodec \(IndexError\)"),
        ("message", True, "damaged inside"),
    ],
)
def test_where_torchcodec_goes_wrong_av_reads(
    folder, fake, fault, value, reason, caplog
):
    setattr(fake, fault, value)
    assert_as_by_av(folder / "h264.mp4", lambda length: [length - 1, 3])
    (record,) = caplog.records
    message = record.getMessage()
    assert "h264.mp4 is read by 'av'" in message and "\n" not in message
    assert re.search(reason, message)


def test_messages_of_an_ffmpeg_are_heard(monkeypatch):
    """Of PyAV's own, which stands in for torchcodec's."""
    library = av.logging.__file__
    ffmpeg = ctypes.CDLL(library)
    heard = torchcodec_reader._ffmpeg_log
    try:
        torchcodec_reader._listen(library)
        monkeypatch.setattr(heard, "has_messages", False)
        ffmpeg.av_log(None, 40, b"a detail")
        assert not heard.has_messages
        for level in (32, 16, 16 + (7 << 8)):
            monkeypatch.setattr(heard, "has_messages", False)
            ffmpeg.av_log(None, level, b"concealing errors")
            assert heard.has_messages
    finally:
        ffmpeg.av_log_set_callback(None)
        torchcodec_reader._listen.cache_clear()


@pytest.mark.parametrize("seed", range(12))
def test_damage_inside_pictures(folder, opened, tmp_path, seed):
    """A few bytes of one picture are changed: FFmpeg conceals that, and only its log says so."""
    data = bytearray((folder / "h264-baseline.mp4").read_bytes())
    with av.open(str(folder / "h264-baseline.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    rng = np.random.default_rng(seed)
    packet = packets[rng.integers(len(packets))]
    for _ in range(3):
        data[packet.pos + 12 + rng.integers(packet.size - 14)] = rng.integers(256)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    for request in (rng.permutation(40)[:4].tolist(), range):
        frames, indices = read(path, request)
        expected, expected_indices = read(path, request, "av")
        assert indices == expected_indices
        assert all(np.array_equal(*pair) for pair in zip(frames, expected))


def test_it_is_said_once(folder, fake, caplog):
    for name in ("h264-10bit.mp4", "vp9.webm", "h264-10bit.mp4"):
        read(folder / name, [0])
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_it_is_said_once_by_all_processes(folder, fake, monkeypatch, caplog):
    monkeypatch.setattr(torchcodec_reader, "_is_said", mmap.mmap(-1, 1))
    pid = os.fork()
    if not pid:
        read(folder / "vp9.webm", [0])
        os._exit(0)
    os.waitpid(pid, 0)
    read(folder / "vp9.webm", [0])
    assert torchcodec_reader._is_said[0] == 1 and not caplog.records


class FailingFinder:
    """Makes `import torchcodec` raise an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        if name == "torchcodec":
            raise self.error
        return None


def message_without_torchcodec(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_frames(path, [3], "torchcodec", deadline=None)
    assert "\n" not in str(caught.value) and "or use reader 'av'" in str(caught.value)
    return str(caught.value)


def test_without_torchcodec(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    message = message_without_torchcodec(folder / "h264.mp4")
    assert "torchcodec is not installed; pip install" in message
    assert_as_by_av(folder / "h264.mp4", [3], reader="auto")


def test_without_ffmpeg(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", FakeTorchcodec(None))
    message = message_without_torchcodec(folder / "h264.mp4")
    assert "finds no FFmpeg" in message and "apt-get install ffmpeg" in message


@pytest.mark.parametrize(
    "error",
    [
        OSError("undefined symbol\nin a library"),
        RuntimeError("undefined symbol\n1. FFmpeg is not installed\n"),
        ImportError("undefined symbol\nhere"),
    ],
)
def test_a_torchcodec_that_does_not_load(folder, monkeypatch, error):
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(sys, "meta_path", [FailingFinder(error), *sys.meta_path])
    message = message_without_torchcodec(folder / "h264.mp4")
    assert "cannot be loaded (undefined symbol); install the release" in message
