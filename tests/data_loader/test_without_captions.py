"""Footage alone: with_captions false keeps every video, needs no caption and yields none."""

import json
import logging

import pytest
import torch

from data_loader import LOADERS
from data_loader.datasets import DATASETS
from parse_config import ConfigError, UserError
from scripts.synthetic.miniatures import write_media, write_text

VIDEO = {"num_frames": 2, "input_res": 16}


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abcd"):
        write_media(tmp_path / f"train/{name}.mp4", number)
    return tmp_path


def arguments(folder, **more):
    return {"data_dir": str(folder), "video_params": VIDEO, **more}


def build(name, folder, **more):
    return DATASETS.build({"type": name, "args": arguments(folder, **more)})


def write_rows(folder, rows):
    write_text(folder / "captions.jsonl", "\n".join(json.dumps(row) for row in rows))


def test_rows_need_a_path_alone(folder):
    write_rows(
        folder,
        [
            {"path": "train/a.mp4", "split": "train"},
            {"path": "train/b.mp4", "split": "train", "caption": "a dog"},
            {"path": "train/c.mp4", "split": "train", "captions": []},
            {"path": "train/d.mp4", "split": "test", "caption": "a cat"},
        ],
    )
    footage = build("JsonlDataset", folder, with_captions=False)
    assert footage.ids[:] == ["train/a.mp4", "train/b.mp4", "train/c.mp4"]
    assert footage[1].keys() == {"video", "meta"}
    with pytest.raises(UserError, match="line 1: no caption or captions"):
        build("JsonlDataset", folder)


def test_the_clips_are_those_that_captions_would_go_with(folder):
    rows = [
        {"path": f"train/{name}.mp4", "split": "train", "caption": name}
        for name in "abcd"
    ]
    write_rows(folder, rows)
    footage = build("JsonlDataset", folder, with_captions=False)
    captioned = build("JsonlDataset", folder)
    for index in range(4):
        sample, other = footage[(index, 3)], captioned[(index, 3)]
        assert torch.equal(sample["video"], other["video"])


def test_a_folder_of_bare_videos(folder, caplog):
    caplog.set_level(logging.INFO)
    footage = build("VideoFolder", folder, with_captions=False)
    assert len(footage) == 4 and "text" not in footage[0]
    assert "4 videos, without captions" in caplog.text
    with pytest.raises(UserError, match="with_captions false trains masked visual"):
        build("VideoFolder", folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_has_no_text(folder, workers):
    def tokenize(captions):
        raise AssertionError("nothing to tokenize")

    args = arguments(folder, dataset_name="VideoFolder", with_captions=False)
    loader = LOADERS.build(
        {
            "type": "TextVideoDataLoader",
            "args": {**args, "batch_size": 2, "num_workers": workers},
        },
        tokenize=tokenize if workers == 0 else None,
    )
    batches = list(loader.epoch())
    assert [batch.keys() for batch in batches] == 2 * [{"video", "meta", "unreadable"}]
    assert batches[0]["video"].shape == (2, 2, 3, 16, 16)


@pytest.mark.parametrize("split", ["val", "test"])
def test_retrieval_is_not_judged_without_captions(folder, split):
    with pytest.raises(ConfigError, match=f"with_captions: false .*split '{split}'"):
        build("VideoFolder", folder, split=split, with_captions=False)
