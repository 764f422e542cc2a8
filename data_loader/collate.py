"""Samples -> a batch. B clips, T frames, C channels, H height, W width."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from data_loader.reader import BrokenVideo
from parse_config import UserError


class Guarded(Dataset):
    """`dataset`, giving a user's error as the sample, so that it reaches the main process as what it is."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key) -> Any:
        try:
            return self.dataset[key]
        except UserError as error:
            return error


class Collate:
    """Samples -> {"video": float32 (B, T, C, H, W), "text": tokens, "meta": B dicts, "unreadable": dicts}.

    `tokenize`: list of captions -> dict of tensors; None leaves the captions as they are. Samples without a clip (val
    and test, loading skip) are no part of the batch: their meta stands in "unreadable", and the gallery must do without
    them. B is 0 if no clip of the batch could be read. A sample that is an error comes back instead of the batch.
    """

    def __init__(
        self, tokenize: Callable[[list[str]], Any] | None, shape: tuple[int, int, int, int]
    ):
        self.tokenize, self.shape = tokenize, shape

    def __call__(self, samples: list[Any]) -> dict[str, Any] | Exception:
        error = next((sample for sample in samples if isinstance(sample, Exception)), None)
        if error is not None:
            return error
        read = [sample for sample in samples if sample["video"] is not None]
        video = (
            default_collate([sample["video"] for sample in read])
            if read
            else torch.empty(0, *self.shape)
        )
        return {
            "video": video,
            "text": self._text([sample["text"] for sample in read]),
            "meta": [sample["meta"] for sample in read],
            "unreadable": [sample["meta"] for sample in samples if sample["video"] is None],
        }

    def _text(self, captions: list[str]) -> Any:
        if self.tokenize is None:
            return captions
        tokens = self.tokenize(captions or [""])
        return {name: tensor[: len(captions)] for name, tensor in tokens.items()}


class Windows(Dataset):
    """index -> {"video": float32 (W, T, C, H, W), all sliding windows, or None if unreadable and skipped, "meta"}."""

    def __init__(self, dataset: Dataset, stride: int):
        self.dataset, self.stride = dataset, stride

    def __getitem__(self, index: int) -> dict[str, Any]:
        meta = {
            "index": index,
            "id": self.dataset.ids[index],
            "path": self.dataset.paths[index],
            "failures": [],
        }
        try:
            return {"video": self.dataset.windows(index, self.stride), "meta": meta}
        except BrokenVideo as error:
            if self.dataset.video.loading == "strict":
                raise
            return {"video": None, "meta": {**meta, "failures": [(error.path, error.reason)]}}


def as_it_is(sample: Any) -> Any:
    """A sample that is not to be batched."""
    return sample
