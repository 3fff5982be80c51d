"""What a test needs that Windows does not have: the library runs there, its command and tests less.

Linux and macOS have both, so nothing is skipped there.
"""

import os

import pytest

posix = pytest.mark.skipif(
    os.name != "posix",
    reason="Windows has no fork, signals to other processes, file modes, limits or /dev/fd",
)
