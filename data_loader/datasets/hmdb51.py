"""HMDB51 (Kuehne et al., ICCV 2011): 51 actions, for zero-shot recognition."""

from collections.abc import Iterator

from data_loader.action_dataset import ActionDataset
from data_loader.annotations.layouts import places, read_lines
from data_loader.annotations.protocols import of_split
from data_loader.base import Item
from data_loader.datasets import DATASETS

LISTS = "_test_split1.txt"


@DATASETS.register("HMDB51")
class HMDB51(ActionDataset):
    """Split 1 of the official lists where they lie, else, for a gallery, every clip of the class folders."""

    roots = ("", "hmdb51_org", "hmdb51", "HMDB51", "videos")

    def items(self) -> Iterator[Item]:
        self.validates_on_test = self.split == "val"
        lists = {
            path.name.removesuffix(LISTS): path
            for place in places(self.folders)
            for path in sorted(place.glob(f"*{LISTS}"))
        }
        if not lists and self.train:
            raise FileNotFoundError(
                f"{self.data_dir}: no official split of HMDB51 here nor in a folder below; looked "
                f"for testTrainMulti_7030_splits/*{LISTS}"
            )
        self.layout = "official split 1" if lists else "class folders"
        if not lists:
            yield from self.clips(*self.listing())
            return
        self.protocol = of_split("hmdb51-split1", "train" if self.train else "test")
        wanted = "1" if self.train else "2"  # 0: in neither part
        rows = [
            (name, line.rsplit(None, 1))
            for name in sorted(lists)
            for line in read_lines(lists[name])
        ]
        yield from self.clips(
            [f"{name}/{file}" for name, (file, part) in rows if part == wanted], sorted(lists)
        )
