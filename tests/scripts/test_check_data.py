"""scripts/check_data.py says what is missing and broken, counts captions, and draws what the model will see."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.test_prepare_data import clip

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_data.py"


def check(folder, names, **args):
    rows = [
        {"path": name, "caption": "a box" if i else "a box that grows"}
        for i, name in enumerate(names)
    ]
    if args.get("with_captions") is False:
        rows = [{"path": name} for name in names]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "data_loader": {
            "type": "TextVideoDataLoader",
            "args": {
                "dataset_name": "JsonlDataset",
                "data_dir": str(folder),
                "video_params": {"input_res": 32},
                **args,
            },
        }
    }
    (folder / "config.json").write_text(json.dumps(config))
    return subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "-c",
            str(folder / "config.json"),
            "--decode",
            "all",
            "--sheet",
            str(folder / "sheet.png"),
        ],
        capture_output=True,
        text=True,
    )


def test_what_is_missing_and_broken_is_named(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        clip(tmp_path / name, frames=5, size=(64, 48))
    intact = check(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    assert intact.returncode == 0, intact.stdout + intact.stderr
    assert (
        "3 of 3" in intact.stdout
        and "0 missing" in intact.stdout
        and "1 texts stand more than once" in intact.stdout
        and "annotations nothing left out" in intact.stdout
    )
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.std() > 20, "an empty sheet"
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    broken = check(tmp_path, ["a.mp4", "b.mp4", "c.mp4", "gone.mp4"])
    assert broken.returncode == 1
    assert (
        "missing: gone" in broken.stdout
        and "2 of 3 tried" in broken.stdout
        and "b.mp4: " in broken.stdout
        and "annotations left out: 1 videos without a file" in broken.stdout
    )
    wrong = check(tmp_path, ["a.mp4", " b.mp4"])
    assert wrong.returncode == 2
    assert wrong.stderr == (
        f"error: {tmp_path}/train.jsonl: line 2: path ' b.mp4' has blanks around it; remove them\n"
    )


def test_footage_without_captions_is_drawn_without(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        clip(tmp_path / name, frames=5, size=(64, 48))
    checked = check(tmp_path, ["a.mp4", "b.mp4"], with_captions=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 of 2" in checked.stdout
    assert "captions    not used (with_captions false)" in checked.stdout
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.std() > 20, "an empty sheet"
