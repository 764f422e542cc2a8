"""What UCF101 and HMDB51 share: a folder of clips per class, with the class's name in words as the caption.

An id is "Class/clip", without an extension.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.media_scan import one_per_stem, scan_media
from data_loader.annotations.protocols import protocol_of_split
from data_loader.annotations.split_folders import subfolder_names
from data_loader.base import Annotations, Item, TextVideoDataset

log = logging.getLogger(__name__)


class ActionSplit(NamedTuple):
    """The clips of a split.

    clips: "Class/file.avi" of each. class_folders: names of all class folders, in the order of the labels.
    """

    clips: list[str]
    class_folders: list[str]


def in_words(name: str) -> str:
    """ApplyEyeMakeup -> apply eye makeup, brush_hair -> brush hair."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()


class ActionDataset(TextVideoDataset):
    """The official split 1 if its lists exist, else, for a gallery, every clip of the class folders.

    classes: the names in words; labels: int64 (videos,), index in classes of each video.
    """

    splits = ("train", "val", "test")
    classes: Sequence[str] = ()
    roots: Sequence[str] = (
        "",
    )  # folders under data_dir in which the class folders may be
    official_protocol = ""  # of split 1

    def official_split(self) -> ActionSplit | None:
        """The clips of `official_split_name` in split 1 of the official lists.

        Without lists: None for a gallery; FileNotFoundError for training and what is held out of it, since clips of
        the test must not be in it.
        """
        raise NotImplementedError(f"{type(self).__name__}.official_split")

    @property
    def official_split_name(self) -> str:
        """train or test: the lists know no other."""
        return "train" if self.train or self.reads_holdout else "test"

    def lacks_validation_split(self) -> bool:
        return True

    def annotations(self) -> Annotations:
        split = self.official_split()
        if split is not None:
            layout = "official split 1"
            protocol = protocol_of_split(
                self.official_protocol, self.official_split_name
            )
        else:
            split = self._list_clips()
            layout = "class folders"
            protocol = None

        clips = list(dict.fromkeys(split.clips))
        left_out = LeftOut()
        left_out.add("clips that are listed twice", len(split.clips) - len(clips))

        self.classes = [in_words(folder) for folder in split.class_folders]
        return Annotations(
            items=self._items(split._replace(clips=clips)),
            layout=layout,
            left_out=left_out,
            protocol=protocol,
            validates_on_test=self.split == "val" and not self.reads_holdout,
        )

    @property
    def labels(self) -> torch.Tensor:
        """int64 (videos,): the class of each video."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        class_folders = [name.partition("/")[0] for name in self.ids]
        return torch.tensor([label_of[in_words(folder)] for folder in class_folders])

    def _items(self, split: ActionSplit) -> Iterator[Item]:
        paths = media_paths(self.data_dir, self.roots, split.clips)
        for clip, path in zip(split.clips, paths):
            folder, _, file = clip.partition("/")
            name = f"{folder}/{os.path.splitext(file)[0]}"
            yield Item(name, path, [in_words(folder)])

    def _list_clips(self) -> ActionSplit:
        """All clips in the class folders, sorted; the classes are the folders that have clips."""

        def count_subfolders(root: str) -> int:
            return len(self._subfolders(root))

        root = max(self.roots, key=count_subfolders)
        scan = scan_media(os.path.join(self.data_dir, root))
        for message in (*scan.unreadable, scan.left_out()):
            if message:
                log.warning("%s: left out: %s", self.name, message)

        clips = [
            f"{folder.path}/{file}"
            for folder in scan.folders
            if folder.path and os.sep not in folder.path
            for file in one_per_stem(folder.media)
        ]
        class_folders = {clip.partition("/")[0] for clip in clips}
        return ActionSplit(sorted(clips), sorted(class_folders))

    def _subfolders(self, root: str) -> set[str]:
        """Names of the folders in data_dir/root."""
        path = os.path.join(self.data_dir, root)
        if not os.path.isdir(path):
            return set()

        return set(subfolder_names(path))
