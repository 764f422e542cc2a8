"""WebVid-2M and WebVid-10M (Bain et al., ICCV 2021): stock footage with its descriptions, for pre-training."""

import os
from collections.abc import Iterator
from itertools import compress
from pathlib import Path

from data_loader.annotations.layouts import (
    find_layout,
    first_row_is_header,
    read_csv,
    read_tsv,
)
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.table import Chunk
from data_loader.base import Annotations, TextVideoDataset
from data_loader.datasets import DATASETS

LONGEST = (
    350  # characters of a caption, as Frozen in Time cuts them; a few are a page long
)
MCQ_TABLES = {
    "train": "webvid_training_success_full_noun_verb.tsv",
    "val": "webvid_validation_success_full_noun_verb.tsv",
}


@DATASETS.register("WebVid")
class WebVid(TextVideoDataset):
    """cut: 2M (the default) or 10M. There is no test split; "test" is "val", which is taken whole."""

    splits = ("train", "val", "test")
    lacks_test_split = True

    def annotations(self) -> Annotations:
        split = "train" if self.train else "val"
        cut = self.cut or "2M"
        layout, (table,) = find_layout(
            f"WebVid, cut {cut}, split {self.split}",
            self.annotation_folders,
            {"Frozen": [f"results_{cut}_{split}.csv"], "MCQ": [MCQ_TABLES[split]]},
        )

        left_out = LeftOut()
        if layout == "MCQ":
            chunks = _read_mcq(table, self._path_prefix(split), left_out)
        else:
            chunks = _read_frozen(table, self._path_prefix("videos"), left_out)
        return Annotations(
            chunks=chunks,
            layout=f"{layout} ({table.name})",
            sources=[table],
            left_out=left_out,
        )

    def _path_prefix(self, folder: str) -> str:
        """Of the paths under data_dir: `folder`/ if there is such a folder, else nothing."""
        if os.path.isdir(os.path.join(self.data_dir, folder)):
            return f"{folder}/"
        return ""


def _read_mcq(table: Path, prefix: str, left_out: LeftOut) -> Iterator[Chunk]:
    """Of MCQ's table: caption, stem of the file, and columns that are not read."""
    has_header = first_row_is_header(table)
    for rows in read_tsv(
        table, ["caption", "stem"], True, has_header, left_out=left_out
    ):
        stems = rows.columns["stem"]
        captions = rows.columns["caption"]
        if not all(stems):
            left_out.add("rows without a file", stems.count(""))
            captions = list(compress(captions, stems))
            stems = list(filter(None, stems))
        yield {
            "id": stems,
            "path": [f"{prefix}{stem}.mp4" for stem in stems],
            "caption": captions,
        }


def _read_frozen(table: Path, prefix: str, left_out: LeftOut) -> Iterator[Chunk]:
    """Of the official table, without rows that lack videoid, page_dir or caption, which `left_out` counts."""
    for rows in read_csv(table, ["videoid", "page_dir", "name"], left_out):
        ids, folders, captions = rows.columns.values()
        if not (all(ids) and all(folders) and all(captions)):
            complete = [all(row) for row in zip(ids, folders, captions)]
            left_out.add(
                "rows without videoid, page_dir or caption", complete.count(False)
            )
            ids = list(compress(ids, complete))
            folders = list(compress(folders, complete))
            captions = list(compress(captions, complete))

        yield {
            "id": ids,
            "caption": [caption[:LONGEST] for caption in captions],
            "path": [
                f"{prefix}{folder}/{video_id}.mp4"
                for folder, video_id in zip(folders, ids)
            ],
        }
