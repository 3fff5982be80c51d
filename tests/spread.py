"""Some of many cases for the default run."""

import sys
from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """Leave all but each so many-th case to the long run."""
    return [
        pytest.param(case, marks=[pytest.mark.long] if number % step else [])
        for number, case in enumerate(cases)
    ]


def in_turn(cases: Iterable[Any]) -> list[Any]:
    """Leave two thirds of the cases to the long run; which, goes in turn with Python's version.

    The three versions that `.ci/run` finds share the cases.
    """
    minor = sys.version_info.minor
    return [
        pytest.param(case, marks=[pytest.mark.long] if (number + minor) % 3 else [])
        for number, case in enumerate(cases)
    ]
