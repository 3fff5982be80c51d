"""Marks tests that cannot run on Windows.

The library supports Windows, and its tests run there. These tests use features of POSIX, which
Linux and macOS always have, so nothing is skipped there.
"""

import os

import pytest

posix = pytest.mark.skipif(
    os.name != "posix",
    reason="Windows has no fork, signals to other processes, file modes, limits or /dev/fd",
)
