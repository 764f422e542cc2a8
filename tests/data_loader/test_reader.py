"""The frames of every reader against a plain sequential decode, on clips that carry their number in the picture."""

import importlib.util
import sys
import types

import av
import numpy as np
import pytest
import torch

from data_loader import settings
from data_loader.reader import (
    READERS,
    BrokenVideo,
    count_frames,
    read_clip,
    read_frames,
)
from data_loader.readers import av_reader, decord_reader, source
from data_loader.readers.seek_plan import open_with_plan
from data_loader.settings import video_settings
from parse_config import ConfigError
from scripts import frame_matrix
from scripts.synthetic import clips
from scripts.synthetic.clip_files import write_clip
from tests.helpers.fake_torchcodec import torchcodec_loads

NAMES = ["auto", "av", *(["decord"] if importlib.util.find_spec("decord") else [])]
NAMES += ["torchcodec"] if torchcodec_loads() else []
TURNS = {"h264-rotated-90.mp4": 1, "h264-rotated-180.mp4": 2, "h264-rotated-270.mp4": 3}
DAMAGED = {
    "h264-truncated.mp4": {*range(24)},
    "h264-hole.mp4": {*range(13), *range(24, 40)},  # what is left of 40
    "mpeg4-truncated.avi": {*range(19)},
    "h264-cut.ts": {*range(24, 40)},
}
JUMPS = {
    name
    for name in clips.H264
    if name
    not in {
        "h264.ts",
        "h264.avi",
        "h264.h264",
        "h264-interlaced.mp4",
        "h264-edit-list.mp4",
    }
} | {
    name
    for name in clips.VIDEOS
    if name.startswith(("hevc", "vp9", "av1")) and name != "hevc.ts"
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in [*clips.VIDEOS, *clips.BROKEN]:
        clips.make(name, folder)
    return folder


def truth(path) -> list[np.ndarray]:
    """Every frame that PyAV gives, upright."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.best("video")))
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4)
            for frame in frames
        ]


def drawn(picture) -> int:
    """The number in a picture, -1 if it is damaged."""
    try:
        return clips.read_number(picture)
    except AssertionError:
        return -1


def pictures(frames_TCHW) -> list[np.ndarray]:
    return list(frames_TCHW.permute(0, 2, 3, 1).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in clips.VIDEOS if name not in DAMAGED])
def test_frames_are_those_of_a_sequential_decode(folder, name):
    path = folder / name
    expected = truth(path)
    length = len(expected)
    assert count_frames(path) == length
    ahead = 7 if name == "h264-edit-list.mp4" else 0
    upright = [np.rot90(picture, -TURNS.get(name, 0)) for picture in expected]
    assert [clips.read_number(picture) for picture in upright] == list(
        range(ahead, length + ahead)
    )
    assert length + ahead == 40 or f"-{length}." in name
    mixed = [length - 1, 0, length // 2, length // 3, length // 2]
    for reader in NAMES:
        for indices in (
            mixed,
            *(
                [i]
                for i in {0, 1, length // 4, length * 2 // 3, length - 1}
                if i < length
            ),
        ):
            frames_TCHW = read_frames(path, indices, reader)
            assert frames_TCHW.dtype == torch.uint8
            for index, picture in zip(indices, pictures(frames_TCHW)):
                np.testing.assert_array_equal(
                    picture, expected[index], err_msg=f"{reader} {index}"
                )
        frames_TCHW, indices = read_clip(path, lambda count: list(range(count)), reader)
        assert indices == list(range(length))
        assert all(
            np.array_equal(*pair) for pair in zip(pictures(frames_TCHW), expected)
        )


@pytest.mark.parametrize("name", DAMAGED)
def test_of_a_damaged_file_the_frames_that_can_be_decoded_are_given(folder, name):
    length = count_frames(folder / name)
    for reader in NAMES:
        numbers = [
            drawn(picture)
            for picture in pictures(read_frames(folder / name, range(length), reader))
        ]
        assert set(numbers) >= DAMAGED[name] and len(numbers) - len(DAMAGED[name]) <= 3
        assert (
            drawn(pictures(read_frames(folder / name, [5], reader))[0])
            == numbers[5]
            in DAMAGED[name]
        )


def test_jumps_happen_where_they_are_proven_and_only_there(folder):
    jumped = set()
    for name in clips.VIDEOS:
        with open_with_plan(str(folder / name)) as (_, plan):
            if plan:
                jumped.add(name)
    assert jumped == JUMPS
    seekable = set()
    for name in JUMPS:
        with open_with_plan(str(folder / name)) as (_, plan):
            if decord_reader.can_seek(plan):
                seekable.add(name)
    assert seekable < JUMPS and not seekable & {
        "h264-open-gop.mp4",
        "h264-short-gops.mp4",
    }


@pytest.mark.parametrize("name", sorted(JUMPS))
def test_decord_gets_only_pictures_of_8_bits_and_420(folder, name, monkeypatch):
    odd = {"h264-10bit.mp4", "h264-444-odd.mp4"}
    is_plain = name.startswith("h264") and name not in odd
    with open_with_plan(str(folder / name), parsed=True) as (clip, plan):
        assert decord_reader.is_plain_h264(clip) == is_plain
        can_seek = is_plain and decord_reader.can_seek(plan)
    sought = []

    def seek(decord, path, length, positions):
        sought.append(path)
        raise RuntimeError("whatever decord raises")

    monkeypatch.setitem(sys.modules, "decord", types.ModuleType("decord"))
    monkeypatch.setattr(decord_reader, "_seek", seek)
    frames_TCHW = read_frames(folder / name, [0], "decord", deadline=None)
    assert bool(sought) == can_seek
    assert torch.equal(frames_TCHW, read_frames(folder / name, [0], "sequential"))


@pytest.mark.parametrize("name", ["mpeg4.avi", "hevc.mp4", "vp9.webm", "h264.ts"])
def test_decord_gets_nothing_but_h264_with_a_plan(folder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", types.ModuleType("decord"))
    monkeypatch.setattr(decord_reader, "_seek", None)
    with source.Source(str(folder / name)) as clip:
        assert not decord_reader.is_plain_h264(clip)
    frames_TCHW = read_frames(folder / name, [7, 3], "decord", deadline=None)
    expected_TCHW = read_frames(folder / name, [7, 3], "sequential")
    assert torch.equal(frames_TCHW, expected_TCHW)


def test_what_decord_reads_is_said_once(caplog):
    caplog.set_level("INFO")
    settings._say_what_decord_reads.cache_clear()
    for _ in range(3):
        assert video_settings({}, "train", reader="decord").reader == "decord"
    assert caplog.text.count("reader 'av' reads the others") == 1


class Counting:
    """A decoder that counts the packets it receives."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.count = 0

    def decode(self, packet):
        self.count += packet is not None
        return self.decoder.decode(packet)

    def __getattr__(self, name):
        return getattr(self.decoder, name)


def test_only_what_is_needed_is_decoded(folder):
    with open_with_plan(str(folder / "h264.mp4")) as (clip, plan):
        clip.decoder = Counting(clip.decoder)
        av_reader.decode_positions(clip, plan, {2, 26})
        assert clip.decoder.count <= 6
    with source.Source(str(folder / "mpeg4.avi")) as clip:
        clip.decoder = Counting(clip.decoder)
        av_reader.decode_sequentially(clip, {3}, stop_early=True)
        assert clip.decoder.count <= 6


def test_damage_that_only_the_decoder_sees(folder, tmp_path):
    """A slice of nonsense: the table of packets looks well, the frames that need it come as from the first frame on."""
    data = bytearray((folder / "h264.mp4").read_bytes())
    with av.open(str(folder / "h264.mp4")) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][13]
    data[packet.pos + 7 : packet.pos + packet.size] = b"\xff" * (packet.size - 7)
    path = tmp_path / "nonsense.mp4"
    path.write_bytes(data)
    with (
        open_with_plan(str(path)) as (clip, plan),
        pytest.raises(av_reader.NotAsPlanned),
    ):
        av_reader.decode_positions(clip, plan, {20})
    length = count_frames(path)
    whole = [drawn(picture) for picture in pictures(read_frames(path, range(length)))]
    assert (
        length < 40
        and whole[:12] == list(range(12))
        and whole[-16:] == list(range(24, 40))
    )
    assert drawn(pictures(read_frames(path, [5]))[0]) == 5


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi"])
def test_files_too_large_to_hold_are_read_again(folder, name, monkeypatch):
    expected = truth(folder / name)
    monkeypatch.setattr(source, "MAX_HELD_BYTES", 1000)
    for choose in ([39, 0, 17], lambda length: [length - 1, 0, 17]):
        frames, indices = READERS.get("av")(str(folder / name), choose)
        assert indices == [39, 0, 17] and all(
            np.array_equal(frame, expected[i]) for frame, i in zip(frames, indices)
        )


