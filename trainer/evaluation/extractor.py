"""Embeds each process's share of videos and captions, and gathers the others' shares.

V videos, C captions, E joint width, B clips or captions of one forward pass, W windows of one video.

On the CPU one clip, and one caption, goes through the model at a time: the last bits of a product depend on its number
of rows, so this alone makes an embedding independent of its neighbours, of the batch size and of the processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from parse_config import UserError
from trainer.batches import move
from trainer.distributed import gather_objects, rank, world_size
from trainer.precision import Precision

Unreadable = dict[int, str]  # {index of a video that could not be read: its path}
# Indices of videos or captions, their embeddings (one row each), and what could not be read.
EmbeddedBatch = tuple[list[int], Tensor, Unreadable]


class EmbeddingExtractor:
    """Embeds with a model in eval mode: `with EmbeddingExtractor(...) as extractor:`.

    Results are float32 on the CPU, on every process; the model's mode is restored at the end.

    Args:
        model: dual encoder with `encode_video`, `encode_text` and `tokenize`
        device: where the model is
        precision: of the forward passes; None is the model's own
        progress: show bars, on process 0
        batch_size: most clips or captions of one forward pass on a GPU
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        precision: Precision | None = None,
        progress: bool = False,
        batch_size: int = 64,
    ):
        self.model = model
        self.device = device
        self.progress = progress and rank() == 0
        self.autocast: Callable[[], Any] = (
            precision.autocast if precision else nullcontext
        )
        self.batch_size = 1 if device.type == "cpu" else batch_size
        self.was_training = model.training

    def __enter__(self) -> "EmbeddingExtractor":
        self.model.eval()
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.train(self.was_training)

    def embed_videos(self, loader: Any) -> tuple[Tensor, Unreadable]:
        """(video_VE, what could not be read) of the loader's clips."""
        return self._collect(self._video_batches(loader), len(loader.dataset), "videos")

    def embed_windows(self, loader: Any, stride: int) -> tuple[Tensor, Unreadable]:
        """(windows_VE, what could not be read): the mean embedding of each video's sliding windows."""
        batches = self._window_batches(loader, stride)
        return self._collect(batches, len(loader.dataset), "windows")

    def embed_texts(self, captions: Sequence[str], name: str = "captions") -> Tensor:
        """text_CE; `name` is what the progress bar calls the texts.

        Captions of like length go together; which do does not depend on the number of processes.
        """
        text_CE, _ = self._collect(self._text_batches(captions), len(captions), name)
        return text_CE

    def embed_classes(self, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """text_CE of classes: the mean over the prompts' embeddings, each of length 1."""
        texts = [prompt.format(name) for name in names for prompt in prompts]
        prompt_embeddings = normalize(self.embed_texts(texts, "prompts"), dim=1)
        return prompt_embeddings.view(len(names), len(prompts), -1).mean(1)

    def _video_batches(self, loader: Any) -> Iterator[EmbeddedBatch]:
        for batch in loader.epoch(0):
            indices = [meta["index"] for meta in batch["meta"]]
            unreadable = {
                meta["index"]: meta["path"] for meta in batch.get("unreadable", ())
            }
            yield indices, self._encode_clips(batch["video"]), unreadable

    def _window_batches(self, loader: Any, stride: int) -> Iterator[EmbeddedBatch]:
        for sample in loader.windows(stride):
            index = sample["meta"]["index"]
            video_WTCHW = sample["video"]
            if video_WTCHW is None:
                yield [], torch.empty(0), {index: sample["meta"]["path"]}
            else:
                yield [index], self._encode_clips(video_WTCHW).mean(0, keepdim=True), {}

    def _text_batches(self, captions: Sequence[str]) -> Iterator[EmbeddedBatch]:
        by_length = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        starts = range(0, len(by_length), self.batch_size)
        for start in starts[rank() :: world_size()]:
            indices = by_length[start : start + self.batch_size]
            tokens = move(
                self.model.tokenize([captions[i] for i in indices]), self.device
            )
            with torch.no_grad(), self.autocast():
                text_BE = self.model.encode_text(tokens).float()
            yield indices, text_BE, {}

    @torch.no_grad()
    def _encode_clips(self, video_BTCHW: Tensor) -> Tensor:
        """v_BE, a few clips at a time; empty for no clips."""
        embeddings = []
        for clips_BTCHW in video_BTCHW.to(self.device, non_blocking=True).split(
            self.batch_size
        ):
            if len(clips_BTCHW):
                with self.autocast():
                    v_BE, _ = self.model.encode_video(clips_BTCHW)
                embeddings.append(v_BE.float())
        if not embeddings:
            return torch.empty(0)
        return torch.cat(embeddings)

    def _collect(
        self, batches: Iterable[EmbeddedBatch], count: int, name: str
    ) -> tuple[Tensor, Unreadable]:
        """Gather the embeddings of all processes in order; each index comes once, embedded or unreadable."""
        indices: list[int] = []
        embeddings: list[Tensor] = []
        unreadable: Unreadable = {}
        own_count = len(range(rank(), count, world_size()))
        with tqdm(
            total=own_count, desc=name, unit="", disable=not self.progress, leave=False
        ) as bar:
            for batch_indices, x_BE, batch_unreadable in batches:
                indices += batch_indices
                if batch_indices:
                    embeddings.append(x_BE.cpu())
                unreadable.update(batch_unreadable)
                bar.update(len(batch_indices) + len(batch_unreadable))
        own_rows = torch.cat(embeddings) if embeddings else None
        shares = gather_objects((indices, own_rows, unreadable))
        return _in_order(shares, count, name)


def _in_order(
    shares: Sequence[tuple[list[int], Tensor | None, Unreadable]], count: int, name: str
) -> tuple[Tensor, Unreadable]:
    """(embeddings of 0..count-1, zeros where unreadable; what could not be read) from the processes' shares."""
    indices = [index for share_indices, _, _ in shares for index in share_indices]
    unreadable: Unreadable = {}
    for _, _, share_unreadable in shares:
        unreadable.update(share_unreadable)
    assert sorted([*indices, *unreadable]) == list(range(count)), (
        f"{name}: not every one came exactly once"
    )
    if not indices:
        raise UserError(
            f"none of the {count} {name} could be read; scripts/check_data.py says why"
        )
    rows = torch.cat(
        [share_rows for _, share_rows, _ in shares if share_rows is not None]
    )
    ordered = torch.zeros(count, rows.shape[1])
    ordered[torch.tensor(indices)] = rows
    return ordered, unreadable
