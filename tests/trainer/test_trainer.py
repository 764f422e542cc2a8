"""The loop: whose turn it is, what is counted, what stops it, what it keeps and tells."""

import json
import logging
import os
import signal
import sys
import types

import pytest
import torch

import trainer.trainer as loop
from parse_config import Config, ConfigError
from tests.helpers.fakes import FakeLoader, FakeObjective, trainer
from trainer import progress
from trainer.batches import RoundRobinLoader
from trainer.images import masked_clips
from trainer.loss_guard import NonFiniteLoss
from trainer.meter import Meter
from trainer.monitor import Monitor
from trainer.settings import trainer_settings

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    monkeypatch.setattr(
        loop.images, "masked_clips", lambda *_: torch.zeros(3, 4, 4, dtype=torch.uint8)
    )


def lines(folder, kind):
    return [
        row
        for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        if row["kind"] == kind
    ]


def taken(loader, epoch=0, position=0):
    steps = loader.epoch(epoch, position)
    return [
        (number, [float(batch["video"][0]) for batch in batches])
        for number, batches in steps
    ]


def weights(fake_trainer):
    return {
        name: tensor.clone()
        for name, tensor in fake_trainer.optimizer_step.objective.state_dict().items()
    }


def same(one, two):
    return all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_loaders_take_turns_until_the_shortest_is_through():
    loader = RoundRobinLoader([FakeLoader(3), FakeLoader(5, offset=50)], CPU)
    assert taken(loader) == [
        (0, [0]),
        (1, [50]),
        (0, [1]),
        (1, [51]),
        (0, [2]),
        (1, [52]),
    ]
    assert (loader.rounds, loader.steps_per_epoch, loader.samples_per_step) == (
        3,
        6,
        [2, 2],
    )


@pytest.mark.parametrize(
    "most, rounds", [(None, 3), (17, 2), (16, 2), (15, 1), (1, 1), (1e9, 3)]
)
def test_an_epoch_holds_at_most_max_samples_of_all_loaders(most, rounds):
    assert (
        RoundRobinLoader([FakeLoader(3, 3), FakeLoader(5, 5)], CPU, 1, most).rounds
        == rounds
    )


def test_accumulation_takes_micro_batches_of_one_loader_and_no_half_step():
    loader = RoundRobinLoader(
        [FakeLoader(5), FakeLoader(9, offset=50)], CPU, accumulate=2
    )
    assert taken(loader) == [(0, [0, 1]), (1, [50, 51]), (0, [2, 3]), (1, [52, 53])]
    with pytest.raises(
        ConfigError, match="data_loader.1: 1 batches of 1 x 2 do not make one step of 2"
    ):
        RoundRobinLoader([FakeLoader(5), FakeLoader(1)], CPU, accumulate=2)


@pytest.mark.parametrize("position", range(7))
def test_from_any_position_come_the_same_batches_and_what_lies_before_is_not_read(
    position,
):
    loaders = [FakeLoader(4), FakeLoader(4, offset=50)]
    expected = taken(RoundRobinLoader(loaders, CPU, 1, 12))
    loaders = [FakeLoader(4), FakeLoader(4, offset=50)]
    assert (
        taken(RoundRobinLoader(loaders, CPU, 1, 12), 0, position) == expected[position:]
    )
    assert (
        sum(len(loader.batches_read) for loader in loaders)
        <= len(expected) - position + 2
    )


def test_the_mean_loss_is_over_samples_of_all_loaders(folder):
    fake_trainer = trainer(
        folder, [FakeLoader(3, 1), FakeLoader(3, 4, offset=50)], epochs=1
    )
    fake_trainer.run()
    steps, epoch = lines(folder, "step"), lines(folder, "epoch")[0]
    weighted = [(1, 4)[i % 2] for i in range(6)]
    assert epoch["loss"] == pytest.approx(
        sum(w * row["loss"] for w, row in zip(weighted, steps)) / sum(weighted)
    )
    assert epoch["loss_a/range"] == pytest.approx(
        sum(row["loss_a"] for row in steps[::2]) / 3
    )
    assert epoch["loss_a/range_2"] == pytest.approx(
        sum(row["loss_a"] for row in steps[1::2]) / 3
    )
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]


