"""LSMDC (Rohrbach et al., IJCV 2017): clips of films with audio descriptions. Needs a signed agreement."""

from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.layouts import (
    captions_of,
    locate,
    media_folder,
    read_lines,
    read_pickle,
    read_text,
    words,
)
from data_loader.annotations.protocols import of_split
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import UserError

TABLES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
BROKEN = {"1012_Unbreakable_00.05.16.065-00.05.21.941"}  # the file is damaged in every copy


def _official(table: Path) -> dict[str, list[str]]:
    """Six fields with tabs between them; an empty sentence leaves five; a clip may have several rows."""
    said: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(table).split("\n"), 1):
        fields = line.rstrip("\r").split("\t", 5)
        if not line.strip():
            continue
        if len(fields) < 5:
            raise UserError(
                f"{table}: line {number} has {len(fields)} fields with tabs between them, 6 are needed: "
                "clip, four times, sentence"
            )
        captions = said.setdefault(fields[0].strip(), [])
        captions += [fields[5].strip()] if fields[5:] and fields[5].strip() else []
    return said


def _frozen(names: Path, captions: Path) -> dict[str, list[str]]:
    said = captions_of(read_lines(names), read_pickle(captions), captions)
    return {name: [words(caption) for caption in each] for name, each in said.items()}


@DATASETS.register("LSMDC")
class LSMDC(TextVideoDataset):
    """Videos lie in a folder for each film. A clip without a sentence stays in galleries, not in training."""

    def items(self) -> Iterator[Item]:
        links = "structured-symlinks/"
        self.layout, files = locate(
            f"LSMDC, split {self.split}",
            self.folders,
            {
                "LSMDC16": [TABLES.get(self.split, f"no table of split {self.split}")],
                "Frozen": [
                    f"{links}{self.split}_list.txt",
                    f"{links}raw-captions.pkl",
                    "frame_tar_list.txt",
                ],
            },
        )
        self.protocol = of_split("lsmdc-1000", self.split)
        captions = _frozen(*files[:2]) if self.layout == "Frozen" else _official(*files)
        films = (
            {
                tar.rpartition("/")[2].removesuffix(".tar"): tar.split("/")[-2]
                for tar in read_lines(files[-1])
                if tar.endswith(".tar")
            }
            if self.layout == "Frozen"
            else {}
        )
        paths = {
            name: f"{films.get(name) or name.split('.')[0][:-3]}/{name}.avi"
            for name in captions
            if name not in BROKEN
        }
        folder = media_folder(self.data_dir, ("videos", "", "avi"), list(paths.values()))
        for name, path in paths.items():
            yield Item(name, f"{folder}/{path}".lstrip("/"), captions[name])
