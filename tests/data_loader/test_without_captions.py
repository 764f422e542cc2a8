"""Footage alone: with_captions false keeps every video, needs no caption and yields none."""

import json
import logging

import pytest
import torch

from data_loader import LOADERS
from data_loader.datasets import DATASETS
from parse_config import ConfigError, UserError
from scripts.synthetic.miniatures import (
    MINIATURES,
    encode_media,
    write_media,
    write_text,
)
from scripts.synthetic.miniatures.pretraining import write_tar

VIDEO = {"num_frames": 2, "input_res": 16}
HINT = "with_captions false trains masked visual modeling alone"
NAMES = [
    f"{m.dataset}-{m.layout}-{m.args.get('cut', '')}".strip("-") for m in MINIATURES
]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abcd"):
        write_media(tmp_path / f"train/{name}.mp4", number)
    return tmp_path


def arguments(folder, **more):
    return {"data_dir": str(folder), "video_params": VIDEO} | more


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
    with pytest.raises(UserError, match=f"line 1: no caption or captions.*; {HINT}"):
        build("JsonlDataset", folder)


def test_a_gallery_whose_rows_have_no_caption_gets_no_such_hint(folder):
    write_rows(folder, [{"path": "train/a.mp4", "split": "test"}])
    with pytest.raises(UserError, match="line 1: no caption or captions") as error:
        build("JsonlDataset", folder, split="test")
    assert "with_captions" not in str(error.value)


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


def test_a_text_file_that_is_no_text_is_not_read(folder):
    (folder / "train/a.txt").write_bytes(b"\xff\xfe\x80")
    (folder / "train/b.txt").write_text("a dog")
    footage = build("VideoFolder", folder, with_captions=False)
    assert footage.ids[:] == list("abcd")
    assert footage.counts["num_captions"] == 0
    with pytest.raises(UserError, match="a.txt"):
        build("VideoFolder", folder)


@pytest.mark.parametrize("shards", [1, 8])
def test_shards_of_videos_alone(tmp_path, shards):
    """Eight shards are indexed by several processes, where there are two cores."""
    others = [("json", b"{no json"), ("txt", b"a dog")]
    for shard in range(shards):
        files = []
        for number in range(3):
            key = f"{3 * shard + number:06d}"
            files.append((f"{key}.mp4", encode_media(".mp4", number, 8, 8)))
            files += [(f"{key}.{suffix}", text) for suffix, text in others[:number]]
        write_tar(tmp_path / f"train/{shard:05d}.tar", files)
    strict = {"video_params": {**VIDEO, "loading": "strict"}}
    footage = build("TarShards", tmp_path, **strict, with_captions=False)
    assert len(footage) == 3 * shards and footage.counts["num_captions"] == 0
    assert footage[3 * shards - 1].keys() == {"video", "meta"}
    # sample 1 of each shard has a broken json and no txt
    with pytest.raises(UserError, match="000001.json"):
        build("TarShards", tmp_path, **strict)


def test_shards_without_any_caption_say_what_to_do(tmp_path):
    files = [("0.mp4", encode_media(".mp4", 0, 8, 8))]
    write_tar(tmp_path / "train/0.tar", files)
    with pytest.raises(UserError, match=HINT):
        build("TarShards", tmp_path)


@pytest.mark.parametrize("mini", MINIATURES, ids=NAMES)
def test_captions_of_every_data_set_are_ignored(tmp_path, mini):
    """The same clips of the same videos as with captions, of each layout."""
    expected = mini.write(tmp_path, 4)
    args = {**mini.args, "video_params": {**VIDEO, "deadline": 0}}
    if "train" not in expected:  # a gallery alone
        with pytest.raises((UserError, FileNotFoundError)):
            build(mini.dataset, tmp_path, **args, with_captions=False)
        return
    footage = build(mini.dataset, tmp_path, **args, with_captions=False)
    captioned = build(mini.dataset, tmp_path, **args)
    assert footage.ids[:] == captioned.ids[:] and len(footage)
    sample, other = footage[(0, 1)], captioned[(0, 1)]
    assert sample.keys() == {"video", "meta"} and other.keys() > sample.keys()
    assert torch.equal(sample["video"], other["video"])


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
