"""The base of all data sets: which files, which rows, which draws, and what a broken file costs."""

import logging
import pickle
import shutil

import pytest
import torch
from torchvision.transforms import v2

from data_loader import base, seeding
from data_loader.annotations import selection
from data_loader.annotations.file_lookup import find_file, find_files, stem
from data_loader.annotations.protocols import Protocol
from data_loader.annotations.selection import VideoSelection
from data_loader.annotations.table import Table
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.frames import pick
from data_loader.reader import BrokenVideo
from data_loader.settings import video_settings
from data_loader.transforms import build_transform, normalise, random_crop
from parse_config import Config, ConfigError, UserError
from scripts.synthetic.miniatures import write_media

SMALL = {"num_frames": 3, "input_res": 16}


class Clips(TextVideoDataset):
    """Six listed clips with two captions each that name them."""

    gallery_protocol = None

    def annotations(self):
        items = [
            Item(f"v{i}", f"v{i}.mp4", (f"first of {i}", f"second of {i}"))
            for i in range(6)
        ]
        return Annotations(items, layout="six", protocol=self.gallery_protocol)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        write_media(folder / f"v{i}.mp4", i)
    return folder


@pytest.fixture
def folder(shared_folder, tmp_path):
    return shutil.copytree(shared_folder, tmp_path / "clips")


def make(folder, split="train", params=None, **more):
    return Clips(str(folder), split, video_params={**SMALL, **(params or {})}, **more)


@pytest.mark.parametrize(
    "listed, on_disk",
    [
        ("a.mp4", "a.mp4"),
        ("a", "a.mp4"),
        ("a", "a.webm"),
        ("a.avi", "a.avi.mp4"),
        ("a.avi", "a.mp4"),
        ("a.", "a..mp4"),
        ("a.", "a.mov"),
        ("a.mov", "a.MP4"),
        ("-x_5_15", "-x_5_15.avi"),
        ("in/a", "in/a.jpg"),
        ("123_456", "123_456"),
        ("1_00.00.51.926-00.00.54.129", "1_00.00.51.926-00.00.54.129.avi"),
        ("a", "missing/a.mp4"),
        ("a.txt", "a.mp4"),
    ],
)
def test_a_file_is_found_under_its_usual_names(tmp_path, listed, on_disk):
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / on_disk).touch()
    (tmp_path / "folder.mp4").mkdir()
    expected = (
        None if "missing" in on_disk or listed == "a.txt" else str(tmp_path / on_disk)
    )
    assert find_file(str(tmp_path), listed) == expected
    assert list(
        find_files(str(tmp_path), [listed, "folder", str(tmp_path / listed)])
    ) == [
        expected,
        None,
        expected,
    ]


def test_the_name_itself_comes_first(tmp_path):
    for name in ("a.avi", "a.avi.mp4", "a.mp4"):
        (tmp_path / name).touch()
    assert (
        find_file(str(tmp_path), "a.avi")
        == next(find_files(str(tmp_path), ["a.avi"]))
        == str(tmp_path / "a.avi")
    )
    assert stem("00.51.926-00.54.129") == "00.51.926-00.54.129"


def table(rows, captions=1):
    return Table.from_columns(
        id=[str(i) for i in range(rows)],
        path=[f"{i}.mp4" for i in range(rows)],
        caption=[f"{i}.{j}" for i in range(rows) for j in range(captions)],
        count=[captions] * rows,
    )


@pytest.mark.parametrize("captions", [1, 3])
def test_a_share_of_the_videos_keeps_its_captions(captions):
    rows = []
    for share in (0.1, 0.3, 1.0, 1):
        selection = VideoSelection(table(50, captions), "", "set")
        selection.subsample(share, need_captions=False)
        assert len(selection) == 50 * share and selection.rows.tolist() == sorted(
            selection.rows.tolist()
        )
        rows.append(set(selection.rows.tolist()))
        assert list(selection.captions) == [
            f"{i}.{j}" for i in selection.ids for j in range(captions)
        ]
        assert [
            selection.captions[k].split(".")[0] for k in range(len(selection.captions))
        ] == [selection.ids[i] for i in selection.owner.tolist()]
    assert rows[0] < rows[1] < rows[2] == rows[3]
    for wrong in (0, -0.5, 1.5):
        with pytest.raises(ConfigError, match="share above 0"):
            VideoSelection(table(5), "", "set").subsample(wrong, need_captions=False)


