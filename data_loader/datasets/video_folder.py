"""A folder of videos or pictures, each with its captions in a text file of the same name beside it.

data_dir/train/dog.mp4
data_dir/train/dog.txt      one caption per line
data_dir/test/...
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS
from data_loader.annotations.layouts import read_lines, search_folders
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS

SPLITS = ("train", "val", "test")


@DATASETS.register("VideoFolder")
class VideoFolder(TextVideoDataset):
    """Every known video and picture under data_dir/<split>, or, if no split has a folder, under data_dir for any split.

    Captions are the lines of <name>.txt (in metadata_dir, if given, or beside the video). Videos without captions are
    left out of training and stay in galleries. With with_captions false no text file is read.
    """

    def annotations(self) -> Annotations:
        # raises FileNotFoundError if there is no such folder
        search_folders([self.data_dir])

        split_folders = [
            split for split in SPLITS if Path(self.data_dir, split).is_dir()
        ]
        if not split_folders:
            return Annotations(items=self._items("."), layout="whole folder")

        if self.split not in split_folders:
            raise FileNotFoundError(
                f"{self.data_dir}: has folders {', '.join(split_folders)} and none for split "
                f"{self.split!r}"
            )
        return Annotations(
            items=self._items(self.split), layout=f"subfolders ({self.split})"
        )

    def _items(self, top: str) -> Iterator[Item]:
        """The files in and under data_dir/top, sorted."""
        for folder, subfolders, files in os.walk(os.path.join(self.data_dir, top)):
            subfolders.sort()
            for file in sorted(files):
                path = os.path.relpath(os.path.join(folder, file), self.data_dir)
                name, extension = os.path.splitext(path)
                if extension.lower() in MEDIA_EXTENSIONS:
                    yield Item(name.removeprefix(f"{top}/"), path, self._captions(name))

    def _captions(self, name: str) -> list[str]:
        """The lines of the first text file of that name; [] if there is none or captions are not wanted."""
        if not self.with_captions:
            return []
        for folder in self.annotation_folders:
            text_path = Path(folder, f"{name}.txt")
            if text_path.is_file():
                return read_lines(text_path)
        return []
