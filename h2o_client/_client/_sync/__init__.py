# Generated, do not edit: run `python scripts/unasync.py`.
"""One of the two shells: `H2oClient`, for scripts and threads."""
