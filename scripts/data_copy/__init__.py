"""The copy of a data set for training (scripts/prepare_data.py)."""
