"""Tiny real models for tests: a space-time transformer of 32 px and a DistilBERT saved in Hugging Face form."""

from pathlib import Path

import torch

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


def text_folder(
    folder: Path, dropout: float = 0.0, words: list[str] = WORDS, std: float = 0.02
) -> str:
    """Save a tiny DistilBertModel and its WordPiece tokenizer of `words` in `folder`; returns its path.

    std: of its weights; with 0.02 all captions are nearly the same to it until it has learnt.
    """
    from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(
        folder
    )
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
    return str(folder)


def arch(folder: str, **video) -> dict:
    """The "arch" section of a config of a tiny MILES."""
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_frames": 4,
        **video,
    }
    return {
        "type": "MILES",
        "args": {
            "video_params": {"model": "SpaceTimeTransformer", **sizes},
            "text_params": {"model": folder},
            "projection_dim": 16,
        },
    }


def settings(folder: str | Path, under: str = "") -> list[str]:
    """What, at the end of any recipe's command, makes its model tiny and its run two steps of two clips.

    `folder`: of `text_folder`; `under`: "stages." for a config whose stages hold the loaders."""
    video = {
        "arch_config": '""',
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "pretrained": "false",
    }
    loader = {
        "batch_size": 2,
        "num_workers": 0,
        "video_params.input_res": 32,
        "video_params.deadline": 0,
    }
    return [
        *(f"arch.args.video_params.{key}={value}" for key, value in video.items()),
        f"arch.args.text_params.model={folder}",
        "arch.args.projection_dim=16",
        *(f"{under}data_loader.args.{key}={value}" for key, value in loader.items()),
        f"{under}trainer.epochs=1",
        f"{under}trainer.max_samples_per_epoch=4",
        "trainer.log_every=1",
    ]


def miles(folder: str, seed: int = 0, **video):
    """A tiny MILES with its text tower from `folder`."""
    from model import ARCHS

    torch.manual_seed(seed)
    return ARCHS.build(arch(folder, **video))


def batch(rows: int = 4, frames: int = 4, seed: int = 0, dtype=torch.float32) -> dict:
    """{"video": random clips, "text": random tokens of different lengths}."""
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(WORDS), (rows, 7), generator=made)
    ids[:, 0] = 2
    lengths = torch.randint(3, 8, (rows, 1), generator=made)
    mask = (torch.arange(7)[None] < lengths).long()
    return {
        "video": torch.randn(rows, frames, 3, 32, 32, generator=made).to(dtype),
        "text": {"input_ids": ids * mask, "attention_mask": mask},
    }