def test_what_lies_far_behind_the_end_is_not_read(folder):
    with source.Source(str(folder / "gif.gif"), end=0.5) as clip:
        assert 5 <= len(list(clip.packets())) <= 27  # of 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "h264.mp4",
        "h264-vfr.mp4",
        "mpeg4.avi",
        "h264.ts",
        "gif.gif",
        "h264-edit-list.mp4",
    ],
)
@pytest.mark.parametrize("reader", NAMES)
def test_cut_by_seconds(folder, name, reader):
    with av.open(str(folder / name)) as container:
        times = [
            frame.time for frame in container.decode(container.streams.best("video"))
        ]
    times = (
        [i / 25 for i in range(len(times))]
        if None in times
        else [time - times[0] for time in times]
    )
    whole = [clips.read_number(picture) for picture in truth(folder / name)]
    for start, end in ((0.4, 0.8), (None, 0.2), (1.2, None), (0.0, 0.04)):
        inside = [
            n
            for n, t in zip(whole, times)
            if (start or 0) - 1e-6 <= t < (end or 99) - 1e-6
        ]
        frames_TCHW, indices = read_clip(
            folder / name, lambda count: range(count), reader, start, end
        )
        assert [
            clips.read_number(picture) for picture in pictures(frames_TCHW)
        ] == inside
        assert indices == list(range(len(inside)))
    frames_TCHW, indices = read_clip(
        folder / name, lambda count: [count - 1], reader, 0.41, 0.415
    )  # shown, not begun
    shown = [n for n, t in zip(whole, times) if t <= 0.41][-1]
    assert clips.read_number(pictures(frames_TCHW)[0]) == shown and indices == [0]
    for start, end in ((9, 10), (0.8, 0.4)):
        with pytest.raises(BrokenVideo, match=f"{name}: has no frame between"):
            read_clip(folder / name, lambda count: [0], reader, start, end)


