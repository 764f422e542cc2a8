"""The bench of training steps: its baseline computes what our layers compute, and a run writes its record."""

import json

import pytest

from scripts.benchmarks import record, step

pytestmark = pytest.mark.slow


def test_the_baseline_attends_as_our_layers_do():
    assert step.attention_difference() < 1e-6


def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(step.SIZES, "tiny", (24, 1, 2, 32, 24, 1))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home" / "torch"))
    monkeypatch.setattr(
        step, "write_record", lambda *args: record.write_record(*args, tmp_path)
    )
    step.main(
        [
            "--device",
            "cpu",
            "--size",
            "tiny",
            "--batch",
            "2",
            "--frames",
            "2",
            "--steps",
            "1",
        ]
    )
    content = json.loads(next(tmp_path.glob("step_*.json")).read_text())
    assert [(row["step"], row["way"]) for row in content["rows"]] == [
        ("Contrastive", "family"),
        ("Contrastive", "ours"),
        ("MILESPretraining", "family"),
        ("MILESPretraining", "ours"),
    ]
    assert all(row["seconds"] > 0 and row["flops"] > 0 for row in content["rows"])
    assert "speed-up" in capsys.readouterr().out
