"""Every config in configs/ run as its "about" says, through its bash script, from another folder: miniatures in the
real layouts, a tiny model by settings at the end, two steps and an exam. A config without an entry here fails."""

import json
import math
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from scripts import export
from scripts.synthetic import miniatures, tiny_models
from tests.helpers import warm_python
from tests.helpers.tiny_run import lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    {path.name for path in (ROOT / "configs").glob("*.json")} - {"schema.json"}
)
VIDEOS = 4  # a split of a miniature


class Train(NamedTuple):
    """A config of train.py: the folders it reads, its stages' folders in the run, its processes."""

    folders: tuple[str, ...]
    stages: tuple[str, ...] = ("",)
    processes: int = 1
    parts: tuple[str, ...] = ("loss", "loss_vt")


class Zero(NamedTuple):
    """A config of test.py: the folder it reads, the protocol that results.json must name, its counts for VIDEOS."""

    folder: str
    protocol: str
    stamp: str


PRETRAIN, MVM = ("CC3M_DIR", "WEBVID_DIR"), ("loss", "loss_vt", "loss_mvm")
BOTH = ("stage1_1f", "stage2_4f")
RECIPES: dict[str, Train | Zero] = {
    "pretrain_cc3m_webvid_1f.json": Train(PRETRAIN, parts=MVM),
    "pretrain_webvid_4f.json": Train(("WEBVID_DIR",), parts=MVM),
    "pretrain_curriculum.json": Train(PRETRAIN, BOTH, parts=MVM),
    "pretrain_curriculum_no_mvm.json": Train(PRETRAIN, BOTH),
    "pretrain_curriculum_frozen_teacher.json": Train(PRETRAIN, BOTH, parts=MVM),
    "pretrain_curriculum_as_drawn.json": Train(PRETRAIN, BOTH, parts=MVM),
    "finetune_msrvtt.json": Train(("MSRVTT_DIR",)),
    "finetune_msvd.json": Train(("MSVD_DIR",), processes=2),
    "finetune_lsmdc.json": Train(("LSMDC_DIR",)),
    "finetune_didemo.json": Train(("DIDEMO_DIR",)),
    "zero_msrvtt_4f_i21k_MILES.json": Zero(
        "MSRVTT_DIR", "msrvtt-1k-A", "4 of 1000 videos, 4 of 1000 captions"
    ),
    "zero_msvd.json": Zero(
        "MSVD_DIR", "msvd-all-captions", "4 of 670 videos, 10 of 27763 captions"
    ),
    "zero_lsmdc.json": Zero(
        "LSMDC_DIR", "lsmdc-1000", "4 of 1000 videos, 4 of 1000 captions"
    ),
    "zero_didemo.json": Zero(
        "DIDEMO_DIR", "didemo-paragraph", "4 of 1004 videos, 4 of 1004 captions"
    ),
    "zero_ucf101.json": Zero(
        "UCF101_DIR", "ucf101-split1", "4 of 3783 videos, 4 of 3783 captions"
    ),
    "zero_hmdb51.json": Zero(
        "HMDB51_DIR", "hmdb51-split1", "4 of 1530 videos, 4 of 1530 captions"
    ),
}
ELSEWHERE = {
    "demo.json": (
        "scripts/demo.sh",
        "tests/test_readme.py",
    ),  # its data are made by the script itself
    "ablation.json": ("scripts/ablation.py", "tests/scripts/test_ablation.py"),
}
TRAINED = [name for name, recipe in RECIPES.items() if isinstance(recipe, Train)]
EXAMINED = [name for name, recipe in RECIPES.items() if isinstance(recipe, Zero)]
DATA = {
    "CC3M_DIR": "ConceptualCaptions3M",
    "WEBVID_DIR": "WebVid",
    "MSRVTT_DIR": "MSRVTT",
    "MSVD_DIR": "MSVD",
    "LSMDC_DIR": "LSMDC",
    "DIDEMO_DIR": "DiDeMo",
    "UCF101_DIR": "UCF101",
    "HMDB51_DIR": "HMDB51",
}


def test_every_config_is_run_by_a_test():
    untested = set(CONFIGS) - set(RECIPES) - set(ELSEWHERE)
    assert not untested, f"configs without an entry in RECIPES: {sorted(untested)}"
    assert set(RECIPES) | set(ELSEWHERE) == set(CONFIGS), (
        "an entry whose config is gone"
    )
    for script, test in ELSEWHERE.values():
        assert (ROOT / script).is_file() and Path(script).stem in (
            ROOT / test
        ).read_text()


@pytest.fixture(scope="module")
def python():
    with warm_python.serve() as path:
        yield path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """text/, MILES.pth of the authors' layout, and folders made at need."""
    folder = tmp_path_factory.mktemp("recipes")
    arch = tiny_models.arch_config(tiny_models.save_text_model(folder / "text"))
    model = tiny_models.build_miles(str(folder / "text"))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(
                parameter, std=0.3
            )  # a fresh model says the same of every clip
    torch.save(
        {
            "arch": "MILES",
            "epoch": 1,
            "state_dict": model.state_dict(),
            "config": {"arch": arch},
        },
        folder / "trained.pth",
    )
    export.main(folder / "trained.pth", folder / "MILES.pth", "authors", teacher=False)
    return folder


