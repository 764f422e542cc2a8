"""Figures of what a model sees (scripts/visualize.py)."""
