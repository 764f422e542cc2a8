"""WebVid, CC3M and tar shards as they are distributed."""

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.synthetic.miniatures import (
    Expected,
    encode_media,
    miniature,
    sentence,
    sentences,
    split_numbers,
    write_media,
    write_text,
)

SPLITS = ("train", "val")
CC3M_TSV = {
    "train": "Train_GCC-training.tsv",
    "val": "Validation_GCC-1.1.0-Validation.tsv",
}
CC3M_FOLDER = {"train": "training", "val": "validation"}
CC3M_FROZEN_CSV = {
    "train": "Train_GCC-training-success-020321-VALIDIMG.csv",
    "val": "Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv",
}


def write_table(
    path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ","
) -> Path:
    """Write rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return write_text(path, buffer.getvalue())


def webvid_caption(video: int) -> str:
    """Every fourth caption has quotes and a newline in it; one is the word NA."""
    if video == 1:
        return "NA"
    if video % 4 == 2:
        return f'"Look",\nsays {sentence(video)}'
    return sentence(video)


def webvid_page(video: int) -> str:
    return f"{video % 2:06d}_000050"


def webvid_id(video: int) -> str:
    return str(1000 + video)


def write_webvid(folder: Path, count: int, cut: str, columns: list[str]) -> Expected:
    """Videos in page folders, a table per split; the last row of train has no page folder and no video."""
    expected: Expected = {}
    for split, videos in split_numbers(SPLITS, count).items():
        rows = []
        for video in videos:
            values = {
                "videoid": webvid_id(video),
                "name": webvid_caption(video),
                "page_idx": str(video),
                "page_dir": webvid_page(video),
                "duration": "PT00H00M10S",
                "contentUrl": f"https://example.org/{video}.mp4",
            }
            rows.append([values[column] for column in columns])
            write_media(
                folder / f"videos/{webvid_page(video)}/{webvid_id(video)}.mp4", video
            )
        if split == "train":
            values = {"videoid": "9999", "page_dir": ""}
            rows.append([values.get(column, "x") for column in columns])
        write_table(folder / f"metadata/results_{cut}_{split}.csv", [columns, *rows])
        expected[split] = {
            webvid_id(video): (webvid_caption(video),) for video in videos
        }
    return expected


@miniature("WebVid", "Frozen", cut="2M")
def webvid_2m(folder: Path, count: int) -> Expected:
    columns = ["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"]
    return write_webvid(folder, count, "2M", columns)


@miniature("WebVid", "Frozen", cut="10M")
def webvid_10m(folder: Path, count: int) -> Expected:
    columns = ["videoid", "contentUrl", "duration", "page_dir", "name"]
    return write_webvid(folder, count, "10M", columns)


@miniature("WebVid", "MCQ")
def webvid_mcq(folder: Path, count: int) -> Expected:
    """Columns by position; the header is absent from one file and has unusual words in the other."""
    expected: Expected = {}
    table_names = {"train": "training", "val": "validation"}
    for split, videos in split_numbers(SPLITS, count).items():
        rows = [["text", "where", "nouns", "verbs"]] if split == "val" else []
        expected[split] = {}
        for video in videos:
            video_id = f"{webvid_page(video)}/{webvid_id(video)}"
            rows.append([webvid_caption(video), video_id, "boat door", "paints"])
            write_media(folder / split / f"{video_id}.mp4", video)
            expected[split][video_id] = (webvid_caption(video),)
        table = f"meta_data/webvid_{table_names[split]}_success_full_noun_verb.tsv"
        write_table(folder / table, rows, delimiter="\t")
    return expected


def picture_url(video: int) -> str:
    return f"https://example.org/pictures/{video}.jpg"


def crc32_name(row: int, video: int) -> str:
    """A picture's file name: the checksum of its address."""
    return str(zlib.crc32(picture_url(video).encode()))


def row_crc32_name(row: int, video: int) -> str:
    """A picture's file name: its row in the table and the checksum of its address."""
    return f"{row}_{crc32_name(row, video)}"


