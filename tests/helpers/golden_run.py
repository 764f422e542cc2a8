"""A seeded tiny run through every user command, recorded, so that a rewrite can be shown to change nothing.

    python tests/helpers/golden_run.py record FILE.json      run everything, write what came out
    python tests/helpers/golden_run.py compare FILE.json     run everything again, print every difference

Recorded: SHA-256 of every tensor in the checkpoints (bit for bit on one machine), their keys, the numbers in log.jsonl
and results.json without dates and times, the JSON keys of the resolved config, SHA-256 of exported, extracted and
indexed files, and the error lines of twenty mistakes. Only user commands are called, so the script survives renames.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ("red", "green", "blue", "cyan", "pink", "white")
MOTIONS = ("left", "right", "up", "down")
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "square",
    "moves",
    *COLOURS,
    *MOTIONS,
]
NOT_COMPARED = {
    "time", "date", "seconds", "wait", "samples_per_s", "waiting", "memory", "memory_gib", "peak_gib",
    "git", "git_revision", "revision", "versions", "hostname", "device", "eta", "elapsed", "speed", "host",
    "cpu", "gpu",
}  # fmt: skip
MISTAKES = (
    ["train.py", "-c", "train.json", "trainer.epohcs=3"],
    ["train.py", "-c", "train.json", "objective.args.mask.type=TubeBlok"],
    ["train.py", "-c", "train.json", "objective.args.mvm_weight=big"],
    ["train.py", "-c", "train.json", "arch.args.load_checkpoint=nowhere.pth"],
    ["train.py", "-c", "train.json", "data_loader.args.dataset_name=MSRVT"],
    ["train.py", "-c", "train.json", "data_loader.args.data_dir=nowhere"],
    ["train.py", "-c", "train.json", "trainer.precision=fp64"],
    ["train.py", "-c", "train.json", "trainer.monitor=max t2v.R2"],
    ["train.py", "-c", "train.json", "data_loader.args.batch_size=1000"],
    ["train.py", "-c", "train.json", "-r", "nowhere.pth"],
    ["train.py", "-c", "train.json", "arch.args.text_params.model=nowhere"],
    ["train.py", "-c", "train.json", "optimizer.args.decay=some"],
    ["train.py", "-c", "train.json", "nonsense"],
    ["train.py", "-c", "nowhere.json"],
    ["train.py", "-c", "broken.json"],
    ["train.py"],
    ["test.py", "-c", "train.json"],
    ["test.py", "-c", "train.json", "-r", "page.pth"],
    ["test.py", "-c", "train.json", "-r", "nowhere.pth"],
    ["test.py", "-c", "train.json", "--metrics-from", "nowhere"],
    ["scripts/export.py", "page.pth", "out"],
    ["scripts/index.py", "build", "nowhere", "out"],
    ["scripts/extract.py", "-r", "nowhere.pth", "clips", "out"],
    ["scripts/report.py", "nowhere"],
)


def write_inputs(folder: Path):
    """Pictures and clips with captions, a text model, a config, a broken config and a page that is no checkpoint."""
    (folder / "clips").mkdir()
    for split, first, count in (("train", 0, 16), ("val", 16, 6), ("test", 22, 8)):
        rows = []
        for number in range(first, first + count):
            name = f"{number}.mp4" if number % 4 == 0 else f"{number}.png"
            write_media(folder / "clips" / name, number)
            rows.append(json.dumps({"path": name, "caption": caption(number)}))
        (folder / "clips" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    write_text_model(folder / "text")
    (folder / "train.json").write_text(json.dumps(config()))
    (folder / "broken.json").write_text('{"name": "x",\n "arch" {}}')
    (folder / "page.pth").write_text("<html>not found</html>")


def caption(number: int) -> str:
    return f"a {COLOURS[number % len(COLOURS)]} square moves {MOTIONS[number % len(MOTIONS)]}"


def write_media(path: Path, number: int):
    """A picture, or a clip of 8 frames with a square that moves."""
    import av
    from PIL import Image

    frames = []
    for time in range(8):
        frame = np.random.default_rng(number).integers(
            0, 60, (48, 64, 3), dtype=np.uint8
        )
        frame[10:30, 3 * time : 3 * time + 20] = np.random.default_rng(
            100 + number
        ).integers(100, 255, 3)
        frames.append(frame)
    if path.suffix == ".png":
        Image.fromarray(frames[0]).save(path)
        return
    with av.open(path, "w") as container:
        stream = container.add_stream(
            "mpeg4", rate=8, options={"threads": "1"}
        )  # x264 is not deterministic
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            )
        container.mux(stream.encode())


def write_text_model(folder: Path):
    from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

    folder.mkdir()
    BertTokenizerFast(
        vocab={word: i for i, word in enumerate(VOCABULARY)}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(VOCABULARY),
        "dim": 32,
        "hidden_dim": 64,
        "n_layers": 2,
        "n_heads": 2,
    }
    DistilBertModel(
        DistilBertConfig(max_position_embeddings=32, **sizes)
    ).save_pretrained(folder)


def config() -> dict[str, Any]:
    video = {
        "model": "SpaceTimeTransformer",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
    }
    loader = {
        "dataset_name": "JsonlDataset", "data_dir": "clips", "batch_size": 4, "num_workers": 0,
        "video_params": {"num_frames": 2, "input_res": 32, "reader": "av"},
    }  # fmt: skip
    arch = {
        "video_params": {**video, "num_heads": 2, "num_frames": 2},
        "text_params": {"model": "text"},
        "projection_dim": 16,
    }
    return {
        "name": "golden",
        "arch": {"type": "MILES", "args": arch},
        "data_loader": {"type": "TextVideoDataLoader", "args": loader},
        "objective": {
            "type": "MILESPretraining",
            "args": {"teacher": {"type": "EMA", "args": {"momentum": 0.9}}},
        },
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "lr_scheduler": {"type": "Cosine", "args": {"warmup_steps": 2}},
        "evaluation": {"rows": ["dsl", "qbnorm"], "resamples": 50},
        "trainer": {"epochs": 2, "save_dir": "exps", "log_every": 1, "accumulate": 2},
    }


def command(*words: str) -> str:
    """The standard output of `python words` in the current folder; the program must succeed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *words[1:]],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def record(folder: Path) -> dict[str, Any]:
    """Everything that the commands leave behind in `folder`, reduced to what can be compared."""
    write_inputs(folder)
    os.chdir(folder)
    command("train.py", "-c", "train.json", "-d", "cpu")
    run = next(Path("exps/golden").iterdir())
    run = run.rename(run.with_name("0101_000000"))
    command(
        "train.py", "-c", "train.json", "-d", "cpu", "-r", "auto", "trainer.epochs=3"
    )
    best = str(run / "model_best.pth")
    command(
        "test.py",
        "-c",
        "train.json",
        "-r",
        best,
        "-d",
        "cpu",
        "-o",
        "test",
        "--save-embeddings",
        "--save-ranks",
    )
    command("scripts/export.py", best, "exported")
    command(
        "scripts/extract.py",
        "-r",
        best,
        "-d",
        "cpu",
        "--workers",
        "0",
        "clips",
        "features",
        "--segments",
        "0.5",
    )
    command("scripts/index.py", "build", "features", "index")
    answers = command("scripts/search.py", "index", "a red square", "--json")
    return {
        "checkpoints": {
            path.name: checkpoint_bits(path) for path in sorted(run.glob("*.pth"))
        },
        "log": [
            plain_numbers(json.loads(line))
            for line in (run / "log.jsonl").read_text().splitlines()
        ],
        "results": plain_numbers(json.loads(Path("test/results.json").read_text())),
        "config_keys": key_paths(json.loads((run / "config.json").read_text())),
        "files": {
            name: file_bits(name) for name in ("test", "exported", "features", "index")
        },
        "search": plain_numbers(json.loads(answers.replace(os.getcwd(), ""))),
        "mistakes": {" ".join(words): error_line(words) for words in MISTAKES},
    }


