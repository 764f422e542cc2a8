"""MSR-VTT, MSVD, LSMDC and DiDeMo as they are distributed."""

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.synthetic.miniatures import (
    Expected,
    miniature,
    sentence,
    sentences,
    split_numbers,
    write_media,
    write_text,
)

SPLITS = ("train", "val", "test")
LSMDC_FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
DIDEMO_SUFFIXES = (".mov", ".avi", ".", ".3gp")  # in the annotations


def write_pickle(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def unsorted_numbers(splits: Iterable[str], count: int) -> dict[str, list[int]]:
    """The numbers of the videos of each split, `count` per split, in an order that is not sorted."""
    numbers = split_numbers(tuple(splits), count)
    return {split: videos[::-1] for split, videos in numbers.items()}


def all_videos(numbers: Mapping[str, list[int]]) -> list[int]:
    """The videos of all splits, one split after the other."""
    return [video for videos in numbers.values() for video in videos]


def write_msrvtt_clips(
    folder: Path, videos: Iterable[int], suffix: str = ".mp4"
) -> None:
    for video in videos:
        write_media(folder / f"video{video}{suffix}", video)


def msrvtt_captions(videos: Iterable[int]) -> dict[str, tuple[str, ...]]:
    """{video id: its three captions}."""
    return {f"video{video}": sentences(video, 3) for video in videos}


def write_msrvtt_frozen(
    folder: Path, count: int, cut: str, list_names: dict[str, str]
) -> Expected:
    """Captions of one video lie apart, lists end with and without a newline.

    `list_names`: {split: name of its list}.
    """
    numbers = unsorted_numbers(list_names, count)
    videos = all_videos(numbers)
    annotations = [
        {
            "image_id": f"video{video}",
            "caption": sentence(video, caption),
            "id": caption * 1000 + video,
        }
        for caption in range(3)
        for video in videos
    ]
    content = {"annotations": annotations, "images": [], "type": "captions"}
    write_text(folder / "annotation/MSR_VTT.json", json.dumps(content))
    for split, list_name in list_names.items():
        lines = "\n".join(f"video{video}" for video in numbers[split])
        end = "\n" if split == "train" else ""
        path = folder / f"high-quality/structured-symlinks/{list_name}_list_{cut}.txt"
        write_text(path, lines + end)
    write_msrvtt_clips(folder / "videos/all", videos)
    return {split: msrvtt_captions(numbers[split]) for split in list_names}


@miniature("MSRVTT", "Frozen", cut="jsfusion")
def msrvtt_frozen(folder: Path, count: int) -> Expected:
    """A pickle says which caption of each test video counts."""
    expected = write_msrvtt_frozen(
        folder, count, "jsfusion", {"train": "train", "test": "val"}
    )
    test = expected["test"]
    caption_index = {name: i % 3 for i, name in enumerate(sorted(test))}
    path = folder / "high-quality/structured-symlinks/jsfusion_val_caption_idx.pkl"
    write_pickle(path, caption_index)
    expected["test"] = {
        name: (captions[caption_index[name]],) for name, captions in test.items()
    }
    return expected


@miniature("MSRVTT", "Frozen", cut="full")
def msrvtt_frozen_full(folder: Path, count: int) -> Expected:
    list_names = {"train": "train", "val": "val", "test": "test"}
    return write_msrvtt_frozen(folder, count, "full", list_names)


@miniature("MSRVTT", "Frozen", cut="miech")
def msrvtt_frozen_miech(folder: Path, count: int) -> Expected:
    expected = write_msrvtt_frozen(
        folder, count, "miech", {"train": "train", "test": "test"}
    )
    expected["test"] = {
        name: captions[:1] for name, captions in expected["test"].items()
    }
    return expected


def msrvtt_datainfo(numbers: Mapping[str, list[int]]) -> dict[str, Any]:
    """An official annotation file: a video's sentences contiguous, their videos in no order.

    `numbers`: {split in the official words: its videos}.
    """
    videos = [
        {
            "video_id": f"video{video}",
            "id": video,
            "category": 3,
            "url": "https://example.org/x",
            "start time": 1.0,
            "end time": 9.0,
            "split": split,
        }
        for split in numbers
        for video in sorted(numbers[split])
    ]
    captions = [
        {
            "sen_id": 3 * video + caption,
            "video_id": f"video{video}",
            "caption": sentence(video, caption),
        }
        for video in all_videos(numbers)
        for caption in range(3)
    ]
    return {"info": {}, "videos": videos, "sentences": captions}


@miniature("MSRVTT", "official", cut="full")
def msrvtt_official(folder: Path, count: int) -> Expected:
    numbers = unsorted_numbers(SPLITS, count)
    train_val = msrvtt_datainfo({"train": numbers["train"], "validate": numbers["val"]})
    test = msrvtt_datainfo({"test": numbers["test"]})
    write_text(folder / "train_val_videodatainfo.json", json.dumps(train_val))
    write_text(folder / "test_videodatainfo.json", json.dumps(test))
    write_msrvtt_clips(folder / "TrainValVideo", numbers["train"] + numbers["val"])
    write_msrvtt_clips(folder / "TestVideo", numbers["test"])
    return {split: msrvtt_captions(videos) for split, videos in numbers.items()}


@miniature("MSRVTT", "CLIP4Clip", cut="jsfusion")
def msrvtt_clip4clip(folder: Path, count: int) -> Expected:
    numbers = unsorted_numbers(("train", "test"), count)
    train_lines = ["video_id", *(f"video{video}" for video in numbers["train"])]
    write_text(folder / "MSRVTT_train.9k.csv", "\n".join(train_lines), "\r\n")
    test_lines = [
        f"ret{i},msr{video},video{video},{sentence(video, 2)}"
        for i, video in enumerate(numbers["test"])
    ]
    test_content = "\n".join(["key,vid_key,video_id,sentence", *test_lines, ""])
    write_text(folder / "MSRVTT_JSFUSION_test.csv", test_content)
    write_text(folder / "MSRVTT_data.json", json.dumps(msrvtt_datainfo(numbers)))
    write_msrvtt_clips(folder, numbers["train"])
    write_msrvtt_clips(folder, numbers["test"], ".webm")
    return {
        "train": msrvtt_captions(numbers["train"]),
        "test": {f"video{video}": (sentence(video, 2),) for video in numbers["test"]},
    }


@miniature("MSRVTT", "VindLU", cut="jsfusion")
def msrvtt_vindlu(folder: Path, count: int) -> Expected:
    numbers = unsorted_numbers(("train", "test"), count)
    train = [
        {"video": f"video{video}.mp4", "caption": list(sentences(video, 3))}
        for video in numbers["train"]
    ]
    test = [
        {"video": f"video{video}.mp4", "caption": sentence(video)}
        for video in numbers["test"]
    ]
    write_text(folder / "msrvtt_ret_train9k.json", json.dumps(train))
    write_text(folder / "msrvtt_ret_test1k.json", json.dumps(test))
    write_msrvtt_clips(folder / "videos", all_videos(numbers))
    return {
        "train": msrvtt_captions(numbers["train"]),
        "test": {f"video{video}": (sentence(video),) for video in numbers["test"]},
    }


def write_msvd(folder: Path, count: int, suffix: str) -> Expected:
    """The clips and the lists of the splits: with a BOM, with CRLF, without a final newline.

    Videos have one to four captions; every third id begins with "-".
    """
    numbers = unsorted_numbers(SPLITS, count)
    expected: Expected = {}
    for split, videos in numbers.items():
        expected[split] = {}
        for video in videos:
            dash = "-" if video % 3 == 0 else ""
            name = f"{dash}Yx{video}_5_15"
            expected[split][name] = sentences(video, 1 + video % 4)
            write_media(folder / f"YouTubeClips/{name}{suffix}", video)
        byte_order_mark = "\ufeff" if split == "val" else ""
        newline = "\r\n" if split == "test" else "\n"
        content = byte_order_mark + "\n".join(expected[split])
        write_text(folder / f"{split}_list.txt", content, newline)
    return expected


@miniature("MSVD", "raw-captions.pkl")
def msvd_pickle(folder: Path, count: int) -> Expected:
    """Captions as lists of words."""
    expected = write_msvd(folder, count, ".avi")
    words = {
        name: [caption.split() for caption in captions]
        for videos in expected.values()
        for name, captions in videos.items()
    }
    write_pickle(folder / "raw-captions.pkl", words)
    return expected


@miniature("MSVD", "captions_msvd.json")
def msvd_json(folder: Path, count: int) -> Expected:
    expected = write_msvd(folder, count, ".mp4")
    content = {
        name: list(captions)
        for videos in expected.values()
        for name, captions in videos.items()
    }
    write_text(folder / "captions_msvd.json", json.dumps(content))
    return expected


def lsmdc_movie(video: int) -> str:
    return f"{video:04d}_Paper_Kite"


def lsmdc_clip(video: int) -> str:
    """The name of a clip: its movie, start and end."""
    seconds = video % 10
    return f"{lsmdc_movie(video)}_00.0{seconds}.51.926-00.0{seconds}.54.129"


@miniature("LSMDC", "LSMDC16")
def lsmdc_official(folder: Path, count: int) -> Expected:
    expected: Expected = {}
    times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
    for split, videos in unsorted_numbers(SPLITS, count).items():
        expected[split] = {lsmdc_clip(video): sentences(video, 1) for video in videos}
        lines = [
            f"{name}\t{times}\t{captions[0]}"
            for name, captions in expected[split].items()
        ]
        write_text(folder / LSMDC_FILES[split], "\n".join(lines))
        for video in videos:
            write_media(folder / lsmdc_movie(video) / f"{lsmdc_clip(video)}.avi", video)
    return expected


@miniature("LSMDC", "Frozen")
def lsmdc_frozen(folder: Path, count: int) -> Expected:
    numbers = unsorted_numbers(SPLITS, count)
    expected = {
        split: {lsmdc_clip(video): sentences(video, 1) for video in videos}
        for split, videos in numbers.items()
    }
    for split, captions in expected.items():
        write_text(
            folder / f"structured-symlinks/{split}_list.txt", "\n".join(captions)
        )
    words = {
        lsmdc_clip(video): [sentence(video).split()] for video in all_videos(numbers)
    }
    write_pickle(folder / "structured-symlinks/raw-captions.pkl", words)
    tar_paths = []
    for video in all_videos(numbers):
        path = f"{lsmdc_movie(video)}_cut/{lsmdc_clip(video)}"
        tar_paths.append(f"/somewhere/frames/{path}.tar")
        write_media(folder / f"videos/{path}.avi", video)
    write_text(folder / "frame_tar_list.txt", "\n".join(tar_paths))
    return expected


def paragraph(video: int) -> str:
    """A video's three captions as DiDeMo's protocol joins them."""
    return " ".join(sentences(video, 3))


def didemo_rows(names: dict[int, str]) -> list[dict[str, Any]]:
    """Three rows per video, not contiguous, blanks around, the first video's last row under another extension.

    `names`: {video: its name in the annotations}.
    """
    rows: list[dict[str, Any]] = [
        {
            "annotation_id": 100 * caption + video,
            "description": f" {sentence(video, caption)}\n",
            "dl_link": "https://example.org",
            "num_segments": 6,
            "times": [[caption, caption]],
            "video": name,
        }
        for caption in range(3)
        for video, name in names.items()
    ]
    rows[-len(names)]["video"] = didemo_id(rows[0]["video"]) + ".mp4"
    return rows


def didemo_id(name: str) -> str:
    return name.partition(".")[0]


def write_didemo_clip(path: Path, video: int) -> None:
    """A clip of 36 seconds, in mp4 whatever its name says."""
    write_media(path, video, frames=36, rate=1, suffix=".mp4")


@miniature("DiDeMo", "official")
def didemo_official(folder: Path, count: int) -> Expected:
    """Files are called as in the annotations, or that with .mp4 behind it, or with .mp4 in place of the suffix."""
    expected: Expected = {}
    for split, videos in unsorted_numbers(SPLITS, count).items():
        names = {}
        for i, video in enumerate(videos):
            suffix = DIDEMO_SUFFIXES[i % 4]
            names[video] = f"1234567@N0{video}_36550842{video}_c8b58428fe{suffix}"
            file_names = (
                names[video],
                names[video] + ".mp4",
                names[video] + ".mp4",
                didemo_id(names[video]) + ".mp4",
            )
            write_didemo_clip(folder / "videos" / file_names[i % 4], video)
        expected[split] = {
            didemo_id(name): (paragraph(video),) for video, name in names.items()
        }
        write_text(folder / f"{split}_data.json", json.dumps(didemo_rows(names)))
        write_text(folder / f"{split}_list.txt", "\n".join(names.values()))
    return expected


@miniature("DiDeMo", "VindLU")
def didemo_vindlu(folder: Path, count: int) -> Expected:
    expected: Expected = {}
    for split, videos in unsorted_numbers(SPLITS, count).items():
        expected[split] = {f"clip{video}": (paragraph(video),) for video in videos}
        rows = []
        for video in videos:
            captions = [f"{caption} " for caption in sentences(video, 3)]
            rows.append({"video": f"clip{video}.mp4", "caption": captions})
            write_didemo_clip(folder / f"clip{video}.mp4", video)
        write_text(folder / f"didemo_ret_{split}.json", json.dumps(rows))
    return expected


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
