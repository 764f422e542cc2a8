"""WebVid, CC3M and tar shards as they are distributed."""

import csv
import io
import json
import tarfile
import zlib

from scripts.synthetic.miniatures import (
    encode_media,
    miniature,
    sentence,
    sentences,
    write_media,
    write_text,
)


def table(path, rows, **how):
    """Write rows as CSV; `how` goes to csv.writer."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", **how).writerows(rows)
    return write_text(path, buffer.getvalue())


def said(n):
    """Every fourth caption has quotes and a newline in them; one is the word NA."""
    return "NA" if n == 1 else f'"Look",\nsays {sentence(n)}' if n % 4 == 2 else sentence(n)


def webvid(folder, videos, cut, header):
    expected = {}
    for place, split in enumerate(("train", "val")):
        numbers = range(videos * place, videos * place + videos)
        row = {
            n: {
                "videoid": str(1000 + n),
                "name": said(n),
                "page_idx": str(n),
                "page_dir": f"{n % 2:06d}_000050",
                "duration": "PT00H00M10S",
                "contentUrl": f"https://example.org/{n}.mp4",
            }
            for n in numbers
        }
        rows = [[row[n][column] for column in header] for n in numbers]
        no_page = [
            [
                "9999" if column == "videoid" else "" if column == "page_dir" else "x"
                for column in header
            ]
        ]
        table(
            folder / f"metadata/results_{cut}_{split}.csv",
            [header, *rows, *no_page * (split == "train")],
        )
        for n in numbers:
            write_media(folder / f"videos/{n % 2:06d}_000050/{1000 + n}.mp4", n)
        expected[split] = {str(1000 + n): (said(n),) for n in numbers}
    return expected


@miniature("WebVid", "Frozen", cut="2M")
def webvid_2m(folder, videos):
    return webvid(
        folder, videos, "2M", ["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"]
    )


@miniature("WebVid", "Frozen", cut="10M")
def webvid_10m(folder, videos):
    return webvid(folder, videos, "10M", ["videoid", "contentUrl", "duration", "page_dir", "name"])


@miniature("WebVid", "MCQ")
def webvid_mcq(folder, videos):
    """Columns by position; the header is absent in one file and of other people's words in the other."""
    expected = {}
    for place, (split, word) in enumerate({"train": "training", "val": "validation"}.items()):
        numbers = range(videos * place, videos * place + videos)
        rows = [[said(n), f"{n % 2:06d}_000050/{1000 + n}", "boat door", "paints"] for n in numbers]
        header = [["text", "where", "nouns", "verbs"]] * (split == "val")
        table(
            folder / f"meta_data/webvid_{word}_success_full_noun_verb.tsv",
            header + rows,
            delimiter="\t",
        )
        for n in numbers:
            write_media(folder / f"{split}/{n % 2:06d}_000050/{1000 + n}.mp4", n)
        expected[split] = {f"{n % 2:06d}_000050/{1000 + n}": (said(n),) for n in numbers}
    return expected


CC3M_TSV = {"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"}
CC3M_FOLDER = {"train": "training", "val": "validation"}


def url(n):
    return f"https://example.org/pictures/{n}.jpg"


def crc32(n):
    return str(zlib.crc32(url(n).encode()))


def cc3m(folder, videos, name):
    """`name(row, n)` is a picture's file name; captions have bare quotation marks. Every third file is a PNG."""
    expected = {}
    for place, split in enumerate(("train", "val")):
        numbers = range(videos * place, videos * place + videos)
        expected[split] = {
            name(row, n): ('"' * (n % 2) + sentence(n),) for row, n in enumerate(numbers)
        }
        for n, key in zip(numbers, expected[split]):
            write_media(folder / CC3M_FOLDER[split] / key, n, suffix=(".jpg", ".png")[n % 3 == 2])
    return expected


def cc3m_tsv(folder, videos, name):
    expected = cc3m(folder, videos, name)
    for place, (split, captions) in enumerate(expected.items()):
        rows = [
            f"{caption}\t{url(videos * place + row)}"
            for row, (caption,) in enumerate(captions.values())
        ]
        write_text(folder / CC3M_TSV[split], "\n".join(rows) + "\n" * place)
    return expected


@miniature("ConceptualCaptions3M", "crc32")
def cc3m_crc32(folder, videos):
    return cc3m_tsv(folder, videos, lambda row, n: crc32(n))


@miniature("ConceptualCaptions3M", "row_crc32")
def cc3m_row_crc32(folder, videos):
    return cc3m_tsv(folder, videos, lambda row, n: f"{row}_{crc32(n)}")


@miniature("ConceptualCaptions3M", "Frozen")
def cc3m_frozen(folder, videos):
    expected = cc3m(folder, videos, lambda row, n: crc32(n))
    names = {
        "train": "Train_GCC-training-success-020321-VALIDIMG.csv",
        "val": "Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv",
    }
    for place, (split, captions) in enumerate(expected.items()):
        rows = [
            ["", url(videos * place + row), caption, 200]
            for row, (caption,) in enumerate(captions.values())
        ]
        table(folder / names[split], [["folder", "thumbnailUrl", "caption", "status"], *rows])
    return expected


@miniature("ConceptualCaptions3M", "MCQ")
def cc3m_mcq(folder, videos):
    expected = cc3m(folder, videos, lambda row, n: f"{row}_{crc32(n)}")
    for split, captions in expected.items():
        rows = [[caption, key, "boat", "paints"] for key, (caption,) in captions.items()]
        table(
            folder / f"meta_data/cc3m_{CC3M_FOLDER[split]}_success_full_noun_verb.tsv",
            rows,
            delimiter="\t",
        )
    return expected


def shard(path, members):
    """A tar of (name, bytes) members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def shards(folder, videos, suffix):
    """Two samples a shard, with key.txt, key.json and the media itself."""
    expected = {}
    for place, split in enumerate(("train", "val")):
        numbers = range(videos * place, videos * place + videos)
        for first in range(0, videos, 2):
            members = []
            for n in numbers[first : first + 2]:
                about = json.dumps({"caption": sentence(n), "key": f"{n:08d}", "status": "success"})
                members += [
                    (f"{n:08d}{suffix}", encode_media(suffix, n % 8, 8, 8)),
                    (f"{n:08d}.json", about.encode()),
                    (f"{n:08d}.txt", sentence(n).encode()),
                ]
            shard(folder / split / f"{first // 2:05d}.tar", members)
        expected[split] = {
            f"{first:05d}/{n:08d}": sentences(n, 1)
            for first, n in ((i // 2, n) for i, n in enumerate(numbers))
        }
    return expected


@miniature("TarShards", "tar shards of videos")
def shards_of_videos(folder, videos):
    return shards(folder, videos, ".mp4")


@miniature("TarShards", "tar shards of pictures")
def shards_of_images(folder, videos):
    return shards(folder, videos, ".jpg")
