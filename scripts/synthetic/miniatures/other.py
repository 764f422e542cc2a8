"""UCF101, HMDB51, a folder of videos, and tables of any data."""

import csv
import io
import json

from scripts.synthetic.miniatures import miniature, sentence, write_media, write_text

UCF = ("ApplyEyeMakeup", "HandstandPushups", "YoYo", "PlayingTabla")
HMDB = ("brush_hair", "climb_stairs", "eat")


def ucf(n):
    return UCF[n % len(UCF)], f"v_{UCF[n % len(UCF)]}_g{n // 4:02d}_c01"


def words(name):
    return {
        "ApplyEyeMakeup": "apply eye makeup",
        "HandstandPushups": "handstand pushups",
        "YoYo": "yo yo",
        "PlayingTabla": "playing tabla",
    }.get(name) or name.replace("_", " ")


def labelled(clip, numbers):
    """{"Class/clip": (class in words,)}; `clip(n)` gives class and clip."""
    return {"/".join(clip(n)): (words(clip(n)[0]),) for n in numbers}


@miniature("UCF101", "official split 1")
def ucf101_official(folder, videos):
    """The lists of split 1 beside the class folders, with one clip more than they name."""
    numbers = {"train": range(videos), "test": range(videos, 2 * videos)}
    lists = folder / "ucfTrainTestlist"
    write_text(
        lists / "classInd.txt",
        "".join(f"{i + 1} {name}\n" for i, name in enumerate(sorted(UCF))),
        "\r\n",
    )
    for split, part in numbers.items():
        label = {"train": " 1", "test": ""}[split]
        write_text(
            lists / f"{split}list01.txt",
            "".join(f"{ucf(n)[0]}/{ucf(n)[1]}.avi{label}\n" for n in part),
            "\r\n",
        )
        for n in part:
            write_media(folder / "UCF-101" / ucf(n)[0] / f"{ucf(n)[1]}.avi", n)
    write_media(folder / "UCF-101/YoYo/v_YoYo_g25_c04.avi", 7)
    return {split: labelled(ucf, part) for split, part in numbers.items()}


@miniature("UCF101", "class folders")
def ucf101_folders(folder, videos):
    for n in range(videos):
        write_media(folder / ucf(n)[0] / f"{ucf(n)[1]}.avi", n)
    return {"test": labelled(ucf, range(videos))}


def hmdb(n):
    return HMDB[n % len(HMDB)], f"April_09_{HMDB[n % len(HMDB)]}_u_nm_np1_[ba]_goo_{n // 3};"


@miniature("HMDB51", "official split 1")
def hmdb51_official(folder, videos):
    """1 = train, 2 = test, 0 = neither; lines end with a blank."""
    numbers = {
        "train": range(videos),
        "test": range(videos, 2 * videos),
        "": range(2 * videos, 2 * videos + 3),
    }
    code = {"train": 1, "test": 2, "": 0}
    for name in HMDB:
        lines = [
            f"{hmdb(n)[1]}.avi {code[split]} \n"
            for split, part in numbers.items()
            for n in part
            if hmdb(n)[0] == name
        ]
        write_text(folder / f"testTrainMulti_7030_splits/{name}_test_split1.txt", "".join(lines))
    for part in numbers.values():
        for n in part:
            write_media(folder / hmdb(n)[0] / f"{hmdb(n)[1]}.avi", n)
    return {split: labelled(hmdb, numbers[split]) for split in ("train", "test")}


@miniature("HMDB51", "class folders")
def hmdb51_folders(folder, videos):
    for n in range(videos):
        write_media(folder / hmdb(n)[0] / f"{hmdb(n)[1]}.avi", n)
    return {"test": labelled(hmdb, range(videos))}


def sidecars(folder, numbers):
    """Clips and pictures, some in subfolders; one caption a line, blank lines between."""
    captions = {}
    for n in numbers:
        name = f"day{n % 2}/clip {n}" if n % 3 else f"clip.{n}"
        write_media(folder / f"{name}{'.jpg' if n % 4 == 3 else '.mp4'}", n)
        write_text(
            folder / f"{name}.txt",
            f"{sentence(n)}\n\n{sentence(n, 1)}" if n % 2 else f"{sentence(n)}\n",
            "\r\n",
        )
        captions[name] = (sentence(n), sentence(n, 1)) if n % 2 else (sentence(n),)
    return captions


@miniature("VideoFolder", "subfolders")
def video_folder_splits(folder, videos):
    return {
        split: sidecars(folder / split, range(videos * place, videos * place + videos))
        for place, split in enumerate(("train", "val", "test"))
    }


@miniature("VideoFolder", "whole folder")
def video_folder(folder, videos):
    return {"train": sidecars(folder, range(videos))}


def clips_and_rows(folder, videos):
    """Clips under videos/, and one row a caption: the first video of a split has two."""
    rows, expected = [], {}
    for place, split in enumerate(("train", "val", "test")):
        expected[split] = {}
        for n in range(videos * place, videos * place + videos):
            write_media(folder / f"videos/take {n}.mp4", n)
            name = f"videos/take {n}.mp4"
            expected[split][name] = (sentence(n), sentence(n, 1))[: 1 + (n % videos == 0)]
            rows += [
                {"path": name, "caption": said, "split": split} for said in expected[split][name]
            ]
    return rows, expected


@miniature("JsonlDataset", "JSONL")
def jsonl(folder, videos):
    rows, expected = clips_and_rows(folder, videos)
    write_text(folder / "annotations.jsonl", "\ufeff" + "\n".join(map(json.dumps, rows)), "\r\n")
    return expected


@miniature("JsonlDataset", "CSV")
def csv_table(folder, videos):
    rows, expected = clips_and_rows(folder, videos)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["split", "caption", "path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "metadata.csv", buffer.getvalue(), "\r\n")
    return expected


@miniature("JsonlDataset", "JSON")
def vindlu_json(folder, videos):
    _, expected = clips_and_rows(folder, videos)
    for split, captions in expected.items():
        rows = [
            {"video": name, "caption": said[0] if len(said) == 1 else list(said)}
            for name, said in captions.items()
        ]
        write_text(folder / f"{split}.json", json.dumps(rows))
    return expected
