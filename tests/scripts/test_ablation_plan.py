"""scripts/benchmarks/ablation_plan.py: configs of all runs, pair by pair the same but for what the variant changes."""

import json

import pytest
import torch

from data_loader import LOADERS
from model import ARCHS
from model.loss import LOSSES
from parse_config import Config, load_config
from scripts import ablation
from scripts.benchmarks import ablation_plan, ablation_runs
from scripts.benchmarks.ablation_plan import Plan, Sizes
from scripts.synthetic import tiny_models
from tests.helpers.tiny_run import ROOT
from trainer.batches import RoundRobinLoader
from trainer.objectives import OBJECTIVES
from trainer.objectives.miles_pretraining import MILESPretraining

SINGLE = ablation_plan.SINGLE_CHANGES
STEPS = 744  # of configs/ablation.json: 8 epochs of 6,000 clips, 64 a step


@pytest.fixture
def plan(tmp_path):
    base = load_config(ROOT / "configs/ablation.json").to_dict()
    # without configs/method: the single changes, as this file describes them
    variants = ablation_plan.known_variants(tmp_path)
    return Plan(base, tmp_path / "data", tmp_path / "out", Sizes(), {}, variants)


@pytest.fixture
def cost(monkeypatch):
    """Sets what an objective with masks says of its passes."""
    ablation_plan._passes_of_objective.cache_clear()

    def set_cost(passes):
        monkeypatch.setattr(MILESPretraining, "passes_per_clip", lambda self: passes)

    yield set_cost
    ablation_plan._passes_of_objective.cache_clear()


def length(run, clips):
    """(steps, epochs, warm-up) of a run whose loaders have so many clips, as the trainer counts them."""
    trainer, blocks = run.config["trainer"], run.config.blocks("data_loader")

    class Loader:
        batch_size = blocks[0]["args"]["batch_size"]

        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count // self.batch_size

    assert len(clips) == len(blocks)
    batches = RoundRobinLoader(
        [Loader(count) for count in clips],
        torch.device("cpu"),
        max_samples=trainer.get("max_samples_per_epoch"),
    )
    epochs = trainer["epochs"]
    warmup = run.config["lr_scheduler"]["args"]["warmup_steps"]
    return epochs * batches.steps_per_epoch, epochs, warmup


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_a_variant_differs_from_miles_in_what_it_is_called_after(name, plan, tmp_path):
    config = plan.run("partial", "steps", name, 7).config
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
            "norm": objective.target_norm.kind,
            "weight": objective.mvm_weight(0.5),
        }
    miles = {
        "objective": "MILESPretraining",
        "mask": "TubeBlock",
        "ratio": 0.5,
        "teacher": "EMA",
        "space": "joint",
        "view": "full",
        "norm": "centred",
        "weight": 1.0,
    }
    differs = {
        "miles": {},
        "frozen": {"teacher": "Frozen"},
        "scattered": {"mask": "Tube"},
        "encoder": {"space": "encoder"},
        "ratio30": {"ratio": 0.3},
        "ratio75": {"ratio": 0.75},
        "uncentred": {"norm": "none"},
        "masked": {"view": "masked", "weight": 0.0},
        "weight4": {"weight": 4.0},
    }
    assert facts == (
        {"objective": "Contrastive"}
        if name == "contrastive"
        else {**miles, **differs[name]}
    )


@pytest.mark.slow
def test_runs_of_a_seed_differ_in_the_objective_alone(plan):
    for world in ablation_plan.WORLDS:
        rest = []
        for variant in SINGLE:
            run = plan.run(world, "steps", variant, 3)
            config = run.config.to_dict()
            assert config["data_loader"]["args"]["data_dir"] == str(plan.data / world)
            text = config["arch"]["args"]["text_params"]["model"]
            assert text == str(plan.data / world / "text_model")
            assert run.folder == plan.out / f"runs/{world}/steps/{variant}/seed3"
            assert run.split == "test" and length(run, [6000]) == (STEPS, 8, 50)
            del config["objective"]
            rest.append(config)
        assert all(config == rest[0] for config in rest)


@pytest.mark.parametrize("passes", [4 / 3, 7 / 3, 0.6])
def test_equal_passes(plan, cost, passes):
    cost(passes)
    run = plan.run("sparse", "passes", "miles", 0)
    steps, epochs, warmup = length(run, [6000])
    assert run.passes == passes
    assert abs(steps - STEPS / passes) <= (epochs + 1) / 2
    assert steps * passes == pytest.approx(STEPS, rel=0.01)
    assert warmup == pytest.approx(50 / passes, abs=1)
    same_steps = plan.run("sparse", "steps", "miles", 0)
    assert length(same_steps, [6000])[0] == STEPS and same_steps.passes == passes

    baseline = plan.run("sparse", "passes", "contrastive", 0)
    assert baseline.passes == 1 and length(baseline, [6000])[0] == STEPS
    assert baseline.folder == plan.run("sparse", "steps", "contrastive", 0).folder


def test_few_captions(plan):
    baseline = plan.run("sparse", "captions", "contrastive", 0)
    method = plan.run("sparse", "captions", "miles", 0)
    captioned_steps, epochs, warmup = length(baseline, [1000])
    steps, method_epochs, method_warmup = length(method, [1000, 5000])
    assert captioned_steps == 50 * 15 and steps == 2 * 50 * 15  # the nearest to STEPS
    assert epochs == method_epochs == 50
    assert (warmup, method_warmup) == (50, 101)  # 50 of 744 steps
    first, second = (block["args"] for block in method.config.blocks("data_loader"))
    assert baseline.config.blocks("data_loader")[0]["args"] == first
    assert first["cut"] == "captioned1000" and "with_captions" not in first
    assert second["cut"] == "uncaptioned1000" and second["with_captions"] is False
    evaluated = method.config["evaluation"]["data_loader"].to_dict()
    assert (
        evaluated
        == plan.run("sparse", "steps", "miles", 0).config["data_loader"].to_dict()
    )