@pytest.mark.parametrize("name", clips.BROKEN)
def test_broken_files_say_which_and_why(folder, name):
    path = str(folder / name)
    reasons = {
        "empty.mp4": "is empty",
        "page.mp4": "web page",
        "sound.mp4": "no video stream",
        "sound.m4a": "no video",
    }
    for reader in NAMES:
        for attempt in (
            lambda r: read_frames(path, [0], r),
            lambda r: read_clip(path, lambda length: [0], r),
            lambda r: count_frames(path),
        ):
            with pytest.raises(BrokenVideo) as caught:
                attempt(reader)
            assert caught.value.path == path and path in str(caught.value)
            assert reasons.get(name, "is no video") in caught.value.reason


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "none.mp4", [0])
    with pytest.raises(BrokenVideo, match="is a folder"):
        read_frames(tmp_path, [0])
    with pytest.raises(ConfigError, match="decord"):
        read_frames(tmp_path / "none.mp4", [0], "decort")


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "h264.ts"])
@pytest.mark.parametrize("reader", NAMES)
def test_an_index_that_is_not_there(folder, name, reader):
    for indices in ([40], [0, 99], [-1]):
        with pytest.raises(IndexError, match=name):
            read_frames(folder / name, indices, reader)
    with pytest.raises(ValueError, match="no frame is asked for"):
        read_frames(folder / name, [], reader)


def test_a_file_that_holds_fewer_frames_than_it_says(folder):
    lengths = []

    def choose(length):
        lengths.append(length)
        return [0, length - 1]

    length = count_frames(folder / "h264-hole.mp4")
    frames_TCHW, indices = read_clip(folder / "h264-hole.mp4", choose)
    assert indices == [0, length - 1] and lengths[-1] == length < lengths[0]
    assert [clips.read_number(picture) for picture in pictures(frames_TCHW)] == [0, 39]


