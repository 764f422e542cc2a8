"""Ids and captions of a data set: duplicates, blanks, and what is unknown to the text model or too long for it."""

import statistics
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from data_loader.base import TextVideoDataset
from parse_config import Config, check_args

MAX_TOKENIZED = 200_000  # captions of which tokens are counted, evenly spread
BATCH = 1000  # captions that are tokenized at once
MAX_UNKNOWN = 5  # unknown words that are named


class CaptionReport(NamedTuple):
    """Numbers of captions.

    fewest, most: captions of one video. blank: without a visible character. duplicate_texts: texts that stand more
    than once, duplicates: the captions that have them. lengths: (least, median, most) words of a caption.
    """

    total: int
    fewest: int
    most: int
    blank: int
    duplicate_texts: int
    duplicates: int
    lengths: tuple[int, float, int]


class TokenReport(NamedTuple):
    """What the text model's tokenizer makes of captions.

    words, unknown: how many, each as often as it stands there. examples: the unknown words that stand most often.
    captions: how many were tokenized. too_long: those of them with more than max_length tokens, which are cut.
    """

    words: int
    unknown: int
    examples: list[str]
    captions: int
    too_long: int
    max_length: int


class TextModel(NamedTuple):
    """The tokenizer of a config's text model, and how many tokens that takes."""

    tokenizer: Any
    max_length: int


def duplicate_ids(dataset: TextVideoDataset, count: int) -> tuple[int, list[str]]:
    """(ids that stand more than once, the first `count` of them)."""
    hashes = _hashes(dataset.ids)
    values, counts = np.unique(hashes, return_counts=True)
    doubled = set(values[counts > 1].tolist())
    names = (video_id for video_id in dataset.ids if hash(video_id) in doubled)
    examples = list(islice(dict.fromkeys(names), count)) if doubled else []
    return len(doubled), examples


def _hashes(texts: Iterable[str]) -> np.ndarray:
    """int64 of each text: millions of texts are not held at once."""
    return np.fromiter(map(hash, texts), np.int64)


def is_blank(caption: str) -> bool:
    """Whether it shows nothing: white space, control and format characters."""
    return all(
        character.isspace() or unicodedata.category(character) in ("Cc", "Cf")
        for character in caption
    )


def count_captions(dataset: TextVideoDataset) -> CaptionReport:
    """All captions of all videos."""
    captions = dataset.captions
    per_video = torch.zeros(1)
    if len(dataset):
        per_video = torch.bincount(dataset.owner, minlength=len(dataset))
    _, counts = np.unique(_hashes(captions), return_counts=True)
    lengths = array("q", (len(caption.split()) for caption in captions))
    median = statistics.median(lengths) if lengths else 0
    return CaptionReport(
        total=len(captions),
        fewest=int(per_video.min()),
        most=int(per_video.max()),
        blank=sum(map(is_blank, captions)),
        duplicate_texts=int((counts > 1).sum()),
        duplicates=int(counts[counts > 1].sum()),
        lengths=(min(lengths, default=0), median, max(lengths, default=0)),
    )


def open_text_model(config: Config) -> TextModel:
    """What arch.args.text_params describe, without the weights. Raises ConfigError if it is not to be had."""
    from model.text.hugging_face import (
        DEFAULT,
        build_text_model,
        load_tokenizer,
        longest_text,
    )

    arch_args = (config.get("arch") or {}).get("args") or {}
    params = dict(arch_args.get("text_params") or {})
    check_args(build_text_model, params, "arch.args.text_params")
    name = params.setdefault("model", DEFAULT)
    tokenizer = load_tokenizer(name, params.get("trust_remote_code", False))
    return TextModel(tokenizer, min(longest_text(params), tokenizer.model_max_length))


def count_tokens(captions: Sequence[str], model: TextModel) -> TokenReport:
    """Unknown words of all captions, lengths of MAX_TOKENIZED of them."""
    words = Counter(word for caption in captions for word in caption.split())
    unknown = _unknown_words(words, model.tokenizer)

    positions = range(len(captions))
    if len(captions) > MAX_TOKENIZED:
        spread = np.linspace(0, len(captions) - 1, MAX_TOKENIZED)
        positions = spread.astype(np.int64).tolist()
    too_long = 0
    for start in range(0, len(positions), BATCH):
        batch = [captions[position] for position in positions[start : start + BATCH]]
        tokens = model.tokenizer(batch, verbose=False)["input_ids"]
        too_long += sum(len(ids) > model.max_length for ids in tokens)
    return TokenReport(
        words=words.total(),
        unknown=unknown.total(),
        examples=[word for word, _ in unknown.most_common(MAX_UNKNOWN)],
        captions=len(positions),
        too_long=too_long,
        max_length=model.max_length,
    )


def _unknown_words(words: Counter[str], tokenizer: Any) -> Counter[str]:
    """Those of which the tokenizer makes its unknown token, at least in part."""
    if tokenizer.unk_token_id is None:
        return Counter()
    unknown: Counter[str] = Counter()
    remaining = iter(words)
    while batch := list(islice(remaining, BATCH)):
        tokens = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        for word, ids in zip(batch, tokens, strict=True):
            if tokenizer.unk_token_id in ids:
                unknown[word] = words[word]
    return unknown


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/check_data.py --help")
