"""A pytest plugin: the fixture `h2o_server`, a local server of the chat protocol for each test.

Whoever has the package has the plugin, whether their tests talk to a chat server or not. So it
imports pytest, which is there already, and nothing else before the fixture is asked for; a test
keeps this.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from h2o_client.emulator import Emulator

_OF_A_DEVELOPER = ("H2O_CHAT_MODEL", "H2O_CHAT_TOKEN")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known that says what `h2o_server` is."""
    config.addinivalue_line(
        "markers", "h2o_server(**options): arguments of the emulator that h2o_server is"
    )


@pytest.fixture
def h2o_server(request: pytest.FixtureRequest) -> "Iterator[Emulator]":
    """A fresh local chat server, which does what the test tells it to.

    `H2oClient()` and `AsyncH2oClient()` find it, and so does a subprocess: for the test's
    duration `H2O_CHAT_URL` is its URL, `H2O_CHAT_MODEL` and `H2O_CHAT_TOKEN` are not set, and no
    proxy of the environment stands before it.

        h2o_server.reply(" Hello!", " Bye!")    # the next answers; without: a few stock phrases
        h2o_server.fail(status=429)             # the next message is rejected
        h2o_server.cut(after=5)                 # the next answer's connection is lost
        h2o_server.requests                     # what was asked, in order
        h2o_server.conversations                # what was left behind
        h2o_server.url

    A mark gives it other arguments, such as the kind of servers that it behaves as:

        @pytest.mark.h2o_server(dialect="chat-ui-2025")
        def test_something(h2o_server): ...

    All that it can do is in `h2o_client.emulator`.
    """
    emulator_class = _emulator_class()
    mark = request.node.get_closest_marker("h2o_server")
    options = {} if mark is None else mark.kwargs
    with pytest.MonkeyPatch.context() as patch, emulator_class(**options) as server:
        for name in _OF_A_DEVELOPER:
            patch.delenv(name, raising=False)
        patch.setenv("H2O_CHAT_URL", server.url)
        for name in ("NO_PROXY", "no_proxy"):
            before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
            patch.setenv(name, f"{before},127.0.0.1" if before else "127.0.0.1")
        yield server


def _emulator_class() -> "type[Emulator]":
    try:
        from h2o_client.emulator import Emulator
    except ModuleNotFoundError as error:
        name = (error.name or "a package").partition(".")[0]
        if name == "h2o_client":
            raise
        pytest.fail(
            f"h2o_server needs {name}: pip install 'h2o-chat-client[testing]'", pytrace=False
        )
    return Emulator
