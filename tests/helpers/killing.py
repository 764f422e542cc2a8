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
OUTPUT = "output.txt"  # what a run's processes write to stdout and stderr


def _child(
    config: str, arguments: list[str], environment: dict[str, str], output_path: str
) -> None:
    """One process of a run; its output goes to a file."""
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    import train

    sys.argv = ["train.py"]
    train.cli(["-c", config, "-d", "cpu", *arguments])


def start(config: Path, *arguments: str, processes: int = 1) -> list:
    """Start the processes of one run, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {}
        if processes > 1:
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        process = CONTEXT.Process(
            target=_child,
            args=(
                str(config),
                list(arguments),
                environment,
                str(config.parent / OUTPUT),
            ),
        )
        process.start()
        started.append(process)
    return started


def children(pid: int) -> list[int]:
    """The processes that the main thread of `pid` has forked and that still run."""
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def finish(started: list, seconds: float = 120) -> list[int]:
    """Wait for the processes and return their exit statuses."""
    for process in started:
        process.join(seconds)
    return [process.exitcode for process in started]


def run(config: Path, *arguments: str, processes: int = 1) -> list[int]:
    return finish(start(config, *arguments, processes=processes))


def steps(home: Path) -> int:
    """Step lines in all logs of all runs so far."""
    return sum(
        path.read_bytes().count(b'"kind": "step"')
        for path in home.glob("exps/tiny/**/log.jsonl")
    )


def kill_after(home: Path, started: list, count: int, pause: float) -> bool:
    """kill -9 to every process `pause` seconds after `count` more steps; False if they ended before."""
    goal = steps(home) + count
    limit = time.monotonic() + 120
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


def _hold(folder: str, pipe) -> None:
    from trainer.lock import acquire

    acquire(Path(folder))
    pipe.send("locked")
    time.sleep(300)


def hold(folder: Path):
    """Start a process that locks a run's folder; returns it when the folder is locked."""
    parent_end, child_end = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold, args=(str(folder), child_end), daemon=True)
    process.start()
    assert parent_end.recv() == "locked"
    return process


def latest(home: Path, stage: str = "") -> Path:
    """The newest run's last checkpoint."""
    paths = home.glob(f"exps/tiny/*/{stage}checkpoint-latest.pth")
    return max(paths, key=lambda path: path.stat().st_mtime_ns)


def digest(path: Path) -> str:
    """sha256 of all that training changes in a checkpoint: model, teacher, mask token, moments, position."""
    sha256 = hashlib.sha256()

    def add(name: str, value) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
        elif isinstance(value, torch.Tensor):
            content = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            sha256.update(name.encode() + content)
        else:
            sha256.update(f"{name}={value!r}".encode())

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
    return sha256.hexdigest()


def make(home: Path, processes: int, workers: int) -> Path:
    """A config of two loaders of pictures and validation, 22 steps a run."""
    data = home.parent / "data"
    if not data.is_dir():
        tiny_run.write_data(data, train=24, val=5)
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


def case(
    home: Path, processes: int, workers: int, kills: int, seed: int
) -> tuple[str, str, int]:
    """(hash of the unbroken run, hash of the killed one, how often it was killed)."""
    home.mkdir(parents=True)
    unbroken_home = home / "unbroken"
    killed_home = home / "killed"
    unbroken = make(unbroken_home, processes, workers)
    killed = make(killed_home, processes, workers)
    success = [0] * processes
    assert run(unbroken, processes=processes) == success, (
        unbroken_home / OUTPUT
    ).read_text()
    generator = random.Random(seed)
    num_killed = 0
    while num_killed < kills:
        started = start(killed, "-r", "auto", processes=processes)
        count = generator.randint(1, 6)
        if not kill_after(killed_home, started, count, pause=generator.random() * 0.05):
            break
        num_killed += 1
    statuses = run(killed, "-r", "auto", processes=processes)
    assert statuses == success, (killed_home / OUTPUT).read_text()
    return digest(latest(unbroken_home)), digest(latest(killed_home)), num_killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", [0]), ("processes", [1, 2]), ("workers", [0, 2])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--kills", type=int, default=5)
    args = parser.parse_args()
    num_different = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for processes in args.processes:
                for workers in args.workers:
                    home = Path(folder, f"{seed}_{processes}_{workers}")
                    unbroken, killed, kills = case(
                        home, processes, workers, args.kills, seed
                    )
                    num_different += unbroken != killed
                    sys.stdout.write(
                        f"{processes} processes, {workers} workers, seed {seed}: unbroken {unbroken[:16]}, "
                        f"killed {kills} times {killed[:16]}: {'equal' if unbroken == killed else 'DIFFERENT'}\n"
                    )
                    sys.stdout.flush()
    sys.exit(num_different)


if __name__ == "__main__":
    main()
