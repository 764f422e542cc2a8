"""Validation losses depend on the weights alone: not on the batch size, nor on the number of processes."""

import pytest
import torch

from data_loader.loader import TextVideoDataLoader
from model.loss import LOSSES
from model.miles import MILES
from tests.helpers import processes, tiny_run
from trainer import seeds, validation
from trainer.distributed import rank, world_size, wrap
from trainer.objectives import OBJECTIVES
from trainer.precision import Precision

SEED = 5
GROUPS = ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    tiny_run.write_data(folder / "data", train=4, val=10)
    tiny_run.config(folder, {})
    return folder


def build_objective(home, name="MILESPretraining"):
    config = tiny_run.config(home, {})
    torch.manual_seed(3)
    model = MILES(**config["arch"]["args"], pretrained=False)
    loss = LOSSES.build({"type": "NormSoftmaxLoss", "args": {}})
    objective = OBJECTIVES.build({"type": name, "args": {}}, model=model, loss=loss)
    return objective.eval()


def build_loader(home, objective, batch_size=4):
    args = tiny_run.loader(home / "data", batch_size, split="val")["args"]
    processes = {"rank": rank(), "world_size": world_size()}
    return TextVideoDataLoader(**args, tokenize=objective.model.tokenize, **processes)


def losses_by_loop(home, name):
    """Each group by itself, its masks drawn after the group's own seed; means weighted by samples."""
    objective = build_objective(home, name)
    dataset = build_loader(home, objective).dataset
    sums = {}
    for number, indices in enumerate(GROUPS):
        samples = [dataset[index] for index in indices]
        batch = {
            "video": torch.stack([sample["video"] for sample in samples]),
            "text": objective.model.tokenize([sample["text"] for sample in samples]),
        }
        seeds.seed(SEED, validation.VALIDATION_STEP, number)
        with torch.no_grad():
            for loss_name, loss in objective(batch).items():
                sums[loss_name] = sums.get(loss_name, 0) + loss.item() * len(indices)
    return {f"val_{loss_name}": total / 10 for loss_name, total in sums.items()}


def measure(home, batch_size=4, name="MILESPretraining", parallel="ddp"):
    validation.GROUP_SIZE = 4
    objective = build_objective(home, name)
    wrap(objective, parallel)
    loader = build_loader(home, objective, batch_size)
    precision = Precision("fp32", torch.device("cpu"))
    return validation.validation_losses(objective, loader, precision, SEED)


@pytest.fixture(autouse=True)
def groups_of_four(monkeypatch):
    monkeypatch.setattr(validation, "GROUP_SIZE", 4)


@pytest.mark.parametrize("name", ["MILESPretraining", "Contrastive"])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_losses_are_those_of_fixed_groups(home, name, batch_size):
    expected = losses_by_loop(home, name)
    assert measure(home, batch_size, name) == pytest.approx(expected, rel=1e-6)
    assert len(expected) == (3 if name == "MILESPretraining" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_measures_the_same(home, tmp_path, world, parallel):
    args = (home, 2, "MILESPretraining", parallel)
    for losses in processes.run(measure, world, tmp_path, args):
        assert losses == pytest.approx(measure(home, 5), rel=1e-6)


def test_a_single_video_has_nothing_to_be_compared_with(tmp_path, home, caplog):
    tiny_run.write_data(tmp_path / "data", val=1)
    tiny_run.config(tmp_path, {})
    assert measure(tmp_path) == {}
    assert "there are no two videos to compare" in caplog.text
