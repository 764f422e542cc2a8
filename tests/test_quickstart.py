"""The method from a JSON file to R@K: read this first. Takes a few seconds, and needs no data.

1. twelve generated pictures in three colours, each with a caption, as a JSONL data set
2. one JSON config: tiny encoders, MILES pre-training with an EMA teacher, contrastive loss
3. train.py: the contrastive loss falls
4. test.py: R@K, far above chance
5. load_model: the checkpoint answers a sentence with its picture
"""

import json
from pathlib import Path

import pytest

import test as evaluation
import train
from model import load_model
from scripts.synthetic.miniatures import write_media, write_text
from scripts.synthetic.tiny_models import WORDS, save_text_model

COLOURS = (
    "red",
    "green",
    "blue",
)  # of pictures 0, 3 and 5: the generator goes through eight hues
HUES = (0, 3, 5)


def write_data_set(folder: Path) -> None:
    for split, copies in (("train", 4), ("val", 1), ("test", 1)):
        rows = []
        for copy in range(copies):
            for colour, hue in zip(COLOURS, HUES, strict=True):
                name = f"{split}_{colour}_{copy}.png"
                write_media(folder / name, hue)
                rows.append(json.dumps({"path": name, "caption": f"the {colour} dog"}))
        write_text(folder / f"{split}.jsonl", "\n".join(rows))


def write_config(folder: Path) -> Path:
    video = {
        "model": "SpaceTimeTransformer",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
    }
    config = {
        "name": "quickstart",
        "arch": {
            "type": "MILES",
            "args": {
                "video_params": {**video, "depth": 2, "num_heads": 4, "num_frames": 1},
                "text_params": {"model": str(folder / "text")},
                "projection_dim": 32,
            },
        },
        "data_loader": {
            "type": "TextVideoDataLoader",
            "args": {
                "dataset_name": "JsonlDataset",
                "data_dir": str(folder / "data"),
                "batch_size": 3,
                "num_workers": 0,
                "shuffle": False,  # each batch holds the three colours once
                "video_params": {"num_frames": 1, "input_res": 32},
            },
        },
        "objective": {
            "type": "MILESPretraining",
            "args": {
                "contrast_view": "full",
                "mask": {"type": "TubeBlock", "args": {"ratio": 0.5}},
                "teacher": {"type": "EMA", "args": {"momentum": 0.9}},
            },
        },
        "loss": {"type": "NormSoftmaxLoss", "args": {"temperature": 0.1}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.003}},
        "trainer": {"epochs": 12, "save_dir": str(folder / "exps"), "save_period": 100},
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=2))
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("quickstart")
    write_data_set(folder / "data")
    save_text_model(folder / "text", words=WORDS, std=0.2)
    train.cli(["-c", str(write_config(folder)), "-d", "cpu"])
    (run,) = (folder / "exps/quickstart").iterdir()
    return run


def test_the_loss_falls(run_folder):
    lines = [
        json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()
    ]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert len(epochs) == 12
    assert epochs[0]["loss_vt"] > 1.5  # 2 ln 3 = 2.2 for a guess among three
    assert epochs[-1]["loss_vt"] < 0.5 * epochs[0]["loss_vt"]
    assert 0 < epochs[-1]["loss_mvm"] < 4  # a squared distance of unit vectors


def test_recall_is_far_above_chance(run_folder):
    config, checkpoint = (
        str(run_folder / "config.json"),
        str(run_folder / "model_best.pth"),
    )
    evaluation.cli(
        ["-c", config, "-r", checkpoint, "-d", "cpu", "-o", str(run_folder / "test")]
    )
    results = json.loads((run_folder / "test/results.json").read_text())
    assert results["num_captions"] == results["num_videos"] == 3
    assert results["t2v"]["R1"] == 100  # chance: 33
    assert results["t2v"]["MedR"] == 1


def test_a_sentence_finds_its_picture(run_folder):
    model = load_model(run_folder)
    text = model.encode_text([f"the {colour} dog" for colour in COLOURS])
    paths = [
        str(run_folder.parents[2] / f"data/test_{colour}_0.png") for colour in COLOURS
    ]
    similarity_CV = model.similarity(text, model.embed_videos(paths))
    assert similarity_CV.argmax(1).tolist() == [0, 1, 2]
