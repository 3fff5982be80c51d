"""Shared fixtures for tests with third-party packages: a chat-ui server of each kind."""

import gc
import os
from collections.abc import Iterator
from typing import Literal, cast

import pytest

from h2o_client.emulator import Emulator

OTHERS = ("H2O_CHAT_", "LANGCHAIN", "LANGSMITH", "LLM_", "OPENAI_")
Dialect = Literal["chat-ui-2023", "chat-ui-2025"]


@pytest.fixture(params=["chat-ui-2023", "chat-ui-2025"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return cast("Dialect", request.param)


@pytest.fixture
def server(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The configured server; after each test, nothing may be left on it."""
    for name in os.environ:
        if name.startswith(OTHERS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with Emulator(dialect=dialect) as emulator:
        monkeypatch.setenv("H2O_CHAT_URL", emulator.url)
        yield emulator
        gc.collect()  # for conversations that only an object holds
        emulator.wait_idle()
        assert emulator.conversations == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselect LangChain's standard tests of unsupported features, which would all skip."""
    items[:] = [
        item
        for item in items
        if not isinstance(item, pytest.Function)
        or item.originalname not in getattr(item.cls, "unsupported", ())
    ]