def test_lines_every_few_steps_hold_the_mean_since_the_last(folder):
    trainer(folder / "1", [FakeLoader(5)], epochs=1).run()
    trainer(folder / "2", [FakeLoader(5)], epochs=1, log_every=2).run()
    each, some = lines(folder / "1", "step"), lines(folder / "2", "step")
    assert [row["step"] for row in some] == [2, 4, 5]
    assert some[0]["loss"] == pytest.approx((each[0]["loss"] + each[1]["loss"]) / 2)
    assert set(some[0]) >= {
        "epoch",
        "lr",
        "grad_norm",
        "samples_per_s",
        "waiting",
        "memory_gib",
        "loss_a",
        "loss_b",
    }


def test_a_meter_goes_on_from_its_state():
    one, two = Meter(["a", "b"]), Meter(["a", "b"])
    one.add(0, ["loss"], torch.tensor([1.0]), 2)
    two.load(one.state(), CPU)
    for meter in (one, two):
        meter.add(1, ["loss"], torch.tensor([4.0]), 1)
    assert one.means() == two.means() == {"loss": 2.0, "loss/a": 1.0, "loss/b": 4.0}


def test_a_mean_is_over_the_steps_that_have_the_loss():
    meter = Meter(["captioned", "footage"])
    meter.add(0, ["loss", "loss_vt"], torch.tensor([3.0, 2.0]), 2)
    meter.add(1, ["loss"], torch.tensor([6.0]), 1)
    meter.add(0, ["loss", "loss_vt", "loss_mvm"], torch.tensor([5.0, 4.0, 1.0]), 2)
    assert meter.means() == {
        "loss": (2 * 3 + 6 + 2 * 5) / 5,
        "loss/captioned": 4.0,
        "loss/footage": 6.0,
        "loss_vt": 3.0,
        "loss_vt/captioned": 3.0,
        "loss_mvm": 1.0,
        "loss_mvm/captioned": 1.0,
    }
    other = Meter(["captioned", "footage"])
    other.load(meter.state(), CPU)
    assert other.means() == meter.means()


