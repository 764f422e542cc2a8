"""MSR-VTT (Xu et al., CVPR 2016): 10,000 videos with 20 captions each."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.annotations.layouts import (
    find_layout,
    look_up_listed,
    read_csv,
    read_json,
    read_lines,
    read_pickle,
)
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.media_folders import media_paths
from data_loader.annotations.protocols import protocol_of_split
from data_loader.annotations.shapes import (
    describe,
    expect,
    expect_member,
    expect_texts,
)
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import ConfigError, UserError

Captions = dict[str, list[str]]
PROTOCOL_OF_CUT = {
    "jsfusion": "msrvtt-1k-A",
    "jsfusion-7k": "msrvtt-1k-A",
    "full": "msrvtt-full",
    "miech": "msrvtt-1k-B",
}
# cuts of Frozen-in-Time codebases that name a split as well
CUTS_WITH_SPLIT = {"full-val": ("full", "val"), "full-test": ("full", "test")}
VIDEO_FOLDERS = (
    "videos/all",
    "videos",
    "",
    "TrainValVideo",
    "TestVideo",
    "all",
    "MSRVTT_Videos",
    "videos/TrainValVideo",
    "videos/TestVideo",
    "videos/train",
    "videos/val",
    "videos/test",
    "train",
    "val",
    "test",
)
FROZEN_LISTS = "structured-symlinks/"
FROZEN_CAPTIONS = "MSR_VTT.json"


def _frozen(
    left_out: LeftOut, names: Path, annotations: Path, index: Path | None = None
) -> Captions:
    """Frozen in Time's lists. index: pickle of video -> number of its one caption; without it all are taken."""
    all_captions = _sentences(
        read_json(annotations), annotations, "annotations", "image_id"
    )
    captions = look_up_listed(read_lines(names), all_captions, annotations, left_out)
    if index is None:
        return captions
    # in a tuple, because number 0 is not "no caption"
    numbers = {
        name: (number,)
        for name, number in expect(read_pickle(index), dict, index).items()
    }
    numbers = look_up_listed(captions, numbers, index, left_out)
    return {
        name: [_numbered_caption(video_captions, numbers[name][0], index, name)]
        for name, video_captions in captions.items()
    }


def _numbered_caption(captions: list[str], number: Any, index: Path, name: str) -> str:
    """The caption of that number; UserError if there is none."""
    number = expect(number, int, index, describe(name))
    if not 0 <= number < len(captions):
        raise UserError(
            f"{index}: {describe(name)}: caption {describe(number)} is named, and there are {len(captions)}, counted "
            "from 0; lists and captions must come from one release"
        )
    return captions[number]


def _frozen_first(left_out: LeftOut, names: Path, annotations: Path) -> Captions:
    """The first caption of each video."""
    captions = _frozen(left_out, names, annotations)
    return {name: video_captions[:1] for name, video_captions in captions.items()}


def _official(left_out: LeftOut, data: Path, split: str) -> Captions:
    content = read_json(data)
    names = []
    for number, video in enumerate(expect_member(content, "videos", list, data)):
        where = f"videos[{number}]"
        if expect_member(video, "split", str, data, where) == split:
            names.append(expect_member(video, "video_id", str, data, where))
    return look_up_listed(names, _official_sentences(content, data), data, left_out)


def _official_sentences(content: Any, data: Path) -> Captions:
    return _sentences(content, data, "sentences", "video_id")


def _sentences(content: Any, path: Path, rows_key: str, name_key: str) -> Captions:
    """{video: captions} of the rows {name_key: ..., "caption": ...} in content[rows_key]."""
    captions: Captions = {}
    for number, row in enumerate(expect_member(content, rows_key, list, path)):
        where = f"{rows_key}[{number}]"
        name = expect_member(row, name_key, str, path, where)
        caption = expect_member(row, "caption", str, path, where)
        captions.setdefault(name, []).append(caption)
    return captions


def _clip4clip_list(left_out: LeftOut, names: Path, data: Path) -> Captions:
    listed = [
        name
        for rows in read_csv(names, ["video_id"])
        for name in rows.columns["video_id"]
    ]
    captions = _official_sentences(read_json(data), data)
    return look_up_listed(listed, captions, data, left_out)


def _clip4clip_pairs(left_out: LeftOut, pairs: Path) -> Captions:
    captions: Captions = {}
    for rows in read_csv(pairs, ["video_id", "sentence"]):
        for name, sentence in zip(rows.columns["video_id"], rows.columns["sentence"]):
            captions.setdefault(name, []).append(sentence)
    return captions


def _vindlu(left_out: LeftOut, rows_path: Path) -> Captions:
    captions: Captions = {}
    for number, row in enumerate(expect(read_json(rows_path), list, rows_path)):
        where = f"entry {number}"
        file = expect_member(row, "video", str, rows_path, where)
        name = file.rpartition(".")[0] or file
        texts = expect_texts(row.get("caption"), rows_path, f"{where}.caption")
        captions.setdefault(name, []).extend(texts)
    return captions


