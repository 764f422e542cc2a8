"""CC3M, Conceptual Captions (Sharma et al., ACL 2018): 3.3 million pictures with captions, for pre-training."""

import os
import zlib
from collections.abc import Iterable, Iterator
from itertools import compress, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

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

LAYOUTS = {
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
IMAGE_FOLDERS = {"train": "training", "val": "validation"}


class UrlChunk(NamedTuple):
    """Some rows of a table. numbers: of each row in the whole table, from 0."""

    numbers: list[int]
    urls: list[str]
    captions: list[str]


@DATASETS.register("ConceptualCaptions3M")
class ConceptualCaptions3M(TextVideoDataset):
    """Pictures are clips of one frame. There is no test split; "test" is "val". Files are named by the crc32 of their
    URL, in newer downloads <row>_<crc32>; most lists are longer than what can still be downloaded."""

    splits = ("train", "val", "test")
    lacks_test_split = True

    def annotations(self) -> Annotations:
        split = "train" if self.train else "val"
        folder = IMAGE_FOLDERS[split]
        layout, (table,) = find_layout(
            f"CC3M, split {self.split}", self.annotation_folders, LAYOUTS[split]
        )

        left_out = LeftOut()
        if layout == "MCQ":
            file_names = "as listed"
            chunks = _read_mcq(table, folder, left_out)
        elif self._names_have_rows(folder):
            file_names = "row_crc32"
            chunks = _name_by_row(_read_urls(layout, table, left_out), folder)
        else:
            file_names = "crc32"
            chunks = _name_by_url(layout, table, folder, left_out)

        return Annotations(
            chunks=chunks,
            layout=f"{layout} ({table.name}), files named {file_names}",
            sources=[table],
            left_out=left_out,
        )

    def _names_have_rows(self, folder: str) -> bool:
        """Whether most of the first 100 files in `folder` are named <row>_<crc32>."""
        path = os.path.join(self.data_dir, folder)
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"{path}: no such folder; it holds the pictures of CC3M, split {self.split}"
            )

        with os.scandir(path) as entries:
            stems = [os.path.splitext(entry.name)[0] for entry in islice(entries, 100)]
        with_row = [stem for stem in stems if "_" in stem]
        return len(with_row) > len(stems) / 2


def _read_mcq(table: Path, folder: str, left_out: LeftOut) -> Iterator[Chunk]:
    """Of MCQ's table: caption, file name, and columns that are not read."""
    has_header = first_row_is_header(table)
    for rows in read_tsv(
        table, ["caption", "file"], True, has_header, left_out=left_out
    ):
        files = rows.columns["file"]
        left_out.add("rows without a file", files.count(""))
        captions = list(compress(rows.columns["caption"], files))
        yield _chunk(folder, list(filter(None, files)), captions)


def _read_urls(layout: str, table: Path, left_out: LeftOut) -> Iterator[UrlChunk]:
    """The rows of Frozen in Time's table (layout "Frozen") or of Google's own ("TSV")."""
    if layout == "Frozen":
        chunks = read_csv(table, ["thumbnailUrl", "caption"], left_out)
    else:
        columns = ["caption", "thumbnailUrl"]
        chunks = read_tsv(
            table, columns, quoted=False, width=len(columns), left_out=left_out
        )

    for rows in chunks:
        urls = rows.columns["thumbnailUrl"]
        left_out.add("rows without a URL", urls.count(""))
        yield UrlChunk(
            numbers=list(compress(rows.numbers, urls)),
            urls=list(filter(None, urls)),
            captions=list(compress(rows.columns["caption"], urls)),
        )


def _name_by_row(url_chunks: Iterable[UrlChunk], folder: str) -> Iterator[Chunk]:
    """Files named <row>_<crc32 of the URL>."""
    for numbers, urls, captions in url_chunks:
        files = [f"{row}_{_crc32(url)}" for row, url in zip(numbers, urls)]
        yield _chunk(folder, files, captions)


def _name_by_url(
    layout: str, table: Path, folder: str, left_out: LeftOut
) -> Iterator[Chunk]:
    """Files named <crc32 of the URL>, without those that several URLs share, which `left_out` counts.

    The table is read twice.
    """
    colliding = _colliding_codes(_read_urls(layout, table, LeftOut()))

    for _, urls, captions in _read_urls(layout, table, left_out):
        codes = [_crc32(url) for url in urls]
        unique = [code not in colliding for code in codes]
        left_out.add("rows of colliding crc32", unique.count(False))
        yield _chunk(
            folder,
            files=[str(code) for code in compress(codes, unique)],
            captions=list(compress(captions, unique)),
        )


def _colliding_codes(url_chunks: Iterable[UrlChunk]) -> set[int]:
    """The crc32 that several URLs have: nobody knows whose picture such a file is.

    URLs are compared by their 64-bit hashes, so that the URLs themselves need not be in memory.
    """
    # (crc32, hash) of each URL
    pairs = [np.zeros((0, 2), np.int64)]
    for _, urls, _ in url_chunks:
        hashes = [(_crc32(url), hash(url)) for url in urls]
        pairs.append(np.array(hashes, np.int64).reshape(-1, 2))

    codes, url_hashes = np.concatenate(pairs).T
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    url_hashes = url_hashes[order]
    same_code = codes[1:] == codes[:-1]
    other_url = url_hashes[1:] != url_hashes[:-1]
    return set(codes[1:][same_code & other_url].tolist())


def _crc32(url: str) -> int:
    return zlib.crc32(url.encode())


def _chunk(folder: str, files: list[str], captions: list[str]) -> Chunk:
    paths = [f"{folder}/{file}" for file in files]
    return {"id": files, "path": paths, "caption": captions}
