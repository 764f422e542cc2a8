"""Runs of train.py that are killed, in processes forked from one that has imported everything: starting costs nothing.

    python -m tests.helpers.killing [--seeds 0 1] [--processes 1 2] [--workers 0 2] [--kills 5]

prints a table: for each case the hash of the unbroken run's final checkpoint and that of the killed one.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.helpers import tiny_run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.warm"])
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(tiny_run.ROOT), os.environ.get("PYTHONPATH")))
)
SAID = "said.txt"


def _child(config: str, arguments: list[str], environment: dict[str, str], said: str):
    """One process of a run; what it says goes to a file."""
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    import train

    sys.argv = ["train.py"]
    train.cli(["-c", config, "-d", "cpu", *arguments])


def start(config: Path, *arguments: str, processes: int = 1) -> list:
    """The processes of one run, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = (
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            if processes > 1
            else {}
        )
        made = CONTEXT.Process(
            target=_child,
            args=(str(config), list(arguments), environment, str(config.parent / SAID)),
        )
        made.start()
        started.append(made)
    return started


def finish(started: list, seconds: float = 120) -> list[int]:
    """Exit statuses."""
    for process in started:
        process.join(seconds)
    return [process.exitcode for process in started]


def run(config: Path, *arguments: str, processes: int = 1) -> list[int]:
    return finish(start(config, *arguments, processes=processes))


def steps(home: Path) -> int:
    """Step lines in all logs of all runs so far."""
    return sum(
        path.read_bytes().count(b'"kind": "step"') for path in home.glob("exps/tiny/**/log.jsonl")
    )


def kill_after(home: Path, started: list, count: int, pause: float) -> bool:
    """kill -9 to every process `pause` seconds after `count` more steps; False if they ended before."""
    goal, limit = steps(home) + count, time.monotonic() + 120
    while (
        steps(home) < goal
        and time.monotonic() < limit
        and all(process.is_alive() for process in started)
    ):
        time.sleep(0.002)
    time.sleep(pause)
    alive = [process.is_alive() for process in started]
    for process in started:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    finish(started)
    return all(alive)


def _hold(folder: str, pipe):
    from trainer.lock import acquire

    acquire(Path(folder))
    pipe.send("held")
    time.sleep(300)


def hold(folder: Path):
    """A process that holds a run's folder."""
    ours, theirs = CONTEXT.Pipe()
    made = CONTEXT.Process(target=_hold, args=(str(folder), theirs), daemon=True)
    made.start()
    assert ours.recv() == "held"
    return made


def latest(home: Path, stage: str = "") -> Path:
    """The newest run's last checkpoint."""
    return max(
        home.glob(f"exps/tiny/*/{stage}checkpoint-latest.pth"),
        key=lambda path: path.stat().st_mtime_ns,
    )


def digest(path: Path) -> str:
    """sha256 of everything that is trained or moved in a checkpoint: model, teacher, mask token, moments, place."""
    found = hashlib.sha256()

    def add(name: str, value):
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
        elif isinstance(value, torch.Tensor):
            found.update(
                name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        else:
            found.update(f"{name}={value!r}".encode())

    state = torch.load(path, weights_only=True)
    for key in (
        "state_dict",
        "objective",
        "optimizer",
        "scaler",
        "epoch",
        "step",
        "trainer",
        "monitor_best",
    ):
        add(key, state[key])
    return found.hexdigest()


def make(home: Path, processes: int, workers: int) -> Path:
    """A config of two loaders of pictures and validation, 22 steps a run."""
    data = (
        tiny_run.write_data(home.parent / "data", train=24, val=5)
        if not (home.parent / "data").is_dir()
        else home.parent / "data"
    )
    home.mkdir()
    batch = 2 if processes == 1 else 1
    loaders = [
        tiny_run.loader(data, 2 * batch, workers=workers),
        tiny_run.loader(data, batch, workers=workers),
    ]
    valid = tiny_run.loader(data, 2, split="val")
    content = tiny_run.config(
        home,
        loaders,
        {"epochs": 2, "save_every": 3, "max_samples_per_epoch": 36},
        valid_loader=valid,
        lr_scheduler={"type": "Cosine", "args": {"warmup_steps": 3}},
    )
    return tiny_run.save(home / "config.json", content)


def case(home: Path, processes: int, workers: int, kills: int, seed: int) -> tuple[str, str, int]:
    """(hash of the unbroken run, hash of the killed one, how often it was killed)."""
    home.mkdir(parents=True)
    whole, cut = make(home / "whole", processes, workers), make(home / "cut", processes, workers)
    assert run(whole, processes=processes) == [0] * processes, (home / "whole" / SAID).read_text()
    chance, done = random.Random(seed), 0
    while done < kills:
        started = start(cut, "-r", "auto", processes=processes)
        if not kill_after(home / "cut", started, chance.randint(1, 6), chance.random() * 0.05):
            break
        done += 1
    assert run(cut, "-r", "auto", processes=processes) == [0] * processes, (
        home / "cut" / SAID
    ).read_text()
    return digest(latest(home / "whole")), digest(latest(home / "cut")), done


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", [0]), ("processes", [1, 2]), ("workers", [0, 2])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--kills", type=int, default=5)
    chosen = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in chosen.seeds:
            for processes in chosen.processes:
                for workers in chosen.workers:
                    home = Path(folder, f"{seed}_{processes}_{workers}")
                    whole, cut, kills = case(home, processes, workers, chosen.kills, seed)
                    wrong += whole != cut
                    sys.stdout.write(
                        f"{processes} processes, {workers} workers, seed {seed}: unbroken {whole[:16]}, "
                        f"killed {kills} times {cut[:16]}: {'equal' if whole == cut else 'DIFFERENT'}\n"
                    )
                    sys.stdout.flush()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
