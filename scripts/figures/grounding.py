"""How well a model finds the object that a phrase names, as numbers: cosine maps of phrases against the known pixels.

The data is a folder of scripts/make_demo_data.py: captions.jsonl with "shows" and "phrases", and masks_{split}.npz.

V clips, B clips of a batch, K objects of a clip (J: the same objects once more), T frames, H, W, S sides in pixels,
N patches per frame, M patches of all frames of a clip, E joint width, R resamples.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_loader.base import TextVideoDataset
from data_loader.datasets.jsonl import JsonlDataset, read_rows
from data_loader.transforms import build_transform
from model.miles import MILES
from model.text.word_features import WORD, encode_words
from parse_config import UserError
from scripts.figures.clips import File

PHRASE_SOURCES = ("alone", "caption")
NUMBERS = ("pointing", "pointing_game", "mean_iou")
ON_OBJECT = 0.25  # least share of a patch that the pointing game counts as the object
MOSTLY_OBJECT = 0.5  # least share of a patch that the intersection over union counts
TIE = 1e-9  # cosines that differ by no more are equal
HEADINGS = {
    "pointing": "pointing",
    "pointing_game": "pointing game",
    "mean_iou": "mean IoU",
}


class Objects(NamedTuple):
    """What is known of the clips of a split.

    Args:
        captions: the first caption of each of the V clips
        phrases: for each clip the noun phrase of each of its objects; None: it has none
        masks: uint8 (F, S, S) of each clip: k where its k-th object is seen, from 1, else 0
    """

    captions: list[str]
    phrases: list[list[str | None]]
    masks: list[np.ndarray]

    @property
    def most(self) -> int:
        """K, the objects of the clip that shows most."""
        return max(len(clip_phrases) for clip_phrases in self.phrases)


class Measured(NamedTuple):
    """The numbers of each phrase, and what chance gives, as shares from 0 to 1; NaN where there is none.

    `value_VK` and `chance_VK` hold an array (V, K) for each name in NUMBERS.
    """

    value_VK: dict[str, np.ndarray]
    chance_VK: dict[str, np.ndarray]


def grounding_score(
    model: MILES,
    data: File,
    split: str = "test",
    phrase: str = "alone",
    batch_size: int = 64,
    patch_features: str = "value",
) -> dict[str, Any]:
    """Scores how well the cosine maps of phrases lie on their objects.

    Args:
        model: in eval mode
        data: folder of scripts/make_demo_data.py with masks
        split: val or test
        phrase: "alone", embedded as a text of its own; "caption", the mean feature of its words inside the caption
        batch_size: clips at once
        patch_features: "value", what each patch gives to CLS, or "last", its output, see `MILES.encode_video`

    Returns:
        {"data", "split", "phrase", "patch_features", "clips", "phrases", "left_out", "pointing", "pointing_game",
        "mean_iou", "chance", "interval"}: the three numbers in percent, means over phrases, None where no phrase has
        one; "interval": 95 %, of a bootstrap over clips.

    Raises:
        UserError: the folder has no such masks or phrases, or the model's features are not finite.
    """
    video_params = {**model.preprocessing, "loading": "strict"}
    dataset = JsonlDataset(str(data), split=split, video_params=video_params)
    objects = read_objects(Path(data), split, dataset.ids)
    text_VKE, has_phrase_VK = phrase_features(model, objects, phrase)
    cosine_VKM, share_VKM = cosine_maps(
        model, dataset, objects, text_VKE, batch_size, patch_features
    )
    if not np.isfinite(cosine_VKM).all():
        raise UserError("the model's features are not finite: is the checkpoint whole?")

    measured = measure(cosine_VKM, share_VKM, has_phrase_VK)
    return {
        "data": str(data),
        "split": split,
        "phrase": phrase,
        "patch_features": patch_features,
        "clips": len(dataset),
        **count_phrases(measured, has_phrase_VK, sum(map(len, objects.phrases))),
        **{name: percent(measured.value_VK[name]) for name in NUMBERS},
        "chance": {name: percent(measured.chance_VK[name]) for name in NUMBERS},
        "interval": {name: clip_interval(measured.value_VK[name]) for name in NUMBERS},
    }


def read_objects(folder: Path, split: str, ids: Sequence[str]) -> Objects:
    """Captions, phrases and masks of the clips `ids`, in their order. Raises UserError for data that has none."""
    masks_path = folder / f"masks_{split}.npz"
    if not masks_path.is_file():
        raise UserError(
            f"{masks_path}: no such file; make the data with scripts/make_demo_data.py, and take split val or test"
        )
    rows = {str(row.get("id")): row for _, row in read_rows(folder / "captions.jsonl")}
    for clip_id in ids:
        if not rows.get(clip_id, {}).get("phrases"):
            raise UserError(
                f"{folder}/captions.jsonl: the row of {clip_id} has no phrases"
            )

    with np.load(masks_path) as mask_of_id:
        missing = [clip_id for clip_id in ids if clip_id not in mask_of_id]
        if missing:
            raise UserError(f"{masks_path}: has no mask of {missing[0]}")
        masks = [mask_of_id[clip_id] for clip_id in ids]
    return Objects(
        [rows[clip_id]["captions"][0] for clip_id in ids],
        [rows[clip_id]["phrases"] for clip_id in ids],
        masks,
    )


def phrase_features(
    model: MILES, objects: Objects, source: str
) -> tuple[Tensor, np.ndarray]:
    """(text_VKE of length 1, has_phrase_VK): zeros and False for an object without a phrase.

    source: "alone" or "caption", see `grounding_score`. Inside a caption, a phrase that the longest text of the model
    cuts off is none. Raises UserError for another source.
    """
    if source not in PHRASE_SOURCES:
        raise UserError(
            f"--phrase {source}: is not known; known: {', '.join(PHRASE_SOURCES)}"
        )
    find = _phrases_inside if source == "caption" else _phrases_alone
    num_clips = len(objects.phrases)
    text_VKE = torch.zeros(num_clips, objects.most, model.embedding_size)
    has_phrase_VK = np.zeros((num_clips, objects.most), bool)
    for clip, k, feature_E in find(model, objects):
        text_VKE[clip, k] = F.normalize(feature_E.float(), dim=-1).cpu()
        has_phrase_VK[clip, k] = True
    return text_VKE, has_phrase_VK


def _phrases_alone(model: MILES, objects: Objects) -> Iterator[tuple[int, int, Tensor]]:
    """(clip, object, feature_E) of each phrase; each different one is embedded once."""
    phrases = sorted(
        {
            phrase
            for clip_phrases in objects.phrases
            for phrase in clip_phrases
            if phrase
        }
    )
    feature_of_phrase = dict(zip(phrases, model.encode_text(phrases)))
    for clip, clip_phrases in enumerate(objects.phrases):
        for k, phrase in enumerate(clip_phrases):
            if phrase:
                yield clip, k, feature_of_phrase[phrase]


def _phrases_inside(
    model: MILES, objects: Objects
) -> Iterator[tuple[int, int, Tensor]]:
    """(clip, object, feature_E) of each phrase: the mean over its words where they first stand in the caption."""
    for clip, caption in enumerate(objects.captions):
        words, w_WE = encode_words(model, caption)
        for k, phrase in enumerate(objects.phrases[clip]):
            phrase_words = WORD.findall(phrase or "")
            start = _first_place(phrase_words, words)
            if phrase_words and start is not None:
                yield clip, k, w_WE[start : start + len(phrase_words)].mean(0)


def _first_place(phrase_words: Sequence[str], words: Sequence[str]) -> int | None:
    """Where the words of a phrase first stand one after another; None: nowhere."""
    length = len(phrase_words)
    for start in range(len(words) - length + 1):
        if list(words[start : start + length]) == list(phrase_words):
            return start
    return None


@torch.no_grad()
def cosine_maps(
    model: MILES,
    dataset: TextVideoDataset,
    objects: Objects,
    text_VKE: Tensor,
    batch_size: int,
    patch_features: str = "last",
) -> tuple[np.ndarray, np.ndarray]:
    """(cosine_VKM, share_VKM): of each object's phrase with each patch, and the object's share of the patch's pixels.

    Args:
        model: in eval mode
        dataset: of V clips
        objects: what its clips show
        text_VKE: features of length 1 of the phrases
        batch_size: clips at once
        patch_features: see `grounding_score`
    """
    cosines = []
    shares = []
    for start in range(0, len(dataset), batch_size):
        clips = range(start, min(start + batch_size, len(dataset)))
        samples = [dataset[clip] for clip in clips]
        video_BTCHW = torch.stack([sample["video"] for sample in samples])
        object_BTKHW = torch.stack(
            [
                object_pixels(
                    objects.masks[clip],
                    sample["meta"]["frames"],
                    objects.most,
                    dataset.video.transform_args,
                )
                for clip, sample in zip(clips, samples)
            ]
        )
        _, patch_BTNE = model.encode_video(
            video_BTCHW.to(model.device), patch_features=patch_features
        )
        cosine_BKTN = torch.einsum(
            "bke,btne->bktn",
            text_VKE[start : clips.stop].to(model.device),
            F.normalize(patch_BTNE.float(), dim=-1),
        )
        cosines.append(cosine_BKTN.flatten(2).cpu().double().numpy())
        shares.append(patch_shares(object_BTKHW, model.grid(video_BTCHW)).numpy())
    return np.concatenate(cosines), np.concatenate(shares)


def object_pixels(
    mask_FSS: np.ndarray,
    frames: Sequence[int],
    num_objects: int,
    transform_args: dict[str, Any],
) -> Tensor:
    """A clip's mask through the test transform of its frames: object_TKHW, how much of a pixel each object covers.

    Args:
        mask_FSS: k where the k-th object is seen, from 1, else 0
        frames: the T frames that the model sees
        num_objects: K
        transform_args: of the data set's clips, see `build_transform`
    """
    if max(frames) >= len(mask_FSS):
        raise UserError(
            f"a mask of {len(mask_FSS)} frames, and frame {max(frames)} of its clip is shown: was a video replaced?"
        )
    view = build_transform(
        False,
        **{
            **transform_args,
            "norm_mean": (0,) * num_objects,
            "norm_std": (1,) * num_objects,
        },
    )
    label_K11 = np.arange(1, num_objects + 1)[:, None, None]
    object_TKSS = mask_FSS[list(frames), None] == label_K11
    return view(torch.from_numpy(object_TKSS.astype(np.uint8) * 255), None)


def patch_shares(object_BTKHW: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """share_BKM, float64: the mean of each object over the pixels of each patch.

    grid: (frames, rows, columns) of patches.
    """
    object_BKTHW = object_BTKHW.transpose(1, 2).double()
    kernel = [side // patches for side, patches in zip(object_BKTHW.shape[2:], grid)]
    return F.avg_pool3d(object_BKTHW, kernel).flatten(2)


def measure(
    cosine_VKM: np.ndarray, share_VKM: np.ndarray, has_phrase_VK: np.ndarray
) -> Measured:
    """The three numbers of each phrase. An object of no pixels, or without a phrase, has none.

    Args:
        cosine_VKM: of the phrase of each object with each patch
        share_VKM: of each patch that is the object
        has_phrase_VK: which objects have a phrase
    """
    counted_VK = has_phrase_VK & (share_VKM.sum(2) > 0)
    pairs = {
        "pointing": pointing(cosine_VKM, share_VKM),
        "pointing_game": pointing_game(cosine_VKM, share_VKM),
        "mean_iou": intersection_over_union(cosine_VKM, share_VKM),
    }
    return Measured(
        {
            name: np.where(counted_VK, value, np.nan)
            for name, (value, _) in pairs.items()
        },
        {
            name: np.where(counted_VK, chance, np.nan)
            for name, (_, chance) in pairs.items()
        },
    )


def count_phrases(
    measured: Measured, has_phrase_VK: np.ndarray, num_objects: int
) -> dict[str, Any]:
    """{"phrases": how many have numbers, "left_out": {why: how many objects have none}}.

    A phrase of "no_other_object" lacks `pointing` alone: no other object of its clip is seen.
    """
    has_number_VK = ~np.isnan(measured.value_VK["mean_iou"])
    has_pointing_VK = ~np.isnan(measured.value_VK["pointing"])
    return {
        "phrases": int(has_number_VK.sum()),
        "left_out": {
            "no_phrase": num_objects - int(has_phrase_VK.sum()),
            "no_pixels": int((has_phrase_VK & ~has_number_VK).sum()),
            "no_other_object": int((has_number_VK & ~has_pointing_VK).sum()),
        },
    }


def pointing(
    cosine_VKM: np.ndarray, share_VKM: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(value_VK, chance_VK): 1 where the own object's mean cosine is above that of every other object, 1/2 for a tie.

    Means are weighted by share. Only objects with pixels count; NaN where there is no other.
    """
    size_VJ = share_VKM.sum(2)
    is_seen_VJ = size_VJ > 0
    total_VKJ = cosine_VKM @ share_VKM.swapaxes(1, 2)
    mean_VKJ = total_VKJ / np.where(is_seen_VJ, size_VJ, 1)[:, None]

    num_objects = share_VKM.shape[1]
    is_other_VKJ = is_seen_VJ[:, None] & ~np.eye(num_objects, dtype=bool)
    highest_other_VK = np.where(is_other_VKJ, mean_VKJ, -np.inf).max(2)
    own_VK = np.diagonal(mean_VKJ, axis1=1, axis2=2)
    value_VK = (own_VK > highest_other_VK + TIE) / 2
    value_VK += (own_VK >= highest_other_VK - TIE) / 2

    num_others_VK = is_other_VKJ.sum(2)
    return (
        np.where(num_others_VK > 0, value_VK, np.nan),
        np.where(num_others_VK > 0, 1 / (1 + num_others_VK), np.nan),
    )


