"""Clients of emulators that speak chat-ui 2025, each with a conversation."""

from collections.abc import Iterator

import pytest
from peer_2025 import Peer, begun


@pytest.fixture
def peer() -> Iterator[Peer]:
    with begun() as peer:
        yield peer


@pytest.fixture(params=["main", "0.10"])
def either(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with begun(version=request.param) as peer:
        yield peer
