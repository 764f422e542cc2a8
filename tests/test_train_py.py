"""train.py as a user starts it: errors in one line, run folders, resuming, stages, python and torchrun."""

import json
import logging
import os
import shutil
import signal
import sys
import threading
import types

import pytest
import torch

import train
from parse_config import Config, ConfigError, Registry
from scripts.synthetic import miniatures
from tests.helpers import killing, tiny_run
from trainer import checkpoint, lock
from trainer.batches import RoundRobinLoader
from trainer.evaluation.results import new_folder
from trainer.settings import trainer_settings
from trainer.stages import stages
from trainer.trainer import Trainer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiny_run.write_data(folder / "data", train=8, val=4)
    return folder


@pytest.fixture
def content(home, tmp_path):
    config = tiny_run.config(
        home,
        tiny_run.loader(home / "data", 4),
        {"epochs": 1, "save_dir": str(tmp_path / "exps")},
    )
    return {**config, "valid_loader": None}


def run(tmp_path, content, *arguments):
    return train.cli(
        [
            "-c",
            str(tiny_run.save(tmp_path / "config.json", content)),
            "-d",
            "cpu",
            *arguments,
        ]
    )


def error_line(capsys, tmp_path, content, *arguments):
    """The line that a run with a mistake ends with."""
    with pytest.raises(SystemExit) as end:
        run(tmp_path, content, *arguments)
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert end.value.code == 2
    assert len(errors) == 1
    is_new_run = "-r" not in arguments and "name" in content
    assert not ((tmp_path / "exps").exists() and is_new_run)
    return errors[0]


def test_print_config_prints_what_a_run_would_read_and_builds_nothing(
    tmp_path, content, capsys
):
    base = tiny_run.save(tmp_path / "base.json", {**content, "$schema": "schema.json"})
    content = {"base": base.name, "trainer": {"save_dir": "${RUNS:-runs}"}}
    content["arch"] = {"args": {"load_checkpoint": "absent.pth"}}
    run(tmp_path, content, "--print-config", "trainer.epochs=7", "--lr", "0.5")
    printed = json.loads(capsys.readouterr().out)
    assert printed["trainer"] | {"epochs": 7, "save_dir": "runs"} == printed["trainer"]
    assert printed["optimizer"]["args"]["lr"] == 0.5
    assert printed["arch"]["args"]["load_checkpoint"] == "absent.pth"
    assert not {"$schema", "base"} & set(printed)
    assert not (tmp_path / "runs").exists()
    # what is printed is a config of the same run
    run(tmp_path, printed, "--print-config")
    assert json.loads(capsys.readouterr().out) == printed


