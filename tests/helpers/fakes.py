"""Loaders and an objective without data or towers: for tests of the loop itself."""

import torch
from torch import nn

from parse_config import Config
from trainer.stages import Stage
from trainer.trainer import Trainer


class FakeLoader:
    """Batch b of epoch e holds the number 100 e + b, whatever it was asked for before; `hooks[(e, b)]` runs first."""

    def __init__(self, batches=4, batch_size=2, offset=0, hooks=None):
        self.num_batches = batches
        self.batch_size = batch_size
        self.offset = offset
        self.hooks = hooks or {}
        self.dataset = range(batches * batch_size)
        self.batches_read = []

    def __len__(self):
        return self.num_batches

    def epoch(self, epoch=0, start=0):
        for number in range(start, self.num_batches):
            failures = []
            if (epoch, number) in self.hooks:
                failures = self.hooks[epoch, number]()
            self.batches_read.append((epoch, number))
            value = torch.full(
                (self.batch_size, 1), float(self.offset + 100 * epoch + number)
            )
            yield {
                "video": value,
                "text": {"ids": value.long()},
                "unreadable": [],
                "meta": [
                    {"failures": failures if row == 0 else []}
                    for row in range(self.batch_size)
                ],
            }


class FakeObjective(nn.Module):
    """loss = mean of the batch + weight * noise; the noise is of the step's own random numbers."""

    leaves_parameters_unused = False

    def __init__(self, spoil=None):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.spoil = spoil or {}
        self.steps = []

    def forward(self, batch):
        value = batch["video"].mean()
        noise = torch.randn(()) * self.model.weight.sum() + self.model.bias.sum()
        spoil = self.spoil.get(float(value), {})
        loss_a = value + noise
        loss_b = noise * 0.1 + spoil.get("b", 0.0)
        loss = loss_a + loss_b
        if "gradient" in spoil:
            loss = loss + self.model.weight.sum().abs().sqrt()
        return {"loss": loss, "loss_a": loss_a, "loss_b": loss_b}

    def trains_mvm(self, batch):
        return False

    def passes_per_clip(self):
        return 1.0

    def before_step(self, step, steps):
        pass

    def after_step(self, step, steps):
        self.steps.append((step, steps))


def stage(folder, resume=None, number=0, **trainer):
    settings = {"epochs": 2, "log_every": 1, **trainer}
    schedule = settings.pop("lr_scheduler", None)
    config = {
        "name": "fake",
        "arch": {"type": "Fake"},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.1}},
        "trainer": settings,
    }
    if schedule:
        config["lr_scheduler"] = schedule
    return Stage(number, Config(config), folder, resume)


def trainer(
    folder, loaders=None, objective=None, valid_loader=None, resume=None, **settings
):
    return Trainer(
        objective or FakeObjective(),
        loaders or [FakeLoader()],
        stage(folder, resume, **settings),
        torch.device("cpu"),
        valid_loader,
    )
