"""The life of a stream: transitions that nothing can interrupt."""

import sys
from types import FrameType
from typing import Any

from h2o_client.protocol.state import Life, State


def test_transition_cannot_be_interrupted() -> None:
    """Python runs signal handlers, and switches threads, as it enters a Python function."""
    life = Life()
    entered: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        moved = life.move(State.OPEN)
    finally:
        sys.setprofile(None)
    assert (moved, life.state) == (True, State.OPEN)
    assert entered == ["move"]