def test_the_state_of_an_older_checkpoints_meter_is_read():
    meter = Meter(["a", "b"])
    older = {
        "parts": ["loss", "loss_vt"],
        "sums": [[2.0, 1.0], [6.0, 3.0]],
        "weights": [2, 4],
    }
    meter.load(older, CPU)
    meter.add(0, ["loss"], torch.tensor([4.0]), 1)
    assert meter.means() == {
        "loss": 12 / 7,
        "loss/a": 2.0,
        "loss/b": 1.5,
        "loss_vt": 4 / 6,
        "loss_vt/a": 0.5,
        "loss_vt/b": 0.75,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update_and_is_named(folder, value):
    clean = trainer(folder / "clean", [FakeLoader(2)], epochs=1)
    clean.run()
    fake_trainer = trainer(
        folder / "bad", objective=FakeObjective({2.0: {"b": value}}), save_every=1
    )
    with pytest.raises(
        NonFiniteLoss,
        match=rf"loss_b is {value} at step 3 \(epoch 1, range\): stopped before the upd",
    ):
        fake_trainer.run()
    assert same(
        weights(fake_trainer), weights(clean)
    ) and fake_trainer.optimizer_step.objective.steps[-1] == (2, 8)
    assert torch.load(folder / "bad/checkpoint-latest.pth")["step"] == 2


def test_a_gradient_that_is_not_finite_stops_before_the_update(folder):
    objective = FakeObjective({1.0: {"gradient": 1.0}})
    torch.nn.init.zeros_(objective.model.weight)
    fake_trainer = trainer(folder, objective=objective)
    fake_trainer.optimizer_step.optimizer.param_groups[0]["lr"] = (
        0.0  # the weight stays 0, where the root has no derivative
    )
    with pytest.raises(
        NonFiniteLoss, match="the gradient is not finite at or before step 2"
    ):
        fake_trainer.run()
    assert not (folder / "checkpoint-latest.pth").exists()


def test_the_norm_is_clipped(folder):
    fake_trainer = trainer(folder, clip_grad_norm=1e-3)
    seen = []
    step = fake_trainer.optimizer_step.optimizer.step
    fake_trainer.optimizer_step.optimizer.step = lambda: (
        seen.append(
            torch.nn.utils.get_total_norm(
                [p.grad for p in fake_trainer.optimizer_step.objective.parameters()]
            ).item()
        ),
        step(),
    )
    fake_trainer.run()
    assert max(seen) == pytest.approx(1e-3, rel=1e-3)
    assert all(row["grad_norm"] > 0.1 for row in lines(folder, "step"))


def test_the_schedule_is_followed(folder):
    trainer(
        folder,
        [FakeLoader(2)],
        epochs=3,
        lr_scheduler={"type": "MultiStep", "args": {"milestones": [1, 2]}},
    ).run()
    assert [row["lr"] for row in lines(folder, "step")] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def fake_validation(monkeypatch, *values):
    results = iter(values)
    monkeypatch.setattr(loop, "validate", lambda *_: {"val_loss": 1.0, **next(results)})


def test_best_early_stop_period_and_last(folder, monkeypatch):
    fake_validation(
        monkeypatch, *({"t2v.R1": value} for value in (1.0, 3.0, 2.0, 3.0, 9.0))
    )
    values = trainer(
        folder,
        valid_loader=FakeLoader(),
        epochs=5,
        early_stop=2,
        save_period=2,
        keep_last=1,
    ).run()
    assert values["t2v.R1"] == 3.0 and [
        row["t2v.R1"] for row in lines(folder, "epoch")
    ] == [
        1,
        3,
        2,
        3,
    ]
    assert torch.load(folder / "model_best.pth")["epoch"] == 2
    assert torch.load(folder / "checkpoint-latest.pth")["monitor_best"] == 3.0
    assert [path.name for path in sorted(folder.glob("checkpoint-epoch*"))] == [
        "checkpoint-epoch4.pth"
    ]
    resumed = trainer(
        folder,
        valid_loader=FakeLoader(),
        epochs=5,
        early_stop=2,
        resume=folder / "checkpoint-latest.pth",
    )
    assert resumed.run() == {}


def test_min_and_off(folder, monkeypatch):
    fake_validation(monkeypatch, *({"t2v.MedR": value} for value in (5.0, 4.0, 4.0)))
    trainer(
        folder / "min", valid_loader=FakeLoader(), epochs=3, monitor="min t2v.MedR"
    ).run()
    assert torch.load(folder / "min/model_best.pth")["epoch"] == 2
    trainer(folder / "off", epochs=3, monitor="off").run()
    assert torch.load(folder / "off/checkpoint-latest.pth")["epoch"] == 3
    assert not (folder / "off/model_best.pth").exists()


def test_an_early_stop_needs_a_monitored_value(folder):
    with pytest.raises(
        ConfigError, match="trainer.early_stop: 1 is given, and nothing"
    ):
        trainer(folder / "off", epochs=3, monitor="off", early_stop=1)
    with pytest.raises(
        ConfigError, match="trainer.early_stop: 2 is given, and nothing"
    ):
        trainer(folder / "unvalidated", epochs=3, early_stop=2)


def test_a_warm_up_must_end_within_the_run(folder):
    schedule = {"type": "Cosine", "args": {"warmup_steps": 9}}
    with pytest.raises(ConfigError, match="the warm-up has 9 steps, and the whole run"):
        trainer(folder / "warm", epochs=1, lr_scheduler=schedule)


@pytest.mark.parametrize(
    "text, message",
    [
        ("max t2v.R2", "known: loss, val_loss, t2v.R1"),
        ("best R1", "min NAME"),
        ("max", "min NAME"),
    ],
)
def test_an_unknown_monitor_is_refused_at_once(text, message):
    with pytest.raises(ConfigError, match=f"trainer.monitor: .*{message}"):
        Monitor(text, True)


def test_a_monitor_without_validation():
    with pytest.raises(
        ConfigError, match="not measured without validation; known: loss"
    ):
        Monitor("max t2v.R1", False)
    assert Monitor(None, False).name == "" and Monitor(None, True).name == "t2v.R1"
    assert Monitor("min val_loss_0", True).name == "val_loss" and Monitor(
        "min loss", False
    ).is_better({"loss": 1}, 2)
    assert not Monitor("min loss", False).is_better({"loss": float("nan")}, None)


def test_bad_files_are_listed_and_counted(folder):
    hooks = {
        (0, 1): lambda: [("a.mp4", "no frames")],
        (1, 0): lambda: [("b.mp4", "empty"), ("c.mp4", "empty")],
    }
    trainer(folder, [FakeLoader(hooks=hooks)], save_every=1).run()
    bad = [
        json.loads(line)
        for line in (folder / "bad_files.jsonl").read_text().splitlines()
    ]
    expected = [("a.mp4", "no frames", 1), ("b.mp4", "empty", 2), ("c.mp4", "empty", 2)]
    assert bad == [dict(zip(("path", "reason", "epoch"), row)) for row in expected]
    assert [row["bad_files"] for row in lines(folder, "epoch")] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers_die", [False, True])
def test_a_signal_saves_and_leaves_and_the_rest_is_the_same(
    folder, number, workers_die, caplog
):
    unbroken = trainer(folder / "unbroken", lr_scheduler={"type": "Cosine", "args": {}})
    unbroken.run()

    def call():
        os.kill(os.getpid(), number)
        if workers_die:
            raise RuntimeError(
                "DataLoader worker (pid 1) is killed by signal: Terminated."
            )
        return []

    stopped = trainer(
        folder / "stopped",
        [FakeLoader(hooks={(1, 2): call})],
        lr_scheduler={"type": "Cosine", "args": {}},
    )
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        stopped.run()
    assert left.value.code == 75 and signal.getsignal(number) is before
    assert f"{signal.Signals(number).name}: saved at step 6 of 8" in caplog.text
    latest = folder / "stopped/checkpoint-latest.pth"
    resumed = trainer(
        folder / "stopped", resume=latest, lr_scheduler={"type": "Cosine", "args": {}}
    )
    resumed.run()
    assert same(weights(resumed), weights(unbroken))
    assert (
        lines(folder / "stopped", "epoch")[-1]["loss"]
        == lines(folder / "unbroken", "epoch")[-1]["loss"]
    )
    one, two = (
        torch.load(folder / name / "checkpoint-latest.pth")["optimizer"]
        for name in ("unbroken", "stopped")
    )
    assert str(one) == str(two)


def test_dead_workers_without_a_signal_are_an_error(folder):
    def call():
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    with pytest.raises(RuntimeError, match="is killed"):
        trainer(folder, [FakeLoader(hooks={(0, 2): call})]).run()


def test_another_seed_or_stage_draws_otherwise(folder):
    runs = [
        trainer(folder / str(i), epochs=1, **more)
        for i, more in enumerate(({}, {}, {"seed": 1}, {"number": 1}))
    ]
    first, second, seed, number = (fake_trainer.run()["loss"] for fake_trainer in runs)
    assert first == second and len({first, seed, number}) == 3


def test_what_changed_since_the_checkpoint_is_said(folder, caplog):
    trainer(folder, [FakeLoader(6)], epochs=1, max_samples_per_epoch=8).run()
    state = torch.load(folder / "checkpoint-latest.pth")
    state["trainer"].update(world=2, samples=[8], position=3)
    state["epoch"] = state["trainer"]["epoch"] = 0
    torch.save(state, folder / "checkpoint-latest.pth")
    fake_trainer = trainer(
        folder, [FakeLoader(20)], resume=folder / "checkpoint-latest.pth"
    )
    assert fake_trainer.state.progress.position == 12  # 3 steps of 8 samples
    assert (
        "trainer.epochs: 1 -> 2" in caplog.text
        and "2 processes x 1 micro-batches -> 1 x 1" in caplog.text
    )
    assert (
        "samples a step [8] -> [2]" in caplog.text
        and "steps an epoch 4 -> 20" in caplog.text
    )
    with pytest.raises(
        ConfigError, match="was trained with 1 loaders, data_loader has 2"
    ):
        trainer(
            folder,
            [FakeLoader(), FakeLoader()],
            resume=folder / "checkpoint-latest.pth",
        )


def test_the_summary_says_what_the_numbers_are(folder, caplog):
    caplog.set_level(logging.INFO)
    trainer(
        folder, [FakeLoader(3, 1), FakeLoader(3, 4)], epochs=3, accumulate=1, seed=5
    ).run()
    for words in (
        "global batch 4 = 1 processes x 4 x 1",
        "an epoch: 6 steps, 15 samples",
        str(folder),
        "GiB",
        "seed 5",
        "3 epochs: 18 steps, 45 samples",
        "parameters: 2 trained",
        "precision fp32",
        "validation: none",
    ):
        assert words in caplog.text


def test_a_slow_loader_is_named():
    assert (
        progress.slow_loader_text(0.612)
        == "61 % of the time waiting for data: raise num_workers or prepare the data"
    )
    assert progress.format_duration(3723.4) == "1:02:03"
    values = {"lr": 3e-5, "samples_per_s": 812.3, "waiting": 0.05}
    text = progress.bar_text(
        {"loss": 2.5, "loss_vt": 1.25, "loss/WebVid": 3.0}, values, "1:02:03"
    )
    assert text == "loss 2.5 vt 1.25 lr 3.0e-05 812/s wait 5% left 1:02:03"


def test_without_a_terminal_there_are_lines(folder, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    trainer(folder, epochs=1).run()
    assert "epoch 1, step 2 of 4: loss " in caplog.text and " left" in caplog.text


def test_masked_clips_hide_what_the_mask_says():
    video_BTCHW = torch.rand(5, 2, 3, 8, 8)
    mask = torch.zeros(5, 2, 4, dtype=torch.bool)
    mask[:, :, 3] = True
    fake = types.SimpleNamespace(
        draw_masks=lambda _: [mask],
        model=types.SimpleNamespace(grid=lambda _: (2, 2, 2)),
    )
    picture = masked_clips(fake, video_BTCHW)
    assert picture.shape == (3, 4 * 2 * 8, 2 * 8) and picture.dtype == torch.uint8
    masked, unmasked = picture[:, :8, :8], picture[:, 8:16, :8]
    assert (masked[:, 4:, 4:] == 128).all() and torch.equal(
        masked[:, :4], unmasked[:, :4]
    )
    assert not torch.equal(masked[:, 4:, 4:], unmasked[:, 4:, 4:])
    assert masked_clips(types.SimpleNamespace(), video_BTCHW).shape == (3, 4 * 8, 2 * 8)


@pytest.mark.parametrize(
    "section, message",
    [
        ({"epoch": 3}, "trainer.epoch: unknown key .nearest: epochs"),
        ({"epochs": 0}, "trainer.epochs: 0 is given, 1 or"),
        ({"clip_grad_norm": 0}, "above 0"),
        ({"epochs": "3"}, "trainer.epochs: '3' is given"),
    ],
)
def test_wrong_settings(section, message):
    with pytest.raises(ConfigError, match=message):
        trainer_settings(Config({"trainer": section}))


def test_the_seed_may_stand_at_the_top():
    assert (
        trainer_settings(Config({"seed": 3})).seed == 3
        and trainer_settings(Config({"seed": 3, "trainer": {"seed": 4}})).seed == 4
    )


def test_wandb_when_asked_for(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match="trainer.wandb: wandb is not installed; pip install wandb"
    ):
        trainer(folder / "none", wandb=True).run()
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("end"),
    )
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        types.SimpleNamespace(init=lambda **args: calls.append(args) or run),
    )
    trainer(folder / "some", epochs=1, wandb={"project": "mine"}).run()
    assert (
        calls[0]["project"] == "mine"
        and calls[0]["resume"] == "allow"
        and calls[0]["config"]["name"] == "fake"
    )
    assert calls[1][0] == 1 and "train/loss_b" in calls[1][1] and calls[-1] == "end"
