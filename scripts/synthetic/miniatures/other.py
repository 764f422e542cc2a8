"""UCF101, HMDB51, a folder of videos, and tables of any data."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.synthetic.miniatures import (
    Expected,
    miniature,
    sentence,
    sentences,
    split_numbers,
    write_media,
    write_text,
)

UCF_CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "YoYo", "PlayingTabla")
HMDB_CLASSES = ("brush_hair", "climb_stairs", "eat")
CLASS_CAPTIONS = {
    "ApplyEyeMakeup": "apply eye makeup",
    "HandstandPushups": "handstand pushups",
    "YoYo": "yo yo",
    "PlayingTabla": "playing tabla",
    "brush_hair": "brush hair",
    "climb_stairs": "climb stairs",
    "eat": "eat",
}
SPLITS = ("train", "val", "test")


def ucf_clip(video: int) -> tuple[str, str]:
    """(class, clip name)."""
    class_name = UCF_CLASSES[video % len(UCF_CLASSES)]
    return class_name, f"v_{class_name}_g{video // 4:02d}_c01"


def hmdb_clip(video: int) -> tuple[str, str]:
    """(class, clip name)."""
    class_name = HMDB_CLASSES[video % len(HMDB_CLASSES)]
    return class_name, f"April_09_{class_name}_u_nm_np1_[ba]_goo_{video // 3};"


def class_captions(
    clip: Callable[[int], tuple[str, str]], videos: Iterable[int]
) -> dict[str, tuple[str, ...]]:
    """{"Class/clip": (class in words,)}; `clip(video)` gives class and clip name."""
    captions: dict[str, tuple[str, ...]] = {}
    for video in videos:
        class_name, clip_name = clip(video)
        captions[f"{class_name}/{clip_name}"] = (CLASS_CAPTIONS[class_name],)
    return captions


def write_class_folders(
    folder: Path, clip: Callable[[int], tuple[str, str]], videos: Iterable[int]
) -> None:
    """The clips, each in the folder of its class."""
    for video in videos:
        class_name, clip_name = clip(video)
        write_media(folder / class_name / f"{clip_name}.avi", video)


@miniature("UCF101", "official split 1")
def ucf101_official(folder: Path, count: int) -> Expected:
    """The lists of split 1 beside the class folders, with one clip more than they name."""
    lists = folder / "ucfTrainTestlist"
    class_lines = [f"{i + 1} {name}\n" for i, name in enumerate(sorted(UCF_CLASSES))]
    write_text(lists / "classInd.txt", "".join(class_lines), "\r\n")
    videos = split_numbers(("train", "test"), count)
    for split, label in (("train", " 1"), ("test", "")):
        lines = [f"{'/'.join(ucf_clip(video))}.avi{label}\n" for video in videos[split]]
        write_text(lists / f"{split}list01.txt", "".join(lines), "\r\n")
        write_class_folders(folder / "UCF-101", ucf_clip, videos[split])
    write_media(folder / "UCF-101/YoYo/v_YoYo_g25_c04.avi", 7)
    return {
        split: class_captions(ucf_clip, numbers) for split, numbers in videos.items()
    }


@miniature("UCF101", "class folders")
def ucf101_folders(folder: Path, count: int) -> Expected:
    write_class_folders(folder, ucf_clip, range(count))
    return {"test": class_captions(ucf_clip, range(count))}


@miniature("HMDB51", "official split 1")
def hmdb51_official(folder: Path, count: int) -> Expected:
    """1 = train, 2 = test, 0 = neither; lines end with a blank."""
    videos = split_numbers(("train", "test"), count)
    unused = range(2 * count, 2 * count + 3)
    coded = [(1, videos["train"]), (2, videos["test"]), (0, unused)]
    for class_name in HMDB_CLASSES:
        lines = [
            f"{hmdb_clip(video)[1]}.avi {code} \n"
            for code, numbers in coded
            for video in numbers
            if hmdb_clip(video)[0] == class_name
        ]
        path = folder / f"testTrainMulti_7030_splits/{class_name}_test_split1.txt"
        write_text(path, "".join(lines))
    for _, numbers in coded:
        write_class_folders(folder, hmdb_clip, numbers)
    return {
        split: class_captions(hmdb_clip, numbers) for split, numbers in videos.items()
    }


@miniature("HMDB51", "class folders")
def hmdb51_folders(folder: Path, count: int) -> Expected:
    write_class_folders(folder, hmdb_clip, range(count))
    return {"test": class_captions(hmdb_clip, range(count))}


def write_with_text_files(
    folder: Path, videos: Iterable[int]
) -> dict[str, tuple[str, ...]]:
    """Clips and pictures, some in subfolders, beside text files with a caption per line and blank lines between."""
    captions = {}
    for video in videos:
        name = f"day{video % 2}/clip {video}" if video % 3 else f"clip.{video}"
        suffix = ".jpg" if video % 4 == 3 else ".mp4"
        write_media(folder / f"{name}{suffix}", video)
        if video % 2:
            captions[name] = sentences(video, 2)
            content = "\n\n".join(captions[name])
        else:
            captions[name] = sentences(video, 1)
            content = f"{sentence(video)}\n"
        write_text(folder / f"{name}.txt", content, "\r\n")
    return captions


@miniature("VideoFolder", "subfolders")
def video_folder_splits(folder: Path, count: int) -> Expected:
    return {
        split: write_with_text_files(folder / split, videos)
        for split, videos in split_numbers(SPLITS, count).items()
    }


@miniature("VideoFolder", "whole folder")
def video_folder(folder: Path, count: int) -> Expected:
    return {"train": write_with_text_files(folder, range(count))}


def write_clips_for_table(
    folder: Path, count: int
) -> tuple[list[dict[str, str]], Expected]:
    """Clips under videos/; returns a table with a row per caption. The first video of a split has two captions."""
    rows = []
    expected: Expected = {}
    for split, videos in split_numbers(SPLITS, count).items():
        expected[split] = {}
        for video in videos:
            path = f"videos/take {video}.mp4"
            write_media(folder / path, video)
            is_first = video % count == 0
            captions = sentences(video, 2 if is_first else 1)
            expected[split][path] = captions
            rows += [
                {"path": path, "caption": caption, "split": split}
                for caption in captions
            ]
    return rows, expected


@miniature("JsonlDataset", "JSONL")
def jsonl(folder: Path, count: int) -> Expected:
    rows, expected = write_clips_for_table(folder, count)
    lines = [json.dumps(row) for row in rows]
    write_text(folder / "annotations.jsonl", "\ufeff" + "\n".join(lines), "\r\n")
    return expected


@miniature("JsonlDataset", "CSV")
def csv_table(folder: Path, count: int) -> Expected:
    rows, expected = write_clips_for_table(folder, count)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["split", "caption", "path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "metadata.csv", buffer.getvalue(), "\r\n")
    return expected


@miniature("JsonlDataset", "JSON")
def vindlu_json(folder: Path, count: int) -> Expected:
    """One file per split; a video's only caption as a string, several as a list."""
    _, expected = write_clips_for_table(folder, count)
    for split, captions in expected.items():
        rows = []
        for path, texts in captions.items():
            caption = texts[0] if len(texts) == 1 else list(texts)
            rows.append({"video": path, "caption": caption})
        write_text(folder / f"{split}.json", json.dumps(rows))
    return expected


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
