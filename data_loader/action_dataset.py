"""What UCF101 and HMDB51 share: a folder of clips for each class, and the class's name in words as caption."""

import os
import re
from collections.abc import Iterator, Sequence

import torch

from data_loader.annotations.file_lookup import KNOWN
from data_loader.base import Item, TextVideoDataset


def in_words(name: str) -> str:
    """ApplyEyeMakeup -> apply eye makeup, brush_hair -> brush hair."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()


class ActionDataset(TextVideoDataset):
    """classes: the names in words; labels: int64 (videos,), each video's place in classes."""

    classes: Sequence[str] = ()
    roots: Sequence[str] = ("",)  # where the class folders may lie under data_dir

    @property
    def labels(self) -> torch.Tensor:
        """int64 (videos,): the class of each video."""
        places = {name: place for place, name in enumerate(self.classes)}
        return torch.tensor([places[in_words(name.partition("/")[0])] for name in self.ids])

    def clips(self, names: Sequence[str], classes: Sequence[str]) -> Iterator[Item]:
        """Items of `names` ("Class/file.avi"); `classes` are all folder names, in the order of the labels."""
        self.classes = [in_words(name) for name in classes]
        root = max(self.roots, key=lambda root: len(self.folders_of_clips(root) & set(classes)))
        for name in names:
            folder, _, file = name.partition("/")
            yield Item(
                f"{folder}/{os.path.splitext(file)[0]}",
                os.path.join(root, name),
                [in_words(folder)],
            )

    def folders_of_clips(self, root: str) -> set[str]:
        """Names of the folders in data_dir/root."""
        top = os.path.join(self.data_dir, root)
        return (
            {entry.name for entry in os.scandir(top) if entry.is_dir()}
            if os.path.isdir(top)
            else set()
        )

    def listing(self) -> tuple[list[str], list[str]]:
        """("Class/file.avi" of every clip in the class folders, the folders' names), both sorted."""
        root = max(self.roots, key=lambda root: len(self.folders_of_clips(root)))
        top = os.path.join(self.data_dir, root)
        names = sorted(
            f"{folder}/{file}"
            for folder in self.folders_of_clips(root)
            for file in os.listdir(os.path.join(top, folder))
            if file.lower().endswith(KNOWN)
        )
        return names, sorted({name.partition("/")[0] for name in names})
