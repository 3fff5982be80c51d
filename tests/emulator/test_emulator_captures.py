"""The emulator answers like the recorded real server, in all scenarios."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Protocol

import pytest
from asked import eventually
from replay import Clock, Got, Replay, Stub, background, load, names

from h2o_client.emulator import DEFAULT_MODELS, Emulator, Model

POLL = 0.002

HELD = {
    # scenario: {stream: (the exchange before which it starts, tokens before it pauses)}
    "0.4/07c_parallel_messages": {4: (2, 5)},
    "0.4/11_stop_generating": {3: (2, 15), 6: (5, 10)},
    "0.4/11b_stop_again_later": {3: (2, 11), 6: (5, 13), 8: (7, 12)},
    "0.4/15_delete": {17: (16, 5)},
    "0.4/28_stop_variants": {3: (2, 0)},
}
"""Scenarios with two concurrent requests: one stream pauses while the other request is made."""

OWN = {"0.4/18_keepalive", "0.4/24_race_after_stream", "0.4/25_removed_model"}
"""Scenarios that need special handling; see the tests with their names."""

NOT_COMPARED: dict[str, str] = {
    "0.4/16_web_search": "what the model server was asked was not recorded",
}
"""Scenarios whose requests to the model server are not compared, and why."""


def start(name: str, stub: Stub, **options: Any) -> tuple[Emulator, Clock]:
    """Create an emulator for a scenario, with its clock a second before the first request."""
    capture = load(name)
    dates = [v for k, v in capture["exchanges"][0]["response"]["headers"] if k.lower() == "date"]
    clock = Clock(parsedate_to_datetime(dates[0]).timestamp() - 1)
    version = name[:3]
    limit = 2 if "06_" in name else None
    options = {"version": version, "rate_limit": limit, "stop_poll": POLL, **options}
    return Emulator(**{"engine": stub, "clock": clock, **options}), clock


@contextmanager
def playing(name: str, **options: Any) -> Iterator[Replay]:
    """A scenario that is played against a new emulator."""
    stub = Stub()
    server, clock = start(name, stub, **options)
    with server:
        yield Replay(name, server, stub, clock)


class Standing(Protocol):
    """A model server that pauses during an answer: the emulator's stub, or another."""

    def wait_held(self) -> None: ...
    def release(self) -> None: ...


def before(replay: Replay, exchange: dict[str, Any], standing: Standing) -> None:
    """Apply what happened to the model server between the recorded requests."""
    title = exchange["name"]
    if replay.capture["name"] == "05_upstream_down":
        replay.stub.down = not title.startswith(("message after", "setup"))
    elif title == "web-search, model server down":
        replay.stub.down = True
    elif title == "slow stream, closed after 5 chunks":
        replay.stub.hold = 5
    elif title == "14 s after":
        standing.release()
        replay.server.wait_idle()
    elif title == "1.5 s after":
        replay.server.wait_idle()


@pytest.mark.parametrize("name", [name for name in names() if name not in OWN])
def test_emulator_matches_the_recording(name: str) -> None:
    with playing(name) as replay:
        play_all(replay, replay.server)
        if name not in NOT_COMPARED:
            replay.compare_upstream()


def play_all(replay: Replay, standing: Standing) -> None:
    """Play a scenario; of two concurrent requests, one pauses."""
    held = HELD.get(replay.name, {})
    server = replay.server
    running: dict[int, Callable[[], tuple[Got, dict[str, Any]]]] = {}
    for index, exchange in enumerate(replay.exchanges):
        for later, (first, tokens) in held.items():
            if first == index:
                replay.stub.hold = tokens
                running[later] = background(partial(replay.play, later))
                standing.wait_held()
                eventually(partial(has_come, server, tokens))
        if index in running:
            stops = server._service.store._stops.values()
            while not all(stop.seen for stop in stops):
                time.sleep(POLL)
            if standing is not server or exchange["response"]["ended"] != "eof":
                standing.release()
            replay.compare(*running.pop(index)())
            server.wait_idle()
            continue
        before(replay, exchange, standing)
        replay.compare(*replay.play(index))
    standing.release()
    server.wait_idle()


def has_come(server: Emulator, tokens: int) -> bool:
    """Whether a generation has received this many tokens from its model."""
    return any(generation.tokens == tokens for generation in tuple(server._service.generations))


@pytest.mark.slow
def test_keepalive_recording() -> None:
    """18: one connection for all requests, closed when idle, and ``Connection: close``."""
    with playing("0.4/18_keepalive", keep_alive=0.4) as replay:
        server = replay.server
        for exchange in replay.exchanges:
            headers: list[list[str]] = exchange["response"]["headers"] or []
            for pair in headers:
                if pair[0] == "Keep-Alive":
                    pair[1] = "timeout=0"
        # The recording lacks the form that was sent; its length is known.
        form = load("0.4/01_happy_path")["exchanges"][0]["request"]["body"]
        replay.exchanges[0]["request"]["body"] = form
        idle = replay.index("after 6.5 s idle")
        address = server.url.removeprefix("http://")
        one = http.client.HTTPConnection(address, timeout=30)
        one.auto_open = 0
        one.connect()
        for index in range(idle):
            replay.compare(*replay.play(index, one))
        assert server.accepted == 1
        sock = one.sock
        assert sock is not None
        assert sock.recv(1) == b""  # closed by the server
        replay.compare(*replay.play(idle, one))
        one.close()
        for index in range(idle + 1, len(replay.exchanges)):
            replay.compare(*replay.play(index))
        server.wait_idle()
        replay.compare_upstream()


def test_race_after_stream_recording() -> None:
    """24: an answer is stored when its stream ends; otherwise the next prompt would lack it."""
    with playing("0.4/24_race_after_stream") as replay:
        server, stub = replay.server, replay.stub
        replay.compare(*replay.play(0))
        address = server.url.removeprefix("http://")
        session = server.sessions[0]
        one = http.client.HTTPConnection(address, timeout=30)
        headers = {"Cookie": f"hf-chat={session}", "Content-Type": "application/json"}
        one.request("POST", "/conversation", f'{{"model":"{DEFAULT_MODELS[0].name}"}}', headers)
        made = one.getresponse().read().decode().split('"')[3]
        for turn in range(20):
            body = '{"inputs":"hi","stream":true,"options":{}}'
            one.request("POST", f"/conversation/{made}", body, headers)
            one.getresponse().read()
            one.request("GET", f"/conversation/{made}/__data.json", headers=headers)
            one.getresponse().read()
            assert len(server.conversations[0].messages) == 2 * turn + 2
            assert stub.bodies[-1]["inputs"].count("<|answer|>") == turn + 1
        one.close()


def test_removed_model_recording() -> None:
    """25: a conversation whose model is no longer available."""
    models = (*DEFAULT_MODELS, Model("gone/model"))
    with playing("0.4/25_removed_model", models=models) as replay:
        made = replay.index("setup: POST /conversation")
        replay.exchanges[made]["request"]["body"] = '{"model": "gone/model"}'
        for index in range(len(replay.exchanges)):
            if index == made + 1:
                replay.server.retire("gone/model")
            replay.compare(*replay.play(index))
        replay.compare_upstream()


def test_every_scenario_is_played() -> None:
    """The tests above play all captures."""
    assert set(HELD) <= set(names())
    assert set(names()) >= OWN
    assert len(names()) == 57 + 4
