"""Ctrl-C and the signals of a scheduler: what is saved, what is said, how the program ends."""

import os
import signal

import pytest
import torch

import trainer.trainer as loop
from tests.helpers import killing, tiny_run
from tests.helpers.fakes import FakeLoader, trainer
from trainer.signals import JOB_SIGNALS, StopSignal, exit_status


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    monkeypatch.setattr(
        loop.images, "masked_clips", lambda *_: torch.zeros(3, 4, 4, dtype=torch.uint8)
    )


def send(number):
    """A function that sends this process a signal, and fails where the program goes on afterwards."""

    def call(*_, **__):
        os.kill(os.getpid(), number)
        raise AssertionError("it went on after the signal")

    return call


def stop(running):
    """The exit status that a run ends with."""
    with pytest.raises(SystemExit) as end:
        running.run()
    return end.value.code


@pytest.mark.parametrize(
    "number, status",
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 75),
        (signal.SIGUSR1, 75),
        (signal.SIGHUP, 75),
    ],
)
def test_a_signal_while_data_are_read_saves_at_once(tmp_path, caplog, number, status):
    before = signal.getsignal(number)
    loaders = [FakeLoader(hooks={(1, 1): send(number)})]
    assert stop(trainer(tmp_path / "run", loaders)) == status == exit_status(number)
    assert signal.getsignal(number) is before
    assert (
        f"{signal.Signals(number).name}: saved at step 5 of 8; -r auto" in caplog.text
    )
    assert torch.load(tmp_path / "run/checkpoint-latest.pth")["step"] == 5


def test_a_second_signal_does_not_disturb_the_checkpoint(tmp_path, monkeypatch):
    saved = []
    write = loop.State.save

    def save_and_be_signalled(self, also=()):
        os.kill(os.getpid(), signal.SIGINT)
        write(self, also)
        os.kill(os.getpid(), signal.SIGTERM)
        saved.append(self.step)

    def call():
        monkeypatch.setattr(loop.State, "save", save_and_be_signalled)
        os.kill(os.getpid(), signal.SIGINT)

    running = trainer(tmp_path / "run", [FakeLoader(hooks={(0, 3): call})])
    assert stop(running) == 130  # the first one counts
    assert saved == [3]
    assert torch.load(tmp_path / "run/checkpoint-latest.pth")["step"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_step_nothing_is_left(tmp_path, caplog, number):
    loaders = [FakeLoader(hooks={(0, 0): send(number)})]
    assert stop(trainer(tmp_path / "run", loaders)) == exit_status(number)
    assert "before the first step: nothing to save" in caplog.text
    assert not (tmp_path / "run").exists()


def test_in_the_validation_before_the_first_step_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validate", send(signal.SIGINT))
    running = trainer(tmp_path / "run", valid_loader=FakeLoader(), init_val=True)
    assert stop(running) == 130
    assert not (tmp_path / "run").exists()


def test_in_a_validation_all_steps_are_saved(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop, "validate", send(signal.SIGINT))
    running = trainer(tmp_path / "run", valid_loader=FakeLoader())
    assert stop(running) == 130
    assert "SIGINT: saved at step 4 of 8" in caplog.text

    monkeypatch.setattr(loop, "validate", lambda *_: {"t2v.R1": 1.0})
    latest = tmp_path / "run/checkpoint-latest.pth"
    resumed = trainer(tmp_path / "run", valid_loader=FakeLoader(), resume=latest)
    resumed.run()
    steps = [row["step"] for row in tiny_run.lines(tmp_path / "run", "step")]
    assert steps == list(range(1, 9))
    epochs = tiny_run.lines(tmp_path / "run", "epoch")
    assert [row["step"] for row in epochs] == [4, 8]


def test_a_signal_at_the_end_of_a_stage_begins_no_other(tmp_path, monkeypatch):
    end_epoch = loop.Trainer._end_epoch

    def end_and_be_signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return end_epoch(self)

    monkeypatch.setattr(loop.Trainer, "_end_epoch", end_and_be_signalled)
    assert stop(trainer(tmp_path / "run", epochs=1)) == 75
    assert torch.load(tmp_path / "run/checkpoint-latest.pth")["epoch"] == 1


def test_signals_that_were_ignored_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopSignal() as stop_signal:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop_signal.number
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ctrl_c_of_another_origin_is_not_swallowed(tmp_path):
    def call():
        raise KeyboardInterrupt

    loaders = [FakeLoader(hooks={(0, 2): call})]
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", loaders)._next_batches(
            iter_once(loaders[0].epoch(0, 2))
        )


def iter_once(batches):
    for batch in batches:
        yield 0, [batch]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminal_s_signal_to_all_processes_is_one_line(tmp_path, number):
    """Ctrl-C reaches main processes and data workers alike, and is often pressed twice."""
    config = killing.make(tmp_path / "run", 1, 2)
    started = killing.start(config, "trainer.epochs=50")
    try:
        goal = killing.time.monotonic() + 60
        while killing.steps(tmp_path / "run") < 5 and killing.time.monotonic() < goal:
            killing.time.sleep(0.01)
        (process,) = started
        for _ in range(2):
            for pid in [*killing.children(process.pid), process.pid]:
                os.kill(pid, number)
        statuses = killing.finish(started, 60)
    finally:
        for process in started:
            process.kill()
            process.join(10)
    output = (tmp_path / "run" / killing.OUTPUT).read_text()
    assert statuses == [exit_status(number)], output
    assert "Traceback" not in output and output.count("-r auto goes on") == 1
    assert torch.load(killing.latest(tmp_path / "run"))["step"] >= 5


def test_every_signal_of_a_job_has_a_handler():
    with StopSignal() as stop_signal:
        handlers = {signal.getsignal(number) for number in JOB_SIGNALS}
        assert handlers == {stop_signal._handle}
