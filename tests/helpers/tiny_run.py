"""A miniature run: pictures and captions on disk, a tiny text encoder, a config for train.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.synthetic import tiny_models
from scripts.synthetic.miniatures import write_media, write_text

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    ("the", "a"),
    ("red", "blue", "green"),
    ("dog", "cat", "man"),
    ("runs", "jumps", "left", "right"),
)


def sentence(number: int) -> str:
    return " ".join(words[number // 3**i % len(words)] for i, words in enumerate(WORDS))


def write_data(folder: Path, suffix: str = ".png", **splits: int) -> Path:
    """A JSONL data set of pictures (or clips); splits: how many of each."""
    number = 0
    for split, count in splits.items():
        rows = []
        for _ in range(count):
            write_media(folder / f"{number}{suffix}", number)
            rows.append({"path": f"{number}{suffix}", "caption": sentence(number)})
            number += 1
        write_text(folder / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


def loader(
    folder: Path, batch_size: int = 2, frames: int = 1, workers: int = 0, **args: Any
) -> dict[str, Any]:
    video = {"num_frames": frames, "input_res": 32, "reader": "av", "deadline": 0}
    return {
        "type": "TextVideoDataLoader",
        "args": {
            "dataset_name": "JsonlDataset",
            "data_dir": str(folder),
            "batch_size": batch_size,
            "num_workers": workers,
            "video_params": video,
            **args,
        },
    }


def config(
    home: Path, loaders: Any, trainer: dict[str, Any] | None = None, **sections: Any
) -> dict[str, Any]:
    """A config whose runs go to home/exps/tiny; the text tower is made in home/text if it is not there."""
    folder = home / "text"
    model = tiny_models.arch_config(
        str(folder)
        if folder.is_dir()
        else tiny_models.save_text_model(folder, dropout=0.1),
        depth=1,
    )
    return {
        "name": "tiny",
        "arch": model,
        "data_loader": loaders,
        "objective": {
            "type": "MILESPretraining",
            "args": {"teacher": {"type": "EMA", "args": {"momentum": 0.9}}},
        },
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {
            "epochs": 2,
            "save_dir": str(home / "exps"),
            "log_every": 1,
            **(trainer or {}),
        },
        **sections,
    }


def train(
    path: Path,
    *arguments: str,
    processes: int = 1,
    wait: bool = True,
    **environment: str,
) -> Any:
    """`train.py -c path arguments` under python or torchrun; CompletedProcess, or Popen without `wait`."""
    launcher = []
    if processes > 1:
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
        ]
    command = [
        sys.executable,
        *launcher,
        str(ROOT / "train.py"),
        "-c",
        str(path),
        "-d",
        "cpu",
        *arguments,
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    options: dict[str, Any] = {
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    if not wait:
        return subprocess.Popen(command, **options)
    return subprocess.run(command, timeout=300, check=False, **options)


def save(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of log.jsonl of one kind."""
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]
