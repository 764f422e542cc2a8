"""train.py as a user starts it: one line for a mistake, folders of their own, stages, python and torchrun."""

import json
import threading

import pytest
import torch

import train
from parse_config import Config
from tests.helpers import killing, tiny_run
from trainer import lock
from trainer.settings import trainer_settings
from trainer.stages import stages


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiny_run.write_data(folder / "data", train=8, val=4)
    return folder


@pytest.fixture
def content(home, tmp_path):
    made = tiny_run.config(
        home, tiny_run.loader(home / "data", 4), {"epochs": 1, "save_dir": str(tmp_path / "exps")}
    )
    return {**made, "valid_loader": None}


def run(tmp_path, content, *arguments):
    return train.cli(
        ["-c", str(tiny_run.save(tmp_path / "config.json", content)), "-d", "cpu", *arguments]
    )


def refused(capsys, tmp_path, content, *arguments):
    """The one line of a mistake."""
    with pytest.raises(SystemExit) as left:
        run(tmp_path, content, *arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert left.value.code == 2 and len(said) == 1
    assert not list(tmp_path.glob("exps/tiny/*")) or "-r" in arguments or "name" not in content
    return said[0]


@pytest.mark.parametrize(
    "changes, said",
    [
        (["trainer.epoch=3"], "trainer.epoch: unknown key (nearest: epochs)"),
        (
            ['objective.args.mask={"type": "TubeBlok"}'],
            "objective.args.mask.type: 'TubeBlok' is no mask",
        ),
        (["optimizer.type=AdamX"], "optimizer.type: 'AdamX' is no optimizer (nearest: Adam"),
        (
            ['lr_scheduler={"type": "Cosine", "args": {"warmup": 3}}'],
            "lr_scheduler.args.warmup: unknown key",
        ),
        (["trainer.precision=fp8"], "trainer.precision: 'fp8' is given; known: fp32"),
        (
            ["trainer.monitor=max val_loss"],
            "'val_loss' is not measured without validation; known: loss",
        ),
        (["trainer.accumulate=3"], "data_loader.0: 2 batches of 1 x 4 do not make one step of 3"),
        (["data_loader.args.batch_size=100"], "lower"),
        (["data_loader.args.data_dir=/absent"], "/absent"),
        (["optimizer.args.lr=ten"], "optimizer.args.lr: 'ten' is given"),
        (['stages=[{"trainr": {}}]'], "stages.0.trainr: unknown key"),
        (
            ['stages=[{}, {"loss": {"args": {"temprature": 1}}}]'],
            "loss.args.temprature: unknown key",
        ),
        (["-r", "absent.pth"], "absent.pth: no such checkpoint"),
        (["-d", "cuda:7"], "7"),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, content, changes, said):
    assert said in refused(capsys, tmp_path, content, *changes)


def test_a_name_that_is_missing_and_a_checkpoint_of_another_model(capsys, tmp_path, content, home):
    run(tmp_path, content)
    latest = next(tmp_path.glob("exps/tiny/*/checkpoint-latest.pth"))
    said = refused(capsys, tmp_path, content, "-r", str(latest), "arch.args.projection_dim=8")
    assert f"{latest}: does not fit this config" in said and "(16," in said and "(8," in said
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": torch.load(latest)["state_dict"]}, weights)
    assert "training cannot go on from it" in refused(capsys, tmp_path, content, "-r", str(weights))
    assert "name: is missing" in refused(
        capsys, tmp_path, {k: v for k, v in content.items() if k != "name"}
    )
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1  # what was refused left no folder


def test_each_run_has_its_folder_and_what_made_it(tmp_path, content):
    for _ in range(2):
        run(tmp_path, content, "trainer.log_every=7")
    folders = list(tmp_path.glob("exps/tiny/*"))
    assert len(folders) == 2
    for folder in folders:
        there = {
            path.name for path in folder.iterdir() if not path.name.startswith(("events.", "."))
        }
        assert there == {
            "config.json",
            "versions.json",
            "log.jsonl",
            "checkpoint-latest.pth",
            "checkpoint-epoch1.pth",
        }
        assert json.loads((folder / "config.json").read_text())["trainer"]["log_every"] == 7
        versions = json.loads((folder / "versions.json").read_text())
        assert (
            versions["packages"]["torch"] == torch.__version__.partition("+")[0]
            or versions["packages"]["torch"]
        )
        assert set(versions) == {"git", "python", "platform", "packages", "command"}


def test_resume_in_the_same_folder_or_beside_it(tmp_path, content, caplog):
    content["trainer"]["save_every"] = 1
    run(tmp_path, content, "-r", "auto")
    assert "-r auto: no checkpoint under" in caplog.text
    (folder,) = tmp_path.glob("exps/tiny/*")
    run(tmp_path, content, "-r", "auto", "trainer.epochs=2")
    assert (
        len(tiny_run.lines(folder, "epoch")) == 2 and len(list(tmp_path.glob("exps/tiny/*"))) == 1
    )
    older = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(
        tmp_path,
        content,
        "-r",
        str(folder / "checkpoint-epoch1.pth"),
        "trainer.epochs=2",
        "--lr",
        "0.5",
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == older
    (other,) = set(tmp_path.glob("exps/tiny/*")) - {folder}
    assert [row["lr"] for row in tiny_run.lines(other, "step")] == [0.5, 0.5]
    assert "optimizer.args.lr: 0.01 -> 0.5" in caplog.text
    content["trainer"]["epochs"] = 2
    assert run(tmp_path, content, "-r", "auto") is None and "all 2 epochs are done" in caplog.text


def test_validation_split(tmp_path, content, caplog, home):
    del content["valid_loader"]
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    (row,) = tiny_run.lines(folder, "epoch")
    assert {"val_loss", "val_loss_vt", "val_loss_mvm", "t2v.R1", "v2t.MedR"} <= set(row)
    assert (folder / "model_best.pth").is_file()
    alone = tiny_run.write_data(tmp_path / "alone", train=4)
    content["data_loader"]["args"]["data_dir"] = str(alone)
    run(tmp_path, content)
    assert "no validation: " in caplog.text
    tiny_run.write_data(alone, test=3)
    run(tmp_path, {**content, "valid_loader": tiny_run.loader(alone, 2, split="test")})
    assert "validation is on the test split" in caplog.text


def test_two_jobs_do_not_write_in_one_folder(tmp_path, content, capsys, monkeypatch):
    """A lock is a process's own: the other job must be another process."""
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    other = killing.hold(folder)
    monkeypatch.setattr(lock, "WAIT", 0.3)
    assert "another process is still writing there" in refused(
        capsys, tmp_path, content, "-r", "auto"
    )
    monkeypatch.setattr(lock, "WAIT", 60)
    threading.Timer(0.5, other.kill).start()
    run(tmp_path, content, "-r", "auto", "trainer.epochs=2")
    assert len(tiny_run.lines(folder, "epoch")) == 2


def curriculum(home, tmp_path):
    clips = tiny_run.write_data(tmp_path / "clips", ".mp4", train=6)
    made = tiny_run.config(
        home, None, {"save_dir": str(tmp_path / "exps"), "save_every": 1}, valid_loader=None
    )
    del made["data_loader"]
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
    return {**made, "stages": [first, second]}


def test_stages_follow_each_other_and_are_resumed_in_the_right_one(home, tmp_path, caplog):
    content = curriculum(home, tmp_path)
    run(tmp_path, content)
    (folder,) = tmp_path.glob("exps/tiny/*")
    assert {path.name for path in folder.iterdir()} == {".lock", "stage1_1f", "stage2_4f"}
    one, two = (
        torch.load(folder / name / "checkpoint-latest.pth") for name in ("stage1_1f", "stage2_4f")
    )
    time_embedding = "video_model.temporal_embed"
    assert (
        one["state_dict"][time_embedding].shape[1],
        two["state_dict"][time_embedding].shape[1],
    ) == (1, 4)
    assert (one["step"], two["step"], two["trainer"]["stage"]) == (2, 6, 1)
    assert "mask_token_D is taken over from the stage before" in caplog.text
    said = json.loads((folder / "stage2_4f/config.json").read_text())
    assert said["arch"]["args"]["load_checkpoint"] == str(
        folder / "stage1_1f/checkpoint-latest.pth"
    )
    caplog.clear()
    run(tmp_path, content, "-r", "auto")
    assert (
        "stage2_4f: all 2 epochs are done" in caplog.text
        and len(list(tmp_path.glob("exps/tiny/*"))) == 1
    )
    # cut off between the stages, and within the second: the end is the same
    for name in ("checkpoint-latest.pth", "checkpoint-epoch1.pth", "checkpoint-epoch2.pth"):
        (folder / "stage2_4f" / name).unlink()
    run(tmp_path, content, "-r", "auto")
    assert killing.digest(folder / "stage2_4f/checkpoint-latest.pth") == digest(tmp_path, two)
    (folder / "stage2_4f/checkpoint-latest.pth").unlink()
    (folder / "stage2_4f/checkpoint-epoch2.pth").unlink()
    run(tmp_path, content, "-r", "auto")
    assert "going on from" in caplog.text and "checkpoint-epoch1.pth" in caplog.text
    assert killing.digest(folder / "stage2_4f/checkpoint-latest.pth") == digest(tmp_path, two)

    # by its own config, which knows no stages
    train.cli(
        ["-r", str(folder / "stage2_4f/checkpoint-latest.pth"), "-d", "cpu", "trainer.epochs=3"]
    )
    assert torch.load(folder / "stage2_4f/checkpoint-latest.pth")["trainer"]["epoch"] == 3


def digest(tmp_path, state):
    torch.save(state, tmp_path / "state.pth")
    return killing.digest(tmp_path / "state.pth")


def test_a_stage_starts_from_the_last_ones_weights(home, tmp_path):
    content = curriculum(home, tmp_path)
    run(tmp_path, content, "stages.1.optimizer.args.lr=0.0")
    (folder,) = tmp_path.glob("exps/tiny/*")
    one, two = (
        torch.load(folder / name / "checkpoint-latest.pth") for name in ("stage1_1f", "stage2_4f")
    )
    for name, tensor in one["state_dict"].items():
        if name != "video_model.temporal_embed":
            assert torch.equal(tensor, two["state_dict"][name]), name
    assert torch.equal(one["objective"]["mask_token_D"], two["objective"]["mask_token_D"])


def test_stages_are_laid_over_the_top(tmp_path):
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
    one, two = stages(config)
    assert (
        trainer_settings(one.config).epochs,
        trainer_settings(two.config).epochs,
        trainer_settings(two.config).seed,
    ) == (1, 7, 3)
    assert (one.folder.name, two.folder.name, one.before) == ("stage1_a", "stage2_x", None)
    assert two.before == one.folder / "checkpoint-latest.pth" and "stages" not in two.config
    assert two.config["arch"]["args"].to_dict() == {
        "projection_dim": 4,
        "load_checkpoint": str(two.before),
    }


@pytest.mark.parametrize(
    "precision, extra",
    [
        ("bf16", []),
        ("fp32", ["trainer.accumulate=2", "data_loader.args.batch_size=2"]),
        ("fp32", ["trainer.gradient_checkpointing=true"]),
        ("tf32", ["trainer.clip_grad_norm=0.1"]),
    ],
)
def test_every_setting_of_the_step_trains_and_resumes_exactly(tmp_path, content, precision, extra):
    trainer_settings = [f"trainer.precision={precision}", "trainer.save_every=1", *extra]
    run(tmp_path, content, "trainer.epochs=2", *trainer_settings)
    (whole,) = tmp_path.glob("exps/tiny/*")
    run(tmp_path, content, "trainer.save_dir=" + str(tmp_path / "cut"), *trainer_settings)
    run(
        tmp_path,
        content,
        "-r",
        "auto",
        "trainer.epochs=2",
        "trainer.save_dir=" + str(tmp_path / "cut"),
        *trainer_settings,
    )
    (cut,) = tmp_path.glob("cut/tiny/*")
    assert killing.digest(whole / "checkpoint-latest.pth") == killing.digest(
        cut / "checkpoint-latest.pth"
    )


def test_compile_takes_every_tower_in_place(tmp_path, content, monkeypatch):
    names = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: names.append(type(self).__name__))
    run(tmp_path, content, "trainer.compile=true")
    assert sorted(names) == ["DistilBertModel", "SpaceTimeTransformer", "SpaceTimeTransformer"]


def test_shards_write_the_checkpoint_that_one_process_goes_on_from(tmp_path, content, home):
    """FSDP2 and validation on unequal shares: whole tensors by the released names."""
    content = {
        **content,
        "data_loader": tiny_run.loader(home / "data", 1),
        "valid_loader": tiny_run.loader(home / "data", 3, split="val"),
    }
    content["trainer"].update(parallel="fsdp2", save_every=3)
    path = tiny_run.save(tmp_path / "config.json", content)
    assert killing.run(path, "trainer.init_val=true", processes=2) == [0, 0], (
        tmp_path / killing.SAID
    ).read_text()
    (folder,) = tmp_path.glob("exps/tiny/*")
    state = torch.load(folder / "checkpoint-latest.pth", weights_only=True)
    assert (
        state["state_dict"]["vid_proj.0.weight"].shape == (16, 24)
        and "mask_token_D" in state["objective"]
    )
    assert type(state["optimizer"]["model.vid_proj.0.weight"]["exp_avg"]) is torch.Tensor
    assert killing.run(path, "-r", "auto", "trainer.epochs=2", processes=2) == [0, 0]
    assert killing.run(path, "-r", "auto", "trainer.epochs=3") == [0], (
        tmp_path / killing.SAID
    ).read_text()
    assert len(tiny_run.lines(folder, "epoch")) == 3


def test_torchrun_starts_it_too(tmp_path, content):
    done = tiny_run.train(tiny_run.save(tmp_path / "config.json", content), processes=2)
    assert done.returncode == 0, done.stdout
    assert "processes: 2 on cpu, ddp" in done.stdout and done.stdout.count("run folder: ") == 1
    assert len(list(tmp_path.glob("exps/tiny/*"))) == 1
