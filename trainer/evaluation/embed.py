"""Videos and captions -> embeddings, each exactly once, whatever the number of processes.

V videos, C captions (or classes), B captions of the bank, E joint width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from parse_config import UserError
from trainer.evaluation.extractor import EmbeddingExtractor
from trainer.precision import Precision

PROMPTS = ("{}", "a person {}", "a video of a person {}")


@dataclass(frozen=True)
class Embeddings:
    """What results are computed from; float32 on the CPU, not normalised.

    Retrieval: caption i (text_CE[i]) belongs to video owner_C[i]. Recognition: text_CE are the classes, named by
    `captions`, and labels_V[j] is the class of video j; owner_C is None.
    windows_VE: the mean over each video's sliding windows. bank_BE: captions of the training split.
    about: protocol, counts, missing files and the like, plain data that goes into results.json.
    """

    text_CE: Tensor
    video_VE: Tensor
    captions: Sequence[str]
    ids: Sequence[str]
    owner_C: Tensor | None = None
    labels_V: Tensor | None = None
    windows_VE: Tensor | None = None
    bank_BE: Tensor | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def owner(self) -> Tensor:
        """owner_C of retrieval embeddings."""
        assert self.owner_C is not None, (
            "recognition has classes, not captions of videos"
        )
        return self.owner_C


def embed(
    model: nn.Module,
    loader: Any,
    device: torch.device | str,
    *,
    stride: int | None = None,
    bank: Sequence[str] = (),
    prompts: Sequence[str] = PROMPTS,
    precision: Precision | None = None,
    progress: bool = False,
) -> Embeddings:
    """Embed the loader's whole data set; every process must call it and gets everything.

    Videos that could not be read (loading "skip") leave the gallery with their captions; `about` says how many.

    Args:
        stride: also embed sliding windows of this stride
        bank: captions for QB-Norm
        prompts: templates for the names of a data set with `classes`
        precision: of the forward passes; None is the model's own
        progress: show bars
    """
    dataset = loader.dataset
    require_any_caption(dataset)
    batch_size = getattr(loader, "batch_size", 64)
    with EmbeddingExtractor(
        model, torch.device(device), precision, progress, batch_size
    ) as extractor:
        video_VE, unreadable = extractor.embed_videos(loader)
        windows_VE = bank_BE = None
        if stride:
            windows_VE, unreadable_windows = extractor.embed_windows(loader, stride)
            unreadable |= unreadable_windows
        readable_V = torch.ones(len(dataset), dtype=torch.bool)
        readable_V[list(unreadable)] = False
        if bank:
            bank_BE = extractor.embed_texts(bank, "bank")
        if getattr(dataset, "classes", ()):
            texts = _class_fields(extractor, dataset, readable_V, prompts)
        else:
            texts = _caption_fields(extractor, dataset, readable_V)

    ids = _selected(dataset.ids, readable_V)
    videos: dict[str, Any] = {"ids": ids, "video_VE": video_VE[readable_V]}
    if windows_VE is not None:
        videos["windows_VE"] = windows_VE[readable_V]
    about = _about(loader, sorted(unreadable.values()), ids, texts)
    if "labels_V" in texts:
        about["prompts"] = list(prompts)
    return Embeddings(**texts, **videos, bank_BE=bank_BE, about=about)


def require_any_caption(dataset: Any) -> None:
    """UserError for a gallery of which no video has a caption: there is no query."""
    if not getattr(dataset, "classes", ()) and not len(dataset.captions):
        name = getattr(dataset, "name", type(dataset).__name__)
        raise UserError(
            f"{name}: none of its {len(dataset)} videos has a caption, and retrieval is judged by captions; give the "
            "annotations captions, or another split or data set"
        )


def _class_fields(
    extractor: EmbeddingExtractor,
    dataset: Any,
    readable_V: Tensor,
    prompts: Sequence[str],
) -> dict[str, Any]:
    """Fields of Embeddings for recognition: the classes and each readable video's label."""
    classes = list(dataset.classes)
    return {
        "text_CE": extractor.embed_classes(classes, prompts),
        "captions": classes,
        "labels_V": torch.as_tensor(dataset.labels)[readable_V],
    }


def _caption_fields(
    extractor: EmbeddingExtractor, dataset: Any, readable_V: Tensor
) -> dict[str, Any]:
    """Fields of Embeddings for retrieval: the captions of readable videos and their owners."""
    readable_C = readable_V[dataset.owner]
    captions = _selected(dataset.captions, readable_C)
    if not captions:
        raise UserError(
            f"{getattr(dataset, 'name', type(dataset).__name__)}: no video that has a caption can be read; "
            "scripts/check_data.py says why"
        )
    new_index_V = readable_V.cumsum(0) - 1
    return {
        "text_CE": extractor.embed_texts(captions, "captions"),
        "captions": captions,
        "owner_C": new_index_V[dataset.owner[readable_C]],
    }


def _selected(names: Sequence[str], mask: Tensor) -> list[str]:
    """The names where the bool mask is true."""
    return [
        name for name, selected in zip(names, mask.tolist(), strict=True) if selected
    ]


def _holdout(dataset: Any) -> dict[str, int] | None:
    """What of the training videos is held out for choosing; None where there is a validation split."""
    holdout = getattr(dataset, "holdout", None)
    return None if holdout is None else holdout._asdict()


def _about(
    loader: Any, unreadable: list[str], ids: Sequence[str], texts: Mapping[str, Any]
) -> dict[str, Any]:
    """What the data were: protocol, n of N, what is missing."""
    dataset = loader.dataset
    counts = getattr(dataset, "counts", None) or {}
    settings = getattr(dataset, "video", None)
    num_texts = len(ids) if "labels_V" in texts else len(texts["captions"])
    return {
        "protocol": getattr(dataset, "protocol", None),
        "dataset": type(dataset).__name__,
        "split": getattr(dataset, "split", None),
        "stands_in_for_validation": bool(getattr(dataset, "validates_on_test", False)),
        "stands_in_for_test": getattr(dataset, "split", None) == "test"
        and bool(getattr(dataset, "lacks_test_split", False)),
        "holdout": _holdout(dataset),
        "num_frames": getattr(settings, "num_frames", None),
        "input_res": getattr(settings, "input_res", None),
        "manifest_hash": getattr(dataset, "manifest_hash", None),
        "coverage": {
            "videos": [len(ids), counts.get("expected_videos", len(dataset))],
            "captions": [num_texts, counts.get("expected_captions", num_texts)],
            "missing": [*counts.get("missing", ()), *unreadable],
        },
    }
