"""LSMDC (Rohrbach et al., IJCV 2017): clips of films with audio descriptions. Needs a signed agreement."""

from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.layouts import (
    caption_texts,
    find_layout,
    look_up_listed,
    read_lines,
    read_numbered_lines,
    read_pickle,
)
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.protocols import protocol_of_split
from data_loader.annotations.shapes import describe
from data_loader.annotations.text_files import iterate_lines
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import UserError

TABLES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
FROZEN_LIST_FOLDER = "structured-symlinks/"
DAMAGED_CLIPS = {
    "1012_Unbreakable_00.05.16.065-00.05.21.941"
}  # the file is damaged in every copy


@DATASETS.register("LSMDC")
class LSMDC(TextVideoDataset):
    """Videos are in a folder per film. A clip without a sentence stays in galleries, not in training."""

    def annotations(self) -> Annotations:
        layout, files = find_layout(
            f"LSMDC, split {self.split}",
            self.annotation_folders,
            {
                "LSMDC16": [TABLES.get(self.split, f"no table of split {self.split}")],
                "Frozen": [
                    f"{FROZEN_LIST_FOLDER}{self.split}_list.txt",
                    f"{FROZEN_LIST_FOLDER}raw-captions.pkl",
                    "frame_tar_list.txt",
                ],
            },
        )
        left_out = LeftOut()
        if layout == "Frozen":
            names, captions_path, tar_list = files
            captions = _frozen_captions(names, captions_path, left_out)
            films = _frozen_films(tar_list)
        else:
            captions = _official_captions(files[0])
            films = {}

        return Annotations(
            items=self._items(captions, films, left_out),
            layout=layout,
            left_out=left_out,
            protocol=protocol_of_split("lsmdc-1000", self.split),
        )

    def _items(
        self,
        captions: dict[str, list[str]],
        films: dict[str, str],
        left_out: LeftOut,
    ) -> Iterator[Item]:
        """films: clip -> folder of its film, where it is not the beginning of the clip's name."""
        paths = {}
        for clip in captions:
            if clip not in DAMAGED_CLIPS:
                film = (
                    films.get(clip) or clip.split(".")[0][:-3]
                )  # without the hour, "_00"
                paths[clip] = f"{film}/{clip}.avi"
        left_out.add(
            "videos that are damaged in every copy", len(captions) - len(paths)
        )

        found_paths = media_paths(
            self.data_dir, ("videos", "", "avi"), list(paths.values())
        )
        for clip, path in zip(paths, found_paths):
            yield Item(clip, path, captions[clip])


def _official_captions(table: Path) -> dict[str, list[str]]:
    """Six fields with tabs between them; an empty sentence leaves five; a clip may have several rows."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(iterate_lines(table), 1):
        if not line.strip():
            continue

        fields = line.rstrip("\n").split("\t", 5)
        clip = fields[0].strip()
        if len(fields) < 5 or not clip:
            raise UserError(
                f"{table}: line {number} has {len(fields)} fields with tabs between them, 6 are needed: "
                "clip, four times, sentence; fetch the file again"
            )

        clip_captions = captions.setdefault(clip, [])
        if len(fields) == 6 and fields[5].strip():
            clip_captions.append(fields[5].strip())
    return captions


def _frozen_captions(
    list_path: Path, captions_path: Path, left_out: LeftOut
) -> dict[str, list[str]]:
    """{clip: captions} of the clips in Frozen in Time's list."""
    captions = look_up_listed(
        read_lines(list_path), read_pickle(captions_path), captions_path, left_out
    )
    return {
        clip: caption_texts(clip_captions, captions_path, repr(clip))
        for clip, clip_captions in captions.items()
    }


def _frozen_films(tar_list: Path) -> dict[str, str]:
    """{clip: its film's folder} of lines ".../film/clip.tar"."""
    films = {}
    for number, line in read_numbered_lines(tar_list):
        if not line.endswith(".tar"):
            continue
        components = line.removesuffix(".tar").split("/")
        if len(components) < 2:
            raise UserError(
                f"{tar_list}: line {number}: film/clip.tar is needed, not {describe(line)}; fetch the file again"
            )
        films[components[-1]] = components[-2]
    return films
