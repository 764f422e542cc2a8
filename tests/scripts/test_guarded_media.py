"""Programs open media as the data sets do: regular files, within a deadline, upright, no playlists."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loader.readers import BrokenVideo
from scripts.benchmarks import loader
from scripts.data_copy.files import run_job, write_image
from scripts.data_copy.listing import Job, file_type
from scripts.data_copy.video import Settings, write_video
from scripts.html_report import thumbnails
from scripts.retrieval.media import MediaFiles
from scripts.retrieval.sources import VideoSegments
from scripts.synthetic import clips

ORIENTATION = 0x0112
SETTINGS = Settings(side=256, keyframe=12, crf=20)


@pytest.fixture
def pipe(tmp_path):
    """The path of a pipe to which nobody writes, named as a video."""
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    return path


def in_time(work, pipe, seconds=15):
    """What `work()` returns or raises; the pipe is let go if it is waited for."""
    outcome = []

    def run():
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 looked at by the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
    assert outcome, "it was waited for the pipe"
    return outcome[0]


@pytest.mark.parametrize("work", ["picture", "preview", "open"])
def test_the_server_opens_no_pipe(pipe, work):
    row = {"id": "a", "path": str(pipe), "real": str(pipe), "start": None, "end": None}
    files = MediaFiles([row])
    error = in_time(lambda: getattr(files, work)(0), pipe)
    assert isinstance(error, FileNotFoundError) and str(error) == "row 0"


def test_the_server_opens_no_link_in_place_of_a_file(tmp_path):
    clips.make("h264.mp4", tmp_path)
    path = tmp_path / "a.mp4"
    path.symlink_to(tmp_path / "h264.mp4")
    row = {"id": "a", "path": str(path), "real": str(path), "start": None, "end": None}
    with pytest.raises(FileNotFoundError):
        MediaFiles([row]).open(0)
    row = {**row, "path": str(tmp_path / "h264.mp4")}
    row["real"] = row["path"]
    file, size, content_type = MediaFiles([row]).open(0)
    with file:
        assert (size, content_type) == (os.path.getsize(row["path"]), "video/mp4")
        assert file.read() == Path(row["path"]).read_bytes()


def test_segments_of_a_pipe(pipe):
    row = {"id": "a", "path": str(pipe), "start": None, "end": None}
    segments = VideoSegments([row], 2.0, 10.0)
    assert in_time(lambda: segments[0], pipe) == "is a pipe, no regular file"


class OneFile:
    """A data set of one video, whose config sets no deadline."""

    ids = ("a",)

    class video:
        from data_loader.readers.limits import DEFAULT_LIMITS as limits

        reader = "auto"
        deadline = 0

    def __init__(self, path):
        self.path = path

    def video_path(self, index):
        return str(self.path)

    def segment(self, index):
        return None, None


def test_thumbnails_have_a_deadline_whatever_the_config_says(
    tmp_path, pipe, monkeypatch
):
    used = []
    original = thumbnails.read_clip

    def recorded(*args, **options):
        used.append(options["deadline"])
        return original(*args, **options)

    monkeypatch.setattr(thumbnails, "read_clip", recorded)
    clips.make("h264.mp4", tmp_path)
    for path in (pipe, tmp_path / "h264.mp4"):
        monkeypatch.setattr(thumbnails, "open_dataset", lambda _, p=path: OneFile(p))
        found = thumbnails.Clips(None)
        thumbnail = in_time(lambda found=found: found.thumbnail("a"), pipe)
        if path == pipe:
            assert thumbnail == {"name": "a"}
            reason = f"{pipe}: is a pipe, no regular file"
            assert found.unreadable == {"a": reason}
        else:
            assert thumbnail["frames"] == 4
    assert used == [thumbnails.DEADLINE] * 2


def test_a_prepared_picture_is_upright_and_on_white(tmp_path):
    source_path, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = np.ascontiguousarray(np.rot90(clips.draw_number(37)))
    Image.fromarray(turned).save(source_path, exif=exif, quality=95)
    write_image(source_path, target, SETTINGS)
    with Image.open(target) as image:
        assert clips.read_number(np.asarray(image)) == 37

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    write_image(tmp_path / "clear.png", target, SETTINGS)
    with Image.open(target) as image:
        assert np.asarray(image).min() > 250


@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.jpg", "pipe", "pipe.txt"])
def test_a_pipe_is_a_failed_file_of_a_copy(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    job = Job(name, f"copy/{name}", file_type(path))
    copied = in_time(
        lambda: run_job(job, tmp_path, tmp_path / "out", SETTINGS, 20), path
    )
    assert "is a pipe, no regular file" in copied.failure


def test_a_playlist_is_a_failed_file_of_a_copy(tmp_path):
    clips.make("h264.mp4", tmp_path)
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile h264.mp4\n")
    with pytest.raises(BrokenVideo, match="is a playlist"):
        write_video(tmp_path / "a.mp4", tmp_path / "b.mp4", SETTINGS, 20)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_measured_and_compared_without_decord(monkeypatch, capsys, is_there):
    found = object() if is_there else None
    monkeypatch.setattr(loader.importlib.util, "find_spec", lambda name: found)
    ways = loader.ways_to_read([], [])
    assert ("ours, decord" in ways) == is_there
    loader.show(dict.fromkeys(ways, 50.0) | {"ours, av": 40.0})
    assert "the process that guards the deadline costs 25.0%" in capsys.readouterr().out
