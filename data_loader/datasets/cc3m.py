"""CC3M, Conceptual Captions (Sharma et al., ACL 2018): 3.3 million pictures with captions, for pre-training."""
import csv
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS
from data_loader.layouts import header_rows, locate, read_columns, read_tabs
from data_loader.table import Chunk

FILES = {
    "train": {"Frozen": ["Train_GCC-training-success-020321-VALIDIMG.csv"],
              "MCQ": ["cc3m_training_success_full_noun_verb.tsv"], "TSV": ["Train_GCC-training.tsv"]},
    "val": {"Frozen": ["Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv"],
            "MCQ": ["cc3m_validation_success_full_noun_verb.tsv"], "TSV": ["Validation_GCC-1.1.0-Validation.tsv"]}}
FOLDER = {"train": "training", "val": "validation"}


def _colliding(codes: np.ndarray, urls: Sequence[str]) -> np.ndarray:
    """bool (rows,): another URL has the same crc32, so that nobody knows whose picture the file is."""
    order = np.argsort(codes, kind="stable")
    same = codes[order[1:]] == codes[order[:-1]]
    pairs = [(order[i], order[i + 1]) for i in np.flatnonzero(same)]
    return np.isin(codes, codes[[a for a, b in pairs if urls[a] != urls[b]]])


@DATASETS.register("ConceptualCaptions3M")
class ConceptualCaptions3M(TextVideoDataset):
    """Pictures are clips of one frame. There is no test split; "test" is "val". Files are called by the crc32 of their
    URL, newer downloads <row>_<crc32>; most lists are longer than what can still be downloaded."""

    def sources(self) -> Sequence[Path]:
        part = "train" if self.train else "val"
        name, self.files = locate(f"CC3M, split {self.split}", self.folders, FILES[part])
        self.root = FOLDER[part]
        named = "as listed" if name == "MCQ" else "row_crc32" if self._by_row() else "crc32"
        self.layout = f"{name} ({self.files[0].name}), files named {named}"
        return self.files

    def _by_row(self) -> bool:
        folder = os.path.join(self.data_dir, self.root)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder}: no such folder; it holds the pictures of CC3M, split {self.split}")
        with os.scandir(folder) as entries:
            names = [os.path.splitext(entry.name)[0] for entry in islice(entries, 100)]
        return sum("_" in name for name in names) * 2 > len(names)

    def columns(self) -> Iterator[Chunk]:
        table = self.files[0]
        if self.layout.startswith("MCQ"):
            for rows in read_tabs(table, ["caption", "file"], csv.QUOTE_MINIMAL, header_rows(table)):
                yield self._chunk(rows["file"].tolist(), rows["caption"].tolist())
            return
        frozen = self.layout.startswith("Frozen")
        rows = pd.concat(read_columns(table, ["thumbnailUrl", "caption"]) if frozen
                         else read_tabs(table, ["caption", "thumbnailUrl"], csv.QUOTE_NONE), ignore_index=True)
        urls, captions = rows["thumbnailUrl"].tolist(), rows["caption"].tolist()
        codes = np.fromiter((zlib.crc32(url.encode()) for url in urls), np.uint32, len(urls))
        if self.layout.endswith("row_crc32"):
            yield self._chunk([f"{row}_{code}" for row, code in enumerate(codes.tolist())], captions)
            return
        kept = ~_colliding(codes, urls)
        self.layout += f"; {int((~kept).sum())} rows of colliding crc32 dropped" if not kept.all() else ""
        yield self._chunk([str(code) for code in codes[kept].tolist()],
                          [caption for caption, keep in zip(captions, kept.tolist()) if keep])

    def _chunk(self, files: list[str], captions: list[str]) -> Chunk:
        return {"id": files, "path": [f"{self.root}/{file}" for file in files], "caption": captions}
