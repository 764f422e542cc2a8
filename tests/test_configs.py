"""Every config in configs/ names things that exist, with arguments that they take; a typo in one fails here."""

import subprocess
from pathlib import Path

import pytest

from data_loader import LOADERS
from data_loader.datasets import DATASETS
from data_loader.settings import video_settings
from model import ARCHS
from model.loss import LOSSES
from model.mask import MASKS
from model.metric import METRICS
from model.teacher import TEACHERS
from model.video import VIDEO_ENCODERS
from parse_config import Config, check_args, load_config, merge
from trainer.objectives import OBJECTIVES
from trainer.optim import OPTIMIZERS, SCHEDULES
from trainer.settings import trainer_settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.json") if path.name != "schema.json")
IDS = [path.name for path in CONFIGS]
SUPPLIED = ("model", "loss", "module", "tokenize", "rank", "world_size", "seed", "student")


def check(registry, block):
    thing = registry.get(block["type"], f"{block.json_path}.type")
    check_args(thing, block.get("args", {}), f"{block.json_path}.args", SUPPLIED)


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("STAGE1", "stage1.pth")


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_every_name_and_argument_is_known(path):
    check_config(load_config(path))


def check_config(whole: Config):
    """Every section of every stage names what exists, with arguments that it takes."""
    for stage in whole.blocks("stages") or ({},):
        config = Config(merge({k: v for k, v in whole.to_dict().items() if k != "stages"}, stage))
        trainer_settings(config)
        check(ARCHS, config["arch"])
        video = config["arch"]["args"]["video_params"]
        VIDEO_ENCODERS.get(video["model"])
        blocks = (*config.blocks("data_loader"), *config.blocks("valid_loader"))
        assert blocks, "a config without data"
        for block in blocks:
            check(LOADERS, block)
            DATASETS.get(block["args"]["dataset_name"])
            chosen = video_settings(
                block["args"]["video_params"], block["args"].get("split", "train")
            )
            assert chosen.num_frames <= video["num_frames"]
        check(LOSSES, config["loss"])
        check(OPTIMIZERS, config["optimizer"])
        for section, registry in (("objective", OBJECTIVES), ("lr_scheduler", SCHEDULES)):
            if section in config:
                check(registry, config[section])
        parts = config.get("objective", {}).get("args", {})
        for part, registry in (("mask", MASKS), ("teacher", TEACHERS), ("mvm_loss", LOSSES)):
            if part in parts:
                check(registry, parts[part])
        assert set(config["metrics"]) <= set(METRICS.names())


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if "MILES" not in p.name], ids=lambda p: p.name
)
def test_about_gives_a_command_that_exists(path):
    about = load_config(path)["about"]
    words = about.split("  -- ")[0].split()
    script = next(word for word in words if word.endswith((".sh", ".py")))
    assert (ROOT / script).is_file() and "  -- " in about or script == "scripts/demo.sh"
    assert not [word for word in words if word.endswith(".json") and not (ROOT / word).is_file()]


@pytest.mark.parametrize(
    "script, says",
    [
        ("pretrain_cc3m_webvid_1f.sh", "CC3M_DIR"),
        ("pretrain_webvid_4f.sh", "WEBVID_DIR"),
        ("pretrain_curriculum.sh", "CC3M_DIR"),
        ("test_retrieval_MILES.sh", "MILES.md"),
        ("test_retrieval.sh", "configs/zero_msvd.json"),
        ("finetune.sh", "configs/finetune_didemo.json"),
    ],
)
def test_recipes_say_what_is_missing_from_any_folder(script, says, tmp_path, monkeypatch):
    for name in ("CC3M_DIR", "WEBVID_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setenv("CHECKPOINT", str(tmp_path / "nothing.pth"))
    said = subprocess.run(
        ["bash", str(ROOT / "scripts" / script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert said.returncode == 2 and "missing: " in said.stderr and says in said.stderr
