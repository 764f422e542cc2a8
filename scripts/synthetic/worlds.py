"""The worlds of the generated data: what the clips of each show, and how much their captions tell; no files.

    counts = {"train": 6000, "val": 200, "test": 1000}
    combinations = split_combinations("redundant", counts, seed=0)
    clip = draw_clip("redundant", combinations["train"][17], "train", 17, seed=0)
    clip.frames_FSSC, clip.mask_FSS, [caption.text for caption in clip.captions]

Letters: F frames of a clip, S side of a frame in pixels. Every clip is a pure function of the world, the seed, the
split, its number and what it shows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scripts.synthetic.captions import (
    Caption,
    Combination,
    split_object_pairs,
    split_single_objects,
    tell_all,
    tell_groups,
    tell_groups_in_some_detail,
    tell_some,
    with_counts,
)
from scripts.synthetic.shapes import draw
from scripts.synthetic.textures import draw_textured

SPLITS = ("train", "val", "test")
NUM_CAPTIONS = {"train": 2, "val": 1, "test": 1}
# Of the picture and of the captions: what a random generator of [seed, split, COUNTS_STREAM] draws is no clip's.
COUNTS_STREAM = 2**31


class World(NamedTuple):
    """How the clips of a world are chosen, drawn and told."""

    split: Callable[..., dict[str, list[Combination]]]
    draw: Callable[..., tuple[np.ndarray, np.ndarray]]
    tell_training: Callable[[Combination, np.random.Generator], Caption]
    tell_fully: Callable[[Combination, np.random.Generator], Caption]
    in_groups: bool = False


WORLDS = {
    "demo": World(split_single_objects, draw, tell_all, tell_all),
    "sparse": World(split_object_pairs, draw, tell_all, tell_all),
    "partial": World(split_object_pairs, draw, tell_some, tell_all),
    "redundant": World(
        split_object_pairs, draw_textured, tell_groups_in_some_detail, tell_groups, True
    ),
}


class Clip(NamedTuple):
    """A clip of a world: RGB frames, which object each pixel shows, and its captions.

    `mask_FSS` is k where the k-th object (or group) of the combination is seen, counted from 1, else 0.
    """

    frames_FSSC: np.ndarray
    mask_FSS: np.ndarray
    captions: list[Caption]


def split_combinations(
    world: str, counts: dict[str, int], seed: int
) -> dict[str, list[Combination]]:
    """What each clip of each split shows.

    Args:
        world: A name of WORLDS.
        counts: Clips of the splits "train", "val" and "test".
        seed: That of the data set.

    Raises:
        ValueError: The world has fewer combinations than `counts` asks for.
    """
    combinations = WORLDS[world].split(counts, np.random.default_rng(seed))
    if not WORLDS[world].in_groups:
        return combinations
    return {
        split: with_counts(
            combinations[split],
            np.random.default_rng([seed, split_index, COUNTS_STREAM]),
            in_pairs=split != "train",
        )
        for split_index, split in enumerate(SPLITS)
    }


def draw_clip(
    world: str,
    objects: Combination,
    split: str,
    number: int,
    seed: int,
    frames: int = 12,
    side: int = 64,
) -> Clip:
    """Draw and describe one clip.

    Args:
        world: A name of WORLDS.
        objects: What it shows: `split_combinations(world, counts, seed)[split][number]`.
        split: "train", "val" or "test".
        number: Of the clip in its split, from 0.
        seed: That of the data set.
        frames: Frames of the clip.
        side: Side of a frame, pixels.
    """
    recipe = WORLDS[world]
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    frames_FSSC, mask_FSS = recipe.draw(objects, frames, side, rng)
    tell = recipe.tell_training if split == "train" else recipe.tell_fully
    captions = [tell(objects, rng) for _ in range(NUM_CAPTIONS[split])]
    return Clip(frames_FSSC, mask_FSS, captions)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
