"""Count the calls of our functions on the two paths that every caller takes.

The limits are today's counts: lower them when the code improves, and justify any increase. Later
versions of Python inline comprehensions, and count less.
"""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

from h2o_client import H2oClient
from h2o_client.emulator import Answer, Emulator

Calls = Counter[tuple[str, str]]


def calls_of(act: Callable[[], object], *, until: str = "") -> Calls:
    """Count our calls in this thread, until httpx sends a request with a given method."""
    calls: Calls = Counter()
    over = False

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal over
        code = frame.f_code
        path = code.co_filename.replace("\\", "/")
        if over or event != "call":
            return
        if path.endswith("/httpx/_client.py") and code.co_name == "send":
            over = frame.f_locals["request"].method == until
        elif "/h2o_client/" in path and "/emulator/" not in path:
            calls[path.rpartition("/h2o_client/")[2], code.co_qualname] += 1

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


def test_calls_to_the_first_token_and_to_close_stay_low() -> None:
    with Emulator() as server, H2oClient(server.url) as client:
        client.chat("Warm up")  # opens a session, imports modules
        server.reply(Answer([" One"] * 3, hold_after=1))
        stream = client.stream("Hi")

        first = calls_of(lambda: next(stream))
        out = calls_of(stream.close, until="DELETE")

        server.wait_idle()
        assert server.stops == 1
    assert first.total() <= 139, first
    assert out.total() <= 84, out
    assert len(out) <= 60, out