def test_pictures_that_change_size_come_in_the_size_of_the_first(tmp_path):
    for name, size in (("a.ts", (96, 64)), ("b.ts", (128, 80))):
        write_clip(tmp_path / name, length=10, size=size, options=clips.x264())
    (tmp_path / "ab.ts").write_bytes(
        (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    )
    length = count_frames(tmp_path / "ab.ts")
    frames_TCHW = read_frames(tmp_path / "ab.ts", range(length))
    assert length > 10 and frames_TCHW.shape == (length, 3, 64, 96)
    assert [clips.read_number(picture) for picture in pictures(frames_TCHW)][
        :9
    ] == list(range(9))
    for reader in NAMES:
        alone_TCHW = read_frames(tmp_path / "ab.ts", [length - 1], reader)
        assert torch.equal(alone_TCHW, frames_TCHW[-1:])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ""])
def test_images_are_clips_of_one_frame(tmp_path, suffix):
    from PIL import Image

    path = tmp_path / f"picture{suffix}"
    Image.fromarray(clips.draw_number(37)).save(
        path,
        format={".jpg": "JPEG", "": "JPEG"}.get(suffix),
        **({"quality": 95} if suffix in (".jpg", "") else {}),
    )
    for reader in NAMES:
        frames_TCHW, indices = read_clip(
            path, lambda length: [0] * (length + 3), reader
        )
        assert (
            frames_TCHW.shape == (4, 3, 64, 96)
            and indices == [0, 0, 0, 0]
            and count_frames(path) == 1
        )
        assert clips.read_number(pictures(frames_TCHW)[3]) == 37
    with pytest.raises(IndexError):
        read_frames(path, [1])


def test_odd_images(tmp_path):
    from PIL import Image

    grey = Image.fromarray(clips.draw_number(5)[:, :, 0])
    grey.save(tmp_path / "grey.png")
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    grey.convert("CMYK").save(tmp_path / "cmyk.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    grey.save(tmp_path / "turned.jpg", exif=turned)
    for name in ("grey.png", "alpha.png", "cmyk.jpg"):
        assert read_frames(tmp_path / name, [0]).shape == (1, 3, 64, 96)
    assert read_frames(tmp_path / "turned.jpg", [0]).shape == (1, 3, 96, 64)
    data = (tmp_path / "cmyk.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "page").write_text("<html>not found</html>")
    for name in ("half.jpg", "page"):
        with pytest.raises(BrokenVideo, match=name):
            read_frames(tmp_path / name, [0])


def test_names_that_ffmpeg_would_take_for_something_else(tmp_path):
    for name in (
        "-4wsuPCjDBc_5_15.avi",
        "a:b.avi",
        "50%d.avi",
        "x..mp4",
        "ohne",
        "\u00fcber.avi",
        "http:x.avi",
    ):
        write_clip(tmp_path / "it.avi", "mpeg4", length=2)
        (tmp_path / "it.avi").rename(tmp_path / name)
        assert read_frames(str(tmp_path / name), [1]).shape == (1, 3, 64, 96)


def test_without_decord(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert read_frames(folder / "h264.mp4", [3], "auto", deadline=None).shape == (
        1,
        3,
        64,
        96,
    )
    with pytest.raises(ConfigError, match="decord is not installed"):
        read_frames(folder / "h264.mp4", [3], "decord", deadline=None)


def test_the_readers_are_known():
    assert {"auto", "av", "decord", "image", "sequential", "torchcodec"} <= {
        *READERS.names()
    }


def test_the_matrix_script_finds_no_wrong_frame(folder, capsys):
    files = [
        str(folder / name) for name in ("h264-open-gop.mp4", "mpeg4.avi", "page.mp4")
    ]
    assert frame_matrix.main(files) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert (
        "jumps" in rows["h264-open-gop.mp4"] and "from the start" in rows["mpeg4.avi"]
    )
    assert "web page" in rows["page.mp4"]
    columns = 2 + ("decord" in NAMES) + ("torchcodec" in NAMES)
    for name in ("h264-open-gop.mp4", "mpeg4.avi"):
        assert rows[name].split().count("ok") == columns
