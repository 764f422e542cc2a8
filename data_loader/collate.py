"""Samples -> a batch. B clips, T frames, C channels, H height, W width."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from data_loader.base import TextVideoDataset
from data_loader.reader import BrokenVideo
from parse_config import UserError


class ErrorsAsSamples(Dataset):
    """`dataset`, with a UserError returned as the sample, so that it reaches the main process as what it is."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UserError as error:
            return error


class Collate:
    """Samples -> {"video": float32 (B, T, C, H, W), "text": tokens, "meta": B dicts, "unreadable": dicts}.

    Samples without "text" (footage without captions) make a batch without it.

    `tokenize`: list of captions -> dict of tensors; None leaves the captions as they are. shape: (T, C, H, W).
    Samples without a clip (val and test, loading skip) are not in the batch: their meta is in "unreadable", and the
    gallery must do without them. B is 0 if no clip of the batch could be read. A sample that is an error is returned in
    place of the batch.
    """

    def __init__(
        self,
        tokenize: Callable[[list[str]], Any] | None,
        shape: tuple[int, int, int, int],
    ) -> None:
        self.tokenize = tokenize
        self.shape = shape

    def __call__(self, samples: list[Any]) -> dict[str, Any] | Exception:
        for sample in samples:
            if isinstance(sample, Exception):
                return sample

        readable = [sample for sample in samples if sample["video"] is not None]
        video = torch.empty(0, *self.shape)
        if readable:
            video = default_collate([sample["video"] for sample in readable])

        text = {}
        if all("text" in sample for sample in samples):
            text = {"text": self._tokens([sample["text"] for sample in readable])}
        return {
            "video": video,
            **text,
            "meta": [sample["meta"] for sample in readable],
            "unreadable": [
                sample["meta"] for sample in samples if sample["video"] is None
            ],
        }

    def _tokens(self, captions: list[str]) -> Any:
        if self.tokenize is None:
            return captions

        # no tokenizer takes an empty list
        tokens = self.tokenize(captions or [""])
        return {name: tensor[: len(captions)] for name, tensor in tokens.items()}


class SlidingWindows(Dataset):
    """index -> {"video": float32 (W, T, C, H, W), all sliding windows, or None if unreadable and skipped, "meta"}."""

    def __init__(self, dataset: TextVideoDataset, stride: int) -> None:
        self.dataset = dataset
        self.stride = stride

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
            return {
                "video": None,
                "meta": {**meta, "failures": [(error.path, error.reason)]},
            }


def identity(sample: Any) -> Any:
    """The collate function of a loader that does not batch."""
    return sample
