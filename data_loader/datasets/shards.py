"""Tar shards as video2dataset and img2dataset write them: 00000.tar with key.mp4 (or .jpg, ...), key.txt, key.json.

The shards are indexed once, by webdataset's rules for what a sample is; then every sample is a byte range of a file,
read on its own. So what a stream of shards promises only in part holds exactly: each sample at most once per epoch, the
same order and equal steps for any number of shards, processes and workers, and a resumed run continues at the exact
batch.
"""

import glob
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data_loader.annotations.file_lookup import (
    IMAGE_EXTENSIONS,
    entry_is_file,
    is_foreign,
)
from data_loader.annotations.layouts import search_folders
from data_loader.annotations.media_folders import folders_below, list_names
from data_loader.annotations.split_folders import (
    split_folders,
    split_of_file,
    split_of_folder,
    subfolder_names,
    warn_of_other_split,
)
from data_loader.annotations.table import Chunk
from data_loader.annotations.tar_index import (
    Sample,
    import_webdataset,
    index_shards,
    read_bytes,
)
from data_loader.base import Annotations, TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.file_kind import describe_file, describe_path
from data_loader.reader import BrokenVideo, read_clip
from parse_config import UserError

log = logging.getLogger(__name__)
PARSER_VERSION = 2
COMPRESSED = re.compile(r"\.(tgz|tar\.\w+)$", re.IGNORECASE)
# shard[first byte+bytes]/name
MEMBER_PATH = re.compile(r"(.*)\[(\d+)\+(\d+)\]/([^/]*)", re.DOTALL)


