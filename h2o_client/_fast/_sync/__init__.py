# Generated, do not edit: run `python scripts/unasync.py`.
"""The transport for scripts and threads."""