def test_videos_without_a_caption_are_no_training_samples(caplog):
    captioned = Table.from_columns(
        id=["a", "b", "c"], path=["a", "b", "c"], caption=["x", "y"], count=[1, 0, 1]
    )
    for need, ids in ((True, ["a", "c"]), (False, ["a", "b", "c"])):
        selection = VideoSelection(captioned, "", "set")
        selection.subsample(1.0, need_captions=need)
        assert list(selection.ids) == ids and list(selection.captions) == ["x", "y"]
        assert selection.owner.tolist() == [0, len(ids) - 1]
    assert "1 videos without a caption" in caplog.text


def test_hash_spreads_and_depends_on_every_number():
    hashes = {
        seeding.hash_numbers(a, b, c)
        for a in range(10)
        for b in range(10)
        for c in range(10)
    }
    assert len(hashes) == 1000 and all(0 <= value < 2**63 for value in hashes)
    assert abs(sum(value % 2 for value in hashes) - 500) < 60
    assert torch.equal(seeding.permutation(9, 1, 2), seeding.permutation(9, 1, 2))


def test_random_crop_covers_its_share_and_reaches_every_place():
    crops = [
        random_crop(60, 100, (0.5, 1.0), seeding.generator(0, i)) for i in range(500)
    ]
    assert all(
        0 <= top <= 60 - high and 0 <= left <= 100 - wide and high > 0 and wide > 0
        for top, left, high, wide in crops
    )
    assert all(
        0.48 < high * wide / 6000 <= 1 and 0.73 < wide / high < 1.36
        for _, _, high, wide in crops
    )
    assert (
        min(left for _, left, _, _ in crops) == 0
        and max(left + wide for _, left, _, wide in crops) == 100
    )
    assert random_crop(10, 1000, (0.5, 1.0), seeding.generator(0)) == (0, 493, 10, 13)


def test_test_transform_is_that_of_frozen_in_time():
    clip = torch.randint(
        0, 256, (2, 3, 90, 160), dtype=torch.uint8, generator=seeding.generator(1)
    )
    reference = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(256),
            v2.Resize((224, 224), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(
        build_transform(False)(clip), reference(clip), rtol=0, atol=1e-5
    )
    assert build_transform(False, 112)(clip).shape == (2, 3, 112, 112)
    channels_last = clip.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(
        build_transform(False)(channels_last), build_transform(False)(clip)
    )


def test_training_transform_treats_all_frames_of_a_clip_alike():
    frame = torch.randint(
        0, 256, (1, 3, 40, 60), dtype=torch.uint8, generator=seeding.generator(1)
    )
    transform = build_transform(True, 32)
    sums = set()
    for i in range(20):
        out = transform(frame.expand(4, -1, -1, -1), seeding.generator(i))
        assert (
            out.shape == (4, 3, 32, 32)
            and out.dtype == torch.float32
            and (out == out[:1]).all()
        )
        assert torch.equal(
            out, transform(frame.expand(4, -1, -1, -1), seeding.generator(i))
        )
        sums.add(float(out.sum()))
    assert len(sums) == 20


def test_flip_can_be_switched_off():
    ramp = (
        torch.arange(0, 240, 4, dtype=torch.uint8)
        .view(1, 1, 1, 60)
        .expand(1, 3, 60, 60)
    )
    rises = {
        hflip: {
            bool(
                (
                    out := build_transform(True, 16, hflip=hflip)(
                        ramp, seeding.generator(i)
                    )
                )[..., -1].mean()
                > out[..., 0].mean()
            )
            for i in range(30)
        }
        for hflip in (True, False)
    }
    assert rises == {True: {True, False}, False: {True}}


def test_normalise_is_the_formula():
    clip = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = (
        clip / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    ) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(
        normalise(clip, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), expected, rtol=0, atol=1e-6
    )


def test_sample_has_the_documented_keys(shared_folder):
    data = make(shared_folder, "test")
    sample = data[2]
    assert (
        len(data) == 6
        and sample["text"] == "first of 2"
        and sample["video"].shape == (3, 3, 16, 16)
    )
    assert sample["meta"] == {
        "index": 2,
        "id": "v2",
        "path": str(shared_folder / "v2.mp4"),
        "frames": pick(8, 3),
        "caption": 0,
        "failures": [],
    }
    assert data.captions[5] == "second of 2" and data.owner.tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
    ]
    assert list(data.ids) == [f"v{i}" for i in range(6)] and data.paths[0] == str(
        shared_folder / "v0.mp4"
    )
    assert data.counts == {
        "num_videos": 6,
        "num_captions": 12,
        "expected_videos": 6,
        "expected_captions": 12,
        "missing": [],
    }
    with pytest.raises(IndexError):
        data[6]