@DATASETS.register("TarShards")
class TarShards(TextVideoDataset):
    """Local tar files in the layout of webdataset.

    Files are never looked for one by one, whatever check_files says. With with_captions false a sample is its video or
    picture: key.txt and key.json are not read. Fewer samples than one batch on every process are
    an error of the loader at start.

    Args:
        shards: files below data_dir, with {00000..00099} and * as in webdataset; "": <split>/*.tar (train, Training,
            validation, ...), or *.tar if no split has a folder
    """

    def __init__(self, data_dir: str, shards: str = "", **common: Any) -> None:
        self.shards = shards
        super().__init__(data_dir, **{**common, "check_files": False})

    def annotations(self) -> Annotations:
        shards = self._find_shards()
        remarks: list[str] = []

        return Annotations(
            chunks=self._chunks(shards, remarks),
            layout=f"{len(shards)} tar shards",
            sources=shards,
            parser_version=PARSER_VERSION,
            options={"shards": self.shards, "loading": self.video.loading},
            remarks=remarks,
        )

    def _find_shards(self) -> list[Path]:
        """The shards, sorted. Raises FileNotFoundError if there is none or one is missing."""
        # raises FileNotFoundError if there is no such folder
        search_folders([self.data_dir])
        if self.shards:
            return self._expand_pattern()

        folder = self._split_folder()
        shards = _tar_files(Path(self.data_dir, folder))
        if not shards:
            raise FileNotFoundError(
                f"{Path(self.data_dir, folder)}/*.tar: no such tar shard{self._nearby_hint()}"
            )
        if not folder:
            self._require_one_split(shards)
            warn_of_other_split(self.name, self.data_dir, self.split)
        return shards

    def _expand_pattern(self) -> list[Path]:
        names = import_webdataset().shardlists.expand_urls(self.shards)
        paths = set()
        for name in names:
            files = [name]
            if glob.has_magic(name):
                files = glob.glob(name, root_dir=self.data_dir)
            paths |= {os.path.join(self.data_dir, file) for file in files}
        shards = sorted(paths)

        absent = [shard for shard in shards if not os.path.isfile(shard)]
        if not shards:
            absent = [os.path.join(self.data_dir, names[0])]
        if absent:
            reason = describe_path(self.shards)
            raise FileNotFoundError(
                f"{absent[0]}: no such tar shard{f' ({self.shards} {reason})' if reason else ''}; {self.name} misses "
                f"{len(absent)} of {max(1, len(shards))}"
            )
        return [Path(shard) for shard in shards]

    def _split_folder(self) -> str:
        """Name of the folder of `self.split`; "" if no split has one with shards."""
        names = [
            name
            for name in subfolder_names(self.data_dir)
            if _tar_files(Path(self.data_dir, name))
        ]
        folder_of_split = split_folders(self.data_dir, names)
        if not folder_of_split:
            return ""
        if self.split not in folder_of_split:
            raise FileNotFoundError(
                f"{self.data_dir}: no such tar shard of split {self.split!r}; folders with shards are "
                f"{', '.join(folder_of_split.values())}"
            )
        loose = _tar_files(Path(self.data_dir))
        if loose:
            log.warning(
                "%s: in no split, since splits have folders: %s and %d more .tar",
                self.name,
                loose[0],
                len(loose) - 1,
            )
        return folder_of_split[self.split]

    def _require_one_split(self, shards: Sequence[Path]) -> None:
        """UserError if the shards, by their names, are of several splits: each of them would be all of them."""
        splits = {split_of_file(shard.name) for shard in shards} - {None}
        if len(splits) > 1:
            raise UserError(
                f"{self.data_dir}: {shards[0].name} and {shards[-1].name} are named for different splits; say "
                f'which are of split {self.split!r}: dataset_params.shards, such as "{self.split}*.tar"'
            )

    def _nearby_hint(self) -> str:
        """Where tar files are, or compressed ones, when none are in the split's folder; or an empty text."""
        data_dir = os.path.abspath(self.data_dir)
        above = os.path.dirname(data_dir)
        splits_above = [
            os.path.join(above, name)
            for name in list_names(above)
            if split_of_folder(name)
        ]
        for folder in (*folders_below(data_dir), above, *splits_above):
            for name in list_names(folder):
                path = os.path.join(folder, name)
                if COMPRESSED.search(name):
                    description = describe_file(path) or "is compressed"
                    return f"; {path} {description}: a shard must be a plain .tar"
                if is_tar(name):
                    if split_of_folder(os.path.basename(folder)):
                        folder = os.path.dirname(folder)
                    return f"; set data_dir to {folder}, where there are some"
        return ""

    def _chunks(self, shards: list[Path], remarks: list[str]) -> Iterator[Chunk]:
        """One chunk per shard; what the shards hold and their faults are added to `remarks`.

        Raises UserError if there are faults and loading is strict, or no sample at all.
        """
        media_types = set()
        faults: list[str] = []
        keys = KeyRegister()
        names = _shard_names(shards, self.data_dir)

        indices = index_shards([str(shard) for shard in shards], self.with_captions)
        for shard, (samples, shard_faults) in zip(shards, indices):
            faults += shard_faults
            media_types |= {_media_type(sample) for sample in samples}
            keys.add(samples)

            shard_path = os.path.relpath(shard, self.data_dir)
            yield {
                "id": [f"{names[shard]}/{sample.key}" for sample in samples],
                "path": [_member_path(shard_path, sample) for sample in samples],
                "caption": [
                    caption for sample in samples for caption in sample.captions
                ],
                "count": [len(sample.captions) for sample in samples],
            }

        self._report_faults(faults, found_any=bool(media_types))
        if media_types:
            remarks.append(f" of {' and '.join(sorted(media_types))}")
        remarks.append(keys.remark(shards))
        if faults:
            remarks.append(
                f"; {len(faults)} faulty members left out, the first: {faults[0]}"
            )

    def _report_faults(self, faults: Sequence[str], found_any: bool) -> None:
        """UserError if there are faults and loading is strict, or no shard has a video."""
        if not faults:
            return
        if not found_any:
            raise UserError(
                f"{self.name}: there are no videos in its shards: {faults[0]} ({len(faults)} faults in all)"
            )
        if self.video.loading == "strict":
            raise UserError(
                f'{self.name}: {faults[0]} ({len(faults)} faults in all); video_params.loading "skip" '
                "goes on without what is faulty"
            )

    def source_file(self, index: int) -> tuple[str, str]:
        """(path of the shard, "first byte+bytes") of video `index`."""
        shard, first, size, _ = _parse_member_path(self.paths[index])
        return shard, f"{first}+{size}"

    def read_file(
        self, index: int, choose: Callable[[int], Sequence[int]]
    ) -> tuple[Tensor, list[int]]:
        """Through a temporary copy of the member: so any reader can read it, within the deadline."""
        path = self.paths[index]
        shard, first, size, name = _parse_member_path(path)

        with tempfile.NamedTemporaryFile(suffix=os.path.splitext(name)[1]) as copy:
            try:
                with open(shard, "rb") as file:
                    copy.write(read_bytes(file, int(first), int(size)))
                copy.flush()
                return read_clip(
                    copy.name,
                    choose,
                    reader=self.video.reader,
                    deadline=self.video.deadline,
                    limits=self.video.limits,
                )
            except BrokenVideo as error:
                raise BrokenVideo(path, error.reason.replace(copy.name, name)) from None
            except OSError as error:
                raise BrokenVideo(path, error.strerror or str(error)) from error


