"""Videos and captions -> embeddings, each exactly once, whatever the number of processes.

V videos, C captions (or classes), B captions of the bank, E joint width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.evaluation.extractor import EmbeddingExtractor
from trainer.precision import Precision

PROMPTS = ("{}", "a person {}", "a video of a person {}")


@dataclass(frozen=True)
class Embeddings:
    """All that the numbers are made of; float32 on the CPU, not normalised.

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

    stride: also embed sliding windows. bank: captions for QB-Norm. prompts: of a data set with `classes`.
    Videos that could not be read (loading "skip") leave the gallery with their captions; `about` says how many.
    """
    dataset = loader.dataset
    rows = getattr(loader, "batch_size", 64)
    with EmbeddingExtractor(model, torch.device(device), precision, progress, rows) as encode:
        video_VE, gone = encode.videos(loader)
        windows_VE, gone_too = encode.windows(loader, stride) if stride else (None, {})
        gone = {**gone, **gone_too}
        kept_V = torch.ones(len(dataset), dtype=torch.bool)
        kept_V[list(gone)] = False
        ids = [name for name, kept in zip(dataset.ids, kept_V.tolist()) if kept]
        videos = {
            "ids": ids,
            "video_VE": video_VE[kept_V],
            "bank_BE": encode.texts(bank, "bank") if bank else None,
            "windows_VE": None if windows_VE is None else windows_VE[kept_V],
        }
        if getattr(dataset, "classes", ()):
            classes, about = (
                list(dataset.classes),
                _about(loader, sorted(gone.values()), len(ids), len(ids)),
            )
            return Embeddings(
                encode.classes(classes, prompts),
                captions=classes,
                **videos,
                labels_V=torch.as_tensor(dataset.labels)[kept_V],
                about={**about, "prompts": list(prompts)},
            )
        kept_C = kept_V[dataset.owner]
        captions = [caption for caption, kept in zip(dataset.captions, kept_C.tolist()) if kept]
        owner_C = (kept_V.cumsum(0) - 1)[dataset.owner[kept_C]]
        return Embeddings(
            encode.texts(captions, "captions"),
            captions=captions,
            owner_C=owner_C,
            **videos,
            about=_about(loader, sorted(gone.values()), len(ids), len(captions)),
        )


def _about(loader: Any, unreadable: list[str], videos: int, captions: int) -> dict[str, Any]:
    """What the data were: protocol, n of N, what is missing."""
    dataset = loader.dataset
    counts = getattr(dataset, "counts", None) or {}
    expected = (
        counts.get("expected_videos", len(dataset)),
        counts.get("expected_captions", captions),
    )
    settings = getattr(dataset, "video", None)
    return {
        "protocol": getattr(dataset, "protocol", None),
        "dataset": type(dataset).__name__,
        "split": getattr(dataset, "split", None),
        "stands_in_for_validation": bool(getattr(dataset, "validates_on_test", False)),
        "num_frames": getattr(settings, "num_frames", None),
        "input_res": getattr(settings, "input_res", None),
        "manifest_hash": getattr(dataset, "manifest_hash", None),
        "coverage": {
            "videos": [videos, expected[0]],
            "captions": [captions, expected[1]],
            "missing": [*counts.get("missing", ()), *unreadable],
        },
    }
