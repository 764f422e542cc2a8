"""The copy of scripts/prepare_data.py has the reader's frames, follows its source, and fails in one line."""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from data_loader.annotations.file_lookup import find_file
from data_loader.datasets import DATASETS
from data_loader.decode import process
from data_loader.decode.timestamps import frame_seconds
from data_loader.reader import BrokenVideo, count_frames, read_frames
from data_loader.readers.seek_plan import open_with_plan
from data_loader.readers.source import Source
from scripts import prepare_data
from scripts.data_copy import files, pool
from scripts.data_copy.listing import target_names
from scripts.data_copy.shards import shard_key
from scripts.data_copy.video import Settings, scaled_size, write_video
from scripts.synthetic.clips import BROKEN, VIDEOS, make, read_number, write_clip
from scripts.synthetic.miniatures import MINIATURES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(side=256, keyframe=12, crf=20)
TURNED = ("h264-rotated-90.mp4", "h264-rotated-180.mp4", "h264-rotated-270.mp4")
NOT_IN_ORDER = "h264.avi"  # its time stamps jump to and fro
DAMAGED = ("h264-truncated.mp4", "h264-cut.ts", "h264-hole.mp4", "mpeg4-truncated.avi")
WHOLE = sorted(set(VIDEOS) - {NOT_IN_ORDER, *TURNED, *DAMAGED})


def prepare(*arguments):
    """(exit status, standard output, standard error) of the command in this process."""
    output, errors = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            prepare_data.main([*map(str, arguments), "--workers", "1"])
        except SystemExit as end:
            status = end.code
    return status, output.getvalue(), errors.getvalue()


def refused(*arguments):
    """The one line with which the command ends."""
    status, output, errors = prepare(*arguments)
    assert status == 2, output
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1, errors
    return errors


def manifest(copy):
    return json.loads((copy / "manifest.json").read_text())


def failures(copy):
    return {entry["path"]: entry["reason"] for entry in manifest(copy)["failures"]}


def numbers(path):
    return [
        read_number(frame_CHW.permute(1, 2, 0).numpy())
        for frame_CHW in read_frames(path, range(count_frames(path)))
    ]


def files_in(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )


def decoded_seconds(path):
    with Source(str(path)) as source:
        return source.seconds([frame.pts for frame in source.frames()])


@pytest.mark.parametrize("name", WHOLE)
def test_every_frame_in_its_order_at_its_time(name, tmp_path):
    source, copy = Path(make(name, tmp_path)), tmp_path / "copy.mp4"
    write_video(source, copy, SETTINGS, deadline=None)
    assert numbers(copy) == numbers(source)
    assert frame_seconds(copy) == pytest.approx(decoded_seconds(source), abs=1e-6)
    assert decoded_seconds(copy) == pytest.approx(decoded_seconds(source), abs=1e-6)
    with open_with_plan(str(copy)) as (_, plan):
        assert plan, "the copy is made to be read by jumps"


@pytest.mark.parametrize("name", [*TURNED, *DAMAGED])
def test_upright_and_damaged_ones_as_the_reader_sees_them(name, tmp_path):
    source, copy = make(name, tmp_path), tmp_path / "copy.mp4"
    write_video(Path(source), copy, SETTINGS, deadline=None)
    count = count_frames(source)
    assert count == count_frames(copy)
    assert decoded_seconds(copy) == pytest.approx(decoded_seconds(source), abs=1e-6)
    expected_TCHW = read_frames(source, range(count)).float()
    assert (read_frames(copy, range(count)) - expected_TCHW).abs().mean() < 4


def test_colours_of_another_standard_are_those_that_the_reader_shows(tmp_path):
    source, copy = tmp_path / "red.mp4", tmp_path / "copy.mp4"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709
        stream.codec_context.color_range = 2  # full
        picture_HWC = np.full((64, 64, 3), (200, 40, 90), np.uint8)
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC)))
        output.mux(stream.encode())
    write_video(source, copy, SETTINGS, deadline=None)
    shown_TCHW = read_frames(source, range(5)).float()
    copied_TCHW = read_frames(copy, range(5)).float()
    assert (shown_TCHW - copied_TCHW).abs().max() < 5


