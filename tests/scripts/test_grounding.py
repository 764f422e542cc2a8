"""scripts/visualize.py alignment --score: every number beside plain loops, on real clips and their masks."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from data_loader.frames import pick
from model import load_model
from model.text.word_features import encode_words
from parse_config import UserError
from scripts import make_demo_data, visualize
from scripts.figures.alignment import word_similarity
from scripts.figures.clips import clip_reader
from scripts.figures.grounding import (
    NUMBERS,
    chance_iou,
    clip_interval,
    grounding_score,
    measure,
    object_pixels,
    patch_shares,
    percent,
    read_objects,
)
from scripts.synthetic import tiny_models
from scripts.synthetic.shapes import COLOURS
from tests.scripts.test_visualize import checkpoint

SPLIT_SIZES = ("--train", "8", "--val", "4", "--test", "12")
FRAMES, GRID = 4, 4  # of the tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds data of two worlds, and a.pth and b.pth with the text model of the first."""
    folder = tmp_path_factory.mktemp("grounding")
    for world in ("sparse", "redundant"):
        make_demo_data.main(
            ["--world", world, "--out", str(folder / world), *SPLIT_SIZES]
        )
    text_folder = str(folder / "sparse/text_model")
    for seed, name in enumerate("ab"):
        model = tiny_models.build_miles(
            text_folder, seed, time_init="rand", weight_std=0.3, pos_embed_std=0.5
        ).eval()
        checkpoint(model, text_folder, folder / f"{name}.pth")
    return folder


def mean_cosine(cosine_M, share_M):
    """Weighted by share; None of an object without pixels."""
    total = weight = 0.0
    for cosine, share in zip(cosine_M, share_M):
        total += cosine * share
        weight += share
    return total / weight if weight else None


def pointing_by_loops(cosine_M, share_KM, own):
    """(value, chance) of one phrase; None of a clip that shows no other object."""
    means = [mean_cosine(cosine_M, share_M) for share_M in share_KM]
    others = [mean for k, mean in enumerate(means) if k != own and mean is not None]
    if not others:
        return None
    chance = 1 / (len(others) + 1)
    difference = means[own] - max(others)
    if abs(difference) < 1e-9:
        return 0.5, chance
    return float(difference > 0), chance


def game_by_loops(cosine_M, share_M):
    """(value, chance) of one phrase whose map has one highest patch."""
    highest = max(range(len(cosine_M)), key=lambda patch: cosine_M[patch])
    num_on = sum(share >= 0.25 for share in share_M)
    return float(share_M[highest] >= 0.25), num_on / len(share_M)


def iou_by_loops(cosine_M, share_M):
    """(value, chance) of one phrase; chance as the mean of many random maps."""
    patches = range(len(cosine_M))
    wanted = {patch for patch in patches if share_M[patch] >= 0.5}
    if not wanted:
        wanted = {max(patches, key=lambda patch: share_M[patch])}
    chosen = sorted(patches, key=lambda patch: -cosine_M[patch])[: len(wanted)]
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(4000):
        random_map_M = rng.random(len(cosine_M))
        drawn = set(np.argsort(random_map_M)[: len(wanted)].tolist())
        overlaps.append(len(drawn & wanted) / len(drawn | wanted))
    value = len(set(chosen) & wanted) / len(set(chosen) | wanted)
    return value, sum(overlaps) / len(overlaps)


def random_maps(num_clips=8, num_objects=3, num_patches=24):
    """(cosine_VKM, share_VKM, has_phrase_VK): objects of many sizes, of none, and without a phrase."""
    rng = np.random.default_rng(5)
    cosine_VKM = rng.uniform(-1, 1, (num_clips, num_objects, num_patches))
    share_VKM = rng.dirichlet([0.2] * (num_objects + 1), (num_clips, num_patches))
    share_VKM = share_VKM[..., 1:].swapaxes(1, 2).copy()
    share_VKM[0, 1] = 0
    share_VKM[1, 1:] = 0
    share_VKM[2, 0] *= 0.4  # no patch is mostly this object
    has_phrase_VK = np.ones((num_clips, num_objects), bool)
    has_phrase_VK[3, 2] = False
    return cosine_VKM, share_VKM, has_phrase_VK


