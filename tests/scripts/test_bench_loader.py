"""bench.py loader: the pair with and without the cache of decoded clips reads the same samples."""

import argparse

import pytest
import torch

from scripts.benchmarks import loader


@pytest.mark.slow
def test_both_ways_read_the_same_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loader, "SMALL_CLIPS", 3)
    folder = tmp_path / "small"
    rates = loader.rates_by_cache(folder, argparse.Namespace(rounds=2))
    assert list(rates) == ["none", "memory"]
    assert rates["memory"] > rates["none"] > 0

    plain, cached = (loader.small_dataset(folder, way) for way in rates)
    for key in ((0, 0), (1, 0), (2, 1), (0, 2)):
        assert torch.equal(plain[key]["video"], cached[key]["video"])
    assert plain.cache is None and cached.cache.held.clips == 3
    assert plain[0]["video"].shape == (4, 3, 32, 32)

    loader.show_cache({"none": 50.0, "memory": 400.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["memory", "400.0", "8.00x", "2.500"]
