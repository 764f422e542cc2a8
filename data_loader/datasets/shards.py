"""Tar shards as video2dataset and img2dataset write them: 00000.tar with key.mp4 (or .jpg, ...), key.txt, key.json.

The shards are listed once, by webdataset's rules for what a sample is; then every sample is a place in a file, read on
its own. So what a stream of shards promises only in part holds exactly: each sample at most once an epoch, the same
order and equal steps for any number of shards, processes and workers, and a resumed run goes on at its very batch.
"""

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from data_loader.annotations.file_lookup import IMAGE
from data_loader.annotations.table import Chunk
from data_loader.annotations.tar_index import list_shards, read_bytes, webdataset
from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.reader import BrokenVideo, read_clip
from parse_config import UserError

PLACE = re.compile(r"(.*)\[(\d+)\+(\d+)\]/([^/]*)", re.DOTALL)  # shard[first byte+bytes]/name


@DATASETS.register("TarShards")
class TarShards(TextVideoDataset):
    """shards: files under data_dir, with {00000..00099} and * as in webdataset; default: <split>/*.tar, or *.tar if no
    split has a folder. Local files only. Members are always looked for, whatever check_files says. Fewer samples than
    one batch on every process are an error of the loader at start."""

    def __init__(self, data_dir: str, shards: str = "", **common):
        self.shards = shards
        super().__init__(data_dir, **{**common, "check_files": False})

    @property
    def options(self) -> Mapping[str, Any]:
        return {"shards": self.shards, "loading": self.video.loading}

    def sources(self) -> Sequence[Path]:
        splits = any(
            glob.glob(f"{split}/*.tar", root_dir=self.data_dir)
            for split in ("train", "val", "test")
        )
        names = webdataset().shardlists.expand_urls(
            self.shards or (f"{self.split}/*.tar" if splits else "*.tar")
        )
        found = sorted(
            {
                os.path.join(self.data_dir, file)
                for name in names
                for file in (
                    glob.glob(name, root_dir=self.data_dir) if glob.has_magic(name) else [name]
                )
            }
        )
        absent = [
            file
            for file in found or [os.path.join(self.data_dir, names[0])]
            if not os.path.isfile(file)
        ]
        if absent:
            raise FileNotFoundError(
                f"{absent[0]}: no such tar shard; {self.name} misses {len(absent)} of "
                f"{max(1, len(found))}"
            )
        self.layout = f"{len(found)} tar shards"
        return [Path(file) for file in found]

    def columns(self) -> Iterator[Chunk]:
        kinds, faults = set(), []
        shards = self.sources()
        for shard, (found, wrong) in zip(shards, list_shards([str(shard) for shard in shards])):
            faults += wrong
            suffixes = [f".{sample.extension.rpartition('.')[2]}" for sample in found]
            kinds |= {"pictures" if suffix in IMAGE else "videos" for suffix in suffixes}
            place = os.path.relpath(shard, self.data_dir)
            yield {
                "id": [f"{shard.stem}/{sample.key}" for sample in found],
                "path": [
                    f"{place}[{sample.first}+{sample.size}]/{os.path.basename(sample.key)}{suffix}"
                    for sample, suffix in zip(found, suffixes)
                ],
                "caption": [caption for sample in found for caption in sample.captions],
                "count": [len(sample.captions) for sample in found],
            }
        if faults and self.video.loading == "strict":
            raise UserError(
                f'{self.name}: {faults[0]} ({len(faults)} faults in all); video_params.loading "skip" '
                "goes on without what is faulty"
            )
        self.layout += f" of {' and '.join(sorted(kinds))}" if kinds else ""
        self.layout += (
            f"; {len(faults)} faulty members left out, the first: {faults[0]}" if faults else ""
        )

    def _read(self, index: int, choose: Callable[[int], list[int]]) -> tuple[Tensor, list[int]]:
        """Through a copy of the member, which lives as long as the reading: any reader takes it, deadline and all."""
        path = self.paths[index]
        shard, first, size, name = PLACE.fullmatch(path).groups()
        with tempfile.NamedTemporaryFile(suffix=os.path.splitext(name)[1]) as copy:
            try:
                with open(shard, "rb") as file:
                    copy.write(read_bytes(file, (int(first), int(size))))
                copy.flush()
                return read_clip(
                    copy.name, choose, reader=self.video.reader, deadline=self.video.deadline
                )
            except BrokenVideo as error:
                raise BrokenVideo(path, error.reason.replace(copy.name, name)) from None
            except OSError as error:
                raise BrokenVideo(path, error.strerror or str(error)) from error