class Layout(NamedTuple):
    """parse: LeftOut, paths of `files` -> captions of each video."""

    parse: Callable[..., Captions]
    files: list[str]


def _frozen_layout(list_name: str) -> Layout:
    return Layout(_frozen, [f"{FROZEN_LISTS}{list_name}", FROZEN_CAPTIONS])


# (cut, split) -> name -> layout
LAYOUTS = {
    ("jsfusion", "train"): {
        "Frozen": _frozen_layout("train_list_jsfusion.txt"),
        "CLIP4Clip": Layout(
            _clip4clip_list, ["MSRVTT_train.9k.csv", "MSRVTT_data.json"]
        ),
        "VindLU": Layout(_vindlu, ["msrvtt_ret_train9k.json"]),
    },
    ("jsfusion", "test"): {
        "Frozen": Layout(
            _frozen,
            [
                f"{FROZEN_LISTS}val_list_jsfusion.txt",
                FROZEN_CAPTIONS,
                f"{FROZEN_LISTS}jsfusion_val_caption_idx.pkl",
            ],
        ),
        "CLIP4Clip": Layout(_clip4clip_pairs, ["MSRVTT_JSFUSION_test.csv"]),
        "VindLU": Layout(_vindlu, ["msrvtt_ret_test1k.json"]),
    },
    ("jsfusion-7k", "train"): {
        "CLIP4Clip": Layout(
            _clip4clip_list, ["MSRVTT_train.7k.csv", "MSRVTT_data.json"]
        )
    },
    ("full", "train"): {
        "Frozen": _frozen_layout("train_list_full.txt"),
        "official": Layout(
            partial(_official, split="train"), ["train_val_videodatainfo.json"]
        ),
    },
    ("full", "val"): {
        "Frozen": _frozen_layout("val_list_full.txt"),
        "official": Layout(
            partial(_official, split="validate"), ["train_val_videodatainfo.json"]
        ),
    },
    ("full", "test"): {
        "Frozen": _frozen_layout("test_list_full.txt"),
        "official": Layout(
            partial(_official, split="test"), ["test_videodatainfo.json"]
        ),
    },
    ("miech", "train"): {"Frozen": _frozen_layout("train_list_miech.txt")},
    ("miech", "test"): {
        "Frozen": Layout(
            _frozen_first, [f"{FROZEN_LISTS}test_list_miech.txt", FROZEN_CAPTIONS]
        )
    },
}


@DATASETS.register("MSRVTT")
class MSRVTT(TextVideoDataset):
    """cut: jsfusion (the default: 1k-A, one sentence per video at test), jsfusion-7k (its smaller training list), full
    (every sentence a query), or miech (1k-B, each video's first sentence at test). Only full has a split "val"; that of
    the others are training videos that are held out, each with its first sentence (`holdout`)."""

    def lacks_validation_split(self) -> bool:
        cut, _ = CUTS_WITH_SPLIT.get(self.cut or "", (self.cut or "jsfusion", ""))
        return cut != "full"

    def annotations(self) -> Annotations:
        cut, split = CUTS_WITH_SPLIT.get(
            self.cut or "", (self.cut or "jsfusion", self.split)
        )
        if cut not in PROTOCOL_OF_CUT:
            known = ", ".join([*PROTOCOL_OF_CUT, *CUTS_WITH_SPLIT])
            raise ConfigError(f"cut: {cut!r} is no cut of MSRVTT; known: {known}")

        if self.train:
            split = "train"
        validates_on_test = False
        if split == "val" and self.lacks_validation_split():
            split = "train" if self.reads_holdout else "test"
            validates_on_test = split == "test"

        layouts = LAYOUTS.get((cut, split)) or LAYOUTS.get(
            (cut.removesuffix("-7k"), split), {}
        )
        layout, paths = find_layout(
            f"MSRVTT, cut {cut}, split {split}",
            self.annotation_folders,
            {name: layout.files for name, layout in layouts.items()},
        )
        protocol = protocol_of_split(PROTOCOL_OF_CUT[cut], split)
        if (cut, split) == ("jsfusion-7k", "train"):
            protocol = None  # the counts of 1k-A are those of the larger list

        left_out = LeftOut()
        return Annotations(
            items=self._items(layouts[layout].parse(left_out, *paths)),
            layout=layout,
            left_out=left_out,
            protocol=protocol,
            validates_on_test=validates_on_test,
        )

    def _items(self, captions: Captions) -> Iterator[Item]:
        paths = media_paths(
            self.data_dir, VIDEO_FOLDERS, [f"{name}.mp4" for name in captions]
        )
        for (name, video_captions), path in zip(captions.items(), paths):
            if self.reads_holdout:
                video_captions = video_captions[:1]
            yield Item(name, path, video_captions)
