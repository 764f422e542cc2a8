"""Features, index, search and its server (scripts/extract.py, index.py, search.py)."""
