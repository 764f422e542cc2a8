"""Ids of an exam's videos -> small JPEG strips, through the data set that the exam read."""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from data_loader.datasets import DATASETS
from data_loader.frames import pick
from data_loader.loader import open_leniently
from data_loader.reader import BrokenVideo, read_clip
from parse_config import Config, UserError
from scripts.html_report.run_folder import Exam

log = logging.getLogger(__name__)
BOX = (128, 96)  # pixels that a frame is fitted into; smaller ones stay as they are
FRAMES = 4
QUALITY = 68


class Clips:
    """The videos of one exam by id. `why`: why none can be shown, "" if they can; `gone`: what could not be read."""

    def __init__(self, exam: Exam):
        self.data, self.why, self.gone = None, "", {}
        try:
            self.data = data_set(exam)
        except (UserError, OSError) as error:
            self.why = " ".join(str(error).split())
        ids = [] if self.data is None else self.data.ids
        self.places = {name: index for index, name in reversed(list(enumerate(ids)))}

    def path(self, name: str) -> str | None:
        """Where the video is; None if it is not there."""
        return self.data.video_path(self.places[name]) if name in self.places else None

    def thumbnail(self, name: str) -> dict[str, Any]:
        """{"name"}, and {"src": data URI of frames side by side, "frames": how many, "ratio": width / height of one} if
        it can be read; what cannot is kept in `gone` with the reason."""
        try:
            pictures = self.frames(name)
        except (BrokenVideo, OSError) as error:
            self.gone[name] = " ".join(str(error).split())
            return {"name": name}
        width, height = pictures[0].size
        strip = Image.new("RGB", (width * len(pictures), height))
        for number, picture in enumerate(pictures):
            strip.paste(picture, (number * width, 0))
        shape = {"frames": len(pictures), "ratio": round(width / height, 3)}
        return {"name": name, "src": data_uri(strip, QUALITY), **shape}

    def frames(self, name: str) -> list[Image.Image]:
        """FRAMES frames evenly over the clip, fitted into BOX; fewer of a shorter one."""
        path = self.path(name)
        if path is None:
            raise BrokenVideo(name, self.why or "is not among the files of the data set")
        start, end = self.data.segment(self.places[name])
        clip_TCHW, indices = read_clip(
            path,
            lambda length: sorted(set(pick(length, FRAMES))),
            start=start,
            end=end,
            reader=self.data.video.reader,
            deadline=self.data.video.deadline,
        )
        pictures = [
            Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in clip_TCHW
        ]
        for picture in pictures:
            picture.thumbnail(BOX)
        return pictures


def data_set(exam: Exam) -> Any:
    """The data set of an exam, from the config in its results; nothing missing stops it."""
    config = Config(exam.results["config"])
    blocks = (config.get("evaluation") or Config({})).blocks("data_loader") or config.blocks(
        "data_loader"
    )
    own = [block for block in blocks if _class(block) == exam.results.get("dataset")]
    if not own:
        raise UserError(
            f"the config in {exam.folder / 'results.json'} has no data set {exam.results.get('dataset')}"
        )
    return open_leniently(
        own[0],
        split=exam.results.get("split") or "test",
        shuffle=False,
        check_files=False,
        strict_protocol=False,
    )


def _class(block: Mapping[str, Any]) -> str:
    name = block["args"].get("dataset_name")
    return DATASETS.get(name).__name__ if name in DATASETS.names() else str(name)


def data_uri(picture: Image.Image, quality: int = 0) -> str:
    """A JPEG of `quality`, or a PNG, to stand in the page itself."""
    file = io.BytesIO()
    if quality:
        picture.save(file, "JPEG", quality=quality, optimize=True)
    else:
        picture.save(file, "PNG", optimize=True)
    return f"data:image/{'jpeg' if quality else 'png'};base64,{base64.b64encode(file.getvalue()).decode()}"


def some(things: Sequence[Any], count: int) -> list[Any]:
    """`count` of them, evenly over the list; all if there are fewer."""
    return (
        [things[place] for place in pick(len(things), count)]
        if len(things) > count > 0
        else list(things)[:count]
    )