class KeyRegister:
    """Which keys occur in more than one shard; of each sample only a hash is held, 8 bytes."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray] = []

    def add(self, samples: Sequence[Sample]) -> None:
        """Add the samples of the next shard."""
        hashes = [hash(sample.key) for sample in samples]
        self._hashes.append(np.array(hashes, np.int64))

    def remark(self, shards: Sequence[Path]) -> str:
        """How many keys occur again in another shard, with the first such pair of shards; or an empty text."""
        lengths = [len(hashes) for hashes in self._hashes]
        shard_of = np.repeat(np.arange(len(lengths)), lengths)
        hashes = np.concatenate([np.zeros(0, np.int64), *self._hashes])
        order = np.argsort(hashes, kind="stable")
        repeated = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if not len(repeated):
            return ""
        pair = shard_of[order[repeated[0] : repeated[0] + 2]].tolist()
        first, second = (shards[number].name for number in pair)
        return f"; {len(repeated)} keys occur again in another shard, as in {first} and {second}"


def _shard_names(shards: Sequence[Path], data_dir: str) -> dict[Path, str]:
    """What the ids of a shard's samples begin with: its stem, or, where two have the same, its path."""
    if len({shard.stem for shard in shards}) == len(shards):
        return {shard: shard.stem for shard in shards}
    return {shard: os.path.relpath(shard.with_suffix(""), data_dir) for shard in shards}


def is_tar(name: str) -> bool:
    """Whether a file name is that of a shard."""
    return name.lower().endswith(".tar") and not is_foreign(name)


def _tar_files(folder: Path) -> list[Path]:
    """The tar files in `folder`, sorted."""
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if is_tar(entry.name) and entry_is_file(entry)
        )


def _suffix(sample: Sample) -> str:
    """ ".mp4" of a member called key.mp4 or key.clip.mp4."""
    return f".{sample.extension.rpartition('.')[2]}"


def _media_type(sample: Sample) -> str:
    if _suffix(sample) in IMAGE_EXTENSIONS:
        return "pictures"
    return "videos"


def _member_path(shard: str, sample: Sample) -> str:
    """As MEMBER_PATH reads it."""
    name = os.path.basename(sample.key) + _suffix(sample)
    return f"{shard}[{sample.first}+{sample.size}]/{name}"


def _parse_member_path(path: str) -> tuple[str, str, str, str]:
    """(shard, first byte, bytes, name) of what `_member_path` made."""
    match = MEMBER_PATH.fullmatch(path)
    assert match is not None, path
    shard, first, size, name = match.groups()
    return shard, first, size, name