def test_time_stamps_that_do_not_rise_are_a_failure(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    make(NOT_IN_ORDER, source)
    assert prepare(source, tmp_path / "copy")[0] == 0
    (reason,) = failures(tmp_path / "copy").values()
    assert "frame 2 begins at 0.040 s and the one before it at 0.080 s" in reason
    assert files_in(tmp_path / "copy") == ["manifest.json", "prepare.json"]


def test_time_stamps_that_begin_anew_are_copied_as_the_reader_takes_them(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    once = Path(make("h264.ts", tmp_path)).read_bytes()
    (source / "twice.ts").write_bytes(once + once)
    assert prepare(source, copy)[0] == 0
    seconds = decoded_seconds(source / "twice.ts")
    if seconds != sorted(seconds):  # for this reader the clip goes back in time
        assert "cannot be copied" in failures(copy)["twice.ts"]
        return
    assert numbers(copy / "twice.mp4") == [*range(40), *range(40)]
    assert decoded_seconds(copy / "twice.mp4") == pytest.approx(seconds, abs=1e-4)


def test_the_reader_has_the_last_word_on_the_seconds(tmp_path, monkeypatch):
    source, copy = tmp_path / "a.mp4", tmp_path / "copy.mp4"
    write_clip(source, length=8)
    real = Source.seconds

    def slowly(self, stamps):
        factor = 2 if self.path == str(source) else 1
        return [factor * second for second in real(self, stamps)]

    monkeypatch.setattr(Source, "seconds", slowly)
    write_video(source, copy, SETTINGS, deadline=None)
    expected = [0.08 * number for number in range(8)]
    assert decoded_seconds(copy) == pytest.approx(expected, abs=1e-6)


def test_a_size_that_changes_on_the_way_is_that_of_the_first_frame(tmp_path):
    first, second = tmp_path / "1.ts", tmp_path / "2.ts"
    milliseconds = [40 * number for number in range(20)]
    write_clip(first, length=20, times_ms=milliseconds)
    later = [1000 + time_ms for time_ms in milliseconds]
    write_clip(second, length=20, size=(192, 128), times_ms=later)
    source, copy = tmp_path / "source.ts", tmp_path / "copy.mp4"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    assert decoded_seconds(source)[-1] > 1.2, "the clip is not what is tested"
    write_video(source, copy, SETTINGS, deadline=None)
    assert read_frames(copy, [0]).shape == read_frames(source, [0]).shape
    assert numbers(copy) == numbers(source)
    assert numbers(copy)[-1] == 19
    assert decoded_seconds(copy) == pytest.approx(decoded_seconds(source), abs=1e-6)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_is_no_video_is_no_copy(name, tmp_path):
    source = make(name, tmp_path)
    with pytest.raises(BrokenVideo):
        write_video(Path(source), tmp_path / "copy.mp4", SETTINGS, deadline=None)


def write_sound_with_cover(path):
    with av.open(str(path), "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=16000, layout="mono")
        cover = output.add_stream("png", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        cover.disposition = Disposition.attached_pic
        picture_HWC = np.full((64, 64, 3), 90, np.uint8)
        output.mux(cover.encode(av.VideoFrame.from_ndarray(picture_HWC)))
        output.mux(cover.encode())
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())


def test_the_cover_picture_of_a_sound_file_is_no_video(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_sound_with_cover(source / "song.mp4")
    with av.open(str(source / "song.mp4")) as container:
        dispositions = [stream.disposition for stream in container.streams.video]
    assert dispositions == [Disposition.attached_pic], "the file is not what is tested"
    prepare(source, tmp_path / "copy")
    assert failures(tmp_path / "copy") == {"song.mp4": "has no video stream"}


def test_a_picture_keeps_the_orientation_of_its_camera(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    picture_HWC = np.zeros((40, 60, 3), np.uint8)
    picture_HWC[:, :20] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture_HWC).save(source / "a.jpg", exif=exif)
    shutil.copy(source / "a.jpg", source / "b.mp4")  # known by its first bytes
    shutil.copy(source / "a.jpg", source / "c")
    write_clip(source / "video.mp4", length=5)
    (source / "video.mp4").rename(source / "video.jpg")
    assert prepare(source, tmp_path / "copy")[0] == 0
    assert failures(tmp_path / "copy") == {}
    for name in ("a.jpg", "b.mp4", "c"):
        shown, copied = (
            read_frames(folder / name, [0]).float()
            for folder in (source, tmp_path / "copy")
        )
        assert shown.shape == copied.shape == (1, 3, 60, 40)
        assert (shown - copied).abs().mean() < 3
    assert numbers(tmp_path / "copy/video.jpg") == list(range(5))


def test_an_animated_picture_has_the_frames_that_the_reader_sees(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    pictures = [Image.new("RGB", (40, 30), (60 * number, 0, 0)) for number in range(4)]
    pictures[0].save(source / "a.webp", save_all=True, append_images=pictures[1:])
    assert prepare(source, copy, "--side", 10)[0] == 0
    assert count_frames(copy / "a.webp") == count_frames(source / "a.webp")

    def four_frames(path, choose):
        return [np.zeros((30, 40, 3), np.uint8)], choose(4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "read_image", four_frames)
        files.write_image(source / "a.webp", tmp_path / "same", SETTINGS)
    assert (tmp_path / "same").read_bytes() == (source / "a.webp").read_bytes()


def test_what_is_transparent_looks_as_the_reader_makes_it_look(tmp_path):
    source, copy = tmp_path / "a.mov", tmp_path / "copy.mp4"
    picture_HWC = np.full((32, 48, 4), (200, 60, 20, 255), np.uint8)
    picture_HWC[:, 24:, 3] = 0
    with av.open(str(source), "w") as output:
        stream = output.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "argb"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgba")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    write_video(source, copy, SETTINGS, deadline=None)
    shown_TCHW = read_frames(source, range(3)).float()
    copied_TCHW = read_frames(copy, range(3)).float()
    assert (shown_TCHW - copied_TCHW)[..., :16].abs().max() < 8
    assert (shown_TCHW - copied_TCHW)[..., 32:].abs().max() < 8


def test_linked_folders_are_part_of_the_source(tmp_path):
    source, elsewhere, copy = (
        tmp_path / name for name in ("source", "elsewhere", "copy")
    )
    (elsewhere / "deep").mkdir(parents=True)
    write_clip(elsewhere / "deep/a.mp4", length=3)
    write_clip(elsewhere / "b.mp4", length=3)
    source.mkdir()
    (source / "videos").symlink_to(elsewhere)
    (source / "same").symlink_to("videos")
    (source / "one.mp4").symlink_to(elsewhere / "b.mp4")
    (source / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (elsewhere / "round").symlink_to(source)
    (source / "itself.mp4").symlink_to("itself.mp4")
    copy.mkdir()
    (source / "copy").symlink_to(copy)
    os.mkfifo(source / "pipe.mp4")
    os.mkfifo(source / "pipe")
    assert prepare(source, copy, "--deadline", 5)[0] == 0
    assert [name for name in files_in(copy) if name.endswith(".mp4")] == [
        "one.mp4",
        "same/b.mp4",
        "same/deep/a.mp4",
        "videos/b.mp4",
        "videos/deep/a.mp4",
    ]
    reasons = failures(copy)
    assert reasons.pop("gone.mp4") == "is a link to a file that does not exist"
    assert reasons.pop("itself.mp4").startswith("cannot be read")
    assert reasons.pop("copy") == "is a link into the copy"
    assert reasons.pop("pipe.mp4") == reasons.pop("pipe") == "is no regular file"
    assert reasons == {
        "same/round": "is a link to a folder that it lies in",
        "videos/round": "is a link to a folder that it lies in",
    }


def test_a_name_that_is_not_utf_8_is_a_failure(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / os.fsdecode(b"a\xff.txt")).write_text("text")
    (source / "line\nend.html.mp4").write_text("<html>")
    (source / "\u00fc.txt").write_text("text")
    status, output, _ = prepare(source, copy)
    assert status == 0
    assert "failed: a\\udcff.txt: its name is not UTF-8; rename it\n" in output
    assert "failed: line\\nend.html.mp4: is a web page" in output
    assert "\u00fc.txt" in files_in(copy)


def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path, monkeypatch):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "closed/a.mp4")
    assert prepare(source, copy)[0] == 0
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("source/closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("scripts.data_copy.listing.os.scandir", refuse)
    _, output, _ = prepare(source, copy)
    assert failures(copy) == {
        "closed": "this folder cannot be read (Permission denied)"
    }
    assert "no source" not in output, "what is in it may still be there"


def write_clip_in(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, **{"length": 4, **options})


def test_a_copy_follows_its_source(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("same", "longer", "newer", "cut", "broken"):
        write_clip_in(source / f"{name}.avi", codec="mpeg4")
    (source / "captions.csv").write_text("path,caption\nsame.avi,a\n")
    prepare(source, copy)
    first = manifest(copy)
    row = first["files"]["longer.avi"]
    stat = (source / "longer.avi").stat()
    assert (row["source_size"], row["source_mtime_ns"]) == (
        stat.st_size,
        stat.st_mtime_ns,
    )
    assert row["target"] == "longer.mp4"
    assert row["size"] == (copy / "longer.mp4").stat().st_size
    assert not (copy / "prepare.jsonl").exists()

    times = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    write_clip_in(source / "longer.avi", codec="mpeg4", length=9)
    old = (source / "newer.avi").stat()
    content = bytearray((source / "newer.avi").read_bytes())
    os.utime(source / "newer.avi", ns=(old.st_atime_ns, old.st_mtime_ns - 10**9))
    (source / "newer.avi").write_bytes(content)
    os.utime(source / "newer.avi", ns=(old.st_atime_ns, old.st_mtime_ns - 10**9))
    (source / "broken.avi").write_text("<html>gone</html>")
    (source / "captions.csv").write_text("path,caption\nsame.avi,b\n")
    os.truncate(copy / "cut.mp4", 100)
    prepare(source, copy)

    assert count_frames(copy / "longer.mp4") == 9
    assert count_frames(copy / "cut.mp4") == 4
    assert (copy / "captions.csv").read_text().endswith("same.avi,b\n")
    unchanged = {
        path.name
        for path in copy.iterdir()
        if times.get(path.name) == path.stat().st_mtime_ns
    }
    assert unchanged == {"prepare.json", "same.mp4"}
    assert failures(copy) == {"broken.avi": "is a web page, not a video"}
    assert not (copy / "broken.mp4").exists(), "of what the file once was"
    assert manifest(copy)["hash"] != first["hash"]


def test_a_file_that_changes_while_it_is_copied_is_a_failure(tmp_path, monkeypatch):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / "list.txt").write_text("one")

    def copy_and_change(path, part):
        shutil.copyfile(path, part)
        path.write_text("another")

    monkeypatch.setattr(files, "copy_file", copy_and_change)
    prepare(source, copy)
    assert failures(copy) == {"list.txt": "changed while it was copied"}
    monkeypatch.undo()
    prepare(source, copy)
    assert failures(copy) == {} and (copy / "list.txt").read_text() == "another"


def lengths(dataset):
    """Frames of each video as the data set reads it."""
    found = []
    for index in range(len(dataset)):
        seen = []
        dataset.read_clip(index, lambda length, seen=seen: seen.append(length) or [0])
        found.append(seen[-1])
    return found


@pytest.mark.parametrize(
    "number",
    range(len(MINIATURES)),
    ids=[f"{m.dataset}-{m.layout}-{m.args.get('cut')}" for m in MINIATURES],
)
def test_the_copy_of_every_data_set_is_the_same_data_set(number, tmp_path):
    miniature = MINIATURES[number]
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    splits = miniature.write(source, 3)
    assert prepare(source, copy, "--side", 24)[0] == 0
    assert failures(copy) == {}
    for split in splits:
        args = {**miniature.args, "split": split}
        args["video_params"] = {"input_res": 32, "deadline": 0}
        original, copied = (
            DATASETS.build(
                {"type": miniature.dataset, "args": {**args, "data_dir": str(folder)}}
            )
            for folder in (source, copy)
        )
        assert list(copied.ids) == list(original.ids)
        assert list(copied.captions) == list(original.captions)
        indices = range(len(original))
        segments = [original.segment(index) for index in indices]
        assert [copied.segment(index) for index in indices] == segments
        assert lengths(copied) == lengths(original)


def test_copies_without_a_source_are_named_and_kept(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("videos/a.avi", "videos/b.avi"):
        write_clip_in(source / name, codec="mpeg4")
    assert "no source" not in prepare(source, copy)[1]
    (source / "videos/a.avi").unlink()
    _, output, _ = prepare(source, copy)
    assert "1 files here have no source any more and are kept: videos/a.mp4\n" in output
    assert manifest(copy)["orphans"] == ["videos/a.mp4"]
    assert list(manifest(copy)["files"]) == ["videos/b.avi"]
    assert count_frames(copy / "videos/a.mp4") == 4


@pytest.mark.parametrize(
    "names",
    [
        ["a.avi", "b.mp4", "b.avi", "c.webm", "c.avi", "c.jpg", "d.MP4", "d.avi"],
        ["a.mkv", "a.MKV", "A.mkv", "e.gif", "e.png", "f", "g.x.avi", "g.avi"],
        ["1.2.avi", "1.2", "1.avi", "1.avi.txt", "h.mov", "h.mp4.txt"],
    ],
)
def test_a_name_means_the_copy_of_what_it_means_in_the_source(names, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir(), copy.mkdir()
    targets = target_names(names)
    assert len(set(targets.values())) == len(names)
    for name, target in targets.items():
        (source / name).touch()
        (copy / target).touch()
    for name in names:
        for listed in (name, name.rpartition(".")[0] or name):
            original = find_file(str(source), listed)
            found = find_file(str(copy), listed)
            if original is not None and found != str(
                copy / targets[Path(original).name]
            ):
                # the order of .avi and .MP4
                assert {Path(original).suffix, Path(found).suffix} == {".avi", ".MP4"}


def test_two_files_that_cannot_be_told_apart_are_named(tmp_path):
    assert target_names(["a.avi", "a.avi.mp4"]) == {
        "a.avi": None,
        "a.avi.mp4": "a.avi.mp4",
    }
    source = tmp_path / "source"
    write_clip_in(source / "a.avi.mp4")
    write_clip_in(source / "a.avi", codec="mpeg4")
    (source / "manifest.json").write_text("{}")
    prepare(source, tmp_path / "copy")
    assert failures(tmp_path / "copy") == {
        "a.avi": "a copy of it could not be told from that of a.avi.mp4 beside it; rename one of them",
        "manifest.json": "the copy has a file of that name of its own; rename it",
    }


def test_a_copy_of_a_copy(tmp_path):
    write_clip_in(tmp_path / "source/a.avi", codec="mpeg4")
    prepare(tmp_path / "source", tmp_path / "copy")
    assert prepare(tmp_path / "copy", tmp_path / "second", "--side", 32)[0] == 0
    assert failures(tmp_path / "second") == {}
    assert files_in(tmp_path / "second") == ["a.mp4", "manifest.json", "prepare.json"]


def test_a_decoder_that_gives_nothing_is_ended(tmp_path, monkeypatch):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "a.mp4")
    write_clip_in(source / "b.mp4", length=5)
    real = Source.frames

    def hang(self):
        if self.path.endswith("source/a.mp4"):
            time.sleep(30)
        yield from real(self)

    monkeypatch.setattr(Source, "frames", hang)
    assert prepare(source, copy, "--deadline", 0.4)[0] == 0
    assert "the decoder did not return within " in failures(copy)["a.mp4"]
    assert len(failures(copy)) == 1
    assert count_frames(copy / "b.mp4") == 5


def test_the_deadline_is_for_the_next_frame_and_not_for_the_file(tmp_path, monkeypatch):
    source = tmp_path / "a.mp4"
    write_clip(source, length=8)
    real = Source.frames

    def slowly(self):
        for frame in real(self):
            time.sleep(0.1)
            yield frame

    monkeypatch.setattr(Source, "frames", slowly)
    monkeypatch.setattr(process, "_idle_child", None)  # a new one, which is slow
    write_video(source, tmp_path / "copy.mp4", SETTINGS, deadline=0.7)
    assert count_frames(tmp_path / "copy.mp4", deadline=0) == 8


def test_a_copy_that_lost_a_frame_is_a_failure(tmp_path, monkeypatch):
    source, copy = tmp_path / "a.mp4", tmp_path / "copy.mp4"
    write_clip(source, length=8)
    real = Source.frames

    def lose_one(self):
        frames = real(self)
        if self.path == str(copy):
            next(frames)
        yield from frames

    monkeypatch.setattr(Source, "frames", lose_one)
    with pytest.raises(BrokenVideo, match="its copy has 7 frames and not 8"):
        write_video(source, copy, SETTINGS, deadline=None)


def limit_files_to_4000_bytes():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def run(*arguments, **options):
    command = [
        sys.executable,
        str(ROOT / "scripts/prepare_data.py"),
        *map(str, arguments),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, **options
    )


@pytest.mark.parametrize("kind", ["video", "picture", "annotation"])
def test_a_full_disk_is_one_line_and_no_half_file(kind, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    if kind == "video":
        write_clip(source / "a.mp4", size=(320, 240))
    elif kind == "picture":
        noise_HWC = np.random.default_rng(0).integers(0, 255, (200, 200, 3))
        Image.fromarray(noise_HWC.astype(np.uint8)).save(source / "a.png")
    else:
        (source / "a.csv").write_text("x" * 9000)
    result = run(source, copy, "--workers", 1, preexec_fn=limit_files_to_4000_bytes)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "cannot be written (File too large); make room there" in result.stderr
    assert str(copy / "a.") in result.stderr
    assert set(files_in(copy)) == {"prepare.json", "prepare.jsonl"}


def test_a_read_only_copy_is_one_line(tmp_path, monkeypatch):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "a.mp4")
    replace = os.replace

    def refuse(part, target):
        if str(target).endswith("a.mp4"):
            raise OSError(errno.EROFS, "Read-only file system", str(target))
        replace(part, target)

    monkeypatch.setattr(files.os, "replace", refuse)
    assert "Read-only file system" in refused(source, copy)
    assert files_in(copy) == ["prepare.json", "prepare.jsonl"]
    monkeypatch.undo()

    def refuse_folder(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse_folder)
    assert "Read-only file system" in refused(source, tmp_path / "other")


def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "0.mp4", length=60, size=(640, 480))
    for number in range(1, 16):
        shutil.copy(source / "0.mp4", source / f"{number}.mp4")
    command = [sys.executable, str(ROOT / "scripts/prepare_data.py"), source, copy]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 60
        journal = copy / "prepare.jsonl"
        while not (journal.is_file() and journal.stat().st_size):
            assert time.monotonic() < limit, "nothing is copied"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 130
    assert errors == "stopped; the same command goes on from here\n"
    assert output == ""
    done = sorted(copy.glob("*.mp4"))
    assert 0 < len(done) < 16
    assert all(count_frames(path) == 60 for path in done)
    assert set(files_in(copy)) - {path.name for path in done} == {
        "prepare.json",
        "prepare.jsonl",
    }
    rows = map(json.loads, (copy / "prepare.jsonl").read_text().splitlines())
    recorded = [copy / row["target"] for row in rows]
    times = {path: path.stat().st_mtime_ns for path in recorded}
    assert times
    assert prepare(source, copy)[0] == 0
    assert all(path.stat().st_mtime_ns == ns for path, ns in times.items())
    assert len(manifest(copy)["files"]) == 16


HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_into_one_copy_are_refused(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "a.mp4")
    assert prepare(source, copy)[0] == 0
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(copy / "prepare.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        assert "another process is writing this copy" in refused(source, copy)
    finally:
        holder.kill()
        holder.communicate(timeout=60)
    assert prepare(source, copy)[0] == 0


def test_a_line_that_a_kill_cut_in_two_is_passed_over(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    write_clip_in(source / "a.mp4")
    prepare(source, copy)
    row = {"source": "a.mp4", **manifest(copy)["files"]["a.mp4"]}
    (copy / "manifest.json").unlink()
    (copy / "prepare.jsonl").write_text(json.dumps(row) + '\n{"source": "b')
    written = (copy / "a.mp4").stat().st_mtime_ns
    assert prepare(source, copy)[0] == 0
    assert (copy / "a.mp4").stat().st_mtime_ns == written


def kill_worker(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    with pytest.raises(ValueError, match=r"a worker was killed.*--workers"):
        list(pool.results(kill_worker, [1, 2, 3], 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--side", "0"], "--side: 0 is given, 2 to 16384 is needed"),
        (["--keyframe", "0"], "--keyframe: 0 is given, 1 to 10000 is needed"),
        (["--crf", "52"], "--crf: 52 is given, 0 to 51 is needed"),
        (["--deadline", "-1"], "--deadline: -1 is given, 0 or more is needed"),
        (["--deadline", "nan"], "--deadline: nan is given, 0 or more is needed"),
        (["--shards", "0"], "--shards: 0 is given, 1 or more is needed"),
        (["--shards", "2"], "--shards: needs --dataset, one of "),
        (["--shards", "2", "--dataset", "MSRVT"], "--dataset: 'MSRVT' is no data set"),
        (["--cut", "x"], "give --shards VIDEOS with them"),
        (["--split", "test"], "give --shards VIDEOS with them"),
        (
            [
                "--shards",
                "2",
                "--dataset",
                "JsonlDataset",
                "--dataset-args",
                "[1]",
            ],
            "--dataset-args: an object",
        ),
    ],
)
def test_options_are_checked_before_anything_is_copied(arguments, message, tmp_path):
    (tmp_path / "source").mkdir()
    assert message in refused(tmp_path / "source", tmp_path / "copy", *arguments)
    assert not (tmp_path / "copy").exists()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.mp4").write_text("years of work")
    assert "holds files, and not those of a copy" in refused(
        tmp_path / "source", tmp_path / "mine"
    )
    (tmp_path / "file").touch()
    assert "is no folder" in refused(tmp_path / "source", tmp_path / "file")
    assert "no such folder" in refused(tmp_path / "nowhere", tmp_path / "copy")


def write_rows(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_shards_keep_ids_and_take_cut_and_metadata_dir(tmp_path):
    source, copy, lists = (tmp_path / name for name in ("source", "copy", "lists"))
    ids = ["clip/0.a", "video 7020", "\u00fcber"]
    write_clip_in(source / "0.avi", codec="mpeg4")
    write_clip_in(source / "1.mp4")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(source / "2.x", format="PNG")
    rows = [
        {"path": path, "caption": f"caption {video_id}", "id": video_id}
        for path, video_id in zip(("0.avi", "1.mp4", "2.x"), ids, strict=True)
    ]
    write_rows(lists / "small.jsonl", [*rows, {"path": "gone.mp4", "caption": "c"}])
    arguments = ["--shards", 2, "--dataset", "JsonlDataset", "--cut", "small"]
    status, output, errors = prepare(
        source, copy, *arguments, "--metadata-dir", lists, "--split", "test"
    )
    assert status == 0, errors
    assert "3 videos in tar files of 2; 1 listed videos are not in the copy" in output
    assert "left out: gone.mp4" in output
    folder = copy / "shards/test"
    assert files_in(folder) == ["00000.tar", "00001.tar"]
    args = {"data_dir": str(folder), "split": "test", "video_params": {"input_res": 32}}
    shards = DATASETS.build({"type": "TarShards", "args": args})
    assert list(shards.captions) == [f"caption {video_id}" for video_id in ids]
    keys = [Path(path).stem for path in shards.paths]
    assert keys == [shard_key(video_id) for video_id in ids]
    assert keys[:2] == ["clip%2F0%2Ea", "video 7020"]
    assert all(shards[index]["video"] is not None for index in range(3))
    assert "is there already; remove it" in refused(
        source, copy, *arguments, "--metadata-dir", lists, "--split", "test"
    )
    assert "packed before" not in prepare(source, copy)[1]
    write_clip_in(source / "1.mp4", length=7)
    assert f"{folder}: packed before this; remove it" in prepare(source, copy)[1]


def test_shards_of_nothing_are_one_line(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_rows(source / "train.jsonl", [{"path": "gone.mp4", "caption": "c"}])
    arguments = ["--shards", 1, "--dataset", "JsonlDataset"]
    line = refused(source, tmp_path / "copy", *arguments)
    assert "1 of 1 videos are not in" in line and "make room" not in line
    assert files_in(tmp_path / "copy") == [
        "manifest.json",
        "prepare.json",
        "train.jsonl",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "line 2: id 'a' is"),
        ({"start": 0, "end": 0.1}, "cuts its videos in time"),
    ],
)
def test_what_shards_cannot_say_is_refused_before_the_copy(row, message, tmp_path):
    source = tmp_path / "source"
    write_clip_in(source / "0.mp4")
    rows = [
        {"path": "0.mp4", "caption": "c", "id": "a"},
        {"path": "1.mp4", "caption": "c", **row},
    ]
    write_rows(source / "train.jsonl", rows)
    arguments = ["--shards", 1, "--dataset", "JsonlDataset"]
    assert message in refused(source, tmp_path / "copy", *arguments)
    assert not (tmp_path / "copy").exists()


def test_the_size_is_even_and_never_enlarged():
    assert scaled_size(320, 200, 100) == (160, 100)
    assert scaled_size(97, 65, 256) == (96, 64)
    assert scaled_size(1, 1, 256) == (2, 2)
    assert scaled_size(65, 4000, 32) == (32, 1970)
