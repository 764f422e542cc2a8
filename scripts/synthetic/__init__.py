"""Generated data, tiny models and miniature data sets (scripts/make_demo_data.py, the tests)."""
