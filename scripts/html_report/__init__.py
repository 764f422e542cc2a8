"""The HTML report of a run (scripts/report.py)."""
