"""UCF101 (Soomro et al., 2012): 101 actions, for zero-shot recognition."""

from collections.abc import Iterator

from data_loader.action_dataset import ActionDataset
from data_loader.annotations.layouts import locate, places, read_lines
from data_loader.annotations.protocols import of_split
from data_loader.base import Item
from data_loader.datasets import DATASETS


@DATASETS.register("UCF101")
class UCF101(ActionDataset):
    """Split 1 of the official lists where they lie, else, for a gallery, every clip of the class folders."""

    roots = ("", "UCF-101", "UCF101", "videos")

    def items(self) -> Iterator[Item]:
        part = "train" if self.train else "test"
        self.validates_on_test = self.split == "val"
        listed = any((place / f"{part}list01.txt").is_file() for place in places(self.folders))
        if not listed and not self.train:
            self.layout = "class folders"
            yield from self.clips(*self.listing())
            return
        self.layout, (lists, index) = locate(
            f"UCF101, split {self.split}",
            self.folders,
            {"official split 1": [f"{part}list01.txt", "classInd.txt"]},
        )
        self.protocol = of_split("ucf101-split1", part)
        yield from self.clips(
            [line.split()[0] for line in read_lines(lists)],
            [line.split()[1] for line in read_lines(index)],
        )