def test_list_prints_every_registered_name_without_a_config(capsys):
    with pytest.raises(SystemExit) as end:
        train.cli(["--list"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = {line.removesuffix(":") for line in lines if not line.startswith(" ")}
    assert kinds >= {
        "arch",
        "video encoder",
        "loss",
        "mask",
        "teacher",
        "objective",
        "data set",
    }
    assert kinds >= {"loader", "optimizer", "lr_scheduler", "metric", "reader"}
    names = {line.split()[0] for line in lines if line.startswith(" ")}
    assert names >= {
        "MILES",
        "WebVid",
        "TubeBlock",
        "EMA",
        "AdamW",
        "Cosine",
        "auto",
        "dsl",
    }
    of_tests = {
        name
        for registry in Registry.instances
        for name, entry in registry._entries.items()
        if entry.__module__.startswith("tests.")
    }
    for line in lines:
        name, *summary = line.split()
        assert summary or not line.startswith(" ") or name in of_tests, line


@pytest.mark.parametrize(
    "changes, message",
    [
        (["trainer.epoch=3"], "trainer.epoch: unknown key (nearest: epochs)"),
        (
            ['objective.args.mask={"type": "TubeBlok"}'],
            "objective.args.mask.type: 'TubeBlok' is no mask",
        ),
        (
            ["optimizer.type=AdamX"],
            "optimizer.type: 'AdamX' is no optimizer (nearest: Adam",
        ),
        (
            ['lr_scheduler={"type": "Cosine", "args": {"warmup": 3}}'],
            "lr_scheduler.args.warmup: unknown key",
        ),
        (["trainer.precision=fp8"], "trainer.precision: 'fp8' is given; known: fp32"),
        (
            ["trainer.monitor=max val_loss"],
            "'val_loss' is not measured without validation; known: loss",
        ),
        (
            ["trainer.accumulate=3"],
            "data_loader.0: 2 batches of 1 x 4 do not make one step of 3",
        ),
        (["data_loader.args.batch_size=100"], "lower"),
        (["data_loader.args.data_dir=/absent"], "/absent"),
        (["optimizer.args.lr=ten"], "optimizer.args.lr: 'ten' is given"),
        (['stages=[{"trainr": {}}]'], "stages.0.trainr: unknown key"),
        (
            ['stages=[{}, {"loss": {"args": {"temprature": 1}}}]'],
            "loss.args.temprature: unknown key",
        ),
        (["-r", "absent.pth"], "absent.pth: no such checkpoint"),
        (
            ['metrics=["foo"]'],
            "metrics: 'foo' is no metric; known: t2v_metrics, v2t_metrics",
        ),
        (['metrics=["t2v_metrics", 3]'], "metrics: ['t2v_metrics', 3] is given"),
        (
            ["metrics=t2v_metrics"],
            "metrics: 't2v_metrics' is given, a list of str is needed",
        ),
        (["metrics=[]"], "metrics: [] is given, a list of names"),
        (['stages=[{}, {"metrics": ["foo"]}]'], "metrics: 'foo' is no metric"),
        (['evaluation.rows=["dls"]'], "'dls' is no row of the evaluation"),
        (
            ['evaluation.rows=[{"type": "dsl", "args": {"temperature": 0}}]'],
            "dsl: temperature 0 is given",
        ),
        (["evaluation.rows=[3]"], "evaluation.rows: 3 is given"),
        (
            ["evaluation=[]"],
            "evaluation: [] is given, an object {...} or null is needed",
        ),
        (["trainer=[]"], "trainer: [] is given, an object {...} or null is needed"),
        (["valid_loader={}"], "valid_loader: {} is given"),
        (["valid_loader=[]"], "valid_loader: [] is given"),
        (["valid_loader=false"], "valid_loader: False is given"),
        (["objective={}"], "objective: {} is given"),
        (["lr_scheduler={}"], "lr_scheduler: {} is given"),
        (["data_loader={}"], "data_loader: {} is given"),
        (["data_loader=[]"], "data_loader: [] is given"),
        (["-d", "cuda:7"], "7"),
        (["name=3"], "name: 3 is given, str is needed"),
        (['name=""'], "name: '' is given; it names the run's folder"),
        (["name=../x"], "name: '../x' is given"),
        (["seed=x"], "seed: 'x' is given, int is needed"),
        (["seed=1", "trainer.seed=2"], "seed: 1 is given, and trainer.seed is 2"),
        (["optimizer.args.lr=-1"], "optimizer.args: Invalid learning rate: -1"),
        (["optimizer.args.lr=1e999"], "optimizer.args.lr: inf is given"),
        (["optimizer.args.betas=[0.9]"], "optimizer.args.betas: [0.9] is given, two"),
        (["optimizer.args.betas=[0.9, 2]"], "optimizer.args: Invalid beta"),
        (["optimizer.args.eps=-1"], "optimizer.args: Invalid epsilon"),
        (["optimizer.args.weight_decay=-1"], "optimizer.args: Invalid weight_decay"),
        (["optimizer.type=SGD"], "optimizer.args.lr: is missing"),
        (
            ["optimizer.type=SGD", "--lr", "0.1", "optimizer.args.nesterov=true"]
            + ["optimizer.args.momentum=0"],
            "optimizer.args: Nesterov momentum requires",
        ),
        (
            ["lr_scheduler.type=MultiStep", 'lr_scheduler.args.milestones="x"'],
            "lr_scheduler.args.milestones: 'x' is given, a list of float is needed",
        ),
        (
            ["lr_scheduler.type=MultiStep", "lr_scheduler.args.milestones=[3, 1]"],
            "lr_scheduler.args.milestones: 1 is given, 3 at least is needed",
        ),
        (
            ["lr_scheduler.type=MultiStep", "lr_scheduler.args.milestones=[1]"]
            + ["lr_scheduler.args.gamma=-1"],
            "lr_scheduler.args.gamma: -1 is given, 0 at least and 1 at most",
        ),
        (
            ["lr_scheduler.type=Cosine", "lr_scheduler.args.floor=1.5"],
            "lr_scheduler.args.floor: 1.5 is given",
        ),
        (
            ["lr_scheduler.type=Cosine", "lr_scheduler.args.warmup_epochs=-1"],
            "lr_scheduler.args.warmup_epochs: -1 is given",
        ),
        (
            ["lr_scheduler.type=Constant", "lr_scheduler.args.warmup_steps=2"],
            "lr_scheduler.args: the warm-up has 2 steps, and the whole run 2",
        ),
        (["trainer.early_stop=2"], "trainer.early_stop: 2 is given, and nothing"),
        (["data_loader.args.batch_size=1"], "batch_size: 1 is given, on one process"),
        (["trainer=3"], "trainer: 3 is given, an object {...} or null is needed"),
        (["arch=x"], "arch: 'x' is given, an object {...} is needed"),
        (["data_loader=null"], "data_loader: None is given"),
        (["metrics=t2v_metrics"], "metrics: 't2v_metrics' is given, a list of str"),
        (
            ["data_loader.args.video_params.num_frames=9"],
            "data_loader.args.video_params.num_frames: 9 frames are read, and the model takes",
        ),
        (
            ["data_loader.args.video_params.input_res=40"],
            "data_loader.args.video_params.input_res: clips of 40 x 40 pixels are read",
        ),
        (
            ["arch.args.video_params.img_size=[32, 64]"],
            "clips of 32 x 32 pixels are read, and the model takes 32 x 64",
        ),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, content, changes, message):
    assert message in error_line(capsys, tmp_path, content, *changes)


@pytest.mark.parametrize(
    "mistake", ["optimizer.args.lr=-1", "data_loader.args.video_params.input_res=40"]
)
def test_print_config_finds_the_mistakes_of_a_run(capsys, tmp_path, content, mistake):
    assert error_line(capsys, tmp_path, content, "--print-config", mistake)


def test_without_a_loader_the_section_is_named(capsys, tmp_path, content):
    without = {key: value for key, value in content.items() if key != "data_loader"}
    assert "data_loader: is missing" in error_line(capsys, tmp_path, without)
    empty = {**content, "data_loader": []}
    assert "data_loader: [] is given" in error_line(capsys, tmp_path, empty)


def test_a_folder_of_other_runs_stays_when_a_start_fails(capsys, tmp_path, content):
    other = tmp_path / "exps/tiny/0101_000000"
    other.mkdir(parents=True)
    with pytest.raises(SystemExit):
        run(tmp_path, content, "data_loader.args.data_dir=/absent")
    assert [path.name for path in (tmp_path / "exps/tiny").iterdir()] == [other.name]


def test_a_name_that_is_missing_and_a_checkpoint_of_another_model(
    capsys, tmp_path, content, home
):
    run(tmp_path, content)
    latest = next(tmp_path.glob("exps/tiny/*/checkpoint-latest.pth"))
    longer = [
        "-r",
        str(latest),
        "arch.args.projection_dim=8",
        "trainer.epochs=2",
    ]
    error = error_line(capsys, tmp_path, content, *longer)
    assert f"{latest}: does not fit this config" in error
    assert "(16," in error and "(8," in error
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": torch.load(latest)["state_dict"]}, weights)
    assert "training cannot go on from it" in error_line(
        capsys, tmp_path, content, "-r", str(weights)
    )
    nameless = {key: value for key, value in content.items() if key != "name"}
    assert "name: is missing" in error_line(capsys, tmp_path, nameless)
    # only the run that was done has a folder
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1


def test_each_run_has_its_folder_and_what_made_it(tmp_path, content):
    for _ in range(2):
        run(tmp_path, content, "trainer.log_every=7")
    folders = list(tmp_path.glob("exps/tiny/*"))
    assert len(folders) == 2
    for folder in folders:
        names = {path.name for path in folder.iterdir()}
        names = {name for name in names if not name.startswith(("events.", "."))}
        assert names == {
            "config.json",
            "versions.json",
            "log.jsonl",
            "checkpoint-latest.pth",
            "checkpoint-epoch1.pth",
        }
        assert (
            json.loads((folder / "config.json").read_text())["trainer"]["log_every"]
            == 7
        )
        versions = json.loads((folder / "versions.json").read_text())
        assert versions["packages"]["torch"]
        assert set(versions) == {"git", "python", "platform", "packages", "command"}


@pytest.mark.slow
def test_a_run_resumes_in_its_folder_and_an_older_checkpoint_in_a_new_one(
    tmp_path, content, caplog
):
    content["trainer"]["save_every"] = 1
    run(tmp_path, content, "-r", "auto")
    assert "-r auto: no checkpoint under" in caplog.text
    (folder,) = tmp_path.glob("exps/tiny/*")
    run(tmp_path, content, "-r", "auto", "trainer.epochs=2")
    assert (
        len(tiny_run.lines(folder, "epoch")) == 2
        and len(list(tmp_path.glob("exps/tiny/*"))) == 1
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(
        tmp_path,
        content,
        "-r",
        str(folder / "checkpoint-epoch1.pth"),
        "trainer.epochs=2",
        "--lr",
        "0.5",
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    (new_folder,) = set(tmp_path.glob("exps/tiny/*")) - {folder}
    assert [row["lr"] for row in tiny_run.lines(new_folder, "step")] == [0.5, 0.5]
    assert "optimizer.args.lr: 0.01 -> 0.5" in caplog.text
    content["trainer"]["epochs"] = 2
    run(tmp_path, content, "-r", "auto")
    assert "all 2 epochs are done" in caplog.text


@pytest.mark.slow
def test_a_run_from_before_centred_targets_goes_on_as_it_was(tmp_path, content, caplog):
    caplog.set_level(logging.INFO)
    older = {"target_norm": "none", "regress": "masked"}
    content["objective"]["args"] |= older
    run(tmp_path, content, "name=unbroken", "trainer.epochs=2")
    run(tmp_path, content, "name=older")
    for key in older:  # such settings did not exist
        del content["objective"]["args"][key]
    run(tmp_path, content, "-r", "auto", "name=older", "trainer.epochs=2")
    assert "an older run, it goes on with target_norm none" in caplog.text
    objectives = [
        checkpoint.read(next(tmp_path.glob(f"exps/{name}/*/checkpoint-latest.pth")))
        for name in ("unbroken", "older")
    ]
    first, second = (state["objective"] for state in objectives)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def finish(tmp_path, content, name, **trainer):
    """A finished run of one epoch; returns its folder."""
    run(tmp_path, content, f"name={name}")
    return max(tmp_path.glob(f"exps/{name}/*/config.json")).parent


@pytest.mark.slow
def test_a_run_of_a_longer_name_is_another_run(tmp_path, content, caplog):
    finish(tmp_path, content, "ft/lr1")
    caplog.clear()
    run(tmp_path, content, "-r", "auto", "name=ft")
    assert "-r auto: no checkpoint under" in caplog.text
    assert len(list(tmp_path.glob("exps/ft/*/config.json"))) == 1


@pytest.mark.slow
def test_what_is_in_the_checkpoints_decides_which_is_newest(tmp_path, content, caplog):
    """Not the names of folders, nor the times of files, nor copies."""
    older = finish(tmp_path, content, "ft")
    newer = finish(tmp_path, {**content, "seed": 4}, "ft")
    shutil.copytree(newer, newer.with_name("zz_copy"))
    older = older.rename(older.with_name("zzz"))
    for path in older.glob("*.pth"):
        os.utime(path, (4e9, 4e9))
    caplog.clear()
    run(tmp_path, content, "-r", "auto", "name=ft", "trainer.epochs=2")
    assert f"going on from {newer}" in caplog.text
    assert len(tiny_run.lines(newer, "epoch")) == 2
    assert len(tiny_run.lines(older, "epoch")) == 1


@pytest.mark.slow
def test_a_finished_run_says_how_to_train_on_and_makes_no_folder(
    tmp_path, content, caplog
):
    folder = finish(tmp_path, content, "tiny")
    for resume in (folder, folder / "checkpoint-latest.pth", "auto"):
        caplog.clear()
        run(tmp_path, content, "-r", str(resume))
        path = folder / "checkpoint-latest.pth"
        assert "all 1 epochs are done; to train on, give trainer.epochs" in caplog.text
        assert f"arch.args.load_checkpoint={path} without -r" in caplog.text
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1


@pytest.mark.slow
def test_a_run_that_stopped_early_says_so(tmp_path, content, caplog):
    stops = ["trainer.monitor=min loss", "trainer.early_stop=1", "trainer.epochs=5"]
    run(tmp_path, content, *stops, "optimizer.args.lr=0")
    (folder,) = tmp_path.glob("exps/tiny/*")
    assert len(tiny_run.lines(folder, "epoch")) < 5
    caplog.clear()
    run(tmp_path, content, *stops, "-r", str(folder))
    assert "stopped early after epoch" in caplog.text
    assert "give trainer.early_stop=0" in caplog.text


def test_a_folder_without_checkpoints_is_named(capsys, tmp_path, content):
    (tmp_path / "empty").mkdir()
    error = error_line(capsys, tmp_path, content, "-r", str(tmp_path / "empty"))
    assert "empty: is a folder without a checkpoint" in error


@pytest.mark.slow
def test_validation_split(tmp_path, content, caplog, home):
    del content["valid_loader"]
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    (row,) = tiny_run.lines(folder, "epoch")
    assert {"val_loss", "val_loss_vt", "val_loss_mvm", "t2v.R1", "v2t.MedR"} <= set(row)
    assert (folder / "model_best.pth").is_file()
    data_dir = tiny_run.write_data(tmp_path / "without_val", train=4)
    content["data_loader"]["args"]["data_dir"] = str(data_dir)
    run(tmp_path, content)
    assert "no validation: " in caplog.text
    tiny_run.write_data(data_dir, test=3)
    run(
        tmp_path,
        {**content, "valid_loader": tiny_run.loader(data_dir, 2, split="test")},
    )
    assert "validation is on the test split" in caplog.text


@pytest.mark.parametrize("given", [{"split": "train"}, {}])
def test_validation_on_the_training_split_is_refused(
    capsys, tmp_path, content, home, given
):
    loader = tiny_run.loader(home / "data", 2, **given)
    if not given:
        loader["args"].pop("split", None)
    content["valid_loader"] = loader
    error = error_line(capsys, tmp_path, content)
    assert "valid_loader.args.split: is 'train'" in error


def test_several_validation_loaders_are_refused(capsys, tmp_path, content, home):
    loader = tiny_run.loader(home / "data", 2, split="val")
    content["valid_loader"] = [loader, loader]
    error = error_line(capsys, tmp_path, content)
    assert "valid_loader: 2 loaders are given, validation reads one" in error


def msrvtt_loader(folder, **args):
    args = {"dataset_name": "MSRVTT", "cut": "jsfusion", **args}
    return tiny_run.loader(folder, 2, **args)


@pytest.mark.slow
def test_validation_of_msrvtt_is_on_held_out_training_videos(tmp_path, content, caplog):
    miniatures.build("MSRVTT", tmp_path / "msrvtt", "Frozen", videos=8)
    caplog.set_level(logging.INFO)
    loader = msrvtt_loader(tmp_path / "msrvtt", holdout=3)
    del content["valid_loader"]
    run(tmp_path, {**content, "data_loader": loader})
    assert "MSRVTT jsfusion train: 3 of 8 training videos are held out" in caplog.text
    assert "MSRVTT jsfusion val: 3 videos, 3 captions" in caplog.text
    assert "chance in this gallery, text to video: R1 33.3" in caplog.text
    assert "warning: few queries (3 of t2v and 3 of v2t)" in caplog.text
    assert "test split" not in caplog.text
    (row,) = tiny_run.lines(next(tmp_path.glob("exps/tiny/*")), "epoch")
    assert row["t2v.R5"] == 100


@pytest.mark.slow
def test_a_gallery_that_is_trained_on_is_named(tmp_path, content, caplog):
    folder = tmp_path / "whole"
    for i in range(4):
        miniatures.write_media(folder / f"{i}.mp4", i)
        miniatures.write_text(folder / f"{i}.txt", miniatures.sentence(i))
    loader = tiny_run.loader(folder, 2, dataset_name="VideoFolder")
    del content["valid_loader"]
    run(tmp_path, {**content, "data_loader": loader})
    assert "4 of 4 clips are also trained on" in caplog.text


def test_held_out_videos_that_are_trained_on_are_refused(capsys, tmp_path, content):
    miniatures.build("MSRVTT", tmp_path / "msrvtt", "Frozen", videos=8)
    content["data_loader"] = msrvtt_loader(tmp_path / "msrvtt", holdout=3)
    content["valid_loader"] = msrvtt_loader(
        tmp_path / "msrvtt", holdout=3, holdout_seed=1, split="val"
    )
    error = error_line(capsys, tmp_path, content)
    assert "held-out videos of MSRVTT jsfusion val are trained on" in error


def with_footage(home, content, **args):
    """`content` on captioned pictures and, in turn, on pictures without captions."""
    data = home / "data"
    loaders = [
        tiny_run.loader(data, 4),
        tiny_run.loader(data, 2, with_captions=False, **args),
    ]
    return {**content, "data_loader": loaders}


@pytest.mark.parametrize("place", ["args", "dataset_params"])
def test_an_objective_that_needs_captions_refuses_footage(
    capsys, tmp_path, home, content, place
):
    content = with_footage(home, content)
    if place == "dataset_params":
        footage = tiny_run.loader(
            home / "data", 2, dataset_params={"with_captions": False}
        )
        content["data_loader"][1] = footage
    content["objective"] = {"type": "Contrastive", "args": {}}
    assert (
        "data_loader.1.args.with_captions: false is given, and Contrastive needs captions"
        in error_line(capsys, tmp_path, content)
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_footage_is_nothing_to_validate_on(capsys, tmp_path, home, content, split):
    content = with_footage(home, content)
    content["valid_loader"] = tiny_run.loader(
        home / "data", 2, split=split, with_captions=False
    )
    assert (
        "valid_loader.args.with_captions: false is given, and retrieval is judged by captions"
        in error_line(capsys, tmp_path, content)
    )


@pytest.mark.parametrize("captions", [[], [" "]])
def test_a_gallery_without_captions_is_nothing_to_validate_on(
    capsys, tmp_path, content, captions
):
    data_dir = tiny_run.write_data(tmp_path / "gallery", val=2)
    rows = [{"path": "0.png", "captions": captions}, {"path": "1.png", "captions": []}]
    path = data_dir / "val.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    content["valid_loader"] = tiny_run.loader(data_dir, 1, split="val")
    error = error_line(capsys, tmp_path, content)
    assert "JsonlDataset val: none of its" in error and "videos has a caption" in error


@pytest.mark.slow
def test_validation_is_on_the_first_data_set_with_captions(
    tmp_path, home, content, caplog
):
    content = with_footage(home, content)
    content["data_loader"].reverse()
    del content["valid_loader"]
    run(tmp_path, content)
    assert "JsonlDataset train: 8 clips, 1 frames of 32 px, without" in caplog.text
    (folder,) = tmp_path.glob("exps/tiny/*")
    (row,) = tiny_run.lines(folder, "epoch")
    assert {"val_loss_vt", "t2v.R1"} <= set(row)
    content["data_loader"] = content["data_loader"][:1]
    run(tmp_path, content)
    assert "no validation: no training data set has captions" in caplog.text


@pytest.mark.slow
def test_footage_in_turn_is_logged_by_its_steps_and_resumes_bit_for_bit(
    tmp_path, home, content, monkeypatch
):
    content = with_footage(home, content)
    content["optimizer"]["args"]["weight_decay"] = 0.1
    content["trainer"]["epochs"] = 2
    run(tmp_path, content, "name=unbroken")
    (unbroken,) = tmp_path.glob("exps/unbroken/*")

    take_step = Trainer._train_step

    def stop_after(last_step):
        def take_and_stop(self, *arguments):
            take_step(self, *arguments)
            if self.state.step == last_step:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "_train_step", take_and_stop)

    # once between a captioned step and one without captions, once after the latter
    for last_step in (3, 6):
        stop_after(last_step)
        with pytest.raises(SystemExit) as left:
            run(tmp_path, content, "-r", "auto", "name=broken")
        assert left.value.code == 75
    monkeypatch.setattr(Trainer, "_train_step", take_step)
    run(tmp_path, content, "-r", "auto", "name=broken")
    (broken,) = tmp_path.glob("exps/broken/*")

    digests = {
        killing.digest(folder / "checkpoint-latest.pth")
        for folder in (unbroken, broken)
    }
    assert len(digests) == 1
    check_losses(unbroken, broken)


def check_losses(*folders):
    """Captioned steps have both losses, the others one; an epoch's means are over the steps that have them."""
    epochs = []
    for folder in folders:
        steps = tiny_run.lines(folder, "step")
        assert [row["step"] for row in steps] == list(range(1, 9))
        for row in steps:
            assert ("loss_vt" in row) == (row["step"] % 2 == 1) and "loss_mvm" in row
        for row in tiny_run.lines(folder, "epoch"):
            of_epoch = [step for step in steps if step["epoch"] == row["epoch"]]
            captioned, footage = of_epoch[::2], of_epoch[1::2]
            vt = [step["loss_vt"] for step in captioned]
            assert row["loss_vt"] == pytest.approx(sum(vt) / len(vt), rel=1e-6)
            assert row["loss_vt/JsonlDataset"] == pytest.approx(row["loss_vt"])
            assert "loss_vt/JsonlDataset_2" not in row
            alone = sum(step["loss_mvm"] for step in footage) / len(footage)
            both = sum(step["loss_mvm"] for step in captioned) / len(captioned)
            assert row["loss_mvm/JsonlDataset_2"] == pytest.approx(alone, rel=1e-6)
            # batches of 4 and of 2
            mean = (4 * both + 2 * alone) / 6
            assert row["loss_mvm"] == pytest.approx(mean, rel=1e-6)
        losses = [
            {name: value for name, value in row.items() if name.startswith("loss")}
            for row in tiny_run.lines(folder, "epoch")
        ]
        epochs.append(losses)
    assert all(losses == epochs[0] for losses in epochs) and len(epochs[0]) == 2


@pytest.mark.slow
def test_a_branch_of_a_run_has_a_best_checkpoint_of_its_own(tmp_path, content, caplog):
    watched = {**content["trainer"], "monitor": "min loss", "save_every": 1}
    content = {**content, "trainer": {**watched, "epochs": 2}}
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    older = str(folder / "checkpoint-epoch1.pth")
    run(tmp_path, content, "-r", older, "--lr", "0")
    assert "optimizer.args.lr: 0 is given, nothing is trained" in caplog.text
    (branch,) = set(tmp_path.glob("exps/tiny/*")) - {folder}
    assert (branch / "model_best.pth").is_file()


@pytest.mark.slow
def test_two_jobs_do_not_write_in_one_folder(tmp_path, content, capsys, monkeypatch):
    """A lock belongs to a process, so that the second job must be another process."""
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    holder = killing.hold(folder)
    monkeypatch.setattr(lock, "WAIT", 0.3)
    assert "another process is still writing there" in error_line(
        capsys, tmp_path, content, "-r", "auto"
    )
    monkeypatch.setattr(lock, "WAIT", 60)
    threading.Timer(0.5, holder.kill).start()
    run(tmp_path, content, "-r", "auto", "trainer.epochs=2")
    assert len(tiny_run.lines(folder, "epoch")) == 2


def curriculum(home, tmp_path):
    """A config of two stages: pictures, then clips of four frames."""
    clips = tiny_run.write_data(tmp_path / "clips", ".mp4", train=6)
    config = tiny_run.config(
        home,
        None,
        {"save_dir": str(tmp_path / "exps"), "save_every": 1},
        valid_loader=None,
    )
    del config["data_loader"]
    frames = {"arch": {"args": {"video_params": {"num_frames": 1}}}}
    first = {
        "name": "1f",
        "data_loader": tiny_run.loader(home / "data", 4),
        "trainer": {"epochs": 1},
        **frames,
    }
    second = {
        "name": "4f",
        "data_loader": tiny_run.loader(clips, 2, frames=4),
        "trainer": {"epochs": 2},
    }
    return {**config, "stages": [first, second]}


@pytest.mark.slow
def test_stages_follow_each_other_and_are_resumed_in_the_right_one(
    home, tmp_path, caplog
):
    content = curriculum(home, tmp_path)
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "stage1_1f",
        "stage2_4f",
    }
    first = torch.load(folder / "stage1_1f/checkpoint-latest.pth")
    second = torch.load(folder / "stage2_4f/checkpoint-latest.pth")
    time_embedding = "video_model.temporal_embed"
    assert first["state_dict"][time_embedding].shape[1] == 1
    assert second["state_dict"][time_embedding].shape[1] == 4
    assert (first["step"], second["step"], second["trainer"]["stage"]) == (2, 6, 1)
    assert "mask_token_D is taken over from the stage before" in caplog.text
    second_config = json.loads((folder / "stage2_4f/config.json").read_text())
    assert second_config["arch"]["args"]["load_checkpoint"] == str(
        folder / "stage1_1f/checkpoint-latest.pth"
    )
    caplog.clear()
    run(tmp_path, content, "-r", "auto")
    assert "stage2_4f/checkpoint-latest.pth: all 2 epochs are done" in caplog.text
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1
    # cut off between the stages, and within the second: the end is the same
    for name in (
        "checkpoint-latest.pth",
        "checkpoint-epoch1.pth",
        "checkpoint-epoch2.pth",
    ):
        (folder / "stage2_4f" / name).unlink()
    run(tmp_path, content, "-r", "auto")
    assert killing.digest(folder / "stage2_4f/checkpoint-latest.pth") == digest(
        tmp_path, second
    )
    (folder / "stage2_4f/checkpoint-latest.pth").unlink()
    (folder / "stage2_4f/checkpoint-epoch2.pth").unlink()
    run(tmp_path, content, "-r", "auto")
    assert "going on from" in caplog.text and "checkpoint-epoch1.pth" in caplog.text
    assert killing.digest(folder / "stage2_4f/checkpoint-latest.pth") == digest(
        tmp_path, second
    )

    # resumed with the stage's config, which has no stages
    train.cli(
        [
            "-r",
            str(folder / "stage2_4f/checkpoint-latest.pth"),
            "-d",
            "cpu",
            "trainer.epochs=3",
        ]
    )
    assert (
        torch.load(folder / "stage2_4f/checkpoint-latest.pth")["trainer"]["epoch"] == 3
    )


def digest(tmp_path, state):
    torch.save(state, tmp_path / "state.pth")
    return killing.digest(tmp_path / "state.pth")


def test_a_stage_starts_from_the_last_ones_weights(home, tmp_path):
    content = curriculum(home, tmp_path)
    run(tmp_path, content, "stages.1.optimizer.args.lr=0.0")
    (folder,) = tmp_path.glob("exps/tiny/*")
    first = torch.load(folder / "stage1_1f/checkpoint-latest.pth")
    second = torch.load(folder / "stage2_4f/checkpoint-latest.pth")
    for name, tensor in first["state_dict"].items():
        if name != "video_model.temporal_embed":
            assert torch.equal(tensor, second["state_dict"][name]), name
    assert torch.equal(
        first["objective"]["mask_token_D"], second["objective"]["mask_token_D"]
    )


@pytest.mark.parametrize(
    "setting",
    ["projection_dim=32", "video_params.depth=2", "text_params.model=elsewhere"],
)
def test_stages_whose_weights_do_not_fit_are_refused_at_the_start(
    home, tmp_path, capsys, setting
):
    content = curriculum(home, tmp_path)
    error = error_line(capsys, tmp_path, content, f"stages.1.arch.args.{setting}")
    name = setting.partition("=")[0]
    assert f"stages.1.arch.args.{name}: " in error
    assert "its weights would not fit" in error


def test_stages_are_merged_over_the_whole_config(tmp_path):
    config = Config(
        {
            "name": "x",
            "arch": {"type": "MILES", "args": {"projection_dim": 8}},
            "trainer": {"save_dir": str(tmp_path), "epochs": 7, "seed": 3},
            "stages": [
                {"name": "a", "trainer": {"epochs": 1}},
                {"arch": {"args": {"projection_dim": 4}}},
            ],
        }
    )
    first, second = stages(config)
    assert trainer_settings(first.config).epochs == 1
    assert trainer_settings(second.config).epochs == 7
    assert trainer_settings(second.config).seed == 3
    assert (first.folder.name, second.folder.name) == ("stage1_a", "stage2_x")
    assert first.before is None
    assert second.before == first.folder / "checkpoint-latest.pth"
    assert "stages" not in second.config
    assert second.config["arch"]["args"].to_dict() == {
        "projection_dim": 4,
        "load_checkpoint": str(second.before),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision, extra",
    [
        ("bf16", []),
        ("fp32", ["trainer.accumulate=2", "data_loader.args.batch_size=2"]),
        ("fp32", ["trainer.gradient_checkpointing=true"]),
        ("tf32", ["trainer.clip_grad_norm=0.1"]),
    ],
)
def test_every_setting_of_the_step_trains_and_resumes_exactly(
    tmp_path, content, precision, extra
):
    settings = [f"trainer.precision={precision}", "trainer.save_every=1", *extra]
    run(tmp_path, content, "trainer.epochs=2", *settings)
    (unbroken,) = tmp_path.glob("exps/tiny/*")
    settings.append(f"trainer.save_dir={tmp_path / 'resumed'}")
    run(tmp_path, content, *settings)
    run(tmp_path, content, "-r", "auto", "trainer.epochs=2", *settings)
    (resumed,) = tmp_path.glob("resumed/tiny/*")
    assert killing.digest(unbroken / "checkpoint-latest.pth") == killing.digest(
        resumed / "checkpoint-latest.pth"
    )


def test_compile_takes_every_tower_in_place(tmp_path, content, monkeypatch):
    names = []

    def record_name(module):
        names.append(type(module).__name__)

    monkeypatch.setattr(torch.nn.Module, "compile", record_name)
    run(tmp_path, content, "trainer.compile=true")
    assert sorted(names) == [
        "DistilBertModel",
        "SpaceTimeTransformer",
        "SpaceTimeTransformer",
    ]


@pytest.mark.slow
def test_shards_write_the_checkpoint_that_one_process_goes_on_from(
    tmp_path, content, home
):
    """FSDP2 and validation on unequal shares: whole tensors by the released names."""
    content = {
        **content,
        "data_loader": tiny_run.loader(home / "data", 1),
        "valid_loader": tiny_run.loader(home / "data", 3, split="val"),
    }
    content["trainer"].update(parallel="fsdp2", save_every=3)
    path = tiny_run.save(tmp_path / "config.json", content)
    assert killing.run(path, "trainer.init_val=true", processes=2) == [0, 0], (
        tmp_path / killing.OUTPUT
    ).read_text()
    (folder,) = tmp_path.glob("exps/tiny/*")
    state = torch.load(folder / "checkpoint-latest.pth", weights_only=True)
    assert state["state_dict"]["vid_proj.0.weight"].shape == (16, 24)
    assert "mask_token_D" in state["objective"]
    assert (
        type(state["optimizer"]["model.vid_proj.0.weight"]["exp_avg"]) is torch.Tensor
    )
    assert killing.run(path, "-r", "auto", "trainer.epochs=2", processes=2) == [0, 0]
    one_process = ["trainer.epochs=3", "data_loader.args.batch_size=2"]
    assert killing.run(path, "-r", "auto", *one_process) == [0], (
        tmp_path / killing.OUTPUT
    ).read_text()
    assert len(tiny_run.lines(folder, "epoch")) == 3


@pytest.mark.slow
def test_torchrun_starts_it_too(tmp_path, content):
    finished = tiny_run.train(
        tiny_run.save(tmp_path / "config.json", content), processes=2
    )
    assert finished.returncode == 0, finished.stdout
    assert "processes: 2 on cpu, ddp" in finished.stdout
    assert finished.stdout.count("run folder: ") == 1
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]
)
@pytest.mark.parametrize("where", ["warn_of_shared_clips", "require_captions"])
def test_a_signal_before_training_leaves_no_folder(
    tmp_path, content, monkeypatch, caplog, number, status, where
):
    def be_signalled(*_):
        os.kill(os.getpid(), number)
        raise AssertionError("it went on after the signal")

    monkeypatch.setattr(train, where, be_signalled)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, content)
    assert end.value.code == status
    assert f"{signal.Signals(number).name} before the first step" in caplog.text
    assert not (tmp_path / "exps").exists()


def test_ctrl_c_in_the_first_batch_leaves_no_folder(tmp_path, content, monkeypatch):
    def be_signalled(self, position):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on after the signal")

    monkeypatch.setattr(RoundRobinLoader, "batches_taken", be_signalled)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, content)
    assert end.value.code == 130
    assert not (tmp_path / "exps").exists()


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_save_dir_that_is_no_folder_is_one_line(capsys, tmp_path, content, kind):
    save_dir = tmp_path / "taken"
    if kind == "file":
        save_dir.touch()
    else:
        save_dir.symlink_to(tmp_path / "nowhere")
    line = error_line(capsys, tmp_path, content, f"trainer.save_dir={save_dir}")
    assert f"{save_dir}" in line and ("Not a directory" in line or "exists" in line)