def test_numbers_by_loops():
    cosine_VKM, share_VKM, has_phrase_VK = random_maps()
    cosine_VKM[4] = 0.1 * np.round(cosine_VKM[4, :1] * 4) + 1e-4 * np.arange(24)
    share_VKM[4, 1] = share_VKM[4, 0]  # a tie of two objects
    measured = measure(cosine_VKM, share_VKM, has_phrase_VK)
    seen = set()
    for clip, k in np.ndindex(has_phrase_VK.shape):
        cosine_M, share_M = cosine_VKM[clip, k].tolist(), share_VKM[clip, k].tolist()
        found = {
            name: (
                measured.value_VK[name][clip, k],
                measured.chance_VK[name][clip, k],
            )
            for name in NUMBERS
        }
        if not has_phrase_VK[clip, k] or not any(share_M):
            assert np.isnan(list(found.values())).all()
            continue
        expected = pointing_by_loops(cosine_M, share_VKM[clip].tolist(), k)
        if expected is None:
            assert np.isnan(found["pointing"]).all()
        else:
            assert found["pointing"] == pytest.approx(expected)
            seen.add(expected[0])
        assert found["pointing_game"] == pytest.approx(game_by_loops(cosine_M, share_M))
        value, chance = iou_by_loops(cosine_M, share_M)
        assert found["mean_iou"][0] == pytest.approx(value)
        assert found["mean_iou"][1] == pytest.approx(chance, abs=0.015)
    assert seen == {0.0, 0.5, 1.0}


def test_perfect_swapped_and_constant_maps():
    share_VKM = np.zeros((3, 2, 16))
    for clip in range(3):
        share_VKM[clip, 0, clip : clip + 2] = 1
        share_VKM[clip, 1, 10 + clip : 12 + clip] = 1
    phrases_VK = np.ones((3, 2), bool)

    def numbers(cosine_VKM):
        measured = measure(cosine_VKM, share_VKM, phrases_VK)
        return [percent(measured.value_VK[name]) for name in NUMBERS]

    assert numbers(share_VKM) == [100, 100, 100]
    assert numbers(share_VKM[:, ::-1]) == [0, 0, 0]
    # Two of sixteen patches are the object's; of equally high patches each is as good as the other.
    pointing, game, _ = numbers(np.full_like(share_VKM, 0.3))
    assert (pointing, game) == (50, 12.5)


def test_chance_of_the_iou_counts_every_choice():
    # Two of four patches: of 6 choices 1 is both, 4 are one of them, 1 is none.
    assert chance_iou(2, 4) == pytest.approx((1 + 4 / 3 + 0) / 6)
    assert chance_iou(4, 4) == 1
    assert chance_iou(1, 10) == pytest.approx(0.1)
    assert 0 < chance_iou(400, 12 * 196) < 400 / (12 * 196)


