"""A model is tested and fine-tuned as what it was trained as: the checkpoint itself says what that is."""

import json
import shutil

import pytest
import torch

import test as test_program
import train
from data_loader import LOADERS
from model import load_model
from parse_config import Config, ConfigError
from tests.helpers import tiny_run
from trainer import origin

CLIPS = {"num_frames": 1, "norm_mean": [0.4, 0.5, 0.6], "center_crop": 40}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(home, folder of a run of one epoch); its text model's folder is gone, as on another machine."""
    home = tmp_path_factory.mktemp("origin")
    tiny_run.write_data(home / "data", train=8, val=4, test=6)
    loader = tiny_run.loader(home / "data", 4)
    loader["args"]["video_params"] |= CLIPS
    content = tiny_run.config(home, loader, {"epochs": 1})
    content["arch"]["args"]["text_params"]["pooling"] = "mean"
    train.cli(["-c", str(tiny_run.save(home / "config.json", content)), "-d", "cpu"])
    (folder,) = (home / "exps/tiny").iterdir()
    shutil.rmtree(home / "text")
    return home, folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*arguments):
    """results.json of a run of test.py."""
    test_program.cli([*arguments, "-d", "cpu", "evaluation.resamples=0"])


def results_of(folder):
    """The newest results.json below a folder."""
    path = max(folder.rglob("results.json"), key=lambda path: path.stat().st_mtime_ns)
    return path, json.loads(path.read_text())


def error_of(capsys, *arguments):
    """The line that test.py with a mistake ends with."""
    with pytest.raises(SystemExit) as end:
        evaluate(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def bare_config(home, tmp_path, **video_params):
    """A config that says nothing of the model, and of the clips only `video_params`."""
    loader = tiny_run.loader(home / "data", 4)
    kept = {key: loader["args"]["video_params"][key] for key in ("reader", "deadline")}
    loader["args"]["video_params"] = {**kept, **video_params}
    content = {
        "name": "bare",
        "arch": {"type": "MILES", "args": {}},
        "data_loader": loader,
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.001}},
        "trainer": {"epochs": 1, "save_dir": str(tmp_path / "exps")},
    }
    return str(tiny_run.save(tmp_path / "bare.json", content))


def test_without_a_config_the_checkpoints_own_is_taken(trained, elsewhere):
    home, folder = trained
    evaluate("-r", str(folder))
    path, results = results_of(folder)
    assert path.parent.parent == folder / "test"
    assert results["other_than_checkpoint"] == []
    assert results["checkpoint"]["path"] == str(folder / "model_best.pth")
    assert results["num_videos"] == 6


def test_a_config_that_leaves_the_model_open_gives_the_same_numbers(trained, elsewhere):
    home, folder = trained
    evaluate("-r", str(folder), "-o", "own")
    config = bare_config(home, elsewhere)
    evaluate("-c", config, "-r", str(folder), "-o", "bare")
    own, bare = (results_of(elsewhere / name)[1] for name in ("own", "bare"))
    assert bare["t2v"] == own["t2v"] and bare["v2t"] == own["v2t"]
    assert bare["other_than_checkpoint"] == []
    video_params = bare["config"]["data_loader"]["args"]["video_params"]
    assert {key: video_params[key] for key in CLIPS} == CLIPS


def test_what_is_said_otherwise_is_listed(trained, elsewhere, caplog):
    home, folder = trained
    config = bare_config(home, elsewhere, norm_mean=[0.5, 0.5, 0.5], center_crop=32)
    evaluate("-c", config, "-r", str(folder), "-o", "other")
    changes = results_of(elsewhere / "other")[1]["other_than_checkpoint"]
    json_path = "data_loader.args.video_params"
    assert changes == [
        f"{json_path}.center_crop: 40 -> 32",
        f"{json_path}.norm_mean: [0.4, 0.5, 0.6] -> [0.5, 0.5, 0.5]",
    ]
    for change in changes:
        assert f"other than in {folder / 'model_best.pth'}: {change}" in caplog.text


@pytest.mark.parametrize(
    "setting, change",
    [
        ("arch.args.text_params.pooling=cls", "text_params.pooling: 'mean' -> 'cls'"),
        ("arch.args.video_params.num_heads=1", "video_params.num_heads: 2 -> 1"),
        ("arch.args.video_params.act=quick_gelu", "'gelu' -> 'quick_gelu'"),
        ("arch.args.video_params.norm_eps=1e-5", "norm_eps: 1e-06 -> 1e-05"),
    ],
)
def test_what_the_weights_cannot_mean_is_refused(
    trained, elsewhere, capsys, setting, change
):
    home, folder = trained
    for config in ([], ["-c", bare_config(home, elsewhere)]):
        error = error_of(capsys, *config, "-r", str(folder), setting)
        assert change in error and "was trained with the first" in error
    assert not list(elsewhere.rglob("results.json"))


