"""Ids of an evaluation's videos -> small JPEG strips, through the data set that the evaluation read."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from PIL import Image

from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.frames import pick
from data_loader.loader import open_leniently
from data_loader.reader import BrokenVideo, read_clip
from parse_config import Config, UserError
from scripts.html_report.run_folder import Evaluation

MAX_SIZE = (
    128,
    96,
)  # pixels that a frame is fitted into; smaller ones stay as they are
NUM_FRAMES = 4
DEADLINE = 60.0  # seconds for a file of a data set without a deadline
QUALITY = 68

Item = TypeVar("Item")


class Clips:
    """The videos of an evaluation by id.

    Attributes:
        dataset: None if it cannot be opened
        open_error: why it cannot be opened, or ""
        unreadable: id -> why the clip has no thumbnail
        indices: id -> index in the data set
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.dataset: TextVideoDataset | None = None
        self.open_error = ""
        self.unreadable: dict[str, str] = {}
        self.indices: dict[str, int] = {}
        try:
            self.dataset = open_dataset(evaluation)
        except (UserError, OSError) as error:
            self.open_error = " ".join(str(error).split())
            return

        for index, video_id in enumerate(self.dataset.ids):
            self.indices.setdefault(video_id, index)

    def path(self, video_id: str) -> str | None:
        """The video's file; None if the data set does not have it."""
        if self.dataset is None or video_id not in self.indices:
            return None

        return self.dataset.video_path(self.indices[video_id])

    def thumbnail(self, video_id: str) -> dict[str, Any]:
        """{"name", "src": data URI of frames side by side, "frames": their number, "ratio": width / height of one}.

        A clip that cannot be read has a name alone, and its reason is in `unreadable`.
        """
        try:
            frames = self.frames(video_id)
        except (BrokenVideo, OSError) as error:
            self.unreadable[video_id] = " ".join(str(error).split())
            return {"name": video_id}

        width, height = frames[0].size
        strip = Image.new("RGB", (width * len(frames), height))
        for number, frame in enumerate(frames):
            strip.paste(frame, (number * width, 0))

        return {
            "name": video_id,
            "src": jpeg_data_uri(strip, QUALITY),
            "frames": len(frames),
            "ratio": round(width / height, 3),
        }

    def frames(self, video_id: str) -> list[Image.Image]:
        """NUM_FRAMES frames evenly over the clip, fitted into MAX_SIZE; fewer of a shorter clip."""
        path = self.path(video_id)
        if self.dataset is None or path is None:
            raise BrokenVideo(
                video_id, self.open_error or "is not among the files of the data set"
            )

        def choose_frames(length: int) -> list[int]:
            return sorted(set(pick(length, NUM_FRAMES)))

        start, end = self.dataset.segment(self.indices[video_id])
        clip_TCHW, _ = read_clip(
            path,
            choose_frames,
            start=start,
            end=end,
            reader=self.dataset.video.reader,
            deadline=self.dataset.video.deadline or DEADLINE,
            limits=self.dataset.video.limits,
        )
        frames = [
            Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
            for frame in clip_TCHW
        ]

        for frame in frames:
            frame.thumbnail(MAX_SIZE)
        return frames


def open_dataset(evaluation: Evaluation) -> TextVideoDataset:
    """The data set of an evaluation, from the config in its results; no missing file stops it. Raises UserError."""
    results = evaluation.results
    config = Config(results["config"])
    evaluation_config = config.get("evaluation") or Config({})
    blocks = evaluation_config.blocks("data_loader") or config.blocks("data_loader")

    for block in blocks:
        if dataset_class_name(block) == results.get("dataset"):
            return open_leniently(
                block,
                split=results.get("split") or "test",
                shuffle=False,
                check_files=False,
                strict_protocol=False,
            )

    raise UserError(
        f"the config in {evaluation.folder / 'results.json'} has no data set {results.get('dataset')}"
    )


def dataset_class_name(block: Mapping[str, Any]) -> str:
    """The class of a loader block's data set, which results.json holds in place of its registered name."""
    name = block["args"].get("dataset_name")
    if name in DATASETS.names():
        return DATASETS.get(name).__name__
    return str(name)


def jpeg_data_uri(image: Image.Image, quality: int) -> str:
    """A JPEG as an address that holds the picture itself.

    Args:
        image: RGB
        quality: of the JPEG, from 1 to 95
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly over the list; all if there are fewer."""
    if 0 < count < len(items):
        return [items[index] for index in pick(len(items), count)]

    return list(items)[:count]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
