"""One feature a word: what the text tower makes of each word of a caption.

L tokens, W words, D width of the tower, E joint width.
"""

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.miles import MILES
from parse_config import UserError

WORD = re.compile(
    r"\w+(?:['\u2019-]\w+)*"
)  # letters and digits, with apostrophes and hyphens inside


@torch.no_grad()
def encode_words(model: MILES, caption: str) -> tuple[list[str], Tensor]:
    """A caption -> (its W words as they are written, w_WE in the joint space, not normalised).

    The last hidden state of each token goes through `text_proj`, as CLS does for the whole caption; a word's feature is
    the mean over its tokens. Punctuation is no word; words beyond the longest text that the model takes are left out.
    Raises UserError for a caption without words.
    """
    tokens = model.tokenize([caption])
    words, owner_L = owners(model.tokenizer, caption, tokens["input_ids"].shape[1])
    if not words:
        raise UserError(f"the text {caption!r} has no words")
    hidden_LD = model.text_features({name: ids.to(model.device) for name, ids in tokens.items()})[0]
    token_LE = model.text_proj(hidden_LD)
    return words, torch.stack(
        [
            token_LE[[i for i, owner in enumerate(owner_L) if owner == word]].mean(0)
            for word in range(len(words))
        ]
    )


def owners(
    tokenizer: PreTrainedTokenizerBase, caption: str, length: int
) -> tuple[list[str], list[int]]:
    """(words, for each of the `length` tokens the place of its word in them; -1: of none)."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in the text; use a model "
            "with a tokenizer of the tokenizers library"
        )
    spans = tokenizer(caption, return_offsets_mapping=True, truncation=True, max_length=length)[
        "offset_mapping"
    ]
    places = [match.span() for match in WORD.finditer(caption)]
    owner_L = [
        next((i for i, (start, end) in enumerate(places) if first < end and start < last), -1)
        for first, last in spans
    ]
    seen = sorted(set(owner_L) - {-1})
    return (
        [caption[slice(*places[i])] for i in seen],
        [seen.index(owner) if owner >= 0 else -1 for owner in owner_L],
    )
