"""WebVid-2M and WebVid-10M (Bain et al., ICCV 2021): stock footage with its descriptions, for pre-training."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_loader.annotations.layouts import header_rows, locate, read_columns, read_tabs
from data_loader.annotations.table import Chunk
from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS

LONGEST = 350  # characters of a caption, as Frozen in Time cuts them; a few are a page long
MCQ = {
    "train": "webvid_training_success_full_noun_verb.tsv",
    "val": "webvid_validation_success_full_noun_verb.tsv",
}


@DATASETS.register("WebVid")
class WebVid(TextVideoDataset):
    """cut: 2M (the default) or 10M. There is no test split; "test" is "val", which is taken whole."""

    def sources(self) -> Sequence[Path]:
        self.part = "train" if self.train else "val"
        cut = self.cut or "2M"
        name, self.files = locate(
            f"WebVid, cut {cut}, split {self.split}",
            self.folders,
            {"Frozen": [f"results_{cut}_{self.part}.csv"], "MCQ": [MCQ[self.part]]},
        )
        root = self.part if name == "MCQ" else "videos"
        self.root = f"{root}/" if os.path.isdir(os.path.join(self.data_dir, root)) else ""
        self.layout = f"{name} ({self.files[0].name})"
        return self.files

    def columns(self) -> Iterator[Chunk]:
        table = self.files[0]
        if self.layout.startswith("MCQ"):
            columns = read_tabs(table, ["caption", "stem"], csv.QUOTE_MINIMAL, header_rows(table))
            yield from (
                {
                    "id": rows["stem"].tolist(),
                    "path": [f"{self.root}{stem}.mp4" for stem in rows["stem"]],
                    "caption": rows["caption"].tolist(),
                }
                for rows in columns
            )
            return
        dropped = 0
        for rows in read_columns(table, ["videoid", "page_dir", "name"]):
            whole = (rows["page_dir"] != "") & (rows["name"] != "")
            dropped, rows = dropped + int((~whole).sum()), rows[whole]
            yield {
                "id": rows["videoid"].tolist(),
                "caption": [caption[:LONGEST] for caption in rows["name"]],
                "path": [
                    f"{self.root}{page}/{video}.mp4"
                    for page, video in zip(rows["page_dir"], rows["videoid"])
                ],
            }
        self.layout += f"; {dropped} rows without page_dir or caption dropped" if dropped else ""
