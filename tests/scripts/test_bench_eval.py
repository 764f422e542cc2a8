"""The bench of the evaluator runs, and what it compares computes the same ranks."""

import json

import pytest

from scripts import bench

pytestmark = pytest.mark.slow


def test_bench_eval(tmp_path, capsys):
    bench.main(
        [
            "eval",
            "--device",
            "cpu",
            "--sizes",
            "70",
            "200",
            "--queries",
            "100",
            "--width",
            "16",
            "--repeat",
            "1",
            "--out",
            str(tmp_path),
        ]
    )
    content = json.loads(next(tmp_path.glob("eval_*.json")).read_text())
    first, second = content["rows"]
    assert first["largest_rank_difference"] == 0 and first["family_s"] > 0
    assert (second["captions"], second["videos"], second["family_s"]) == (
        100,
        200,
        None,
    )
    assert (
        content["versions"]["git"] is not None
        or content["versions"]["packages"]["torch"]
    )
    assert "x bare" in capsys.readouterr().out


def test_bench_names_its_benches(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["evil"])
    assert end.value.code == 2 and "step,eval,loader" in capsys.readouterr().out