@pytest.mark.parametrize("name", ["log.jsonl", ".config.json.part"])
def test_a_full_disk_is_one_line(capsys, tmp_path, content, monkeypatch, name):
    def create_folder(folder):
        new = new_folder(folder)
        (new / name).symlink_to("/dev/full")
        return new

    monkeypatch.setattr("trainer.stages.new_folder", create_folder)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, content)
    assert end.value.code == 2
    (line,) = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("error: ")
    ]
    file = name.removeprefix(".").removesuffix(".part")
    assert f"/{file}: No space left on device; make room there" in line


@pytest.mark.parametrize(
    "changes, message",
    [
        (["trainer.wandb=true"], "trainer.wandb: there is no key; run wandb login"),
        (["trainer.wandb=true", "name=a:b"], "name: 'a:b' is given, and wandb refuses"),
        (['trainer.wandb={"id": "a/b"}'], "trainer.wandb.id: 'a/b' is given, and"),
    ],
)
def test_wandb_is_looked_at_before_data_are_read(
    capsys, tmp_path, content, monkeypatch, changes, message
):
    fake = types.SimpleNamespace(api=types.SimpleNamespace(api_key=None))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(train, "build", None)
    assert message in error_line(capsys, tmp_path, content, *changes)


def test_wandb_that_is_not_installed_is_told_before_data_are_read(
    capsys, tmp_path, content, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(train, "build", None)
    line = error_line(capsys, tmp_path, content, "trainer.wandb=true")
    assert "trainer.wandb: wandb is not installed; pip install wandb" in line


@pytest.mark.parametrize("number, name", [(0, "stage1_a:b"), (1, "stage2_a:b")])
def test_the_names_of_stages_are_told_to_wandb_too(monkeypatch, number, name):
    fake = types.SimpleNamespace(api=types.SimpleNamespace(api_key="key"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    names = ["plain", "plain"]
    names[number] = "a:b"
    config = Config(
        {
            "name": "run",
            "trainer": {"wandb": True},
            "stages": [{"name": name} for name in names],
        }
    )
    with pytest.raises(ConfigError, match=name):
        stages(config)