def checkpoint_bits(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    tensors = flatten(
        {
            key: value
            for key, value in content.items()
            if key not in ("config", "trainer")
        }
    )
    return {
        "tensors": {name: bits(value) for name, value in tensors.items()},
        "trainer": plain_numbers(content["trainer"]),
    }


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in flatten(item, f"{name}/{key}").items()
    }


def bits(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    raw = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw).hexdigest()[:16]}"


def plain_numbers(value: Any) -> Any:
    """Without the fields that differ from run to run."""
    if isinstance(value, dict):
        return {
            key: plain_numbers(item)
            for key, item in value.items()
            if key not in NOT_COMPARED
        }
    return [plain_numbers(item) for item in value] if isinstance(value, list) else value


def key_paths(value: Any) -> list[str]:
    return sorted(flatten(value)) if isinstance(value, dict) else []


def file_bits(name: str) -> dict[str, str]:
    """SHA-256 of binary files; JSON files by their keys (they hold dates and paths)."""
    found = {}
    for path in sorted(Path(name).rglob("*")):
        if path.suffix == ".json":
            found[str(path)] = " ".join(key_paths(json.loads(path.read_text())))
        elif path.suffix in (".safetensors", ".npy", ".jsonl", ".faiss", ".txt"):
            found[str(path)] = hashlib.sha256(
                path.read_bytes().replace(os.getcwd().encode(), b"")
            ).hexdigest()[:16]
    return found


def error_line(words: list[str]) -> str:
    """The last line on stderr and the exit status of a command that is a mistake, run in this process."""
    stderr, stdout, sys.argv = io.StringIO(), io.StringIO(), [words[0], *words[1:]]
    status: Any = 0
    sys.path[0] = str((ROOT / words[0]).parent)
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            status = end.code
    lines = stderr.getvalue().strip().splitlines() or [""]
    return f"{status}: {lines[-1]}".replace(os.getcwd(), "")


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in {**old, **new}
            for line in differences(old.get(key), new.get(key), f"{path}/{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            line
            for i, (a, b) in enumerate(pairs)
            for line in differences(a, b, f"{path}/{i}")
        ]
    return (
        [] if old == new or old != old else [f"{path}:\n  was {old!r}\n  is  {new!r}"]
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    file = arguments.file.resolve()
    with tempfile.TemporaryDirectory() as folder:
        content = json.loads(json.dumps(record(Path(folder))))
        os.chdir(ROOT)
    if arguments.mode == "record":
        file.write_text(json.dumps(content, indent=1))
        return
    lines = differences(json.loads(file.read_text()), content)
    sys.stdout.write("\n".join(lines or ["equal: nothing differs"]) + "\n")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
