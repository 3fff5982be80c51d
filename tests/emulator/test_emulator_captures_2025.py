"""The emulator answers like the recorded real servers of 2025, in all scenarios."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asked import eventually
from replay import CAPTURES, Clock, Got, background, load, names
from replay_2025 import MODELS, TITLE, Replay2025, Stub2025

from h2o_client.emulator import Emulator, Intervals

VERSIONS = ("main-2026-08", "0.10")

HELD = {
    # scenario: {stream: (the exchange before which it starts, tokens before it pauses)}
    "main-2026-08/04_stop": {2: (1, 9), 6: (5, 9), 10: (9, 0)},
    "main-2026-08/05_delete": {8: (7, 3)},
    "main-2026-08/18_parallel": {3: (1, 2)},
}
"""Scenarios with two concurrent requests: one stream pauses while the other request is made."""

OPTIONS: dict[str, dict[str, Any]] = {
    # The pending stop takes effect too late to end the quick answer that follows it.
    "main-2026-08/04_stop": {"stop_poll": 0.3},
    "main-2026-08/30_rate_limit": {
        "rate_limit": 2,
        "conversation_limit": 3,
        "message_length": 50,
    },
    "main-2026-08/31_login": {"login": "somebody"},
    "main-2026-08/32_cookie_flags": {"cookie_secure": False},
}
"""The configuration of the recorded servers."""


@pytest.mark.parametrize("name", names(*VERSIONS))
def test_emulator_matches_the_2025_recording(name: str) -> None:
    capture = load(name)
    dates = [v for k, v in capture["exchanges"][0]["response"]["headers"] if k.lower() == "date"]
    clock = Clock(parsedate_to_datetime(dates[0]).timestamp() - 1)
    stub = Stub2025()
    with Emulator(
        dialect="chat-ui-2025",
        version="0.10" if name.startswith("0.10") else "main",
        engine=stub,
        models=MODELS,
        clock=clock,
        intervals=Intervals(journal=0.005),
        **OPTIONS.get(name, {}),
    ) as server:
        replay = Replay2025(name, server, stub, clock)
        play_all(replay)
        server.release()
        server.wait_idle()
        replay.compare_upstream()


def play_all(replay: Replay2025) -> None:
    """Play a scenario; of two concurrent requests, one pauses."""
    server, held = replay.server, HELD.get(replay.name, {})
    running: dict[int, Callable[[], tuple[Got, dict[str, Any]]]] = {}
    for index, exchange in enumerate(replay.exchanges):
        for later, (first, tokens) in held.items():
            if first == index:
                replay.model.hold = tokens
                running[later] = background(partial(replay.play, later))
                server.wait_held()
                if later == min(held):  # the other conversations already have a title
                    eventually(lambda: server.conversations[-1].title == TITLE)
        if index in running:
            if not replay.name.endswith("04_stop"):  # the stop ends them
                server.release()
            replay.compare(*running.pop(index)())
            server.wait_idle()
        elif exchange["name"] == "slow stream, closed after 12 chunks":
            replay.model.hold = 3
            replay.compare(*replay.play(index))
            eventually(lambda: server.conversations[-1].messages[-1].content == " w0 w1 w2")
        elif "reattach while it runs" in exchange["name"]:
            result = background(partial(replay.play, index))
            eventually(lambda: "reattach" in {request.kind for request in server.requests})
            server.release()
            replay.compare(*result())
        elif "Last-Event-ID" in exchange["name"]:
            check_what_is_left(replay, index)
        else:
            replay.compare(*replay.play(index))


def check_what_is_left(replay: Replay2025, index: int) -> None:
    """Check that the events after a number are the end of all events."""
    (left, _), (whole, _) = replay.play(index), replay.play(index + 1)
    assert left.body.startswith(b"id: 3\n")
    assert whole.body.endswith(left.body)


NOT_REPLAYED = {
    *HELD,  # two concurrent requests
    "main-2026-08/06_disconnect",  # two concurrent requests
    "main-2026-08/22_compression",  # in a compression that Python cannot read
}


@pytest.mark.parametrize("name", [name for name in names(*VERSIONS) if name not in NOT_REPLAYED])
def test_2025_capture_can_be_replayed(name: str, tmp_path: Path) -> None:
    version, _, scenario = name.partition("/")
    shutil.copy(CAPTURES / f"chat-ui-{version}" / f"{scenario}.json", tmp_path)
    with Emulator(dialect="chat-ui-2025", replay=tmp_path) as server:
        replay = Replay2025(name, server, Stub2025(), Clock(0))
        for index in range(len(replay.exchanges)):
            replay.compare(*replay.play(index))


def test_every_scenario_is_played() -> None:
    """The test above plays all captures."""
    assert {*HELD, *OPTIONS} <= set(names(*VERSIONS))
    assert len(names(*VERSIONS)) == 47 + 3
