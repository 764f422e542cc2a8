"""Tar shards as video2dataset and img2dataset write them: 00000.tar with key.mp4 (or .jpg, ...), key.txt, key.json.

The shards are indexed once, by webdataset's rules for what a sample is; then every sample is a byte range of a file,
read on its own. So what a stream of shards promises only in part holds exactly: each sample at most once per epoch, the
same order and equal steps for any number of shards, processes and workers, and a resumed run continues at the exact
batch.
"""

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data_loader.annotations.file_lookup import IMAGE_EXTENSIONS
from data_loader.annotations.table import Chunk
from data_loader.annotations.tar_index import (
    Sample,
    import_webdataset,
    index_shards,
    read_bytes,
)
from data_loader.base import Annotations, TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.reader import BrokenVideo, read_clip
from parse_config import UserError

# shard[first byte+bytes]/name
MEMBER_PATH = re.compile(r"(.*)\[(\d+)\+(\d+)\]/([^/]*)", re.DOTALL)


@DATASETS.register("TarShards")
class TarShards(TextVideoDataset):
    """Local tar files in the layout of webdataset.

    Files are never looked for one by one, whatever check_files says. With with_captions false a sample is its video or
    picture: key.txt and key.json are not read. Fewer samples than one batch on every process are
    an error of the loader at start.

    Args:
        shards: files below data_dir, with {00000..00099} and * as in webdataset; "": <split>/*.tar, or *.tar if no
            split has a folder
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
            options={"shards": self.shards, "loading": self.video.loading},
            remarks=remarks,
        )

    def _find_shards(self) -> list[Path]:
        """The shards, sorted. Raises FileNotFoundError if there is none or one is missing."""
        pattern = self.shards or self._default_pattern()
        names = import_webdataset().shardlists.expand_urls(pattern)

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
            raise FileNotFoundError(
                f"{absent[0]}: no such tar shard; {self.name} misses {len(absent)} of "
                f"{max(1, len(shards))}"
            )
        return [Path(shard) for shard in shards]

    def _default_pattern(self) -> str:
        """Of the split's folder if any split has one."""
        for split in ("train", "val", "test"):
            if glob.glob(f"{split}/*.tar", root_dir=self.data_dir):
                return f"{self.split}/*.tar"
        return "*.tar"

    def _chunks(self, shards: list[Path], remarks: list[str]) -> Iterator[Chunk]:
        """One chunk per shard; what the shards hold and their faults are added to `remarks`.

        Raises UserError if there are faults and loading is strict.
        """
        media_types = set()
        faults: list[str] = []

        indices = index_shards([str(shard) for shard in shards], self.with_captions)
        for shard, (samples, shard_faults) in zip(shards, indices):
            faults += shard_faults
            media_types |= {_media_type(sample) for sample in samples}

            shard_path = os.path.relpath(shard, self.data_dir)
            yield {
                "id": [f"{shard.stem}/{sample.key}" for sample in samples],
                "path": [_member_path(shard_path, sample) for sample in samples],
                "caption": [
                    caption for sample in samples for caption in sample.captions
                ],
                "count": [len(sample.captions) for sample in samples],
            }

        if faults and self.video.loading == "strict":
            raise UserError(
                f'{self.name}: {faults[0]} ({len(faults)} faults in all); video_params.loading "skip" '
                "goes on without what is faulty"
            )
        if media_types:
            remarks.append(f" of {' and '.join(sorted(media_types))}")
        if faults:
            remarks.append(
                f"; {len(faults)} faulty members left out, the first: {faults[0]}"
            )

    def read_file(
        self, index: int, choose: Callable[[int], Sequence[int]]
    ) -> tuple[Tensor, list[int]]:
        """Through a temporary copy of the member: so any reader can read it, within the deadline."""
        path = self.paths[index]
        match = MEMBER_PATH.fullmatch(path)
        assert match is not None, path
        shard, first, size, name = match.groups()

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
