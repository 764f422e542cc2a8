"""scripts/rehearsal.py from data to ONNX, and its checks on what they must refuse."""

import json
import os
import re
import shutil
import subprocess

import pytest
import torch

from scripts import rehearsal
from scripts.benchmarks import rehearsal_checks as checks
from scripts.synthetic import tiny_models
from tests.helpers import warm_python
from tests.helpers.tiny_run import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """(its folder, what it said)."""
    out = tmp_path_factory.mktemp("rehearsal")
    with warm_python.serve() as python:
        command = [python, str(ROOT / "scripts/rehearsal.py"), "--out", str(out)]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHON": python, "OMP_NUM_THREADS": "1"},
            cwd=out,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (home,) = out.iterdir()
    return home, done.stdout


def only(home, pattern):
    (found,) = home.glob(pattern)
    return found


def test_all_parts_in_order_and_what_they_left(rehearsed):
    home, said = rehearsed
    names = re.findall(r"^\d  (.*)$", said, re.M)
    assert names == [
        "data",
        "pre-training, stage 1",
        "pre-training, stage 2",
        "zero-shot MSR-VTT",
        "fine-tuning on MSR-VTT",
        "evaluation",
        "export, a folder",
        "export, the authors' layout",
        "export, ONNX",
    ]
    assert (
        "it began at MILES_cc3m_webvid_1f's weights" in said
        and "it began at MILES_webvid_4f's weights" in said
    )
    assert said.count("bit for bit") == 2 and "all of it held: 8 commands" in said
    assert max(map(len, said.replace(str(home), "").splitlines())) <= 160
    first = only(home, "exps/MILES_cc3m_webvid_1f/*/checkpoint-latest.pth")
    config = json.loads(only(home, "exps/MILES_webvid_4f/*/config.json").read_text())
    assert config["arch"]["args"]["load_checkpoint"] == str(first)
    assert len(list((home / "log").iterdir())) == 8
    assert {path.name for path in (home / "exports").iterdir()} == {
        "folder",
        "MILES.pth",
        "onnx",
    }


def test_a_run_that_began_elsewhere_is_refused(rehearsed, tmp_path):
    """Stage 2 is not far from stage 1, but far from a model that was never trained, and from itself not at all."""
    home, _ = rehearsed
    first = only(home, "exps/MILES_cc3m_webvid_1f/*/checkpoint-latest.pth")
    second = only(home, "exps/MILES_webvid_4f/*/checkpoint-latest.pth")
    assert "none is more than" in checks.begins_at(second, first)
    torch.save(
        {
            "state_dict": tiny_models.build_miles(
                str(home / "text"), seed=5
            ).state_dict()
        },
        tmp_path / "fresh.pth",
    )
    for other in (tmp_path / "fresh.pth", second):
        with pytest.raises(checks.Failed, match="does not begin at the weights"):
            checks.begins_at(second, other)
    with pytest.raises(checks.Failed, match="is of 4 frames, not 1"):
        checks.trained(second, frames=1)


def test_results_and_exports_of_another_model_are_refused(rehearsed, tmp_path):
    home, _ = rehearsed
    tuned = only(home, "exps/finetune_msrvtt/*/checkpoint-latest.pth")
    results = only(home, "exps/finetune_msrvtt/*/test/*/results.json")
    with pytest.raises(checks.Failed, match="is not of"):
        checks.evaluated(
            results, only(home, "exps/MILES_webvid_4f/*/checkpoint-latest.pth")
        )
    state = torch.load(home / "exports/MILES.pth", weights_only=True)
    state["state_dict"]["vid_proj.0.bias"][0] += 1e-3
    torch.save(state, tmp_path / "MILES.pth")
    with pytest.raises(checks.Failed, match="embeds clips otherwise"):
        checks.same_model(
            tuned, tmp_path / "MILES.pth", results.with_name("embeddings")
        )
    shutil.copytree(home / "exports/onnx", tmp_path / "onnx")
    tiny_models.build_miles(str(home / "text"), seed=5).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(checks.Failed, match="away from torch"):
        checks.same_onnx(tmp_path / "other", tmp_path / "onnx")


def test_a_command_that_fails_ends_it_with_its_words(tmp_path, monkeypatch, capsys):
    """No interpreter, so the first recipe cannot go on."""
    monkeypatch.setenv("PYTHON", "/bin/false")
    with pytest.raises(SystemExit) as end:
        rehearsal.cli(["--out", str(tmp_path)])
    assert "failed: pre-training, stage 1 ended with status 2" in end.value.code
    assert "missing: torch for /bin/false" in end.value.code
    assert "pre-training, stage 2" not in capsys.readouterr().out
