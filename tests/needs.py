"""Marks for tests that need what Windows lacks; the library runs there, its command only in part.

Linux and macOS have both, so nothing is skipped there.
"""

import os

import pytest

posix = pytest.mark.skipif(
    os.name != "posix",
    reason="Windows has no fork, signals to other processes, file modes, limits or /dev/fd",
)