def test_draws_depend_on_seed_epoch_and_index_only(shared_folder):
    data = make(shared_folder)
    again = pickle.loads(pickle.dumps(make(shared_folder)))
    other = make(shared_folder, seed=1)
    order = [(i, epoch) for epoch in range(4) for i in range(6)]
    torch.manual_seed(0)
    first = [data[key] for key in order]
    torch.manual_seed(1)
    for key, sample in reversed(list(zip(order, first))):
        same = again[key]
        assert (
            torch.equal(sample["video"], same["video"])
            and sample["meta"] == same["meta"]
        )
    metas = [(sample["text"], sample["meta"]["frames"]) for sample in first]
    assert metas != [
        (other[key]["text"], other[key]["meta"]["frames"]) for key in order
    ]
    assert {sample["meta"]["caption"] for sample in first} == {0, 1}
    assert len({str(sample["meta"]["frames"]) for sample in first}) > 5
    assert all(sample["text"].endswith(sample["meta"]["id"][1:]) for sample in first)
    assert torch.equal(data[3]["video"], data[3, 0]["video"])


def test_broken_in_training_gives_way_to_another_with_its_own_caption(folder):
    (folder / "v1.mp4").write_bytes(b"")
    (folder / "v4.mp4").write_bytes(b"<html>not found</html>")
    data = make(folder)
    replaced = [data[index, epoch] for index in (1, 4) for epoch in range(6)]
    for sample in replaced:
        meta = sample["meta"]
        assert (
            meta["failures"][0][0] in (str(folder / "v1.mp4"), str(folder / "v4.mp4"))
            and meta["failures"][0][1]
        )
        assert meta["id"] not in ("v1", "v4") and sample["text"].endswith(
            f"of {meta['id'][1:]}"
        )
        assert meta["index"] == int(meta["id"][1:]) and meta["path"] == str(
            folder / f"{meta['id']}.mp4"
        )
    assert len({sample["meta"]["id"] for sample in replaced}) > 2, (
        "not always the same one"
    )
    again = data[1, 3]
    assert again["meta"] == replaced[3]["meta"] and torch.equal(
        again["video"], replaced[3]["video"]
    )
    assert data[0]["meta"]["failures"] == []


def test_strict_raises_with_the_path(folder):
    (folder / "v1.mp4").write_bytes(b"")
    for split, params in (
        ("test", {}),
        ("val", {"loading": "lax"}),
        ("train", {"loading": "strict"}),
    ):
        with pytest.raises(BrokenVideo, match="v1.mp4"):
            make(folder, split, params)[1]
        assert make(folder, split, params)[0]["video"] is not None


def test_broken_in_a_skipping_gallery_has_no_clip(folder):
    (folder / "v1.mp4").write_bytes(b"")
    sample = make(folder, "test", {"loading": "skip"})[1]
    assert (
        sample["video"] is None
        and sample["text"] == "first of 1"
        and sample["meta"]["index"] == 1
    )
    assert [path for path, _ in sample["meta"]["failures"]] == [str(folder / "v1.mp4")]


def test_where_nothing_can_be_read_there_is_an_end(folder, monkeypatch):
    for i in range(6):
        (folder / f"v{i}.mp4").write_bytes(b"no video")
    monkeypatch.setattr(base, "MAX_ATTEMPTS", 5)
    with pytest.raises(
        UserError, match="5 videos in a row could not be read, the last one .*v.*mp4"
    ):
        make(folder)[0]


def test_a_file_that_goes_away_or_may_not_be_read_is_a_broken_one(folder):
    data = make(folder)
    (folder / "v1.mp4").unlink()
    assert data[1]["meta"]["failures"] == [
        (str(folder / "v1.mp4"), "No such file or directory")
    ]


