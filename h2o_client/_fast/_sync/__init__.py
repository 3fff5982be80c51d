# Generated, do not edit: run `python scripts/unasync.py`.
"""The side of the transport for scripts and threads."""
