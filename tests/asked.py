"""Inspect the emulator's requests, and wait for events that it does not announce.

The waiting functions block: a scenario calls them through `api.wait()`.
"""

import time
from collections.abc import Callable
from typing import Any

import backends

from h2o_client.emulator import Emulator


def kinds(server: Emulator) -> list[str]:
    """Return the kinds of the requests received, in order."""
    return [request.kind for request in server.requests]


def bodies(server: Emulator, kind: str = "message") -> list[dict[str, Any]]:
    """Return the bodies of the requests of one kind, in order."""
    return [request.json() for request in server.requests if request.kind == kind]


def prompts(server: Emulator) -> list[str]:
    """Return the texts of the messages received by a 2023 server, in order."""
    return [str(body["inputs"]) for body in bodies(server)]


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + backends.PATIENCE
    while not condition():
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.001)


def requested(server: Emulator, kind: str, times: int = 1) -> None:
    """Wait until the server has received this many requests."""
    eventually(lambda: kinds(server).count(kind) >= times)


def no_connection(server: Emulator) -> None:
    """Wait until the server has no open connection."""
    eventually(lambda: not server.connections)
