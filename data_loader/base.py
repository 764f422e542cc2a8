"""Base of all data sets: video index -> clip and caption, and what happens to a file that cannot be read.

T frames, C channels, H height, W width; the letter before them: W windows (only in `windows`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from data_loader import frames, seeding
from data_loader.annotations.holdout import (
    LARGEST_SHARE,
    Holdout,
    check_holdout,
    hold_out,
)
from data_loader.annotations.items import Annotations, Item
from data_loader.annotations.left_out import left_out_text
from data_loader.annotations.selection import VideoSelection
from data_loader.annotations.table import Table
from data_loader.annotations.table_cache import load_table
from data_loader.annotations.text_files import read_json
from data_loader.decode_cache import open_cache
from data_loader.file_kind import describe_file, describe_path
from data_loader.reader import BrokenVideo, read_clip
from data_loader.settings import check_text_params, video_settings
from data_loader.transforms import build_transform
from parse_config import ConfigError, UserError

__all__ = ["Annotations", "Item", "TextVideoDataset"]
log = logging.getLogger(__name__)
MAX_ATTEMPTS = 64  # videos that are tried in place of one that cannot be read
MAX_CHECKED = (
    200_000  # training videos up to which files are looked for at start by default
)
# last number of the seed of each random draw
CAPTION_DRAW, FRAMES_DRAW, TRANSFORM_DRAW = 1, 2, 3


class TextVideoDataset(Dataset):
    """One sample per video. A subclass says which videos there are: `annotations`.

    layout, protocol, validates_on_test: see `Annotations`. left_out: reason -> number of the rows, captions and videos
    that were not taken. counts: see `VideoSelection.compare_with_protocol`. holdout: see `Holdout`; None where the data
    set has a validation split.

    Args:
        data_dir: folder of the data set as it was downloaded
        split: train, val or test
        cut: which version of the lists, in the data set's own words (jsfusion, 2M, ...)
        subsample: share of the videos, 0 to 1
        video_params: how a file becomes a clip, see data_loader.args.video_params
        text_params: only {"input": "text"}, as Frozen-in-Time codebases write it
        metadata_dir: where the annotations are, if not in data_dir
        reader: the same as video_params.reader, where Frozen-in-Time codebases write it
        cache_dir: where parsed tables are kept; default: $MILES_CACHE or ~/.cache/miles
        check_files: look for every file at the start; default: val and test always, train up to 200,000 videos (of
            more, for 100)
        strict_protocol: refuse a gallery that has not the counts of its protocol
        with_captions: false: footage alone, captions are neither needed nor used; training split only
        holdout: where there is no validation split: training videos that are held out as one; null: 500, at most a
            fifth; 0: none, "val" is the test split
        holdout_seed: which videos are held out; independent of the run's seed
    """

    # the splits there are; empty: those that the files name
    splits: Sequence[str] = ()
    # "test" is then the validation split
    lacks_test_split = False
    protocol: str | None

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
        with_captions: bool = True,
        holdout: int | None = None,
        holdout_seed: int = 0,
        *,
        seed: int = 0,
    ) -> None:
        self.data_dir = data_dir
        self.split = split
        self.cut = cut
        self.seed = seed
        self.train = split == "train"
        self.with_captions = with_captions
        self.name = " ".join(word for word in (type(self).__name__, cut, split) if word)

        self.video = video_settings(video_params, split, reader)
        check_text_params(text_params)
        self._check_split()
        check_holdout(holdout, self.lacks_validation_split(), self.name)
        self.holds_out = self.lacks_validation_split() and holdout != 0
        self.annotation_folders = [path for path in (metadata_dir, data_dir) if path]

        table = self._load_table(cache_dir, holdout)
        self._take_notes(table)
        self.selection = VideoSelection(table, data_dir, self.name)
        self.holdout = self._hold_out(holdout, holdout_seed)
        self._select_videos(subsample, check_files)
        self.counts = self.selection.compare_with_protocol(
            self.protocol, strict_protocol
        )

        self.left_out.update(self.selection.left_out)

        self.transform = build_transform(self.train, **self.video.transform_args)
        self._log_summary()
        self.cache = open_cache(self.video, len(self), self.name)

    def _check_files(self, check_files: bool | None) -> None:
        """Look for every file; for some where that is left to the default and there are very many."""
        is_large = self.train and len(self) > MAX_CHECKED
        if check_files or (check_files is None and not is_large):
            self.selection.remove_missing(strict=self.video.loading == "strict")
        elif check_files is None:
            self.selection.require_some()

    def _check_split(self) -> None:
        """ConfigError for a split that cannot be, or a gallery without captions."""
        if self.splits and self.split not in self.splits:
            raise ConfigError(
                f"split: {self.split!r} is no split of {type(self).__name__}; known: {', '.join(self.splits)}"
            )
        if not (self.with_captions or self.train):
            raise ConfigError(
                f"with_captions: false is given for split {self.split!r}; retrieval is judged by captions, only "
                "split 'train' can do without"
            )

    def lacks_validation_split(self) -> bool:
        """Whether the protocol has no validation split, so that training videos are held out as one."""
        return False

    def holdout_group(self, video_id: str) -> str:
        """What is held out together with a training video; default: the video alone."""
        return video_id

    @property
    def reads_holdout(self) -> bool:
        """Whether this is the gallery of the held-out training videos; `annotations` are then those of training."""
        return self.holds_out and self.split == "val"

    def _load_table(self, cache_dir: str | None, holdout: int | None) -> Table:
        """The table of the annotations.

        Of too few training videos none is held out where no number is given: the test split then stands in.
        """
        table = self._parse(cache_dir)
        if self.reads_holdout and holdout is None and len(table) < LARGEST_SHARE:
            self.holds_out = False
            table = self._parse(cache_dir)
        return table

    def _parse(self, cache_dir: str | None) -> Table:
        split = self.split if self.with_captions else f"{self.split} without captions"
        annotations = self.annotations()
        annotations.with_captions = self.with_captions
        return load_table(
            annotations,
            type(self).__name__,
            self.data_dir,
            split,
            self.cut,
            cache_dir,
        )

    def _hold_out(self, count: int | None, seed: int) -> Holdout | None:
        if not self.lacks_validation_split():
            return None
        if not self.holds_out:
            count = 0
        return hold_out(self.selection, self.split, count, seed, self.holdout_group)

    def _select_videos(self, subsample: float, check_files: bool | None) -> None:
        """Leave out what is not in the share and what is missing."""
        if self.reads_holdout:
            self.protocol = None  # its counts are those of the whole training split
            subsample = 1.0
        self.selection.subsample(subsample, self.train and self.with_captions)
        self._check_files(check_files)

    def _take_notes(self, table: Table) -> None:
        """Attributes that were found out while the annotations were read."""
        self.layout: str = table.notes["layout"]
        self.protocol = table.notes["protocol"]
        self.validates_on_test: bool = table.notes["validates_on_test"]
        self.left_out: Counter[str] = Counter(table.notes.get("left_out", {}))

    def annotations(self) -> Annotations:
        """The videos of `self.split` and their captions, from the files in `self.annotation_folders`."""
        raise NotImplementedError(f"{type(self).__name__}.annotations")

    def _log_summary(self) -> None:
        layout = f"; layout: {self.layout}" if self.layout else ""
        captions = "without captions"
        if self.with_captions:
            captions = f"{self.counts['num_captions']} captions"
        log.info(
            "%s: %d videos, %s%s; %s",
            self.name,
            len(self),
            captions,
            layout,
            left_out_text(self.left_out),
        )
        if self.lacks_test_split and self.split == "test":
            log.warning(
                "%s: there is no such split, the validation split stands in: what was chosen by it is not tested by it",
                self.name,
            )
        if self.validates_on_test:
            log.warning(
                "%s: there is no such split, the test split stands in: do not choose models by it (holdout gives one)",
                self.name,
            )

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """One sample, a pure function of seed, epoch and index.

        key: video index, or (video index, epoch); without an epoch it is 0.
        Returns {"video": float32 (T, C, H, W) normalised, "text": str, "meta": {"index", "id", "path", "frames",
        "caption", "failures": [(path, reason), ...]}}, with_captions false without "text".

        A file that cannot be read raises BrokenVideo when loading is strict. When it is skip, another video with its
        own caption replaces it in training; in val and test "video" is None, and the gallery must do without it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        # a range handles negative indices, and raises IndexError beyond the end
        index = range(len(self))[index]

        failures: list[tuple[str, str]] = []
        for attempt in range(MAX_ATTEMPTS if self.train else 1):
            seeds = (self.seed, epoch, index, attempt)
            video_index = index
            if attempt > 0:
                video_index = seeding.hash_numbers(*seeds) % len(self)

            sample = self._caption_sample(video_index, seeds, failures)
            try:
                self._add_clip(sample, seeds)
            except BrokenVideo as error:
                if self.video.loading == "strict":
                    raise
                failures.append((error.path, error.reason))
            else:
                return sample

        if self.train:
            raise UserError(
                f"{self.name}: {MAX_ATTEMPTS} videos in a row could not be read, the last one "
                f"{failures[-1][0]}: {failures[-1][1]}; scripts/check_data.py says which are there, "
                "check_files true leaves out the missing"
            )
        return sample

    def _caption_sample(
        self, index: int, seeds: tuple[int, ...], failures: list[tuple[str, str]]
    ) -> dict[str, Any]:
        """The sample of video `index` without its clip.

        seeds: of the caption's draw. failures: of this sample, goes into its meta.
        """
        caption = 0
        text = {}
        if self.with_captions:
            captions = self.captions_of(index)
            if self.train:
                caption = seeding.hash_numbers(*seeds, CAPTION_DRAW) % len(captions)
            text = {"text": captions[caption] if captions else ""}
        meta = {
            "index": index,
            "id": self.ids[index],
            "path": self.paths[index],
            "frames": [],
            "caption": caption,
            "failures": failures,
        }
        return {"video": None, **text, "meta": meta}

    def _add_clip(self, sample: dict[str, Any], seeds: tuple[int, ...]) -> None:
        """Read and transform the clip of `sample` into its "video" and "frames"."""

        sampling = "random" if self.train else "uniform"
        choose_frames = frames.FrameChoice(
            self.video.num_frames, sampling, (*seeds, FRAMES_DRAW)
        )
        clip_TCHW, indices = self.read_clip(sample["meta"]["index"], choose_frames)
        sample["meta"]["frames"] = indices
        sample["video"] = self.transform(
            clip_TCHW, seeding.generator(*seeds, TRANSFORM_DRAW)
        )

    def windows(self, index: int, stride: int) -> torch.Tensor:
        """float32 (W, T, C, H, W): the clips of a sliding window over video `index`.

        The video is divided into T equal pieces; window w has frame w * stride of each (see `frames.windows`).
        """
        windows: list[list[int]] = []

        def choose_frames(length: int) -> list[int]:
            windows[:] = frames.windows(length, self.video.num_frames, stride)
            # each frame is read once, though windows of short clips share frames
            return sorted({frame for window in windows for frame in window})

        frames_TCHW, indices = self.read_clip(index, choose_frames)
        frames_TCHW = self.transform(frames_TCHW, None)
        position = {frame: position for position, frame in enumerate(indices)}
        return torch.stack(
            [frames_TCHW[[position[frame] for frame in window]] for window in windows]
        )

    def read_clip(
        self, index: int, choose: Callable[[int], Sequence[int]]
    ) -> tuple[torch.Tensor, list[int]]:
        """uint8 (T, C, H, W): frames of video `index` before the transform, and their T indices.

        choose: length of the clip in frames -> indices to read; the same for the same length. Raises BrokenVideo if the
        file cannot be read.
        """
        if self.cache is None:
            return self.read_file(index, choose)
        return self.cache.read(index, choose, partial(self.read_file, index))

    def read_file(
        self, index: int, choose: Callable[[int], Sequence[int]]
    ) -> tuple[torch.Tensor, list[int]]:
        """What `read_clip` returns and raises, from the file."""
        path = self.video_path(index)
        if path is None:
            reason = describe_path(self.selection.listed_path(index))
            reason = reason or describe_file(self.paths[index])
            reason = reason or "no such file, nor with another extension"
            raise BrokenVideo(self.paths[index], reason)

        start, end = self.segment(index)
        try:
            return read_clip(
                path,
                choose,
                reader=self.video.reader,
                start=start,
                end=end,
                deadline=self.video.deadline,
                limits=self.video.limits,
            )
        except OSError as error:  # unreadable, or removed since it was found
            raise BrokenVideo(path, error.strerror or str(error)) from error

    def log_held(self) -> None:
        """Log how much the cache of decoded clips holds, if that has changed since the last time."""
        if self.cache is not None:
            self.cache.log_held(self.name)

    def video_path(self, index: int) -> str | None:
        """Path of the file of video `index`; None if it does not exist."""
        return self.selection.find_path(index)

    def source_file(self, index: int) -> tuple[str, str]:
        """(path of the file that holds video `index`, which part of it the video is); "" is the whole file."""
        return self.paths[index], ""

    def segment(self, index: int) -> tuple[float | None, float | None]:
        """(start, end) of video `index` in its file, in seconds; None where there is none."""
        return self.selection.segment(index)

    def captions_of(self, index: int) -> Sequence[str]:
        """The captions of video `index`."""
        return self.selection.captions_of(index)

    @property
    def ids(self) -> Sequence[str]:
        """Id of each video."""
        return self.selection.ids

    @property
    def paths(self) -> Sequence[str]:
        """Path of each video, as found or, where files were not looked for, as listed."""
        return self.selection.paths

    @property
    def captions(self) -> Sequence[str]:
        """All captions of all videos, video by video."""
        return self.selection.captions

    @property
    def owner(self) -> torch.Tensor:
        """int64 (captions,): the index of the video that each caption belongs to."""
        return self.selection.owner

    @property
    def manifest_hash(self) -> str | None:
        """Hash of the manifest that scripts/prepare_data.py wrote in data_dir; None for files as downloaded."""
        path = Path(self.data_dir) / "manifest.json"
        if not path.is_file():
            return None

        manifest = read_json(path)
        return manifest.get("hash") if isinstance(manifest, dict) else None