def test_interval_is_a_bootstrap_of_whole_clips():
    rng = np.random.default_rng(2)
    share_VK = np.repeat(rng.random((30, 1)), 3, axis=1)
    share_VK[:10, 1:] = np.nan
    share_VK[4] = np.nan
    clips = [[share for share in row if not math.isnan(share)] for row in share_VK]
    clips = [clip for clip in clips if clip]
    means = []
    for _ in range(4000):
        drawn = [clips[i] for i in rng.integers(0, len(clips), len(clips))]
        means.append(100 * np.mean([share for clip in drawn for share in clip]))
    found = clip_interval(share_VK)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1.2)
    assert found == clip_interval(share_VK)
    assert clip_interval(np.full((3, 2), np.nan)) is None
    assert percent(np.full((3, 2), np.nan)) is None


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sparse", "redundant"])
def test_shares_are_those_of_pillows_resize_and_crop(folder, world):
    objects = read_objects(folder / world, "test", ["test_00003"])
    frames = pick(len(objects.masks[0]), FRAMES)
    pixels_TKHW = object_pixels(
        objects.masks[0], frames, 2, {"input_res": 32, "center_crop": 24}
    )
    share_KTYX = patch_shares(pixels_TKHW[None], (FRAMES, GRID, GRID))[0].unflatten(
        1, (FRAMES, GRID, GRID)
    )
    for t, frame in enumerate(frames):
        for k in range(2):
            picture = Image.fromarray(
                255 * (objects.masks[0][frame] == k + 1).astype(np.uint8)
            )
            picture = picture.resize((24, 24), Image.Resampling.BILINEAR)
            picture = picture.resize((32, 32), Image.Resampling.BILINEAR)
            pixel_HW = np.asarray(picture) / 255
            for row in range(GRID):
                for column in range(GRID):
                    patch = pixel_HW[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                    found = share_KTYX[k, t, row, column].item()
                    assert found == pytest.approx(patch.mean(), abs=2 / 255)
    assert share_KTYX.sum() > 0


def maps_by_hand(model, data, split, phrase_source, patches):
    """(cosine_VKM, share_VKM) of a folder, clip by clip and phrase by phrase, from figures' own functions."""
    with open(data / "captions.jsonl") as file:
        rows = [json.loads(line) for line in file]
    masks = np.load(data / f"masks_{split}.npz")
    cosines, shares = [], []
    for row in rows:
        if row["split"] != split:
            continue
        video_BTCHW = clip_reader(model).clip(data / row["path"])[None]
        pixels = object_pixels(
            masks[row["id"]],
            pick(12, FRAMES),
            2,
            clip_reader(model).video.transform_args,
        )
        shares.append(patch_shares(pixels[None], (FRAMES, GRID, GRID))[0].numpy())
        maps = []
        for phrase in row["phrases"]:
            if phrase_source == "caption":
                words, cosine_WTYX = words_in_caption(
                    model, video_BTCHW, row["captions"][0], phrase, patches
                )
                assert words == phrase.split()
                maps.append(cosine_WTYX)
            else:
                with torch.no_grad():
                    patch_ME = patches_of_clip(model, video_BTCHW, patches)
                text_E = model.encode_text(phrase)[0]
                maps.append(torch.cosine_similarity(text_E[None], patch_ME))
        cosines.append(torch.stack(maps).double().numpy())
    return np.stack(cosines), np.stack(shares)


def patches_of_clip(model, video_BTCHW, patches):
    """patch_ME in the joint space."""
    features = model.encode_video(video_BTCHW, patch_features=patches)[1]
    return features[0].flatten(0, 1)


def words_in_caption(model, video_BTCHW, caption, phrase, patches):
    """(words, cosine_M) of the mean feature of a phrase's words; the words are found by their characters."""
    words, w_WE = encode_words(model, caption)
    assert words == caption.split()
    first = len(caption[: caption.index(phrase)].split())
    last = first + len(phrase.split())
    with torch.no_grad():
        patch_ME = patches_of_clip(model, video_BTCHW, patches)
    feature_E = w_WE[first:last].mean(0)
    if last == first + 1:
        cosine_WTYX = word_similarity(model, video_BTCHW, caption, "caption", patches)[
            1
        ]
        single = cosine_WTYX[first].flatten()
        torch.testing.assert_close(
            single, torch.cosine_similarity(feature_E[None], patch_ME)
        )
    return words[first:last], torch.cosine_similarity(feature_E[None], patch_ME)


@pytest.mark.slow
@pytest.mark.parametrize("phrase", ["alone", "caption"])
@pytest.mark.parametrize(
    "world, patches", [("sparse", "last"), ("sparse", "value"), ("redundant", "value")]
)
def test_score_is_that_of_clips_one_by_one(folder, world, patches, phrase):
    model = load_model(folder / "a.pth")
    score = grounding_score(model, folder / world, "test", phrase, 5, patches)
    cosine_VKM, share_VKM = maps_by_hand(model, folder / world, "test", phrase, patches)
    measured = measure(cosine_VKM, share_VKM, np.ones((12, 2), bool))
    for name in NUMBERS:
        value_VK, chance_VK = measured.value_VK[name], measured.chance_VK[name]
        assert score[name] == pytest.approx(100 * np.mean(value_VK))
        assert score["chance"][name] == pytest.approx(100 * np.mean(chance_VK))
        low, high = score["interval"][name]
        assert low <= score[name] <= high
    assert score["chance"]["pointing"] == 50
    assert (score["clips"], score["phrases"]) == (12, 24)
    assert set(score["left_out"].values()) == {0}


@pytest.mark.slow
def test_a_model_that_sees_colours_finds_the_objects(folder, monkeypatch):
    """Patches as their mean colour, phrases as that of what they name: frames, rows and columns are in order."""
    model = load_model(folder / "a.pth")
    with open(folder / "sparse/captions.jsonl") as file:
        rows = [json.loads(line) for line in file]
    colour_of_phrase = {
        phrase: COLOURS[colour]
        for row in rows
        for phrase, (colour, _, _) in zip(row.get("phrases", ()), row["shows"])
    }

    std_C = torch.tensor(clip_reader(model).video.norm_std)

    def embed_colours(video_BTCHW, patch_features):
        patch_BTCYX = torch.nn.functional.avg_pool2d(video_BTCHW.flatten(0, 1), 8)
        patch_BTNC = patch_BTCYX.flatten(2).mT.unflatten(0, (-1, FRAMES))
        background_B11C = patch_BTNC.flatten(1, 2).median(1).values[:, None, None]
        # A last feature that no phrase has: patches of the background are like none.
        padded = torch.nn.functional.pad(
            patch_BTNC - background_B11C, (0, 1), value=0.1
        )
        return None, torch.nn.functional.pad(padded, (0, model.embedding_size - 4))

    def embed_phrases(phrases):
        text_PE = torch.zeros(len(phrases), model.embedding_size)
        for i, phrase in enumerate(phrases):
            text_PE[i, :3] = torch.tensor(colour_of_phrase[phrase]) / std_C
        return text_PE

    monkeypatch.setattr(model, "encode_video", embed_colours)
    monkeypatch.setattr(model, "encode_text", embed_phrases)
    score = grounding_score(model, folder / "sparse")
    assert score["pointing"] > 85
    assert score["pointing_game"] > 10 * score["chance"]["pointing_game"]
    assert score["mean_iou"] > 10 * score["chance"]["mean_iou"]


@pytest.mark.slow
def test_command_line(folder, tmp_path, capsys):
    out = tmp_path / "new/score.json"
    data = str(folder / "sparse")
    common = ["alignment", "--score", "--data", data, "-d", "cpu", "--split", "val"]
    visualize.cli([*common, "-r", str(folder / "a.pth"), "-o", str(out)])
    first = json.loads(out.read_text())
    assert list(first) == [
        *("checkpoint", "data", "split", "phrase", "patch_features", "clips"),
        *("phrases", "left_out"),
        *NUMBERS,
        *("chance", "interval"),
    ]
    model = load_model(folder / "a.pth")
    checkpoint_path = str(folder / "a.pth")
    assert first == {
        "checkpoint": checkpoint_path,
        **grounding_score(model, data, "val"),
    }
    assert capsys.readouterr().out.splitlines()[-1] == str(out)

    paths = [str(folder / f"{name}.pth") for name in "ab"]
    visualize.cli([*common, "-r", *paths, "--names", "one", "two", "-o", str(out)])
    both = json.loads(out.read_text())
    assert both[0] == first and [score["checkpoint"] for score in both] == paths
    head, columns, one, two, chance, _ = capsys.readouterr().out.splitlines()
    assert "4 clips" in head and "pointing game" in columns
    for line, name, score in ((one, "one", both[0]), (two, "two", both[1])):
        low, high = score["interval"]["pointing"]
        assert line.split()[:6] == [
            *(name, "8", "0", f"{score['pointing']:.1f}"),
            *(f"[{low:.1f},", f"{high:.1f}]"),
        ]
    assert chance.split()[:2] == ["chance", "50.0"]


@pytest.mark.slow
def test_phrases_that_are_left_out_are_counted(folder, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "videos").symlink_to(folder / "sparse/videos")
    with open(folder / "sparse/captions.jsonl") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["split"] == "test"]
    masks = dict(np.load(folder / "sparse/masks_test.npz"))
    rows[0]["phrases"][1] = None
    masks["test_00001"][masks["test_00001"] == 2] = 0
    lines = [json.dumps(row) + "\n" for row in rows]
    (data / "captions.jsonl").write_text("".join(lines))
    np.savez(data / "masks_test.npz", **masks)
    model = load_model(folder / "a.pth")
    for phrase in ("alone", "caption"):
        score = grounding_score(model, data, phrase=phrase)
        assert (score["clips"], score["phrases"]) == (12, 22)
        assert score["left_out"] == {
            "no_phrase": 1,
            "no_pixels": 1,
            "no_other_object": 1,
        }


@pytest.mark.slow
def test_mistakes_are_one_line(folder, tmp_path, capsys):
    checkpoint_path = str(folder / "a.pth")
    score = ("--score", "--data", str(folder / "sparse"))
    cases = {
        (): "VIDEO",
        ("--score",): "--data",
        ("video.mp4",): "--text",
        ("video.mp4", "--text", "a dog", "--data", "x"): "--score",
        (*score, "--text", "a dog"): "--text",
        (*score, "--batch-size", "0"): "--batch-size",
        ("--score", "--data", str(tmp_path / "none")): "none",
    }
    for words, named in cases.items():
        with pytest.raises(SystemExit) as exit_info:
            visualize.cli(["alignment", "-r", checkpoint_path, *words])
        message = capsys.readouterr().err
        assert exit_info.value.code == 2 and message.count("\n") == 1
        assert message.startswith("error: ") and named in message

    model = load_model(folder / "a.pth")
    with pytest.raises(UserError, match="masks_train.npz"):
        grounding_score(model, folder / "sparse", "train")
    with pytest.raises(UserError, match="known: alone, caption"):
        grounding_score(model, folder / "sparse", phrase="word")
