"""Checkpoints: complete or not at all, plain data, restored exactly, refused in one line where they do not fit."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from parse_config import ConfigError, UserError
from trainer import checkpoint
from trainer.optim import OPTIMIZERS


class Small(nn.Module):
    """An objective's shape: a model, and something of its own."""

    def __init__(self, width=3):
        super().__init__()
        self.model = nn.Linear(2, width)
        self.mask_token_D = nn.Parameter(torch.randn(width))
        self.teacher = nn.Linear(2, width).requires_grad_(False)


class SmallRun:
    def __init__(self, width=3, steps=2, seed=0):
        torch.manual_seed(seed)
        self.objective = Small(width)
        self.optimizer = OPTIMIZERS.build(
            {"type": "AdamW", "args": {"lr": 0.1}}, module=self.objective
        )
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for _ in range(steps):
            (
                self.objective.model(torch.randn(4, 2)) + self.objective.mask_token_D
            ).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def collect(self):
        tensors = checkpoint.collect(self.objective, self.optimizer, self.scaler)
        return {
            "arch": "Small",
            **tensors,
            "epoch": 1,
            "step": 2,
            "trainer": {"stage": 0},
            "monitor_best": None,
            "config": {"name": "x"},
        }

    def restore(self, path):
        checkpoint.restore(
            checkpoint.read(path), self.objective, self.optimizer, self.scaler, path
        )


@pytest.fixture
def path(tmp_path):
    return tmp_path / checkpoint.LATEST


def test_plain_data_there_and_back(path):
    saved = SmallRun()
    checkpoint.write(path, saved.collect(), [path.with_name(checkpoint.BEST)])
    plain = torch.load(path, weights_only=True)
    assert set(plain["state_dict"]) == {"weight", "bias"}
    assert set(plain["objective"]) == {"mask_token_D", "teacher.weight", "teacher.bias"}
    assert set(plain["optimizer"]) == {"model.weight", "model.bias", "mask_token_D"}
    restored = SmallRun(steps=0, seed=1)
    restored.restore(path.with_name(checkpoint.BEST))
    for key, value in saved.objective.state_dict().items():
        assert torch.equal(value, restored.objective.state_dict()[key])
    assert str(saved.optimizer.state_dict()["state"]) == str(
        restored.optimizer.state_dict()["state"]
    )
    assert sorted(os.listdir(path.parent)) == [checkpoint.LATEST, checkpoint.BEST]


def test_replacing_the_latest_leaves_the_linked_ones(path):
    checkpoint.write(path, {"n": 1}, [path.with_name(checkpoint.BEST)])
    checkpoint.write(path, {"n": 2})
    assert (
        torch.load(path)["n"] == 2
        and torch.load(path.with_name(checkpoint.BEST))["n"] == 1
    )


