"""From rows to features: read, encode, write; and what process 0 does for all. B clips or texts, E joint width."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.miles import MILES
from parse_config import UserError
from scripts.retrieval.clip_dataset import Clips, Part, plan, read_clips, read_texts
from scripts.retrieval.feature_writer import Store
from trainer.batches import move
from trainer.distributed import gather_objects, rank
from trainer.precision import Precision


def parts(
    store: Store, model: MILES, sets: list[Any], shards: list[int], given: argparse.Namespace
) -> Iterator[Part]:
    """The rows of `shards`, read."""
    batches = plan(shards, len(store.rows), store.shard_rows, given.batch)
    if given.texts:
        return read_texts(store.rows, batches, store.shard_rows)
    clips = Clips(store.rows, model.clip_reader, sets, bool(given.segments))
    return read_clips(clips, batches, store.shard_rows, given.workers)


def fill(store: Store, encode: Callable[[Any], Tensor], parts: Iterator[Part], shards: int):
    """Encode and write, shard after shard."""
    features: dict[int, np.ndarray] = {}
    bad: dict[int, str] = {}
    with tqdm(total=shards, desc="shards", disable=bool(rank()), leave=False) as bar:
        for part in parts:
            if part.numbers:
                x_BE = encode(part.clips).float().cpu()
                if not x_BE.isfinite().all():
                    raise UserError(
                        "the features are not finite; try --precision fp32, or another checkpoint"
                    )
                features.update(zip(part.numbers, x_BE.numpy()))
            bad.update(part.bad)
            if part.last:
                store.put(part.shard, features, bad)
                features, bad = {}, {}
                bar.update()


def encoder(model: MILES, given: argparse.Namespace) -> Callable[[Any], Tensor]:
    """Clips or texts -> x_BE. On the CPU one at a time, so that no feature depends on its company (see
    trainer/evaluation/extractor.py)."""
    precision = Precision(given.precision, model.device)

    @torch.no_grad()
    def encode(things: Any) -> Tensor:
        size = 1 if model.device.type == "cpu" else len(things)
        with precision.autocast():
            return torch.cat(
                [one(things[start : start + size]) for start in range(0, len(things), size)]
            )

    def one(things: Any) -> Tensor:
        return (
            model.encode_text(move(model.tokenize(things), model.device))
            if given.texts
            else model.encode_video(things.to(model.device, non_blocking=True))[0]
        )

    return encode


def width(model: MILES) -> int:
    """Of the joint space."""
    return (
        model.settings["projection_dim"]
        if model.settings["projection"]
        else model.video_model.embed_dim
    )


def on_main(work: Callable[[], Any]) -> Any:
    """What `work` gives on process 0, on all processes; if it raises a user's mistake, all end and only 0 says it."""
    result, error = None, None
    if rank() == 0:
        try:
            result = work()
        except (UserError, OSError) as mistake:
            error = mistake
    result, failed = gather_objects((result, error is not None))[0]
    if error:
        raise error
    if failed:
        raise SystemExit(2)
    return result
