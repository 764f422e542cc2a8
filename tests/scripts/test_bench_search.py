"""bench.py search measures an index of the size that is asked for."""

import pytest

from scripts import bench
from scripts.benchmarks import record, search


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_each_kind_is_measured(tmp_path, monkeypatch, capsys, kind):
    def write_here(*arguments):
        return record.write_record(*arguments, folder=tmp_path)

    monkeypatch.setattr(search, "write_record", write_here)
    bench.main(
        ["search", "--rows", "600", "--width", "8", "--kind", kind, "--rounds", "3"]
    )
    header, few, many, written = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "segments" and written.startswith("written: ")
    assert few.split()[0] == "20" and many.split()[0] == "20000"
    assert all(float(number) > 0 for number in few.split()[1:3])
    assert len(list(tmp_path.glob("search_*.json"))) == 1
