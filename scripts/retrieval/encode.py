"""Rows -> features: read, encode, write. B clips or texts, E joint width."""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data_loader.base import TextVideoDataset
from data_loader.decode.clip_reader import ClipReader
from model.miles import MILES
from parse_config import UserError
from scripts.retrieval.clip_dataset import (
    Batch,
    Clips,
    plan_batches,
    read_clips,
    read_texts,
)
from scripts.retrieval.feature_writer import FeatureWriter
from trainer.batches import move
from trainer.distributed import rank, world_size
from trainer.precision import Precision

Inputs = Tensor | list[str]  # video_BTCHW, or B texts


def extract_shards(
    writer: FeatureWriter,
    model: MILES,
    datasets: Sequence[TextVideoDataset],
    shards: list[int],
    args: argparse.Namespace,
) -> None:
    """Reads, encodes and writes the rows of `shards`; args: those of scripts/extract.py. Raises UserError, OSError."""
    rows_of_shards = [writer.unknown_rows(shard) for shard in shards]
    for shard, numbers in zip(shards, rows_of_shards):
        if not numbers:
            writer.write_shard(shard, {}, {})
    planned = plan_batches(rows_of_shards, args.batch)
    if not planned:
        return
    batches = read_batches(writer, model, datasets, planned, args)
    write_features(
        writer, make_encoder(model, args.precision), batches, last_rows(writer, planned)
    )


def read_batches(
    writer: FeatureWriter,
    model: MILES,
    datasets: Sequence[TextVideoDataset],
    planned: list[list[int]],
    args: argparse.Namespace,
) -> Iterator[Batch]:
    """Reads the rows of the planned batches."""
    if args.texts:
        return read_texts(writer.rows, planned, writer.shard_rows)
    assert isinstance(model.clip_reader, ClipReader), "load_model sets it"
    clips = Clips(
        writer.rows, model.clip_reader, datasets, segmented=bool(args.segments)
    )
    return read_clips(clips, planned, writer.shard_rows, args.workers)


def last_rows(writer: FeatureWriter, planned: list[list[int]]) -> set[int]:
    """Numbers of the planned rows that are the last of their video, or texts."""
    numbers = [number for batch in planned for number in batch]
    paths = [writer.rows[number].get("path", number) for number in numbers]
    return {
        number
        for number, path, next_path in zip(numbers, paths, [*paths[1:], None])
        if path != next_path
    }


def write_features(
    writer: FeatureWriter,
    encode: Callable[[Inputs], Tensor],
    batches: Iterator[Batch],
    last_of_each: set[int],
) -> None:
    """Encodes the batches and writes shard after shard. Raises UserError for features that are not finite.

    last_of_each: the number of the last row of each video, by which the progress bar counts videos.
    """
    features: dict[int, np.ndarray] = {}
    bad: dict[int, str] = {}
    with progress_bar(writer, len(last_of_each)) as bar:
        for batch in batches:
            if batch.numbers:
                x_BE = encode(batch.inputs).float().cpu()
                if not x_BE.isfinite().all():
                    raise UserError(
                        "the features are not finite; try --precision fp32, or another checkpoint"
                    )
                features.update(zip(batch.numbers, x_BE.numpy()))
            bad.update(batch.bad)
            row_numbers = {*batch.numbers, *dict(batch.bad)}
            bar.update(len(row_numbers & last_of_each))
            if batch.ends_shard:
                writer.write_shard(batch.shard, features, bad)
                features = {}
                bad = {}


def progress_bar(writer: FeatureWriter, total: int) -> tqdm:
    """A bar that counts the videos or texts of this process, with the time that is left."""
    label = "texts" if "text" in writer.rows[0] else "videos"
    if world_size() > 1:
        label = f"{label} of 1 of {world_size()} processes"
    return tqdm(total=total, desc=label, disable=rank() != 0, leave=False)


def make_encoder(model: MILES, precision_name: str) -> Callable[[Inputs], Tensor]:
    """A function that embeds clips or texts -> x_BE.

    On the CPU it embeds one at a time, so that no feature depends on the others of its batch (see
    trainer/evaluation/extractor.py).
    """
    precision = Precision(precision_name, model.device)

    def encode_chunk(inputs: Inputs) -> Tensor:
        if isinstance(inputs, Tensor):
            return model.encode_video(inputs.to(model.device, non_blocking=True))[0]
        return model.encode_text(move(model.tokenize(inputs), model.device))

    @torch.no_grad()
    def encode(inputs: Inputs) -> Tensor:
        chunk_size = len(inputs)
        if model.device.type == "cpu":
            chunk_size = 1
        with precision.autocast():
            chunks = [
                encode_chunk(inputs[start : start + chunk_size])
                for start in range(0, len(inputs), chunk_size)
            ]
            return torch.cat(chunks)

    return encode


def joint_width(model: MILES) -> int:
    """E, the width of the model's embeddings."""
    if model.settings["projection"]:
        return model.settings["projection_dim"]
    return model.video_model.embed_dim


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
