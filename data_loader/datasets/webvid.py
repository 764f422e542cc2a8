"""WebVid-2M and WebVid-10M (Bain et al., ICCV 2021): stock footage with its descriptions, for pre-training."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.layouts import (
    count_header_rows,
    find_layout,
    read_csv,
    read_tsv,
)
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

        remarks: list[str] = []
        if layout == "MCQ":
            chunks = _read_mcq(table, self._path_prefix(split))
        else:
            chunks = _read_frozen(table, self._path_prefix("videos"), remarks)
        return Annotations(
            chunks=chunks,
            layout=f"{layout} ({table.name})",
            sources=[table],
            remarks=remarks,
        )

    def _path_prefix(self, folder: str) -> str:
        """Of the paths under data_dir: `folder`/ if there is such a folder, else nothing."""
        if os.path.isdir(os.path.join(self.data_dir, folder)):
            return f"{folder}/"
        return ""


def _read_mcq(table: Path, prefix: str) -> Iterator[Chunk]:
    """Of MCQ's table: caption, stem of the file, and columns that are not read."""
    header_rows = count_header_rows(table)
    for rows in read_tsv(table, ["caption", "stem"], csv.QUOTE_MINIMAL, header_rows):
        yield {
            "id": rows["stem"].tolist(),
            "path": [f"{prefix}{stem}.mp4" for stem in rows["stem"]],
            "caption": rows["caption"].tolist(),
        }


def _read_frozen(table: Path, prefix: str, remarks: list[str]) -> Iterator[Chunk]:
    """Of the official table, without rows that lack page_dir or caption; how many is added to `remarks`."""
    dropped = 0
    for rows in read_csv(table, ["videoid", "page_dir", "name"]):
        complete = (rows["page_dir"] != "") & (rows["name"] != "")
        dropped += int((~complete).sum())
        rows = rows[complete]

        yield {
            "id": rows["videoid"].tolist(),
            "caption": [caption[:LONGEST] for caption in rows["name"]],
            "path": [
                f"{prefix}{page_dir}/{video_id}.mp4"
                for page_dir, video_id in zip(rows["page_dir"], rows["videoid"])
            ],
        }

    if dropped:
        remarks.append(f"; {dropped} rows without page_dir or caption dropped")