def test_lists_of_few_captions_part_the_training_clips(tmp_path):
    rows = [
        {"path": f"{i}.mp4", "caption": f"clip {i}", "split": split}
        for i, split in enumerate(["train"] * 7 + ["val", "test"] * 2)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "captions.jsonl").write_text(text)
    ablation_runs.write_caption_lists(tmp_path, 3)
    found = {}
    for cut in ("captioned3", "uncaptioned3", None):
        args = {"dataset_name": "JsonlDataset", "data_dir": str(tmp_path), "cut": cut}
        args |= {"check_files": False, "num_workers": 0, "batch_size": 1}
        block = {"type": "TextVideoDataLoader", "args": args}
        found[cut] = list(LOADERS.build(Config(block)).dataset.captions)
    assert found["captioned3"] == ["clip 0", "clip 1", "clip 2"]
    assert found["captioned3"] + found["uncaptioned3"] == found[None]


def test_tuned_settings_are_taken(plan):
    tuned = {
        "steps": {
            "contrastive": {"settings": {"optimizer.args.lr": 0.002}},
            "miles": {"settings": {"optimizer.args.lr": 0.001}},
        },
        "captions": {
            "miles": {
                "settings": {"optimizer.args.lr": 0.5, "objective.args.mvm_weight": 3}
            }
        },
    }
    plan = plan._replace(tuned=tuned)
    rates = {
        (budget, variant): plan.run("sparse", budget, variant, 0).config["optimizer"][
            "args"
        ]["lr"]
        for budget in ("steps", "captions")
        for variant in ("contrastive", "miles", "uncentred")
    }
    assert rates == {
        ("steps", "contrastive"): 0.002,
        ("steps", "miles"): 0.001,
        ("steps", "uncentred"): 0.0015,  # the config's own
        ("captions", "contrastive"): 0.002,
        ("captions", "miles"): 0.5,
        ("captions", "uncentred"): 0.0015,
    }
    captions = plan.run("sparse", "captions", "miles", 0).config
    assert captions["objective"]["args"]["mvm_weight"] == 3


def test_a_tuning_run_is_as_the_others_but_for_seed_split_and_settings(plan):
    settings = {"optimizer.args.lr": 0.01, "objective.args.mvm_weight": 0.5}
    run = plan.tuning_run("redundant", "steps", "miles", settings)
    assert run.split == "val" and run.folder.name == "lr0.01_mvm_weight0.5"
    assert plan.tuning_run("sparse", "steps", "miles", {}).folder.name == "as_it_is"
    other = plan.run("redundant", "steps", "miles", 0).config.to_dict()
    other["trainer"]["seed"] = 100
    other["optimizer"]["args"]["lr"] = 0.01
    other["objective"]["args"]["mvm_weight"] = 0.5
    assert run.config.to_dict() == other


def test_the_grid_of_the_baseline_has_no_settings_of_the_objective():
    tried = {"lr": [1, 2], "mvm_weight": [3, 4], "trainer.clip_grad_norm": [5]}
    rest = {"trainer.clip_grad_norm": 5}
    assert ablation.grid(tried, is_baseline=True) == [
        {"optimizer.args.lr": 1, **rest},
        {"optimizer.args.lr": 2, **rest},
    ]
    assert ablation.grid(tried, is_baseline=False) == [
        {"optimizer.args.lr": lr, "objective.args.mvm_weight": weight, **rest}
        for lr in (1, 2)
        for weight in (3, 4)
    ]


def test_methods_are_files(tmp_path):
    objective = {"type": "MILESPretraining", "args": {"mvm_weight": 7}}
    about = "python scripts/ablation.py  -- Masked all over: every patch is hidden."
    files = {
        "miles": {"base": "none.json", "about": "Masks", "objective": objective},
        "own": {"name": "my own", "arch": {"args": {"projection_dim": 8}}},
        "all": {"about": about, "name": "all"},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    known = ablation_plan.known_variants(tmp_path)
    names = ["contrastive", "miles", "all", "own"]
    assert ablation_plan.default_variants(tmp_path) == names
    assert list(known)[:4] == names and set(known) == {*names, *SINGLE}
    titles = [known[name].title for name in names]
    assert titles == ["contrastive only", "MILES", "Masked all over", "my own"]
    assert known["own"].changes == ({"arch": {"args": {"projection_dim": 8}}},)

    base = load_config(ROOT / "configs/ablation.json").to_dict()
    plan = Plan(base, tmp_path, tmp_path, Sizes(), {}, known)
    config = plan.config("sparse", "steps", "own", 0, {})
    assert config["arch"]["args"]["projection_dim"] == 8
    frozen = plan.config("sparse", "steps", "frozen", 0, {})["objective"]["args"]
    assert frozen["mvm_weight"] == 7 and frozen["teacher"]["type"] == "Frozen"
    baseline = plan.config("sparse", "steps", "contrastive", 0, {})["objective"]
    assert baseline == {"type": "Contrastive", "args": {}}


def test_the_hash_is_of_the_settings_not_of_the_place(plan):
    config = plan.run("sparse", "steps", "miles", 0).config.to_dict()
    hashed = ablation_plan.settings_hash(config)
    moved = {**config, "name": "other", "trainer": {**config["trainer"]}}
    moved["trainer"]["save_dir"] = "/elsewhere"
    assert ablation_plan.settings_hash(dict(reversed(moved.items()))) == hashed
    moved["trainer"]["seed"] = 1
    assert ablation_plan.settings_hash(moved) != hashed
