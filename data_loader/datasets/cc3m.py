"""CC3M, Conceptual Captions (Sharma et al., ACL 2018): 3.3 million pictures with captions, for pre-training."""

import csv
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from data_loader.annotations.layouts import header_rows, locate, read_columns, read_tabs
from data_loader.annotations.table import Chunk
from data_loader.base import TextVideoDataset
from data_loader.datasets import DATASETS

FILES = {
    "train": {
        "Frozen": ["Train_GCC-training-success-020321-VALIDIMG.csv"],
        "MCQ": ["cc3m_training_success_full_noun_verb.tsv"],
        "TSV": ["Train_GCC-training.tsv"],
    },
    "val": {
        "Frozen": ["Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv"],
        "MCQ": ["cc3m_validation_success_full_noun_verb.tsv"],
        "TSV": ["Validation_GCC-1.1.0-Validation.tsv"],
    },
}
FOLDER = {"train": "training", "val": "validation"}


def _colliding(codes: np.ndarray, urls: np.ndarray) -> np.ndarray:
    """The crc32 that several URLs have, so that nobody knows whose picture the file is. urls: their 64-bit hashes."""
    order = np.argsort(codes, kind="stable")
    codes, urls = codes[order], urls[order]
    return np.unique(codes[1:][(codes[1:] == codes[:-1]) & (urls[1:] != urls[:-1])])


@DATASETS.register("ConceptualCaptions3M")
class ConceptualCaptions3M(TextVideoDataset):
    """Pictures are clips of one frame. There is no test split; "test" is "val". Files are called by the crc32 of their
    URL, newer downloads <row>_<crc32>; most lists are longer than what can still be downloaded."""

    def sources(self) -> Sequence[Path]:
        part = "train" if self.train else "val"
        name, self.files = locate(f"CC3M, split {self.split}", self.folders, FILES[part])
        self.root = FOLDER[part]
        named = (
            "as listed" if name == "MCQ" else "row_crc32" if self._names_with_rows() else "crc32"
        )
        self.layout = f"{name} ({self.files[0].name}), files named {named}"
        return self.files

    def _names_with_rows(self) -> bool:
        folder = os.path.join(self.data_dir, self.root)
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder}: no such folder; it holds the pictures of CC3M, split {self.split}"
            )
        with os.scandir(folder) as entries:
            names = [os.path.splitext(entry.name)[0] for entry in islice(entries, 100)]
        return sum("_" in name for name in names) * 2 > len(names)

    def columns(self) -> Iterator[Chunk]:
        table = self.files[0]
        if self.layout.startswith("MCQ"):
            for rows in read_tabs(
                table, ["caption", "file"], csv.QUOTE_MINIMAL, header_rows(table)
            ):
                yield self._chunk(rows["file"].tolist(), rows["caption"].tolist())
            return
        yield from self._by_row() if self.layout.endswith("row_crc32") else self._by_url()

    def _rows(self) -> Iterator[tuple[list[str], list[str]]]:
        """(URLs, captions), chunk by chunk."""
        chunks = (
            read_columns(self.files[0], ["thumbnailUrl", "caption"])
            if self.layout.startswith("Frozen")
            else read_tabs(self.files[0], ["caption", "thumbnailUrl"], csv.QUOTE_NONE)
        )
        yield from ((rows["thumbnailUrl"].tolist(), rows["caption"].tolist()) for rows in chunks)

    def _by_row(self) -> Iterator[Chunk]:
        row = 0
        for urls, captions in self._rows():
            yield self._chunk(
                [f"{row + i}_{zlib.crc32(url.encode())}" for i, url in enumerate(urls)], captions
            )
            row += len(urls)

    def _by_url(self) -> Iterator[Chunk]:
        hashes = [
            np.array([(zlib.crc32(url.encode()), hash(url)) for url in urls], np.int64).reshape(
                -1, 2
            )
            for urls, _ in self._rows()
        ]
        shared = set(_colliding(*np.concatenate(hashes).T).tolist())
        dropped = 0
        for urls, captions in self._rows():
            rows = [
                (code, caption)
                for url, caption in zip(urls, captions)
                if (code := zlib.crc32(url.encode())) not in shared
            ]
            dropped += len(urls) - len(rows)
            yield self._chunk([str(code) for code, _ in rows], [caption for _, caption in rows])
        self.layout += f"; {dropped} rows of colliding crc32 dropped" if dropped else ""

    def _chunk(self, files: list[str], captions: list[str]) -> Chunk:
        return {"id": files, "path": [f"{self.root}/{file}" for file in files], "caption": captions}
