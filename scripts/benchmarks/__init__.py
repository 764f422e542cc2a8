"""Measurements and checks behind scripts/bench.py, ablation.py and rehearsal.py."""