def test_no_hard_links_then_copies(path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint.write(path, {"n": 1}, [path.with_name(checkpoint.BEST)])
    assert torch.load(path.with_name(checkpoint.BEST))["n"] == 1


@pytest.mark.parametrize("room", [100, 20_000, 200_000])
def test_a_full_disk_costs_nothing_that_was_there(path, room):
    """A limit on file size makes write() fail in the middle, as a full disk does."""
    checkpoint.write(path, {"n": 1})
    before = path.read_bytes()
    old, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
        with pytest.raises(
            UserError,
            match="could not be written .File too large.*saved before is whole.*make room",
        ):
            checkpoint.write(
                path, {"n": torch.zeros(100_000)}, [path.with_name(checkpoint.BEST)]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and os.listdir(path.parent) == [
        checkpoint.LATEST
    ]


@pytest.mark.slow
def test_a_kill_while_writing_costs_nothing_that_was_there(path):
    code = (
        "import os, pathlib, signal, sys, torch\nfrom trainer import checkpoint\npath = pathlib.Path(sys.argv[1])\n"
        "checkpoint.write(path, {'n': torch.ones(5)})\nreplace = os.fsync\n"
        "os.fsync = lambda f: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.write(path, {'n': torch.zeros(100_000)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": "."},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    assert torch.equal(torch.load(path)["n"], torch.ones(5))
    checkpoint.write(path, {"n": 3})
    assert os.listdir(path.parent) == [checkpoint.LATEST]


def test_whole_or_not(path):
    checkpoint.write(path, {"n": torch.zeros(1000)})
    assert checkpoint.is_complete(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert not checkpoint.is_complete(path) and not checkpoint.is_complete(
        path.with_name("none.pth")
    )


def saved(folder, step, saved_at, name=checkpoint.LATEST):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**SmallRun().collect(), "step": step}
    content |= {"saved_at": saved_at, "folder": str(folder)}
    checkpoint.write(path, content)
    return path


def test_the_newest_is_what_was_saved_last(tmp_path):
    older = saved(tmp_path / "b", step=9, saved_at=100.0)
    newer = saved(tmp_path / "a", step=3, saved_at=200.0)
    os.utime(older, (4e9, 4e9))
    assert checkpoint.newest([older, newer]) == newer
    copy = tmp_path / "zz" / checkpoint.LATEST
    copy.parent.mkdir()
    copy.write_bytes(newer.read_bytes())
    assert checkpoint.newest([copy, newer, older]) == newer
    assert checkpoint.newest([]) is None


def test_those_of_before_the_time_was_kept_go_by_their_step(tmp_path):
    paths = []
    for step in (2, 7, 5):
        path = tmp_path / f"checkpoint-{step}.pth"
        checkpoint.write(path, {**SmallRun().collect(), "step": step})
        paths.append(path)
    assert checkpoint.newest(paths) == paths[1]


def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(tmp_path, caplog):
    older = saved(tmp_path, 1, 100.0, "checkpoint-epoch1.pth")
    newer = saved(tmp_path, 2, 200.0)
    content = newer.read_bytes()
    expected = torch.load(newer)
    found = 0
    for position in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        newer.write_bytes(flipped)
        if checkpoint.newest([newer, older]) == older:
            found += 1
            continue
        state = checkpoint.read(newer)
        assert state["step"] == 2 and state["config"] == expected["config"]
        for name, tensor in expected["state_dict"].items():
            assert torch.equal(state["state_dict"][name], tensor)
    assert found > 10
    assert "the one before is taken" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_torn_file_is_passed_over(tmp_path, share):
    older = saved(tmp_path, 1, 100.0, "checkpoint-epoch1.pth")
    newer = saved(tmp_path, 2, 200.0)
    content = newer.read_bytes()
    newer.write_bytes(content[: int(len(content) * share)])
    assert checkpoint.newest([newer, older]) == older
    assert checkpoint.newest([newer]) is None


def test_what_does_not_fit_is_said_in_a_line_and_changes_nothing(path):
    checkpoint.write(path, SmallRun(width=4).collect())
    small_run = SmallRun()
    before = small_run.objective.state_dict()["model.weight"].clone()
    with pytest.raises(
        UserError,
        match=r"does not fit.*mask_token_D is \(4,\) instead of \(3,\).* and 2 more.*-c ",
    ):
        small_run.restore(path)
    assert torch.equal(before, small_run.objective.state_dict()["model.weight"])
    content = SmallRun().collect()
    content["objective"]["extra"] = torch.zeros(1)
    del content["state_dict"]["bias"]
    checkpoint.write(path, content)
    with pytest.raises(UserError, match=r"extra has no place, model\.bias is missing"):
        small_run.restore(path)


def test_weights_alone_are_no_place_to_go_on_from(path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(
        UserError,
        match="holds no objective; to start from its weights set arch.args.load_checkpoint=",
    ):
        checkpoint.read(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.read(path.with_name("absent.pth"))
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ConfigError, match="damaged"):
        checkpoint.read(path)


def test_into_the_next_stage_goes_what_was_learned_by_gradient():
    saved, restored, wide = SmallRun(), Small(), Small(width=4)
    teacher = restored.teacher.weight.clone()
    checkpoint.load_from_previous_stage(saved.collect(), restored)
    assert torch.equal(
        restored.mask_token_D, saved.objective.mask_token_D
    ) and torch.equal(restored.teacher.weight, teacher)
    initial_token = wide.mask_token_D.clone()
    checkpoint.load_from_previous_stage(saved.collect(), wide)
    assert torch.equal(wide.mask_token_D, initial_token)


def test_the_newest_n_are_kept(tmp_path):
    for number in (1, 2, 9, 10, 11):
        (tmp_path / f"checkpoint-epoch{number}.pth").touch()
    checkpoint.prune(tmp_path, 0)
    assert len(os.listdir(tmp_path)) == 5
    checkpoint.prune(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint-epoch10.pth",
        "checkpoint-epoch11.pth",
    ]
