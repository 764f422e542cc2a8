"""One warning where clips of validation are also trained on."""

import json
import logging
import os
import shutil

import pytest

import train
from data_loader import split_overlap
from data_loader.loader import TextVideoDataLoader
from data_loader.split_overlap import warn_of_shared_clips
from parse_config import Config
from scripts.synthetic.miniatures import (
    encode_media,
    sentence,
    write_media,
    write_text,
)
from scripts.synthetic.miniatures.pretraining import write_tar

VIDEO = {"num_frames": 2, "input_res": 16, "deadline": 0}


def loader(name, folder, split, **args):
    return TextVideoDataLoader(
        name,
        data_dir=str(folder),
        split=split,
        batch_size=1,
        num_workers=0,
        video_params=VIDEO,
        **args,
    )


def warnings_of(caplog, train_loaders, valid_loader):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_shared_clips(train_loaders, valid_loader)
    return [record.getMessage() for record in caplog.records]


def write_clip(path, number=0):
    write_text(write_media(path, number).with_suffix(".txt"), sentence(number))


def write_rows(folder, split, rows):
    lines = [json.dumps({"caption": "a caption", **row}) + "\n" for row in rows]
    write_text(folder / f"{split}.jsonl", "".join(lines))


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Small data sets are compared by inode, large ones by name first."""
    if request.param == "large":
        monkeypatch.setattr(split_overlap, "MAX_COMPARED", 0)
    return request.param


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_whole_folder_for_both_splits(tmp_path, caplog, size, split):
    for number in range(3):
        write_clip(tmp_path / f"{number}.mp4", number)
    training = loader("VideoFolder", tmp_path, "train")
    (message,) = warnings_of(caplog, [training], loader("VideoFolder", tmp_path, split))
    assert message.startswith(
        f"VideoFolder {split}: 3 of 3 clips are also trained on (VideoFolder train), "
        f"such as {tmp_path}/0.mp4; "
    )
    assert "\n" not in message


def test_folders_of_their_own(tmp_path, caplog, size):
    for folder in ("Train", "Validation"):
        write_clip(tmp_path / folder / "a.mp4")
    training = loader("VideoFolder", tmp_path, "train")
    validation = loader("VideoFolder", tmp_path, "val")
    assert not warnings_of(caplog, [training], validation)
    assert not warnings_of(caplog, [training], None)
    assert not warnings_of(caplog, [], validation)
    assert not warnings_of(caplog, [object()], validation)


def test_some_of_the_listed_clips(tmp_path, caplog, size):
    for number in range(5):
        write_media(tmp_path / f"clips/{number}.mp4", number)
    write_rows(tmp_path, "train", [{"path": f"clips/{n}.mp4"} for n in (0, 1, 2)])
    write_rows(
        tmp_path,
        "val",
        [{"path": "clips/3.mp4"}, {"path": f"{tmp_path}/clips/../clips/2.avi"}],
    )
    training = loader("JsonlDataset", tmp_path, "train")
    validation = loader("JsonlDataset", tmp_path, "val")
    (message,) = warnings_of(caplog, [training], validation)
    assert "1 of 2 clips are also trained on" in message and "clips/2.mp4;" in message


SEGMENTS = [
    ({"start": 0, "end": 1}, {"start": 0, "end": 1}, "clips"),
    ({"start": 0, "end": 1}, {"start": 0.5, "end": 2}, "clips"),
    ({}, {"start": 3, "end": 4}, "clips"),
    ({"start": 3}, {"end": 4}, "clips"),
    ({"end": 1}, {"start": 1}, "parts"),
    ({"start": 0, "end": 1}, {"start": 2, "end": 3}, "parts"),
]


@pytest.mark.parametrize("first, second, kind", SEGMENTS)
def test_segments_of_one_file(tmp_path, caplog, size, first, second, kind):
    write_media(tmp_path / "a.mp4")
    write_media(tmp_path / "b.mp4")
    write_rows(tmp_path, "train", [{"path": "a.mp4", **first}])
    write_rows(tmp_path, "val", [{"path": "a.mp4", **second}, {"path": "b.mp4"}])
    (message,) = warnings_of(
        caplog,
        [loader("JsonlDataset", tmp_path, "train")],
        loader("JsonlDataset", tmp_path, "val"),
    )
    said = {
        "clips": "1 of 2 clips are also trained on",
        "parts": "1 of 2 clips are other seconds of files that are trained on",
    }
    assert said[kind] in message


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_one_file(tmp_path, caplog, link):
    write_clip(tmp_path / "train/a.mp4")
    write_clip(tmp_path / "val/c.mp4", 1)
    link(tmp_path / "train/a.mp4", tmp_path / "val/b.mp4")
    (message,) = warnings_of(
        caplog,
        [loader("VideoFolder", tmp_path, "train")],
        loader("VideoFolder", tmp_path, "val"),
    )
    assert "1 of 2 clips are also trained on" in message and "/val/b.mp4" in message


def test_linked_folders(tmp_path, caplog, size):
    write_clip(tmp_path / "train/a.mp4")
    (tmp_path / "val").symlink_to("train")
    assert warnings_of(
        caplog,
        [loader("VideoFolder", tmp_path, "train")],
        loader("VideoFolder", tmp_path, "val"),
    )


def test_shards(tmp_path, caplog, size):
    for shard in range(2):
        members = [
            member
            for number in range(2)
            for member in (
                (f"{number}.mp4", encode_media(".mp4", number, 8, 8)),
                (f"{number}.txt", sentence(number).encode()),
            )
        ]
        write_tar(tmp_path / f"{shard}.tar", members)
    training = loader("TarShards", tmp_path, "train")
    (message,) = warnings_of(caplog, [training], loader("TarShards", tmp_path, "val"))
    assert "4 of 4 clips are also trained on" in message
    one = loader("TarShards", tmp_path, "val", dataset_params={"shards": "1.tar"})
    other = loader("TarShards", tmp_path, "train", dataset_params={"shards": "0.tar"})
    assert not warnings_of(caplog, [other], one)
    (message,) = warnings_of(caplog, [other, training, training], one)
    assert "2 of 2 clips" in message
    shutil.move(tmp_path / "1.tar", tmp_path / "gone.tar")
    assert "2 of 2" in warnings_of(caplog, [training], one)[0]


def test_a_large_training_set_is_not_touched(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(split_overlap, "MAX_COMPARED", 10)
    write_media(tmp_path / "3.mp4")
    write_media(tmp_path / "v.mp4")
    write_rows(tmp_path, "train", [{"path": f"{n}.mp4"} for n in range(50)])
    write_rows(tmp_path, "val", [{"path": "3.mp4"}, {"path": "v.mp4"}])
    training = loader("JsonlDataset", tmp_path, "train", check_files=False)
    validation = loader("JsonlDataset", tmp_path, "val")
    split_overlap._file_identity.cache_clear()
    real = os.stat
    touched = []

    def stat(path, *args, **kwargs):
        touched.append(str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(split_overlap.os, "stat", stat)
    messages = warnings_of(caplog, [training], validation)
    monkeypatch.undo()
    assert "1 of 2 clips are also trained on" in messages[0]
    assert {path for path in touched if path.endswith(".mp4")} == {
        str(tmp_path / "3.mp4"),
        str(tmp_path / "v.mp4"),
    }


def test_a_share_of_the_training_videos(tmp_path, caplog, size):
    for number in range(10):
        write_clip(tmp_path / f"{number}.mp4", number)
    training = loader("VideoFolder", tmp_path, "train", subsample=0.3)
    (message,) = warnings_of(caplog, [training], loader("VideoFolder", tmp_path, "val"))
    assert "3 of 10 clips" in message
    assert any(path in message for path in training.dataset.paths)


def test_a_run_says_it_once(tmp_path, caplog, monkeypatch):
    """train.py, with its loaders as they are and a model that is not needed for that."""
    for number in range(2):
        write_clip(tmp_path / f"{number}.mp4", number)
    args = {
        "dataset_name": "VideoFolder",
        "data_dir": str(tmp_path),
        "batch_size": 1,
        "num_workers": 0,
        "video_params": VIDEO,
    }
    block = {"type": "TextVideoDataLoader", "args": args}
    config = Config({"data_loader": block, "trainer": {}, "loss": {}})
    stage = type("Stage", (), {"config": config, "number": 0, "resume": None})()
    model = type("Model", (), {"tokenize": list})()

    class LoadersAreThere(Exception):
        pass

    def stop(*_):
        raise LoadersAreThere

    monkeypatch.setattr(train, "build_model", lambda stage: model)
    monkeypatch.setattr(train.LOSSES, "build", stop)
    with caplog.at_level(logging.WARNING), pytest.raises(LoadersAreThere):
        train.build(stage, None)
    shared = [line for line in caplog.messages if "are also trained on" in line]
    assert len(shared) == 1 and "2 of 2 clips" in shared[0]
