"""MSR-VTT (Xu et al., CVPR 2016): 10,000 videos with 20 captions each."""

from collections.abc import Iterator
from pathlib import Path

from data_loader.annotations.layouts import (
    captions_of,
    locate,
    media_folder,
    read_columns,
    read_json,
    read_lines,
    read_pickle,
)
from data_loader.annotations.protocols import of_split
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import ConfigError

Captions = dict[str, list[str]]
PROTOCOL = {
    "jsfusion": "msrvtt-1k-A",
    "jsfusion-7k": "msrvtt-1k-A",
    "full": "msrvtt-full",
    "miech": "msrvtt-1k-B",
}
FAMILY = {
    "full-val": ("full", "val"),
    "full-test": ("full", "test"),
}  # cuts of the family that name a split as well
FOLDERS = ("videos/all", "videos", "", "TrainValVideo", "TestVideo", "all", "MSRVTT_Videos")
LISTS, SAID = "structured-symlinks/", "MSR_VTT.json"


def _frozen(names: Path, annotations: Path, index: Path | None = None) -> Captions:
    said: Captions = {}
    for row in read_json(annotations)["annotations"]:
        said.setdefault(row["image_id"], []).append(row["caption"])
    said = captions_of(read_lines(names), said, annotations)
    which = (
        captions_of(said, {name: (place,) for name, place in read_pickle(index).items()}, index)
        if index
        else {}
    )
    return {
        name: [captions[which[name][0]]] if which else captions for name, captions in said.items()
    }


def _first(names: Path, annotations: Path) -> Captions:
    return {name: captions[:1] for name, captions in _frozen(names, annotations).items()}


def _sentences(data: Path) -> Captions:
    said: Captions = {}
    for row in read_json(data)["sentences"]:
        said.setdefault(row["video_id"], []).append(row["caption"])
    return said


def _official(data: Path, split: str) -> Captions:
    names = [video["video_id"] for video in read_json(data)["videos"] if video["split"] == split]
    return captions_of(names, _sentences(data), data)


def _csv_list(names: Path, data: Path) -> Captions:
    listed = [name for rows in read_columns(names, ["video_id"]) for name in rows["video_id"]]
    return captions_of(listed, _sentences(data), data)


def _csv_pairs(pairs: Path) -> Captions:
    said: Captions = {}
    for rows in read_columns(pairs, ["video_id", "sentence"]):
        for name, sentence in zip(rows["video_id"], rows["sentence"]):
            said.setdefault(name, []).append(sentence)
    return said


def _vindlu(rows: Path) -> Captions:
    return {
        row["video"].rpartition(".")[0] or row["video"]: [row["caption"]]
        if isinstance(row["caption"], str)
        else row["caption"]
        for row in read_json(rows)
    }


# (cut, split) -> layout -> (its parser, the files that the parser takes)
LAYOUTS = {
    ("jsfusion", "train"): {
        "Frozen": (_frozen, [LISTS + "train_list_jsfusion.txt", SAID]),
        "CLIP4Clip": (_csv_list, ["MSRVTT_train.9k.csv", "MSRVTT_data.json"]),
        "VindLU": (_vindlu, ["msrvtt_ret_train9k.json"]),
    },
    ("jsfusion", "test"): {
        "Frozen": (
            _frozen,
            [LISTS + "val_list_jsfusion.txt", SAID, LISTS + "jsfusion_val_caption_idx.pkl"],
        ),
        "CLIP4Clip": (_csv_pairs, ["MSRVTT_JSFUSION_test.csv"]),
        "VindLU": (_vindlu, ["msrvtt_ret_test1k.json"]),
    },
    ("jsfusion-7k", "train"): {
        "CLIP4Clip": (_csv_list, ["MSRVTT_train.7k.csv", "MSRVTT_data.json"])
    },
    ("full", "train"): {
        "Frozen": (_frozen, [LISTS + "train_list_full.txt", SAID]),
        "official": (lambda data: _official(data, "train"), ["train_val_videodatainfo.json"]),
    },
    ("full", "val"): {
        "Frozen": (_frozen, [LISTS + "val_list_full.txt", SAID]),
        "official": (lambda data: _official(data, "validate"), ["train_val_videodatainfo.json"]),
    },
    ("full", "test"): {
        "Frozen": (_frozen, [LISTS + "test_list_full.txt", SAID]),
        "official": (lambda data: _official(data, "test"), ["test_videodatainfo.json"]),
    },
    ("miech", "train"): {"Frozen": (_frozen, [LISTS + "train_list_miech.txt", SAID])},
    ("miech", "test"): {"Frozen": (_first, [LISTS + "test_list_miech.txt", SAID])},
}


@DATASETS.register("MSRVTT")
class MSRVTT(TextVideoDataset):
    """cut: jsfusion (the default: 1k-A, one sentence a video at test), jsfusion-7k (its smaller training list), full
    (every sentence a query), or miech (1k-B, each video's first sentence at test). Only full has a split "val"."""

    def items(self) -> Iterator[Item]:
        cut, split = FAMILY.get(self.cut, (self.cut or "jsfusion", self.split))
        split = "train" if self.train else split
        if cut not in PROTOCOL:
            raise ConfigError(
                f"cut: {cut!r} is no cut of MSRVTT; known: {', '.join([*PROTOCOL, *FAMILY])}"
            )
        self.validates_on_test = split == "val" and cut != "full"
        split = "test" if self.validates_on_test else split
        layouts = LAYOUTS.get((cut, split)) or LAYOUTS.get((cut.removesuffix("-7k"), split), {})
        files = {name: names for name, (_, names) in layouts.items()}
        self.layout, paths = locate(f"MSRVTT, cut {cut}, split {split}", self.folders, files)
        self.protocol = (
            of_split(PROTOCOL[cut], split) if (cut, split) != ("jsfusion-7k", "train") else None
        )
        captions = layouts[self.layout][0](*paths)
        folder = media_folder(self.data_dir, FOLDERS, [f"{name}.mp4" for name in captions])
        for name, said in captions.items():
            yield Item(name, f"{folder}/{name}.mp4".lstrip("/"), said)
