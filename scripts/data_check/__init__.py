"""What is said about the data of a config (scripts/check_data.py)."""
