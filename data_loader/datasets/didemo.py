"""DiDeMo (Hendricks et al., ICCV 2017): Flickr videos, described moment by moment; here paragraph to video.

One video has several names, in the lists as on disk: x.mov, x.mp4, x.avi.mp4 and "x." are the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_loader.annotations.file_lookup import find_files
from data_loader.annotations.layouts import (
    find_layout,
    read_json,
    read_lines,
)
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.protocols import protocol_of_split
from data_loader.annotations.shapes import expect, expect_member, expect_texts
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS

SECONDS = 30.0  # the moments were described within the first half minute, and all published numbers see no more


@DATASETS.register("DiDeMo")
class DiDeMo(TextVideoDataset):
    """One query per video: its descriptions, stripped, in the order of the file, joined with blanks."""

    def annotations(self) -> Annotations:
        rows_file = f"{self.split}_data.json"
        list_file = f"{self.split}_list.txt"

        layout, (rows_path, *list_paths) = find_layout(
            f"DiDeMo, split {self.split}",
            self.annotation_folders,
            {
                "official": [rows_file, list_file],
                "official without lists": [rows_file],
                "VindLU": [f"didemo_ret_{self.split}.json"],
            },
        )

        left_out = LeftOut()
        return Annotations(
            items=self._items(rows_path, list_paths, left_out),
            layout=layout,
            left_out=left_out,
            protocol=protocol_of_split("didemo-paragraph", self.split),
        )

    def _items(
        self, rows_path: Path, list_paths: list[Path], left_out: LeftOut
    ) -> Iterator[Item]:
        """The listed videos; those of the rows where there is no list."""
        # stem -> descriptions; stem -> names of the video, the listed one first
        descriptions: dict[str, list[str]] = {}
        file_names: dict[str, list[str]] = {}
        for number, row in enumerate(expect(read_json(rows_path), list, rows_path)):
            name = expect_member(row, "video", str, rows_path, f"entry {number}")
            texts = _descriptions(row, rows_path, f"entry {number}")
            descriptions.setdefault(_stem(name), []).extend(texts)
            file_names.setdefault(_stem(name), []).append(name)

        stems = list(file_names)
        if list_paths:
            listed = read_lines(list_paths[0])
            for name in listed:
                file_names.setdefault(_stem(name), []).insert(0, name)
            stems = list(dict.fromkeys(_stem(name) for name in listed))
            left_out.add(
                "names of videos that are listed twice", len(listed) - len(stems)
            )
            unlisted = len(descriptions.keys() - set(stems))
            left_out.add("videos with descriptions that are not listed", unlisted)

        for stem, path in zip(stems, self._paths(stems, file_names)):
            captions = []
            if stem in descriptions:
                captions = [
                    " ".join(sentence.strip() for sentence in descriptions[stem])
                ]
            yield Item(stem, path, captions, 0.0, SECONDS)

    def _paths(self, stems: list[str], file_names: dict[str, list[str]]) -> list[str]:
        """For each stem, the path of the first of its names that exists; of the first name if none does."""
        all_names = [name for stem in stems for name in file_names[stem]]
        all_paths = media_paths(
            self.data_dir, ("videos", "", self.split, f"videos/{self.split}"), all_names
        )
        path_of = dict(zip(all_names, all_paths))
        found_paths = find_files(self.data_dir, all_paths)
        existing = {
            name for name, path in zip(all_names, found_paths) if path is not None
        }

        paths = []
        for stem in stems:
            names = file_names[stem]
            file = next((name for name in names if name in existing), names[0])
            paths.append(path_of[file])
        return paths


def _stem(name: str) -> str:
    """x of x.mov, x.mp4, x.avi.mp4 and "x.": the same video under other names; a number behind a dot is part of x."""
    while "." in name:
        base, _, extension = name.rpartition(".")
        if not base or extension.isdigit():
            break
        name = base
    return name


def _descriptions(row: dict[str, Any], path: Path, where: str) -> list[str]:
    """ "description" of the official rows, "caption" (text or list) of VindLU's."""
    key = "description" if "description" in row else "caption"
    return expect_texts(row.get(key), path, f"{where}.{key}")
