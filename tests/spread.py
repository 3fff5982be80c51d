"""Some of many cases for the default run."""

from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """Leave all but each so many-th case to the long run."""
    return [
        pytest.param(case, marks=[pytest.mark.long] if number % step else [])
        for number, case in enumerate(cases)
    ]
