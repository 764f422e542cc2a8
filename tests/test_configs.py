"""Every config in configs/ names things that exist, with arguments that they take; a typo in one fails here."""

import subprocess
from operator import attrgetter
from pathlib import Path

import pytest
import torch

from data_loader import LOADERS
from data_loader.datasets import DATASETS
from data_loader.settings import video_settings
from model import ARCHS
from model.loss import LOSSES
from model.mask import MASKS
from model.metric import METRICS
from model.predictor import PREDICTORS
from model.teacher import TEACHERS
from model.video import VIDEO_ENCODERS
from model.video.build import full_arguments
from parse_config import Config, check_args, load_config, merge
from scripts.synthetic import tiny_models
from trainer.objectives import OBJECTIVES
from trainer.optim import OPTIMIZERS, SCHEDULES
from trainer.settings import trainer_settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.json") if path.name != "schema.json"
)
IDS = [path.name for path in CONFIGS]
METHODS = sorted((ROOT / "configs/method").glob("*.json"))
SUPPLIED = (
    "model",
    "loss",
    "module",
    "tokenize",
    "rank",
    "world_size",
    "seed",
    "student",
    "width",
)


def check_block(registry, block):
    """The type of a block is registered and takes its arguments."""
    constructor = registry.get(block["type"], f"{block.json_path}.type")
    check_args(constructor, block.get("args", {}), f"{block.json_path}.args", SUPPLIED)


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("STAGE1", "stage1.pth")


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_every_name_and_argument_is_known(path):
    check_config(load_config(path))


@pytest.mark.parametrize("path", METHODS, ids=attrgetter("stem"))
@pytest.mark.parametrize("base", ["", "configs/demo.json", "configs/ablation.json"])
def test_every_method_runs_on_webvid_and_on_generated_clips(path, base, tmp_path):
    overrides = [f"base={ROOT / base}"] if base else []
    config = load_config(path, overrides)
    check_config(config)
    dataset = "JsonlDataset" if base else "WebVid"
    assert config.blocks("data_loader")[0]["args"]["dataset_name"] == dataset
    assert "arXiv" in config["about"] and config["name"] == f"method_{path.stem}"
    model = ARCHS.build(
        tiny_models.arch_config(
            tiny_models.save_text_model(tmp_path / "text"), depth=4, img_size=64
        )
    )
    objective = OBJECTIVES.build(
        config["objective"], model=model, loss=LOSSES.build(config["loss"])
    )
    objective.before_step(1, 2)
    batch = {**tiny_models.random_batch(2), "video": torch.randn(2, 4, 3, 64, 64)}
    losses = objective(batch)
    losses["loss"].backward()
    assert losses["loss"].isfinite()


def check_config(config: Config) -> None:
    """Every section of every stage names what exists, with arguments that it takes."""
    common = {key: value for key, value in config.to_dict().items() if key != "stages"}
    for stage in config.blocks("stages") or ({},):
        check_stage(Config(merge(common, stage)))


def check_stage(config: Config) -> None:
    trainer_settings(config)
    check_block(ARCHS, config["arch"])
    encoder = full_arguments(config["arch"]["args"].get("video_params") or {})
    VIDEO_ENCODERS.get(encoder["model"])
    check_loaders(config, encoder["num_frames"])
    check_block(LOSSES, config["loss"])
    check_block(OPTIMIZERS, config["optimizer"])
    for section, registry in (("objective", OBJECTIVES), ("lr_scheduler", SCHEDULES)):
        if section in config:
            check_block(registry, config[section])
    objective_args = config.get("objective", {}).get("args", {})
    for argument, registry in (
        ("mask", MASKS),
        ("teacher", TEACHERS),
        ("mvm_loss", LOSSES),
        ("predictor", PREDICTORS),
    ):
        if objective_args.get(argument) is not None:
            check_block(registry, objective_args[argument])
    assert set(config["metrics"]) <= set(METRICS.names())


def check_loaders(config: Config, max_frames: int) -> None:
    """Every loader names a data set, and its clips have no more frames than the encoder takes."""
    blocks = (*config.blocks("data_loader"), *config.blocks("valid_loader"))
    assert blocks, "a config without data"
    for block in blocks:
        check_block(LOADERS, block)
        args = block["args"]
        DATASETS.get(args["dataset_name"])
        settings = video_settings(args.get("video_params"), args.get("split", "train"))
        assert settings.num_frames <= max_frames


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if "MILES" not in path.name],
    ids=attrgetter("name"),
)
def test_about_gives_a_command_that_exists(path):
    about = load_config(path)["about"]
    words = about.split("  -- ")[0].split()
    script = next(word for word in words if word.endswith((".sh", ".py")))
    assert (ROOT / script).is_file() and "  -- " in about or script == "scripts/demo.sh"
    assert not [
        word for word in words if word.endswith(".json") and not (ROOT / word).is_file()
    ]


@pytest.mark.parametrize(
    "script, message",
    [
        ("pretrain_cc3m_webvid_1f.sh", "CC3M_DIR"),
        ("pretrain_webvid_4f.sh", "WEBVID_DIR"),
        ("pretrain_curriculum.sh", "CC3M_DIR"),
        ("test_retrieval_MILES.sh", "MILES.md"),
        ("test_retrieval.sh", "configs/zero_msvd.json"),
        ("finetune.sh", "configs/finetune_didemo.json"),
    ],
)
def test_recipes_say_what_is_missing_from_any_folder(
    script, message, tmp_path, monkeypatch
):
    for name in ("CC3M_DIR", "WEBVID_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setenv("CHECKPOINT", str(tmp_path / "nothing.pth"))
    finished = subprocess.run(
        ["bash", str(ROOT / "scripts" / script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert "missing: " in finished.stderr
    assert message in finished.stderr
