"""One feature per word: what the text encoder makes of each word of a caption.

L tokens, W words, D width of the text encoder, E joint width.
"""

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.miles import MILES
from parse_config import UserError

# Letters and digits, with apostrophes and hyphens inside.
WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
NO_WORD = -1


@torch.no_grad()
def encode_words(model: MILES, caption: str) -> tuple[list[str], Tensor]:
    """A caption -> (its W words as they are written, w_WE in the joint space, not normalised).

    The last hidden state of each token goes through `text_proj`, as CLS does for the whole caption; a word's feature is
    the mean over its tokens. Punctuation is no word; words beyond the longest text that the model takes are left out.
    Raises UserError for a caption without words.
    """
    tokens = model.tokenize([caption])
    words, word_of_L = owners(model.tokenizer, caption, tokens["input_ids"].shape[1])
    if not words:
        raise UserError(f"the text {caption!r} has no words")
    on_device = {name: ids.to(model.device) for name, ids in tokens.items()}
    hidden_LD = model.text_features(on_device)[0]
    token_LE = model.text_proj(hidden_LD)
    features = []
    for word in range(len(words)):
        positions = [
            position for position, owner in enumerate(word_of_L) if owner == word
        ]
        features.append(token_LE[positions].mean(0))
    return words, torch.stack(features)


def owners(
    tokenizer: PreTrainedTokenizerBase, caption: str, length: int
) -> tuple[list[str], list[int]]:
    """(words, for each of the `length` tokens the index of its word; NO_WORD for a token of none)."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in the text; use a model "
            "with a tokenizer of the tokenizers library"
        )
    encoding = tokenizer(
        caption, return_offsets_mapping=True, truncation=True, max_length=length
    )
    word_spans = [match.span() for match in WORD.finditer(caption)]
    owner_L = [
        _word_at(word_spans, *token_span) for token_span in encoding["offset_mapping"]
    ]
    # Words beyond the longest text have no token: they are left out, and the others are numbered anew.
    kept_words = sorted(set(owner_L) - {NO_WORD})
    words = [caption[slice(*word_spans[word])] for word in kept_words]
    new_index = {word: index for index, word in enumerate(kept_words)}
    return words, [new_index.get(word, NO_WORD) for word in owner_L]


def _word_at(word_spans: list[tuple[int, int]], first: int, last: int) -> int:
    """The index of the first word that overlaps the characters `first` to `last`."""
    for word, (start, end) in enumerate(word_spans):
        if first < end and start < last:
            return word
    return NO_WORD
