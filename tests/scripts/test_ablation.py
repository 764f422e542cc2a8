"""scripts/ablation.py: variants are what they are called, runs are resumed and not repeated, means are means."""

import json
import os
import subprocess
import sys

import numpy
import pytest
import torch

from model import ARCHS
from model.loss import LOSSES
from parse_config import load_config
from scripts import ablation
from scripts.benchmarks import ablation_report
from scripts.synthetic import tiny_models
from tests.helpers.tiny_run import ROOT
from trainer.objectives import OBJECTIVES

pytestmark = pytest.mark.slow

NAMES = sorted({**ablation.VARIANTS, **ablation.MORE_VARIANTS})
QUICK = (
    "arch.args.video_params.depth=1",
    "data_loader.args.batch_size=8",
    "trainer.epochs=2",
    "trainer.save_every=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation") / "data"
    small = (
        "--objects",
        "2",
        "--train",
        "16",
        "--val",
        "2",
        "--test",
        "8",
        "--frames",
        "6",
    )
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/make_demo_data.py"),
            "--out",
            str(folder),
            *small,
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    return folder


def run(data, out, *arguments):
    command = [
        sys.executable,
        str(ROOT / "scripts/ablation.py"),
        "--out",
        str(out),
        *arguments,
        *QUICK,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "ABLATION_DIR": str(data), "HF_HUB_OFFLINE": "1"},
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_differs_from_miles_in_what_it_is_called_after(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("ABLATION_DIR", str(tmp_path))
    base = load_config(ROOT / "configs/ablation.json").to_dict()
    config = ablation.run_config(
        base, {**ablation.VARIANTS, **ablation.MORE_VARIANTS}[name][1], seed=7
    )
    assert config["trainer"]["seed"] == 7
    model = ARCHS.build(
        tiny_models.arch_config(tiny_models.save_text_model(tmp_path / "text"))
    )
    objective = OBJECTIVES.build(
        config["objective"], model=model, loss=LOSSES.build(config["loss"])
    )
    facts = {"objective": type(objective).__name__}
    if facts["objective"] == "MILESPretraining":
        mask = objective.mask(2, (4, 16, 16), torch.device("cpu"))
        facts |= {
            "mask": type(objective.mask).__name__,
            "ratio": round(float(mask.float().mean()), 2),
            "teacher": type(objective.teacher).__name__,
            "space": objective.target_space,
            "view": objective.contrast_view,
            "weight": objective.mvm_weight,
        }
    miles = {
        "objective": "MILESPretraining",
        "mask": "TubeBlock",
        "ratio": 0.5,
        "teacher": "EMA",
        "space": "joint",
        "view": "masked",
        "weight": 1.0,
    }
    differs = {
        "miles": {},
        "frozen": {"teacher": "Frozen"},
        "scattered": {"mask": "Tube"},
        "encoder": {"space": "encoder"},
        "ratio30": {"ratio": 0.3},
        "ratio75": {"ratio": 0.75},
        "clean": {"view": "full"},
        "masked": {"weight": 0.0},
        "weight4": {"weight": 4.0},
        "clean_masked": {"view": "full", "weight": 0.0},
    }
    assert facts == (
        {"objective": "Contrastive"}
        if name == "contrastive"
        else {**miles, **differs[name]}
    )


def test_two_variants_from_data_to_table_and_on_after_a_kill(data, tmp_path):
    out = tmp_path / "out"
    chosen = ("--variants", "contrastive,miles", "--seeds", "3")
    said = run(data, out, *chosen)
    assert said.returncode == 0, said.stderr + "".join(
        p.read_text() for p in out.rglob("*.log")
    )
    assert "2 runs, 0 of them done" in said.stdout
    results = {
        name: out / f"runs/{name}/seed3/test/results.json"
        for name in ("contrastive", "miles")
    }
    numbers = {name: json.loads(path.read_text()) for name, path in results.items()}
    rows = json.loads((out / "ablation.json").read_text())
    for name, found in numbers.items():
        assert found["num_videos"] == 8 and found["config"]["trainer"]["seed"] == 3
        assert rows[name]["t2v.R5"]["mean"] == found["t2v"]["R5"] and rows[name][
            "seeds"
        ] == [3]
    assert numbers["contrastive"]["config"]["objective"]["type"] == "Contrastive"
    assert (out / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert "| MILES | 1 |" in (out / "ablation.md").read_text()

    # As a kill leaves it: trained, not examined. The run goes on from its checkpoint, the finished one is not touched.
    weights = next((out / "runs/miles/seed3").glob("*/checkpoint-latest.pth"))
    before, first = weights.read_bytes(), results["contrastive"].stat().st_mtime_ns
    results["miles"].rename(results["miles"].parent.parent / "old.json")
    results["miles"].parent.rename(results["miles"].parent.with_name("test.part"))
    again = run(data, out, *chosen)
    assert again.returncode == 0, again.stderr + again.stdout
    assert (
        "2 runs, 1 of them done" in again.stdout
        and results["contrastive"].stat().st_mtime_ns == first
    )
    assert (
        weights.read_bytes() == before
        and len(list((out / "runs/miles/seed3").glob("*/log.jsonl"))) == 1
    )
    assert json.loads(results["miles"].read_text())["t2v"] == numbers["miles"]["t2v"]


def test_other_settings_and_unknown_names_are_refused(data, tmp_path):
    out = tmp_path / "out"
    assert run(data, out, "--report").returncode == 0
    other = run(data, out, "--report", "optimizer.args.lr=1")
    assert other.returncode == 2 and "holds runs with other settings" in other.stderr
    unknown = run(data, out, "--variants", "contrastiv")
    assert (
        unknown.returncode == 2
        and "'contrastiv' is given; known: contrastive, miles" in unknown.stderr
    )


def test_a_run_that_fails_is_named(data, tmp_path):
    said = run(
        data,
        tmp_path / "out",
        "--variants",
        "miles",
        "--seeds",
        "0",
        "optimizer.args.lr=0.1",
        "data_loader.args.subsample=0.01",
    )
    assert (
        said.returncode == 2
        and "1 runs failed: see" in said.stderr
        and "miles/seed0.log" in said.stderr
    )
    assert "error:" in (tmp_path / "out/runs/miles/seed0.log").read_text()


def test_means_and_deviations(tmp_path):
    numbers = numpy.random.default_rng(0).uniform(0, 100, (2, 3, 4)).round(1)
    paths = {}
    for i, name in enumerate(("contrastive", "miles")):
        for seed in range(3):
            path = tmp_path / f"{name}{seed}.json"
            r1, r5, med, back = numbers[i, seed].tolist()
            if (name, seed) != ("miles", 1):  # not done yet
                path.write_text(
                    json.dumps(
                        {"t2v": {"R1": r1, "R5": r5, "MedR": med}, "v2t": {"R1": back}}
                    )
                )
            paths[name, seed] = path
    text = ablation_report.write(
        tmp_path, paths, {"contrastive": "contrastive only", "miles": "MILES"}
    )
    rows = json.loads((tmp_path / "ablation.json").read_text())
    assert rows["miles"]["seeds"] == [0, 2] and "| MILES | 2 of 3 |" in text
    for i, (name, seeds) in enumerate((("contrastive", [0, 1, 2]), ("miles", [0, 2]))):
        for column, key in enumerate(("t2v.R1", "t2v.R5", "t2v.MedR", "v2t.R1")):
            values = numbers[i, seeds, column]
            assert rows[name][key]["mean"] == pytest.approx(numpy.mean(values))
            assert rows[name][key]["std"] == pytest.approx(numpy.std(values, ddof=1))
    paired = numbers[1, [0, 2], 0] - numbers[0, [0, 2], 0]
    assert rows["miles"]["t2v.R1"]["difference"]["mean"] == pytest.approx(
        numpy.mean(paired)
    )
    assert f"{numpy.mean(paired):+.1f} +- {numpy.std(paired, ddof=1):.1f}" in text