def test_clips_that_the_model_does_not_take_are_refused(trained, elsewhere, capsys):
    home, folder = trained
    config = bare_config(home, elsewhere, input_res=40)
    error = error_of(capsys, "-c", config, "-r", str(folder))
    assert "input_res: clips of 40 x 40 pixels are read" in error
    config = bare_config(home, elsewhere, num_frames=9)
    assert "num_frames: 9 frames" in error_of(capsys, "-c", config, "-r", str(folder))


def test_a_checkpoint_alone_is_a_model(trained, elsewhere):
    """One file, copied; the text model's folder is gone."""
    home, folder = trained
    shutil.copy(folder / "model_best.pth", elsewhere / "alone.pth")
    model = load_model("alone.pth", "cpu")
    embedding = load_model(folder, "cpu").encode_text("a dog")
    assert torch.equal(model.encode_text("a dog"), embedding)
    assert model.settings["text_params"]["model"] == str(home / "text")
    evaluate("-r", "alone.pth", f"trainer.save_dir={elsewhere}/exps")
    path, _ = results_of(elsewhere)
    assert path.parent.parent == elsewhere / "exps/tiny/test"


def test_a_run_is_resumed_without_the_text_models_folder(trained, elsewhere):
    home, folder = trained
    copy = shutil.copytree(folder, elsewhere / "exps/tiny/copy")
    train.cli(["-r", str(copy), "-d", "cpu", "trainer.epochs=2"])
    assert len(tiny_run.lines(copy, "epoch")) == 2


def test_fine_tuning_takes_the_architecture_from_the_checkpoint(
    trained, elsewhere, caplog
):
    home, folder = trained
    config = bare_config(home, elsewhere)
    start = f"arch.args.load_checkpoint={folder}"
    train.cli(["-c", config, "-d", "cpu", start, "valid_loader=null"])
    (run,) = (elsewhere / "exps/bare").iterdir()
    saved = torch.load(run / "checkpoint-latest.pth")
    args = saved["config"]["arch"]["args"]
    assert args["text_params"]["pooling"] == "mean"
    assert args["video_params"]["embed_dim"] == 24
    assert "other than in" not in caplog.text
    # and is resumed, and fine-tuned again
    train.cli(["-c", config, "-d", "cpu", start, "-r", "auto", "trainer.epochs=2"])
    assert len(tiny_run.lines(run, "epoch")) == 2
    again = f"arch.args.load_checkpoint={run}"
    train.cli(["-c", config, "-d", "cpu", again, "name=again", "valid_loader=null"])


def test_what_fine_tuning_says_otherwise_is_logged(trained, elsewhere, caplog):
    home, folder = trained
    config = bare_config(home, elsewhere, norm_mean=[0.5, 0.5, 0.5])
    settings = [f"arch.args.load_checkpoint={folder}", "valid_loader=null"]
    settings.append("arch.args.text_params.pooling=cls")
    train.cli(["-c", config, "-d", "cpu", *settings])
    for change in ("pooling: 'mean' -> 'cls'", "norm_mean: [0.4, 0.5, 0.6] -> [0.5"):
        assert change in caplog.text


def test_a_checkpoint_that_says_nothing_leaves_the_config_as_it_is(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "m.pth")
    spec = {"type": "MILES", "args": {"load_checkpoint": str(tmp_path / "m.pth")}}
    config = Config({"arch": spec})
    found = origin.origin_of(config)
    assert found.arch == {} and found.clip == {}
    assert origin.complete(config, found).to_dict() == config.to_dict()
    assert origin.contradictions(config, found, [], LOADERS) == []


def test_mcqs_config_is_read_in_our_words(tmp_path):
    video_params = {"model": "Video_Bridge_Former", "num_frames": 4, "stride": 1}
    arch = {"type": "MCQ", "args": {"video_params": video_params}}
    content = {"state_dict": {"a": torch.ones(1)}, "config": {"arch": arch}}
    torch.save(content, tmp_path / "m.pth")
    found = origin.read_origin(tmp_path / "m.pth")
    assert found.arch["type"] == "MILES"
    assert found.arch["args"]["video_params"]["model"] == "SpaceTimeTransformer"


def test_an_absent_checkpoint_is_one_line(trained, elsewhere, capsys):
    home, _ = trained
    config = bare_config(home, elsewhere)
    error = error_of(capsys, "-c", config, "-r", "absent.pth")
    assert "absent.pth: no such checkpoint" in error
    with pytest.raises(ConfigError, match="is damaged or no checkpoint"):
        (elsewhere / "x.pth").write_bytes(b"PK\x03\x04 no zip")
        origin.read_origin("x.pth")
