"""What all data sets share: index -> clip and caption, and what happens to a file that cannot be read.

T frames, C channels, H height, W width; the letter before them: W windows (only in `windows`).
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from data_loader import frames, seeding
from data_loader.annotations.items import Annotations, Item
from data_loader.annotations.selection import Gallery
from data_loader.reader import BrokenVideo, read_clip
from data_loader.settings import check_text, video_settings
from data_loader.transforms import build_transform
from parse_config import UserError

__all__ = ["Item", "TextVideoDataset"]
log = logging.getLogger(__name__)
TRIES = 64  # samples looked at in place of one that cannot be read
LARGE = 200_000  # training videos above which files are not looked for at start unless asked


class TextVideoDataset(Annotations, Dataset):
    """One item per video. A subclass says which there are: `items`, or for millions of rows `columns` + `sources`.

    data_dir: where the videos are. metadata_dir: where the annotations are, if elsewhere. cut: which version of the
    lists (jsfusion, 2M, ...), in each data set's own words. subsample: share of the videos.
    video_params: see `VideoSettings`. cache_dir: where parsed tables are kept (see `cache_folder`).
    check_files: look for every file at start (default: val and test always, train up to 200,000 videos).
    strict_protocol: refuse a gallery that has not the counts of its protocol.
    """

    def __init__(
        self,
        data_dir: str,
        split: str = "train",
        cut: str | None = None,
        subsample: float = 1.0,
        video_params: Mapping | None = None,
        text_params: Mapping | None = None,
        metadata_dir: str | None = None,
        reader: str | None = None,
        cache_dir: str | None = None,
        check_files: bool | None = None,
        strict_protocol: bool = False,
        *,
        seed: int = 0,
    ):
        self.data_dir, self.split, self.cut, self.seed = data_dir, split, cut, seed
        self.train = split == "train"
        self.name = " ".join(word for word in (type(self).__name__, cut, split) if word)
        self.video = video_settings(video_params, split, reader)
        check_text(text_params)
        self.folders = [
            folder for folder in (metadata_dir, data_dir) if folder
        ]  # where annotations are looked for
        self.gallery = Gallery(self.parse(cache_dir), data_dir, self.name)
        self.gallery.take(subsample, need_captions=self.train)
        if check_files or (check_files is None and (not self.train or len(self) <= LARGE)):
            self.gallery.look(self.video.loading == "strict")
        self.counts = self.gallery.count(self.protocol, strict_protocol)
        self.transform = build_transform(self.train, **self.video.transform)
        log.info(
            "%s: %d videos, %d captions%s",
            self.name,
            len(self),
            self.counts["num_captions"],
            f"; layout: {self.layout}" if self.layout else "",
        )
        if self.validates_on_test:
            log.warning(
                "%s: there is no such split, the test split stands in: do not choose models by it",
                self.name,
            )

    def __len__(self) -> int:
        return len(self.gallery)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Video `index` or (index, epoch) -> {"video": float32 (T, C, H, W) normalised, "text": str, "meta": {"index",
        "id", "path", "frames", "caption", "failures": [(path, reason), ...]}}: a pure function of seed, epoch, index.

        A file that cannot be read raises BrokenVideo when loading is strict. When it is skip, another video with its
        own caption takes its place in training; in val and test "video" is None, and the gallery must do without it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        index = range(len(self))[index]
        failures: list[tuple[str, str]] = []
        for attempt in range(TRIES if self.train else 1):
            numbers = (self.seed, epoch, index, attempt)
            chosen = index if attempt == 0 else seeding.hash_numbers(*numbers) % len(self)
            sample = self._caption(chosen, numbers, failures)
            try:
                self._clip(sample, numbers)
                return sample
            except BrokenVideo as error:
                if self.video.loading == "strict":
                    raise
                failures.append((error.path, error.reason))
        if self.train:
            raise UserError(
                f"{self.name}: {TRIES} videos in a row could not be read, the last one {failures[-1][0]}: "
                f"{failures[-1][1]}; scripts/check_data.py says which are there, check_files true leaves "
                "out the missing"
            )
        return sample

    def windows(self, index: int, stride: int) -> torch.Tensor:
        """float32 (W, T, C, H, W): the clips of a sliding window; window w takes frame w * stride of each segment."""
        chosen: list[list[int]] = []
        wanted: list[int] = []

        def choose(length: int) -> list[int]:
            chosen[:] = frames.windows(length, self.video.num_frames, stride)
            wanted[:] = sorted({place for window in chosen for place in window})
            return wanted

        clip_TCHW = self.transform(self._read(index, choose)[0], None)
        where = {place: number for number, place in enumerate(wanted)}
        return torch.stack([clip_TCHW[[where[place] for place in window]] for window in chosen])

    def _caption(
        self, index: int, numbers: tuple[int, ...], failures: list[tuple[str, str]]
    ) -> dict[str, Any]:
        """The sample of video `index` without its clip."""
        table, row = self.gallery.table, int(self.gallery.rows[index])
        places = table.captions(row)
        caption = seeding.hash_numbers(*numbers, 1) % len(places) if self.train else 0
        meta = {
            "index": index,
            "id": table.id[row],
            "path": self.paths[index],
            "frames": [],
            "caption": caption,
            "failures": failures,
        }
        return {
            "video": None,
            "text": table.caption[places[caption]] if places else "",
            "meta": meta,
        }

    def _clip(self, sample: dict[str, Any], numbers: tuple[int, ...]) -> None:
        """Read, transform and enter the clip of `sample`."""
        how, meta = "random" if self.train else "uniform", sample["meta"]

        def choose(length: int) -> list[int]:
            return frames.pick(length, self.video.num_frames, how, seeding.generator(*numbers, 2))

        clip_TCHW, meta["frames"] = self._read(meta["index"], choose)
        sample["video"] = self.transform(clip_TCHW, seeding.generator(*numbers, 3))

    def _read(
        self, index: int, choose: Callable[[int], list[int]]
    ) -> tuple[torch.Tensor, list[int]]:
        path = self.gallery.path(index)
        if path is None:
            raise BrokenVideo(self.paths[index], "no such file, nor with another extension")
        start, end = self.gallery.table.cut(int(self.gallery.rows[index]))
        try:
            return read_clip(
                path,
                choose,
                reader=self.video.reader,
                start=start,
                end=end,
                deadline=self.video.deadline,
            )
        except OSError as error:  # unreadable, or gone since it was found
            raise BrokenVideo(path, error.strerror or str(error)) from error

    @property
    def ids(self) -> Sequence[str]:
        """Id of each video."""
        return self.gallery.ids

    @property
    def paths(self) -> Sequence[str]:
        """Path of each video."""
        return self.gallery.paths

    @property
    def captions(self) -> Sequence[str]:
        """All captions of all videos, video by video."""
        return self.gallery.captions

    @property
    def owner(self) -> torch.Tensor:
        """int64 (captions,): the number of the video that each caption belongs to."""
        return self.gallery.owner

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the manifest that scripts/prepare_data.py left in data_dir; None for files as downloaded."""
        path = Path(self.data_dir) / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")).get("hash") if path.is_file() else None