def pointing_game(
    cosine_VKM: np.ndarray, share_VKM: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(value_VK, chance_VK): whether the highest patch is on the object; of equally high ones, the share that is.

    Source: the pointing game of Zhang et al., Top-down neural attention by excitation backprop (arXiv 1608.00507).
    """
    is_on_VKM = share_VKM >= ON_OBJECT
    is_highest_VKM = cosine_VKM >= cosine_VKM.max(2, keepdims=True) - TIE
    value_VK = (is_on_VKM & is_highest_VKM).sum(2) / is_highest_VKM.sum(2)
    return value_VK, is_on_VKM.mean(2)


def intersection_over_union(
    cosine_VKM: np.ndarray, share_VKM: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(value_VK, chance_VK): IoU of the k highest patches with the object's k patches.

    Those are the patches that are mostly the object, or the one that is it most; of equally high ones the first count.
    """
    is_largest_VKM = np.zeros(share_VKM.shape, bool)
    np.put_along_axis(is_largest_VKM, share_VKM.argmax(2)[..., None], True, axis=2)
    is_mostly_VKM = share_VKM >= MOSTLY_OBJECT
    has_none_VK1 = ~is_mostly_VKM.any(2, keepdims=True)
    is_object_VKM = is_mostly_VKM | (has_none_VK1 & is_largest_VKM)

    size_VK = is_object_VKM.sum(2)
    rank_VKM = np.argsort(np.argsort(-cosine_VKM, axis=2, kind="stable"), axis=2)
    is_chosen_VKM = rank_VKM < size_VK[..., None]
    common_VK = (is_chosen_VKM & is_object_VKM).sum(2)

    sizes, place_of_size = np.unique(size_VK, return_inverse=True)
    num_patches = share_VKM.shape[2]
    chances = np.array([chance_iou(int(size), num_patches) for size in sizes])
    return (
        common_VK / (2 * size_VK - common_VK),
        chances[place_of_size.reshape(size_VK.shape)],
    )


@cache
def chance_iou(size: int, num_patches: int) -> float:
    """Expected IoU of `size` patches of a random map with `size` given ones: their overlap is hypergeometric."""
    num_others = num_patches - size
    total = math.comb(num_patches, size)
    return sum(
        math.comb(size, common)
        * math.comb(num_others, size - common)
        / total
        * (common / (2 * size - common))
        for common in range(max(0, size - num_others), size + 1)
    )


def percent(share_VK: np.ndarray) -> float | None:
    """The mean over the phrases that have a number, in percent; None if none has."""
    if np.isnan(share_VK).all():
        return None
    return 100 * float(np.nanmean(share_VK))


def clip_interval(
    share_VK: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> list[float] | None:
    """Percentile bootstrap of `percent` over clips, whose phrases stay together: [low, high]; None if there is none."""
    count_V = (~np.isnan(share_VK)).sum(1)
    total_V = np.nansum(share_VK, 1)[count_V > 0]
    count_V = count_V[count_V > 0]
    num_clips = len(count_V)
    if not num_clips:
        return None
    generator = np.random.default_rng(seed)
    drawn_RV = generator.multinomial(
        num_clips, np.full(num_clips, 1 / num_clips), size=resamples
    )
    mean_R = 100 * (drawn_RV @ total_V) / (drawn_RV @ count_V)
    return np.percentile(mean_R, [50 * (1 - level), 50 * (1 + level)]).tolist()


def score_table(scores: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The scores as a table: a row for each of `names`, and below the rows that it is of a row of chance."""
    width = max(len(name) for name in [*names, "chance"])
    first = scores[0]
    lines = [
        f"{first['data']}, {first['split']}: {first['clips']} clips; phrases: {first['phrase']}; "
        "in percent, with 95 % intervals over clips",
        " " * width
        + "  phrases  left out"
        + "".join(f"  {HEADINGS[name]:<20}" for name in NUMBERS).rstrip(),
    ]
    for i, (name, score) in enumerate(zip(names, scores)):
        cells = [_cell(score[number], score["interval"][number]) for number in NUMBERS]
        counts = f"{score['phrases']:>9}{sum(score['left_out'].values()):>10}"
        lines.append(_row(name.ljust(width) + counts, cells))
        if i + 1 == len(scores) or scores[i + 1]["chance"] != score["chance"]:
            cells = [_cell(score["chance"][number], None) for number in NUMBERS]
            lines.append(_row("chance".ljust(width + 19), cells))
    return "\n".join(lines)


def _row(start: str, cells: Sequence[str]) -> str:
    return (start + "".join(f"  {cell:<20}" for cell in cells)).rstrip()


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    if interval is None:
        return f"{value:.1f}"
    return f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
