"""A model in eval mode that embeds its process's share of videos and captions and gathers the rest from the others.

V videos, C captions, E joint width, B clips or captions of one forward pass, W windows of one video.

On the CPU one clip, and one caption, goes through the model at a time: the last bits of a product depend on its number
of rows, so this alone makes an embedding independent of its neighbours, of the batch size and of the processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from trainer.batches import move
from trainer.distributed import gather_objects, rank, world_size
from trainer.precision import Precision

Gone = dict[int, str]  # number of a video that could not be read -> its path


class EmbeddingExtractor:
    """`with Encoder(...) as encode:`; results are float32 on the CPU, on every process.

    `rows`: most at once on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        precision: Precision | None = None,
        progress: bool = False,
        rows: int = 64,
    ):
        self.model, self.device, self.progress = model, device, progress and rank() == 0
        self.autocast: Callable[[], Any] = precision.autocast if precision else nullcontext
        self.rows = 1 if device.type == "cpu" else rows

    def __enter__(self) -> "EmbeddingExtractor":
        self.training = self.model.training
        self.model.eval()
        return self

    def __exit__(self, *error):
        self.model.train(self.training)

    def videos(self, loader: Any) -> tuple[Tensor, Gone]:
        """(video_VE, what could not be read): the loader's clips."""

        def batches() -> Iterator[tuple[list[int], Tensor, Gone]]:
            for batch in loader.epoch(0):
                yield (
                    [meta["index"] for meta in batch["meta"]],
                    self._clips(batch["video"]),
                    {meta["index"]: meta["path"] for meta in batch.get("unreadable", ())},
                )

        return self._collect(batches(), len(loader.dataset), "videos")

    def windows(self, loader: Any, stride: int) -> tuple[Tensor, Gone]:
        """(windows_VE, what could not be read): the mean embedding of each video's sliding windows."""

        def batches() -> Iterator[tuple[list[int], Tensor, Gone]]:
            for sample in loader.windows(stride):
                index, video_WTCHW = sample["meta"]["index"], sample["video"]
                if video_WTCHW is None:
                    yield [], torch.empty(0), {index: sample["meta"]["path"]}
                else:
                    yield [index], self._clips(video_WTCHW).mean(0, keepdim=True), {}

        return self._collect(batches(), len(loader.dataset), "windows")

    def texts(self, captions: Sequence[str], what: str = "captions") -> Tensor:
        """text_CE. Captions of like length go together; which do does not depend on the number of processes."""
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        chunks = [order[start : start + self.rows] for start in range(0, len(order), self.rows)][
            rank() :: world_size()
        ]

        def batches() -> Iterator[tuple[list[int], Tensor, Gone]]:
            for chunk in chunks:
                tokens = move(self.model.tokenize([captions[i] for i in chunk]), self.device)
                yield chunk, self._run(self.model.encode_text, tokens), {}

        return self._collect(batches(), len(captions), what)[0]

    def classes(self, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """text_CE of classes: the mean over the prompts' embeddings, each of length 1."""
        texts = [prompt.format(name) for name in names for prompt in prompts]
        return (
            normalize(self.texts(texts, "prompts"), dim=1)
            .view(len(names), len(prompts), -1)
            .mean(1)
        )

    def _clips(self, video_BTCHW: Tensor) -> Tensor:
        video_BTCHW = video_BTCHW.to(self.device, non_blocking=True)
        parts = [
            self._run(lambda x: self.model.encode_video(x)[0], part)
            for part in video_BTCHW.split(self.rows)
            if len(part)
        ]
        return torch.cat(parts) if parts else torch.empty(0)

    @torch.no_grad()
    def _run(self, encode: Callable[[Any], Tensor], x: Any) -> Tensor:
        with self.autocast():
            return encode(x).float()

    def _collect(
        self, batches: Iterable[tuple[list[int], Tensor, Gone]], count: int, what: str
    ) -> tuple[Tensor, Gone]:
        """Rows of all processes in their places; every number once, as an embedding or as unreadable."""
        numbers, parts, gone = [], [], {}
        mine = len(range(rank(), count, world_size()))
        with tqdm(total=mine, desc=what, unit="", disable=not self.progress, leave=False) as bar:
            for places, x_BE, lost in batches:
                numbers += places
                parts += [x_BE.cpu()] if places else []
                gone.update(lost)
                bar.update(len(places) + len(lost))
        shares = gather_objects((numbers, torch.cat(parts) if parts else None, gone))
        numbers = [number for share in shares for number in share[0]]
        gone = {number: path for share in shares for number, path in share[2].items()}
        assert sorted([*numbers, *gone]) == list(range(count)), (
            f"{what}: not every one came exactly once"
        )
        if not numbers:
            raise ValueError(f"none of the {count} {what} could be read")
        rows = torch.cat([share[1] for share in shares if share[1] is not None])
        whole = torch.zeros(count, rows.shape[1])
        whole[torch.tensor(numbers)] = rows
        return whole, gone
