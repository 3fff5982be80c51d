"""What a test needs of the system that it runs on; elsewhere it is skipped, with a word."""

import os

import pytest

posix = pytest.mark.skipif(
    os.name != "posix", reason="POSIX only: signals to other processes, modes, locks, terminals"
)
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
