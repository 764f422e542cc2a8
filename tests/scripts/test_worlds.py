"""The generated worlds: what is drawn, what its captions tell, and the masks and phrases that say which is which."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_loader.datasets import DATASETS
from data_loader.reader import read_frames
from scripts.synthetic import captions, textures
from scripts.synthetic.shapes import COLOURS, Canvas, Group
from scripts.synthetic.worlds import SPLITS, WORLDS, draw_clip, split_combinations
from tests.helpers.tiny_run import ROOT

COUNTS = {"train": 12, "val": 4, "test": 8}
# Of the frames and captions of 6 + 4 + 6 clips of 8 frames, as made when there were no worlds, and no masks.
RECORDED = {
    "demo": "76d7bfe3d71e13b9c38b1c950eda546ef49955efdb053c51116c0c2e1c36a11b",
    "sparse": "bf8187cb9c8283ea12b566864a94f5cc27bfeafe91bdc57e5855f620657bbc97",
}
SETTINGS = ("--train", "8", "--val", "2", "--test", "4", "--frames", "6")


def clips(world, split="train", counts=COUNTS):
    """(combination, clip) of every clip of a split."""
    combinations = split_combinations(world, counts, seed=0)[split]
    return [
        (objects, draw_clip(world, objects, split, number, seed=0))
        for number, objects in enumerate(combinations)
    ]


def draw_without(monkeypatch, label, world, objects, split, number):
    """The clip without its object of this label: all else is drawn as before."""
    paint = Canvas.paint

    def paint_others(canvas, scene_object, trajectory, colour_at, its_label):
        if its_label != label:
            paint(canvas, scene_object, trajectory, colour_at, its_label)

    with monkeypatch.context() as patch:
        patch.setattr(Canvas, "paint", paint_others)
        return draw_clip(world, objects, split, number, seed=0)


def with_neighbours(mask_FSS):
    """The mask and the eight neighbours of each of its pixels."""
    side = mask_FSS.shape[1]
    padded = np.pad(mask_FSS, ((0, 0), (1, 1), (1, 1)))
    shifted = [
        padded[:, row : row + side, column : column + side]
        for row in range(3)
        for column in range(3)
    ]
    return np.any(shifted, axis=0)


@pytest.mark.parametrize("world", RECORDED)
def test_older_worlds_keep_their_bytes(world):
    combinations = split_combinations(world, {"train": 6, "val": 4, "test": 6}, seed=0)
    digest = hashlib.sha256()
    for split in SPLITS:
        for number, objects in enumerate(combinations[split]):
            clip = draw_clip(world, objects, split, number, seed=0, frames=8)
            digest.update(clip.frames_FSSC.tobytes())
            for caption in clip.captions:
                digest.update(caption.text.encode())
    assert digest.hexdigest() == RECORDED[world]


@pytest.mark.parametrize("world", WORLDS)
def test_a_clip_depends_on_seed_split_and_number_only(world):
    combinations = split_combinations(world, COUNTS, seed=0)
    longer = split_combinations(world, {**COUNTS, "train": 20}, seed=0)
    assert longer["train"][:12] == combinations["train"]
    assert longer["test"] == combinations["test"]

    objects = combinations["val"][3]
    first = draw_clip(world, objects, "val", 3, seed=0)
    again = draw_clip(world, objects, "val", 3, seed=0)
    assert first.captions == again.captions
    assert np.array_equal(first.frames_FSSC, again.frames_FSSC)
    assert np.array_equal(first.mask_FSS, again.mask_FSS)
    for split, number, seed in (("test", 3, 0), ("val", 4, 0), ("val", 3, 1)):
        other = draw_clip(world, objects, split, number, seed)
        assert not np.array_equal(first.frames_FSSC, other.frames_FSSC)


@pytest.mark.parametrize("world", ("demo", "sparse", "redundant"))
def test_masked_pixels_have_the_colour_of_their_object(world):
    """The colour itself is lighter or darker by a tenth, its texture by CONTRAST."""
    for objects, clip in clips(world, "val"):
        assert clip.frames_FSSC.dtype == clip.mask_FSS.dtype == np.uint8
        assert clip.mask_FSS.shape == clip.frames_FSSC.shape[:3] == (12, 64, 64)
        assert set(np.unique(clip.mask_FSS)) == set(range(len(objects) + 1))
        for label, scene_object in enumerate(objects, start=1):
            colour = np.array(COLOURS[scene_object.colour])
            seen_NC = clip.frames_FSSC[clip.mask_FSS == label]
            assert np.abs(np.median(seen_NC, axis=0) - colour).max() < 35


@pytest.mark.parametrize("world", ("sparse", "redundant"))
def test_a_mask_is_where_its_object_changes_the_picture(world, monkeypatch):
    combinations = split_combinations(world, COUNTS, seed=0)["test"]
    for number, objects in enumerate(combinations):
        clip = draw_clip(world, objects, "test", number, seed=0)
        for label in (1, 2):
            other = draw_without(monkeypatch, label, world, objects, "test", number)
            changed_FSS = (clip.frames_FSSC != other.frames_FSSC).any(-1)
            mask_FSS = clip.mask_FSS == label
            assert changed_FSS[mask_FSS].mean() > 0.99
            # What else it changes is its rim, which it covers by less than half.
            near_FSS = with_neighbours(mask_FSS)
            assert near_FSS[changed_FSS].mean() > 0.97
            frame_seen_F = mask_FSS.any((1, 2))
            if objects[label - 1].motion == "blink":
                assert 0 < frame_seen_F.sum() < 12
                assert not changed_FSS[~frame_seen_F].any()
            else:
                assert frame_seen_F.all()


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_phrases_stand_in_the_captions(world):
    for split in SPLITS:
        for objects, clip in clips(world, split):
            for caption in clip.captions:
                assert len(caption.phrases) == len(objects)
                if split != "train":
                    assert caption.told == list(range(len(objects)))
                for scene_object, phrase in zip(objects, caption.phrases, strict=True):
                    names = captions.COLOUR_WORDS[scene_object.colour]
                    mentioned = any(name in caption.text.split() for name in names)
                    assert mentioned == (phrase is not None)
                    if phrase is not None:
                        assert f" {phrase} " in f" {caption.text} "
                        assert phrase.split()[0] in names


@pytest.mark.slow
def test_partial_shows_the_clips_of_sparse_and_tells_one_object_three_times_in_four():
    for split in SPLITS:
        sparse_clips = clips("sparse", split)
        for (shown, clip), (expected_shown, expected) in zip(
            clips("partial", split), sparse_clips, strict=True
        ):
            assert shown == expected_shown
            assert np.array_equal(clip.frames_FSSC, expected.frames_FSSC)
            if split != "train":
                assert clip.captions == expected.captions

    objects = split_combinations("partial", COUNTS, seed=0)["train"][0]
    rng = np.random.default_rng(0)
    told = Counter(
        tuple(captions.tell_some(objects, rng).told) for _ in range(4000)
    )  # standard deviations: 27 and 31
    assert abs(told[0, 1] - 1000) < 100
    assert abs(told[(0,)] - 1500) < 120 and abs(told[(1,)] - 1500) < 120


def num_predicates(text: str) -> int:
    """How many groups the caption says the motion of."""
    motions = [
        motion
        for table in (captions.MOTION_WORDS, captions.PLURAL_MOTION_WORDS)
        for words in table.values()
        for motion in words
    ]
    return len(re.findall(rf"\b(?:{'|'.join(motions)})\b", text))


def test_captions_of_redundant_are_of_mixed_length_and_detail():
    combinations = split_combinations("redundant", {**COUNTS, "train": 3000}, 0)
    rng = np.random.default_rng(0)
    told = [
        captions.tell_groups_in_some_detail(objects, rng)
        for objects in combinations["train"]
    ]
    found = Counter(
        (len(caption.told), num_predicates(caption.text)) for caption in told
    )
    shares = {key: count / len(told) for key, count in found.items()}
    assert shares == pytest.approx(
        {(1, 0): 0.3, (2, 0): 0.15, (1, 1): 0.3, (2, 2): 0.25}, abs=0.03
    )
    lengths = [len(caption.text.split()) for caption in told]
    assert min(lengths) == 2 and max(lengths) > 12

    for objects, clip in clips("redundant", "test"):
        assert num_predicates(clip.captions[0].text) == len(objects) == 2


def test_several_copies_are_plural():
    for objects, clip in clips("redundant", "train"):
        for caption in clip.captions:
            for group, phrase in zip(objects, caption.phrases, strict=True):
                if phrase is None:
                    continue
                nouns = captions.SHAPE_WORDS[group.shape]
                plurals = {
                    noun + ("es" if noun in ("box", "cross") else "s") for noun in nouns
                }
                noun = phrase.split(maxsplit=1)[1]
                assert noun in (nouns if group.count == 1 else plurals)
                before = f" {caption.text} ".split(f" {phrase} ")[0].split()[-1:]
                if group.count == 1:
                    assert before[0] in ("a", "an", "the")
                else:
                    assert before not in (["a"], ["an"])
                if before and before[0] in ("two", "three"):
                    assert before[0] == ("two", "three")[group.count - 2]


def test_galleries_of_redundant_come_in_pairs_that_differ_by_one_swap():
    counts = {"train": 10, "val": 40, "test": 241}
    for split in ("val", "test"):
        gallery = split_combinations("redundant", counts, seed=0)[split]
        assert {group.count for groups in gallery for group in groups} == {1, 2, 3}
        for first, second in zip(gallery[::2], gallery[1::2], strict=False):
            differing = [
                name
                for name in ("colour", "shape", "motion", "count")
                if [getattr(group, name) for group in first]
                != [getattr(group, name) for group in second]
            ]
            assert len(differing) == 1 and differing != ["count"]
            swapped = [getattr(group, differing[0]) for group in reversed(second)]
            assert [getattr(group, differing[0]) for group in first] == swapped


@pytest.mark.slow
def test_redundant_fills_the_picture_and_sparse_does_not():
    def shares(world):
        masks = [clip.mask_FSS > 0 for _, clip in clips(world)]
        return np.mean([mask_FSS.mean() for mask_FSS in masks])

    assert shares("redundant") > 2 * shares("sparse")


def test_the_camera_pans_over_a_textured_background():
    """A pan of whole pixels moves the picture by them, and the groups with it."""
    pan_F2 = np.array([(0, 0), (3, 1), (-2, 4)]) / 64
    pixels_FP3 = textures.draw_background(pan_F2, 64, np.random.default_rng(0))
    still, right_down, left_down = pixels_FP3.reshape(3, 64, 64, 3)
    np.testing.assert_allclose(right_down[1:, 3:], still[:-1, :-3], atol=1e-9)
    np.testing.assert_allclose(left_down[4:, :-2], still[:-4, 2:], atol=1e-9)
    assert still.std((0, 1)).min() > 5


def test_the_camera_pans_over_the_groups(monkeypatch):
    """A square that turns in place moves by as much as the background; without a pan it stays."""
    groups = (Group("red", "square", "turn", 1),)

    def way_in_pixels(seed):
        _, mask_FSS = textures.draw_textured(
            groups, 12, 64, np.random.default_rng(seed)
        )
        first, last = (np.argwhere(mask_FSS[frame]).mean(0) for frame in (0, -1))
        return np.hypot(*(last - first))

    ways = [way_in_pixels(seed) for seed in range(4)]
    assert min(ways) > 0.12 * 64 - 0.5 and max(ways) < 0.2 * 64 + 0.5
    monkeypatch.setattr(textures, "PAN", (0, 0))
    assert max(way_in_pixels(seed) for seed in range(4)) < 0.5


def test_copies_of_a_group_blink_together():
    group = Group("red", "ring", "blink", 3)
    other = Group("blue", "bar", "left", 2)
    rng = np.random.default_rng(0)
    blinking, moving = textures.place_groups((group, other), 12, rng)
    assert (len(blinking), len(moving)) == (3, 2)
    assert 0 < blinking[0].opacity.sum() < 12
    for trajectory in blinking:
        assert np.array_equal(trajectory.opacity, blinking[0].opacity)


@pytest.mark.slow
def test_groups_hide_little_of_each_other(monkeypatch):
    hidden = []
    for number, (groups, clip) in enumerate(clips("redundant")):
        arguments = ("redundant", groups, "train", number)
        alone = draw_without(monkeypatch, 2, *arguments)
        hidden.append(1 - (clip.mask_FSS == 1).sum() / (alone.mask_FSS == 1).sum())
    assert np.mean(hidden) < 0.2 and max(hidden) < 0.5


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_demo_data.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module", params=list(WORLDS))
def folder(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / request.param
    done = command("--out", str(out), "--world", request.param, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return out


def rows_of(folder: Path) -> list[dict]:
    lines = (folder / "captions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_command_writes_what_the_functions_give(folder):
    counts = {"train": 8, "val": 2, "test": 4}
    combinations = split_combinations(folder.name, counts, seed=0)
    rows = rows_of(folder)
    assert Counter(row["split"] for row in rows) == counts
    for split in SPLITS:
        of_split = [row for row in rows if row["split"] == split]
        masks = {}
        if split != "train":
            masks = dict(np.load(folder / f"masks_{split}.npz"))
            assert list(masks) == [row["id"] for row in of_split]
        for number, (row, objects) in enumerate(
            zip(of_split, combinations[split], strict=True)
        ):
            clip = draw_clip(folder.name, objects, split, number, seed=0, frames=6)
            assert row["captions"] == [caption.text for caption in clip.captions]
            assert [shown[0] for shown in row["shows"]] == [o.colour for o in objects]
            if split == "train":
                assert row["told"] == [caption.told for caption in clip.captions]
                assert "phrases" not in row
                continue
            assert row["phrases"] == list(clip.captions[0].phrases)
            assert masks[row["id"]].dtype == np.uint8
            assert np.array_equal(masks[row["id"]], clip.mask_FSS)


@pytest.mark.slow
def test_the_loader_reads_the_rows_and_the_masks_fit_its_frames(folder):
    with np.load(folder / "masks_test.npz") as masks:
        video_params = {"num_frames": 2, "input_res": 32}
        arguments = {"data_dir": str(folder), "split": "test"}
        dataset = DATASETS.build(
            {
                "type": "JsonlDataset",
                "args": {**arguments, "video_params": video_params},
            }
        )
        rows = [row for row in rows_of(folder) if row["split"] == "test"]
        assert len(dataset) == len(rows) == 4
        for index, row in enumerate(rows):
            sample = dataset[index]
            assert sample["text"] == row["captions"][0]
            assert sample["video"].shape == (2, 3, 32, 32)
            frames_TCHW = read_frames(folder / row["path"], range(6)).numpy()
            pixels_FSSC = frames_TCHW.transpose(0, 2, 3, 1)
            for label, (colour, *_) in enumerate(row["shows"], start=1):
                seen_NC = pixels_FSSC[masks[row["id"]] == label]
                difference = np.abs(np.median(seen_NC, axis=0) - COLOURS[colour])
                assert difference.max() < 45


@pytest.mark.slow
@pytest.mark.parametrize("objects, world", [(1, "demo"), (2, "sparse")])
def test_a_folder_made_before_there_were_worlds_is_kept(objects, world, tmp_path):
    settings = {
        "version": 3, "objects": objects, "train": 8, "val": 2, "test": 4, "side": 64, "frames": 6, "seed": 0,
    }  # fmt: skip
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    for option in (("--world", world), ("--objects", str(objects))):
        done = command("--out", str(tmp_path), *option, *SETTINGS)
        assert done.returncode == 0 and "already there" in done.stdout
        assert "no masks" in done.stdout
    other = command("--out", str(tmp_path), "--world", "partial", *SETTINGS)
    assert other.returncode != 0 and "made otherwise" in other.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_two_worlds_at_once_are_refused(tmp_path):
    done = command(
        "--objects", "2", "--world", "redundant", "--out", str(tmp_path / "new")
    )
    assert done.returncode == 2 and "--objects 2 is --world sparse" in done.stderr
    assert not (tmp_path / "new").exists()
