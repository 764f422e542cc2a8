"""Held-out training videos: the validation split of a protocol that has none."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from data_loader.annotations.selection import VideoSelection
from parse_config import ConfigError

log = logging.getLogger(__name__)

DEFAULT_HOLDOUT = 500  # videos
LARGEST_SHARE = 5  # at most 1/5 of the training videos is held out by default


class Holdout(NamedTuple):
    """The training videos that are held out for validation.

    videos: their number; 0: none, and the test split stands in for validation. seed: of the draw.
    """

    videos: int
    seed: int


def check_holdout(count: int | None, lacks_validation: bool, name: str) -> None:
    """ConfigError for a negative number of held-out videos, or one for data with a validation split.

    lacks_validation: whether the data set `name` has no validation split
    """
    if count is not None and count < 0:
        raise ConfigError(f"holdout: {count} is given, 0 or more videos are needed")
    if count and not lacks_validation:
        raise ConfigError(
            f"holdout: {count} is given, and {name} has a split 'val' of its own; leave it out"
        )


def hold_out(
    selection: VideoSelection,
    split: str,
    count: int | None,
    seed: int,
    group: Callable[[str], str],
) -> Holdout:
    """Leave the held-out videos out of the selection where `split` is train; keep them alone where it is val.

    selection: the training videos, where `split` is train or val and `count` not 0
    count: videos to hold out; None: DEFAULT_HOLDOUT, at most a fifth of the training videos (rounded down)
    group: id of a video -> what is held out together with it
    """
    if count == 0 or split not in ("train", "val"):
        return Holdout(DEFAULT_HOLDOUT if count is None else count, seed)
    num_videos = len(selection)
    if count is None:
        count = min(DEFAULT_HOLDOUT, num_videos // LARGEST_SHARE)
    mask = held_out_mask([group(video) for video in selection.ids], count, seed)
    holdout = Holdout(int(mask.sum()), seed)
    log.info(
        "%s: %d of %d training videos are held out for validation (holdout_seed %d)",
        selection.name,
        holdout.videos,
        num_videos,
        seed,
    )
    selection.keep(mask if split == "val" else ~mask)
    return holdout


def held_out_mask(groups: Sequence[str], count: int, seed: int) -> torch.Tensor:
    """bool (videos,): which training videos are held out: `count` of them, or more where a group goes over it.

    It is a function of the groups' names and the seed alone: the order of the annotations, their layout, subsampling
    and missing files change nothing. A group is held out whole or not at all.

    groups: the group of each video; its id where videos are on their own
    Raises ConfigError where nothing would be left to train on.
    """

    def random_key(group: str) -> bytes:
        return hashlib.sha256(f"{seed} {group}".encode()).digest()

    videos_of: dict[str, list[int]] = {}
    for video, group in enumerate(groups):
        videos_of.setdefault(group, []).append(video)
    held_out: list[int] = []
    for group in sorted(videos_of, key=random_key):
        if len(held_out) >= count:
            break
        held_out += videos_of[group]
    if len(held_out) >= len(groups):
        raise ConfigError(
            f"holdout: {count} videos are to be held out, and the training split has {len(groups)}; give a smaller "
            "number, or 0 to choose on the test split"
        )
    mask = torch.zeros(len(groups), dtype=torch.bool)
    mask[held_out] = True
    return mask