def data(home: Path, variable: str) -> Path:
    """The miniature for a variable, in the first of its real layouts."""
    folder = home / "data" / DATA[variable]
    if not folder.is_dir():
        miniatures.build(DATA[variable], folder, videos=VIDEOS)
    return folder


def small(home: Path, config: str) -> list[str]:
    """Settings that make the model tiny and the run two steps (a stage)."""
    return tiny_models.command_line_overrides(
        home / "text", "stages." if "curriculum" in config else ""
    )


def raw(config: str) -> dict[str, Any]:
    """The file as it is, without what lies under it."""
    return json.loads((ROOT / "configs" / config).read_text())


def about(config: str) -> tuple[dict[str, str], list[str]]:
    """(variables, words after bash) of the command that "about" gives."""
    words = shlex.split(raw(config)["about"].partition("  -- ")[0])
    place = words.index("bash")
    return dict(word.split("=", 1) for word in words[:place]), words[place + 1 :]


def bash(
    home: Path, words: list[str], settings: list[str], **variables: Any
) -> subprocess.CompletedProcess:
    """`bash words settings` as a user types it, from a folder that is not the repository."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GPUS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",  # some virtual machines promise AMX and trap
        **{key: str(value) for key, value in variables.items()},
    }
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return subprocess.run(
        ["bash", str(ROOT / words[0]), *words[1:], *settings],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def check_run(folder: Path, parts: tuple[str, ...]):
    """Two steps with finite losses, an exam, a checkpoint that torch alone reads."""
    steps, (epoch,) = lines(folder, "step"), lines(folder, "epoch")
    assert len(steps) == 2 and epoch["step"] == 2
    for row in steps:
        assert {key for key in row if key.startswith("loss")} >= set(parts)
        assert all(math.isfinite(row[key]) for key in (*parts, "grad_norm"))
    assert "loss_mvm" in parts or "loss_mvm" not in steps[0]
    assert 0 <= epoch["t2v.R1"] <= 100 and math.isfinite(epoch["val_loss"])
    state = torch.load(folder / "checkpoint-latest.pth", weights_only=True)
    assert state["step"] == 2 and all(
        tensor.isfinite().all() for tensor in state["state_dict"].values()
    )
    assert (folder / "model_best.pth").is_file() and (folder / "config.json").is_file()
    return state


@pytest.mark.parametrize("config", TRAINED)
def test_training(home, python, tmp_path, config):
    recipe = RECIPES[config]
    variables, words = about(config)
    for name in set(variables):
        variables[name] = home / "MILES.pth"  # CHECKPOINT, STAGE1
    variables |= {name: data(home, name) for name in recipe.folders}
    settings = small(home, config) + ["data_loader.args.batch_size=1"] * (
        recipe.processes > 1
    )
    if config == "finetune_msrvtt.json":  # by default none of 4 videos is held out
        settings += ["data_loader.args.holdout=2"]
        miniatures.build("MSRVTT", tmp_path / "msrvtt", videos=6)
        variables["MSRVTT_DIR"] = tmp_path / "msrvtt"
    done = bash(
        home,
        words,
        settings,
        **variables,
        PYTHON=python,
        SAVE_DIR=tmp_path / "exps",
        GPUS=recipe.processes,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "exps" / raw(config)["name"]).iterdir()
    assert f"{recipe.processes} on cpu" in done.stderr
    for stage in recipe.stages:
        check_run(run / stage, recipe.parts)


@pytest.mark.parametrize(
    "config", [config for config in EXAMINED if "MILES" not in config]
)
def test_zero_shot(home, python, tmp_path, config):
    _, words = about(config)
    recipe = RECIPES[config]
    variables = {
        "CHECKPOINT": "../MILES.pth",
        "SAVE_DIR": tmp_path / "exps",
        recipe.folder: data(home, recipe.folder),
    }
    done = bash(home, words, small(home, config), **variables, PYTHON=python)
    assert done.returncode == 0, done.stderr[-3000:]
    check_results(tmp_path / "exps", recipe, done.stdout)


def check_results(exps: Path, recipe: Zero, said: str):
    """The protocol, its counts, numbers in their range, and what the console showed of them."""
    (path,) = exps.glob("*/test/*/results.json")
    results = json.loads(path.read_text())
    assert (results["protocol"], results["stamp"]) == (recipe.protocol, recipe.stamp)
    assert (results["coverage"]["missing"], results["checkpoint"]["path"][-9:]) == (
        [],
        "MILES.pth",
    )
    numbers = (
        [results["recognition"]["top1"]]
        if "recognition" in results
        else [
            results[way][name] for way in ("t2v", "v2t") for name in ("R1", "R5", "R10")
        ]
    )
    assert all(0 <= number <= 100 for number in numbers) and f"{numbers[0]:.2f}" in said
    assert (
        recipe.stamp in said
        and "published" in said
        and str(path.relative_to(exps)) in said
    )


def test_the_released_config_unedited_in_the_authors_way(home, python, tmp_path):
    """MILES.pth lies in the repository, MSR-VTT in data/MSRVTT; the script alone, no variables."""
    here = tmp_path / "repository"
    (here / "data").mkdir(parents=True)
    for name in ("configs", "scripts", "test.py"):
        (here / name).symlink_to(ROOT / name)
    (here / "MILES.pth").symlink_to(home / "MILES.pth")
    (here / "data/MSRVTT").symlink_to(data(home, "MSRVTT_DIR"))
    config, recipe = (
        "zero_msrvtt_4f_i21k_MILES.json",
        RECIPES["zero_msrvtt_4f_i21k_MILES.json"],
    )
    settings = [word for word in small(home, config) if not word.startswith("trainer.")]
    done = bash(
        home, [str(here / "scripts/test_retrieval_MILES.sh")], settings, PYTHON=python
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data_loader.args.question has no meaning here" in done.stderr
    check_results(here / "exps", recipe, done.stdout)


def test_what_is_missing_is_counted(home, python, tmp_path):
    """A file that is not there stops the exam in one line; with "skip" the result says how many are left."""
    miniatures.build("MSRVTT", tmp_path / "some", videos=VIDEOS)
    gone = max(
        (tmp_path / "some/videos/all").iterdir(), key=lambda path: int(path.stem[5:])
    )
    gone.unlink()
    words = ["scripts/test_retrieval_MILES.sh"]
    variables = {
        "PYTHON": python,
        "CHECKPOINT": "../MILES.pth",
        "SAVE_DIR": "exps",
        "MSRVTT_DIR": os.path.relpath(tmp_path / "some", home / "elsewhere"),
    }
    settings = small(home, "zero_msrvtt_4f_i21k_MILES.json")
    done = bash(
        home,
        words,
        [*settings, "data_loader.args.video_params.loading=strict"],
        **variables,
    )
    assert (
        done.returncode == 2
        and f"1 of 4 videos are not in {home / 'elsewhere'}" in done.stderr
    )
    assert gone.name in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    done = bash(
        home,
        words,
        [*settings, "data_loader.args.video_params.loading=skip"],
        **variables,
    )
    (path,) = (home / "elsewhere/exps").glob(
        "MSRVTT/test/*/results.json"
    )  # relative to where the caller was
    assert (
        done.returncode == 0
        and json.loads(path.read_text())["stamp"]
        == "3 of 1000 videos, 3 of 1000 captions"
    )


@pytest.mark.parametrize("config", RECIPES)
def test_a_folder_that_is_missing_is_said_with_where_to_get_it(home, tmp_path, config):
    recipe, nowhere = RECIPES[config], dict.fromkeys(DATA, "nowhere")
    words = (
        ["scripts/test_retrieval_MILES.sh"] if "MILES" in config else about(config)[1]
    )
    for name in recipe.folders if isinstance(recipe, Train) else (recipe.folder,):
        there = {other: tmp_path for other in DATA if other != name}
        done = bash(
            home,
            words,
            [],
            **{**nowhere, **there},
            CHECKPOINT="../MILES.pth",
            STAGE1="../MILES.pth",
            PYTHON="/bin/false",
        )
        first, second = done.stderr.splitlines()
        assert (
            done.returncode == 2
            and first == f"missing: the folder nowhere (set {name} to where it is)"
        )
        assert "https://" in second or "WebVid" in second


def test_a_data_set_of_ones_own_by_a_config_of_a_few_lines(home, python, tmp_path):
    """As finetune.sh is told to: base, dataset_name, data_dir."""
    args, _ = miniatures.build("JsonlDataset", tmp_path / "mine", videos=VIDEOS)
    over = {
        "args": {
            "dataset_name": "JsonlDataset",
            "data_dir": args["data_dir"],
            "cut": None,
        }
    }
    base = os.path.relpath(ROOT / "configs/finetune_msrvtt.json", tmp_path)
    config = {"base": base, "name": "mine", "data_loader": over}
    miniatures.write_text(tmp_path / "mine.json", json.dumps(config))
    done = bash(
        home,
        ["scripts/finetune.sh", str(tmp_path / "mine.json")],
        small(home, "finetune_msrvtt.json"),
        PYTHON=python,
        CHECKPOINT="../MILES.pth",
        SAVE_DIR=tmp_path / "exps",
        MSRVTT_DIR="nowhere",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "exps/mine").iterdir()
    assert "JsonlDataset val: 4 clips" in done.stderr and check_run(
        run, ("loss", "loss_vt")
    )
