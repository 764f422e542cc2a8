"""A folder of videos or pictures, each with its captions in a text file of the same name beside it."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.file_lookup import KNOWN
from data_loader.annotations.layouts import places, read_lines
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS

SPLITS = ("train", "val", "test")


@DATASETS.register("VideoFolder")
class VideoFolder(TextVideoDataset):
    """Every known video and picture under data_dir/<split>, or, if no split has a folder, under data_dir for any split.

    One caption a line in <name>.txt (under the same place of metadata_dir, if given). Videos without captions are left
    out of training and stay in galleries.
    """

    def items(self) -> Iterator[Item]:
        here = [split for split in SPLITS if Path(self.data_dir, split).is_dir()]
        if here and self.split not in here:
            raise FileNotFoundError(
                f"{self.data_dir}: has folders {', '.join(here)} and none for split {self.split!r}"
            )
        top = self.split if here else "."
        self.layout = f"subfolders ({self.split})" if here else "whole folder"
        places([self.data_dir])  # an error if it is not there
        for folder, below, files in os.walk(os.path.join(self.data_dir, top)):
            below.sort()
            for file in sorted(files):
                name, suffix = os.path.splitext(
                    os.path.relpath(os.path.join(folder, file), self.data_dir)
                )
                if suffix.lower() in KNOWN:
                    texts = [Path(place, f"{name}.txt") for place in self.folders]
                    captions = next((read_lines(text) for text in texts if text.is_file()), [])
                    yield Item(name.removeprefix(f"{top}/"), name + suffix, captions)
