"""Tiny real models for tests: a space-time transformer of 32 px and a DistilBERT saved in Hugging Face form."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.files import share

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "the",
    "red",
    "blue",
    "green",
    "dog",
    "cat",
    "man",
    "runs",
    "jumps",
    "left",
    "right",
    "video",
    "of",
    "person",
    "is",
    "##s",
]
NUM_SPECIAL = 5
CLS = WORDS.index("[CLS]")
VIDEO_SIZES = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
}
JOINT_WIDTH = 16
TEXT_LENGTH = 7  # tokens per caption of `random_batch`


def save_text_model(
    folder: Path, dropout: float = 0.0, words: list[str] = WORDS, std: float = 0.02
) -> str:
    """Save a tiny DistilBertModel and its WordPiece tokenizer of `words` in `folder`; returns its path.

    `std` is that of the random weights. With 0.02 the untrained model embeds all captions almost alike.
    """
    from transformers import (  # type: ignore[attr-defined]  # BertTokenizerFast is made at run time
        BertTokenizerFast,
        DistilBertConfig,
        DistilBertModel,
    )

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: token_id for token_id, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words),
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=2,
        dropout=dropout,
        attention_dropout=dropout,
        max_position_embeddings=32,
        initializer_range=std,
    )
    DistilBertModel(config).save_pretrained(folder)
    share(folder / "model.safetensors")
    return str(folder)


def arch_config(text_folder: str, **video_params: Any) -> dict[str, Any]:
    """The "arch" section of a tiny MILES; `video_params` override those of its video encoder."""
    return {
        "type": "MILES",
        "args": {
            "video_params": {
                "model": "SpaceTimeTransformer",
                **VIDEO_SIZES,
                "num_frames": 4,
                **video_params,
            },
            "text_params": {"model": text_folder},
            "projection_dim": JOINT_WIDTH,
        },
    }


def command_line_overrides(
    text_folder: str | Path, stage_prefix: str = ""
) -> list[str]:
    """`key=value` arguments that make the model of any recipe tiny and its run two steps of two clips.

    `text_folder` is that of `save_text_model`; `stage_prefix` is "stages." for a config whose stages hold the loaders.
    """
    video_params = {"arch_config": '""', **VIDEO_SIZES, "pretrained": "false"}
    loader_args = {
        "batch_size": 2,
        "num_workers": 0,
        "video_params.input_res": 32,
        "video_params.deadline": 0,
    }
    return [
        *(
            f"arch.args.video_params.{key}={value}"
            for key, value in video_params.items()
        ),
        f"arch.args.text_params.model={text_folder}",
        f"arch.args.projection_dim={JOINT_WIDTH}",
        *(
            f"{stage_prefix}data_loader.args.{key}={value}"
            for key, value in loader_args.items()
        ),
        f"{stage_prefix}trainer.epochs=1",
        f"{stage_prefix}trainer.max_samples_per_epoch=4",
        "trainer.log_every=1",
    ]


def build_miles(text_folder: str, seed: int = 0, **video_params: Any) -> nn.Module:
    """A tiny MILES with random weights of `seed` and the text encoder saved in `text_folder`."""
    from model import ARCHS

    torch.manual_seed(seed)
    return ARCHS.build(arch_config(text_folder, **video_params))


def random_batch(
    rows: int = 4, frames: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """{"video": random clips (rows, frames, 3, 32, 32), "text": random tokens of different lengths}."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(
        NUM_SPECIAL, len(WORDS), (rows, TEXT_LENGTH), generator=generator
    )
    token_ids[:, 0] = CLS
    lengths = torch.randint(3, TEXT_LENGTH + 1, (rows, 1), generator=generator)
    attention_mask = (torch.arange(TEXT_LENGTH)[None] < lengths).long()
    return {
        "video": torch.randn(rows, frames, 3, 32, 32, generator=generator).to(dtype),
        "text": {
            "input_ids": token_ids * attention_mask,
            "attention_mask": attention_mask,
        },
    }


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
