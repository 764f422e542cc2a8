"""What the README says can be typed: its five lines run, its commands and settings exist, the demo's script runs."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.synthetic import tiny_models
from tests.scripts.test_prepare_data import clip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(set(re.findall(r"python (scripts/\w+\.py)", README)))


def test_the_five_lines(tmp_path):
    model = tiny_models.build_miles(tiny_models.save_text_model(tmp_path / "text"))
    model.save_pretrained(tmp_path / "model")
    for i in range(2):
        clip(tmp_path / f"{i}.mp4", frames=8, size=(64, 48))
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len(code.strip().splitlines()) == 5
    code = code.replace("exps/demo/STAMP", str(tmp_path / "model"))
    for i in range(2):
        code = code.replace(
            f"data/demo/videos/test/0000{i}.mp4", str(tmp_path / f"{i}.mp4")
        )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    numbers = [float(x) for x in re.findall(r"-?\d\.\d+", said.stdout)]
    assert len(numbers) == 4 and all(-1 <= x <= 1 for x in numbers)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_explain_themselves(script):
    said = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        said.returncode == 0
        and "usage" in (said.stdout + said.stderr).lower()
        or "bench" in script
    ), said.stderr


def test_the_readme_is_an_outline():
    assert len(README.splitlines()) <= 150
    for picture in re.findall(r"!\[[^\]]*\]\((docs/[^)]+)\)\n\n(.)", README):
        assert (ROOT / picture[0]).is_file() and picture[1] == "*", (
            f"{picture[0]} has no caption"
        )
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert links and not [link for link in links if not (ROOT / link).is_file()]


def test_what_is_named_is_there():
    rooms = "scripts|configs|data_loader|model|trainer|tests"
    named = set(re.findall(rf"(?:{rooms})/[\w./]+\.(?:py|sh|json|sbatch)", README))
    missing = {
        path
        for path in named
        if not (ROOT / path).is_file() and not path.endswith("/mine.py")
    }
    assert named and not missing


def installed_stamp() -> str:
    """What scripts/setup.sh leaves in an environment into which it has installed everything."""
    names = ("pyproject.toml", "requirements.txt", "requirements.lock")
    content = b"".join((ROOT / name).read_bytes() for name in names)
    return f"lock yes, {ROOT}, {hashlib.sha256(content).hexdigest()}  -\n"


def test_the_demo_from_data_to_table(tmp_path):
    """scripts/demo.sh with this interpreter: an environment that is there and complete is used as it is."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").write_text(
        f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    )
    (tmp_path / "venv/bin/python").chmod(0o755)
    (tmp_path / "venv/.miles-requirements").write_text(installed_stamp())
    environment = {
        **os.environ,
        "VENV": str(tmp_path / "venv"),
        "DEMO_DIR": str(tmp_path / "data"),
        "SAVE_DIR": str(tmp_path / "exps"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        "bash",
        str(ROOT / "scripts/demo.sh"),
        "trainer.epochs=1",
        "lr_scheduler.type=Constant",
        "trainer.max_samples_per_epoch=128",
    ]
    said = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-2000:]
    results = json.loads(
        next((tmp_path / "exps/demo").glob("*/test/results.json")).read_text()
    )
    assert (
        results["num_captions"] == results["num_videos"] == 240
        and 0 < results["t2v"]["R10"] <= 100
    )
    run = next((tmp_path / "exps/demo").iterdir())
    checkpoint = run / "model_best.pth"
    for name in ("attention.png", "masking.png", "alignment.png"):
        assert (run / name).read_bytes().startswith(
            b"\x89PNG"
        ) and f"/{name}" in said.stdout
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64" in page and "report.html" in said.stdout
    assert (
        len((run / "test/ranks.jsonl").read_text().splitlines()) == 480
        and (run / "test/embeddings").is_dir()
    )
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