def test_missing_files_of_a_gallery_stop_at_start_or_leave_it(folder, caplog):
    for i in (1, 3, 4, 5):
        (folder / f"v{i}.mp4").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'4 of 6 videos are not in .*: v1.mp4, v3.mp4, v4.mp4, \.\.\..*"skip"',
    ):
        make(folder, "test")
    data = make(folder, "test", {"loading": "skip"})
    assert list(data.ids) == ["v0", "v2"] and list(data.captions) == [
        "first of 0",
        "second of 0",
        "first of 2",
        "second of 2",
    ]
    assert data.counts["num_videos"] == 2 and data.counts["expected_captions"] == 12
    assert (
        data.counts["missing"] == ["v1.mp4", "v3.mp4", "v4.mp4", "v5.mp4"]
        and "2 of 6 videos" in caplog.text
    )
    assert data[1]["meta"]["id"] == "v2" and data.owner.tolist() == [0, 0, 1, 1]
    assert len(make(folder)) == 2, "training leaves them out too"
    for i in (0, 2):
        (folder / f"v{i}.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="6 of 6"):
        make(folder, "test", {"loading": "skip"})


def test_large_training_sets_are_looked_at_when_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(base, "MAX_CHECKED", 5)
    (folder / "v1.mp4").unlink()
    (folder / "v2.mp4").rename(folder / "v2.mkv")
    data = make(folder)
    assert len(data) == 6 and data[1]["meta"]["failures"][0][1].startswith(
        "no such file"
    )
    assert data[2]["meta"]["failures"] == [] and data[2]["video"] is not None
    assert len(make(folder, check_files=True)) == 5


def test_protocol_counts_are_stamped_or_refused(folder, monkeypatch, caplog):
    monkeypatch.setattr(Clips, "gallery_protocol", "toy")
    monkeypatch.setitem(selection.PROTOCOLS, "toy", Protocol("toy", 6, 12))
    assert make(folder, "test", strict_protocol=True).counts["expected_videos"] == 6
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING
    ]
    monkeypatch.setitem(selection.PROTOCOLS, "toy", Protocol("toy", 7, 13))
    assert make(folder, "test").counts["expected_videos"] == 7
    assert "Clips test, protocol toy: 6 of 7 videos, 12 of 13 captions" in caplog.text
    with pytest.raises(ConfigError, match="6 of 7 videos.*strict_protocol"):
        make(folder, "test", strict_protocol=True)


def test_windows_are_the_clips_of_shifted_frames(shared_folder):
    data = make(shared_folder, "test", {"num_frames": 2})
    windows_WTCHW = data.windows(2, 1)
    every_TCHW = make(shared_folder, "test", {"num_frames": 8})[2]["video"]
    assert windows_WTCHW.shape == (4, 2, 3, 16, 16)
    for number, window in enumerate(windows_WTCHW):
        assert torch.equal(window, every_TCHW[[number, 4 + number]])
    assert torch.equal(data.windows(2, 3), windows_WTCHW[[0, 3]])


def test_settings_say_what_is_wrong(caplog):
    assert (
        video_settings(None, "train").loading == "skip"
        and video_settings({}, "val").loading == "strict"
    )
    with pytest.raises(
        ConfigError,
        match=r"a.video_params.num_frame: unknown key \(nearest: num_frames\)",
    ):
        video_settings(Config({"num_frame": 1}, "a.video_params"), "train")
    with pytest.raises(
        ConfigError, match="video_params.loading: 'lazy' is given; known: skip, strict"
    ):
        video_settings({"loading": "lazy"}, "train")
    with pytest.raises(ConfigError, match="num_frames: 0 is given"):
        video_settings({"num_frames": 0}, "train")
    with pytest.raises(
        ConfigError,
        match=r"a.video_params.reader: 'torchcodek' is no reader \(nearest: torchcodec\)",
    ):
        video_settings(Config({"reader": "torchcodek"}, "a.video_params"), "train")
    with caplog.at_level(logging.WARNING):
        assert video_settings({"loading": "lax"}, "test", "cv2").loading == "strict"
        assert video_settings({"loading": "lax"}, "train", "cv2").reader == "auto"
    assert "black clips" in caplog.text and "'cv2' is read as 'auto'" in caplog.text


def test_text_params_and_folders_are_checked(shared_folder, tmp_path):
    make(shared_folder, text_params={"input": "text"})
    with pytest.raises(ConfigError, match="text_params.max_length: unknown key"):
        make(shared_folder, text_params={"max_length": 3})
    with pytest.raises(FileNotFoundError, match="6 of 6"):
        make(tmp_path / "nowhere")


def test_the_manifest_of_a_prepared_copy(folder):
    assert make(folder).manifest_hash is None
    (folder / "manifest.json").write_text('{"hash": "abc"}')
    assert make(folder).manifest_hash == "abc"