def write_cc3m(folder: Path, count: int, name: Callable[[int, int], str]) -> Expected:
    """The pictures. `name(row, video)` is a file name; captions have bare quotes, every third file is a PNG."""
    expected: Expected = {}
    for split, videos in split_numbers(SPLITS, count).items():
        expected[split] = {}
        for row, video in enumerate(videos):
            quote = '"' if video % 2 else ""
            file_name = name(row, video)
            expected[split][file_name] = (quote + sentence(video),)
            suffix = ".png" if video % 3 == 2 else ".jpg"
            write_media(folder / CC3M_FOLDER[split] / file_name, video, suffix=suffix)
    return expected


def write_cc3m_tsv(
    folder: Path, count: int, name: Callable[[int, int], str]
) -> Expected:
    """The pictures and the official tables, one without a newline at its end."""
    expected = write_cc3m(folder, count, name)
    for split, videos in split_numbers(SPLITS, count).items():
        captions = expected[split].values()
        lines = [
            f"{caption}\t{picture_url(video)}"
            for video, (caption,) in zip(videos, captions)
        ]
        end = "\n" if split == "val" else ""
        write_text(folder / CC3M_TSV[split], "\n".join(lines) + end)
    return expected


@miniature("ConceptualCaptions3M", "crc32")
def cc3m_crc32(folder: Path, count: int) -> Expected:
    return write_cc3m_tsv(folder, count, crc32_name)


@miniature("ConceptualCaptions3M", "row_crc32")
def cc3m_row_crc32(folder: Path, count: int) -> Expected:
    return write_cc3m_tsv(folder, count, row_crc32_name)


@miniature("ConceptualCaptions3M", "Frozen")
def cc3m_frozen(folder: Path, count: int) -> Expected:
    expected = write_cc3m(folder, count, crc32_name)
    for split, videos in split_numbers(SPLITS, count).items():
        rows: list[list[Any]] = [["folder", "thumbnailUrl", "caption", "status"]]
        for video, (caption,) in zip(videos, expected[split].values()):
            rows.append(["", picture_url(video), caption, 200])
        write_table(folder / CC3M_FROZEN_CSV[split], rows)
    return expected


@miniature("ConceptualCaptions3M", "MCQ")
def cc3m_mcq(folder: Path, count: int) -> Expected:
    expected = write_cc3m(folder, count, row_crc32_name)
    for split, captions in expected.items():
        rows = [
            [caption, name, "boat", "paints"] for name, (caption,) in captions.items()
        ]
        table = f"meta_data/cc3m_{CC3M_FOLDER[split]}_success_full_noun_verb.tsv"
        write_table(folder / table, rows, delimiter="\t")
    return expected


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of (name, content) members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, count: int, suffix: str) -> Expected:
    """Two samples per shard, each with key.txt, key.json and its media."""
    expected: Expected = {}
    for split, videos in split_numbers(SPLITS, count).items():
        expected[split] = {}
        for shard, first in enumerate(range(0, count, 2)):
            members = []
            for video in videos[first : first + 2]:
                key = f"{video:08d}"
                metadata = {"caption": sentence(video), "key": key, "status": "success"}
                members += [
                    (f"{key}{suffix}", encode_media(suffix, video)),
                    (f"{key}.json", json.dumps(metadata).encode()),
                    (f"{key}.txt", sentence(video).encode()),
                ]
                expected[split][f"{shard:05d}/{key}"] = sentences(video, 1)
            write_tar(folder / split / f"{shard:05d}.tar", members)
    return expected


@miniature("TarShards", "tar shards of videos")
def shards_of_videos(folder: Path, count: int) -> Expected:
    return write_shards(folder, count, ".mp4")


@miniature("TarShards", "tar shards of pictures")
def shards_of_images(folder: Path, count: int) -> Expected:
    return write_shards(folder, count, ".jpg")


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
