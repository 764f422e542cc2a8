"""scripts/ablation.py: runs are made once, go on after a kill, and the report says of them what NumPy says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from parse_config import Config
from scripts import ablation
from scripts.benchmarks import ablation_plan, ablation_report, ablation_runs
from scripts.benchmarks.ablation_plan import Run, Sizes
from tests.helpers.tiny_run import ROOT

pytestmark = pytest.mark.slow

SIZES = {"train": 16, "val": 8, "test": 8, "captioned": 8}
QUICK = (
    "arch.args.video_params.depth=1",
    "data_loader.args.batch_size=8",
    "trainer.epochs=2",
    "trainer.save_every=1",
    "lr_scheduler.args.warmup_steps=2",  # of 4 steps
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of worlds, the smallest there is in it."""
    folder = tmp_path_factory.mktemp("ablation")
    ablation_runs.make_data(folder / "sparse", "sparse", Sizes(**SIZES))
    return folder


def words(data, out, *arguments):
    sizes = [f"--{name}={count}" for name, count in SIZES.items()]
    folders = ["--out", str(out), "--data", str(data)]
    return [
        *folders,
        *sizes,
        "--worlds",
        "sparse",
        "--measure",
        "retrieval",
        *arguments,
    ]


def run(data, out, *arguments, overrides=QUICK):
    script = str(ROOT / "scripts/ablation.py")
    return subprocess.run(
        [sys.executable, script, *words(data, out, *overrides, *arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=ENVIRONMENT,
    )


def logs(out):
    return "".join(path.read_text() for path in out.rglob("*.log"))


def test_two_variants_from_data_to_table_and_on_after_a_kill(data, tmp_path):
    out = tmp_path / "out"
    chosen = ("--variants", "contrastive,miles", "--seeds", "3,4")
    said = run(data, out, *chosen)
    assert said.returncode == 0, said.stderr + logs(out)
    assert "4 runs, 0 of them done" in said.stdout
    assert "4/4 sparse, steps: miles, seed 4: done in" in said.stdout
    report = json.loads((out / "ablation.json").read_text())
    results = {
        (variant, seed): out
        / f"runs/sparse/steps/{variant}/seed{seed}/test/results.json"
        for variant in ("contrastive", "miles")
        for seed in (3, 4)
    }
    numbers = {key: json.loads(path.read_text()) for key, path in results.items()}
    assert len(report["runs"]) == 4
    for record in report["runs"]:
        found = numbers[record["variant"], record["seed"]]
        assert found["num_videos"] == 8 and found["split"] == "test"
        assert found["config"]["trainer"]["seed"] == record["seed"]
        assert record["metrics"]["t2v.R5"] == found["t2v"]["R5"]
        assert record["code_revision"] == found["git_revision"]
        assert (record["steps"], record["threads"]) == (4, 1)
        assert set(record["seconds"]) == {"train", "retrieval", "epochs"}
        saved = json.loads(
            Path(found["checkpoint"]["path"]).with_name("config.json").read_text()
        )
        assert ablation_plan.settings_hash(saved) == record["settings_sha256"]
    for seed in (3, 4):
        starts = [numbers[v, seed]["config"] for v in ("contrastive", "miles")]
        assert starts[0]["objective"]["type"] == "Contrastive"
        assert starts[0]["trainer"]["seed"] == starts[1]["trainer"]["seed"]
    assert (out / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    assert "| MILES | 2 |" in (out / "ablation.md").read_text()

    # As a kill leaves it: trained, half examined. The run goes on, the finished ones are not touched.
    folder = out / "runs/sparse/steps/miles/seed3"
    weights = next(folder.glob("*/checkpoint-latest.pth"))
    before = weights.read_bytes()
    first = results["contrastive", 3].stat().st_mtime_ns
    (folder / "test").rename(folder / "part_test")
    again = run(data, out, *chosen)
    assert again.returncode == 0, again.stderr + again.stdout
    assert "4 runs, 3 of them done" in again.stdout
    assert results["contrastive", 3].stat().st_mtime_ns == first
    assert weights.read_bytes() == before
    assert len(list(folder.glob("*/log.jsonl"))) == 1
    repeated = json.loads(results["miles", 3].read_text())
    assert repeated["t2v"] == numbers["miles", 3]["t2v"]

    # In a process of its own the evaluation gives the same numbers.
    options = ["-c", folder / "config.json", "-r", weights, "-o", tmp_path / "alone"]
    command = [sys.executable, str(ROOT / "test.py"), *map(str, options)]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    alone = json.loads((tmp_path / "alone/results.json").read_text())
    assert alone["t2v"] == repeated["t2v"] and alone["v2t"] == repeated["v2t"]


def test_a_run_that_is_killed_goes_on(data, tmp_path):
    out = tmp_path / "out"
    long = (*QUICK[:2], "trainer.epochs=60", "trainer.save_every=1")
    chosen = words(data, out, *long, "--variants", "contrastive", "--seeds", "0")
    command = [sys.executable, str(ROOT / "scripts/ablation.py"), *chosen]
    folder = out / "runs/sparse/steps/contrastive/seed0"
    killed = subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            if list(folder.glob("*/checkpoint-latest.pth")):
                break
            time.sleep(0.1)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (folder / "trained.json").exists()
    again = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr + logs(out)
    (log,) = folder.glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    resumed = [line["resumed"] for line in lines if line["kind"] == "start"]
    assert len(resumed) == 2 and not resumed[0] and resumed[1]
    assert json.loads((folder / "trained.json").read_text())["steps"] == 120


def test_few_captions_are_trained_with_footage(data, tmp_path):
    out = tmp_path / "out"
    chosen = (
        "--budgets",
        "captions",
        "--variants",
        "contrastive,miles",
        "--seeds",
        "0",
    )
    said = run(data, out, *chosen)
    assert said.returncode == 0, said.stderr + logs(out)
    steps = {"contrastive": 4, "miles": 8}  # 2 epochs of 16 clips, 8 a step
    for record in json.loads((out / "ablation.json").read_text())["runs"]:
        assert record["steps"] == steps[record["variant"]]
        assert record["passes"] is None and "t2v.R1" in record["metrics"]
        folder = out / f"runs/sparse/captions/{record['variant']}/seed0"
        result = json.loads((folder / "test/results.json").read_text())
        assert result["num_videos"] == 8  # of the whole gallery
    log = (out / "runs/sparse/captions/miles/seed0.log").read_text()
    assert "captioned8 train" in log and "uncaptioned8 train" in log


def test_a_learning_rate_is_chosen_on_val_and_taken(data, tmp_path):
    out = tmp_path / "out"
    chosen = ("--variants", "contrastive", "--tune", "lr=0.00001,0.01")
    said = run(data, out, *chosen)
    assert said.returncode == 0, said.stderr + logs(out)
    tuned = json.loads((out / "tuned.json").read_text())
    choice = tuned["steps"]["contrastive"]
    found = {}
    for rate in ("1e-05", "0.01"):
        path = out / f"tune/sparse/steps/contrastive/lr{rate}/test/results.json"
        result = json.loads(path.read_text())
        assert result["split"] == "val" and result["config"]["trainer"]["seed"] == 100
        assert result["config"]["optimizer"]["args"]["lr"] == float(rate)
        found[float(rate)] = result["t2v"]["R1"]
    best = max(found, key=found.get)
    assert choice["settings"] == {"optimizer.args.lr": best}
    assert choice["val_R1"] == found[best]
    tried = {
        r["settings"]["optimizer.args.lr"]: r["metrics"]["t2v.R1"]
        for r in choice["tried"]
    }
    assert tried == found
    assert f"steps, contrastive: {{'optimizer.args.lr': {best}}}" in said.stdout

    after = run(data, out, "--variants", "contrastive", "--seeds", "0")
    assert after.returncode == 0, after.stderr + logs(out)
    report = json.loads((out / "ablation.json").read_text())
    assert report["tuning"] == tuned
    config = json.loads(
        (out / "runs/sparse/steps/contrastive/seed0/config.json").read_text()
    )
    assert config["optimizer"]["args"]["lr"] == best


def test_other_settings_sizes_and_unknown_names_are_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    config = out / "runs/sparse/steps/contrastive/seed0/config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"trainer": {"epochs": 1}}))
    chosen = ("--variants", "contrastive", "--seeds", "0")

    def refused(*arguments):
        with pytest.raises(SystemExit) as end:
            ablation.cli(words(data, out, *arguments, *QUICK))
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "is a run with other settings" in refused(*chosen)
    assert "was made with other sizes" in refused(*chosen, "--test", "9")
    assert "1 or more is needed" in refused(*chosen, "--jobs", "0")
    for option, name in (
        ("--variants", "contrastiv"),
        ("--worlds", "dense"),
        ("--budgets", "time"),
        ("--measure", "beauty"),
    ):
        assert f"{option}: '{name}' is given; known: " in refused(option, name)
    for setting in ("trainer.seed=3", "objective.args.mvm_weight=2"):
        key = setting.partition("=")[0]
        assert f"{key}: is set by " in refused(setting)


def test_a_run_that_fails_is_named(data, tmp_path):
    failing = (*QUICK, "optimizer.args.lr=0.1", "data_loader.args.subsample=0.01")
    chosen = ("--variants", "miles", "--seeds", "0")
    said = run(data, tmp_path / "out", *chosen, overrides=failing)
    assert said.returncode == 2
    assert "1 runs failed: see" in said.stderr and "miles/seed0.log" in said.stderr
    log = tmp_path / "out/runs/sparse/steps/miles/seed0.log"
    assert "error:" in log.read_text()


def write_run(run, retrieval, grounding=None):
    """The files of a run that has these numbers."""
    config = {"trainer": {"seed": run.seed}}
    files = {
        "config.json": config,
        "trained.json": {"steps": 465, "seconds": 200.0},
        "record.json": {"seconds": {"train": 210.0}, "torch": "2", "threads": 1},
        "test/results.json": {"t2v": retrieval, "v2t": retrieval},
    }
    if grounding:
        files["grounding.json"] = grounding
    for name, content in files.items():
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def random_runs(folder, rng, worlds, budgets, variants, seeds):
    """Runs with random numbers, and {(budget, world, variant, seed): (R@1, pointing)} of them."""
    runs, numbers = [], {}
    for budget in budgets:
        for world in worlds:
            for i, variant in enumerate(variants):
                for seed in range(seeds):
                    r1, pointing = (
                        rng.normal((20 + i, 30 + 2 * i), (3, 4)).round(1).tolist()
                    )
                    key = (budget, world, variant, seed)
                    made = Run(
                        world,
                        budget,
                        variant,
                        seed,
                        folder / "_".join(map(str, key)),
                        Config({}),
                        1.5,
                    )
                    metrics = dict.fromkeys(("R5", "R10", "MeanR"), 50.0)
                    write_run(
                        made, {"R1": r1, "MedR": 5.0, **metrics}, {"pointing": pointing}
                    )
                    runs.append(made)
                    numbers[key] = (r1, pointing)
    return runs, numbers


def test_the_report_says_what_numpy_says(tmp_path):
    rng = numpy.random.default_rng(0)
    titles = {
        "contrastive": "contrastive only",
        "miles": "MILES",
        "uncentred": "target as it is",
    }
    worlds, seeds = ("sparse", "partial"), 4
    runs, numbers = random_runs(tmp_path, rng, worlds, ("steps",), titles, seeds)
    missing = runs[-1]._replace(seed=9, folder=tmp_path / "not there")
    text = ablation_report.write(tmp_path / "out", [*runs, missing], titles, {})
    report = json.loads((tmp_path / "out/ablation.json").read_text())
    assert len(report["runs"]) == len(runs) and report["runs"][0]["passes"] == 1.5 * 465
    assert text.count("| MILES | 4 |") == 2 and "| target as it is | 4 of 5 |" in text
    assert "With 4 pairs the least possible p is 2/16 = 0.125" in text

    for column, metric in enumerate(("t2v.R1", "grounding.pointing")):
        paired = {}
        for world in worlds:
            for variant in titles:
                values, baseline = (
                    numpy.array(
                        [
                            numbers["steps", world, name, seed][column]
                            for seed in range(seeds)
                        ]
                    )
                    for name in (variant, "contrastive")
                )
                found = report["summary"][f"steps/{world}"][variant][metric]
                error = values.std(ddof=1) / 2
                assert list(found["values"].values()) == values.tolist()
                assert found["mean"] == pytest.approx(values.mean())
                assert found["standard_error"] == pytest.approx(error)
                differences = values - baseline
                difference = found["difference"]
                assert difference["mean"] == pytest.approx(differences.mean())
                error = differences.std(ddof=1) / 2
                assert difference["standard_error"] == pytest.approx(error)
                if variant != "contrastive":
                    assert f"| {differences.mean():+.1f} +- {error:.1f} [" in text
                    assert difference["p"] in (numpy.arange(1, 17) / 16)
                paired.setdefault(variant, []).append(differences)
        pooled = report["pooled"]["steps"]["miles"][metric]
        both = numpy.concatenate(paired["miles"])
        flips = 1 - 2 * (numpy.arange(2**8)[:, None] >> numpy.arange(8) & 1)
        share = (abs(flips @ both) >= abs(both.sum()) - 1e-9).mean()
        assert pooled["mean"] == pytest.approx(both.mean()) and pooled["p"] == share
        assert (pooled["pairs"], pooled["worlds"]) == (8, 2)
    assert (tmp_path / "out/ablation.png").read_bytes()[:4] == b"\x89PNG"


def test_a_report_of_nothing_is_no_mistake(tmp_path, capsys):
    chosen = ("--report", "--variants", "contrastive,miles")
    ablation.cli(words(tmp_path / "no data", tmp_path / "out", *chosen))
    assert "| MILES | 0 of 5 |" in capsys.readouterr().out
    assert not (tmp_path / "out/ablation.png").exists()
