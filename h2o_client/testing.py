"""A pytest plugin: the fixture `h2o_server`, a local chat server for each test.

Every test suite in an environment with this package loads the plugin, even if it never talks to a
chat server. So until the fixture is used, the plugin imports only pytest, which is already loaded.
A test verifies this.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from h2o_client.emulator import Emulator

_OF_A_DEVELOPER = ("H2O_CHAT_MODEL", "H2O_CHAT_SESSION", "H2O_CHAT_TOKEN")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that configures `h2o_server`."""
    config.addinivalue_line(
        "markers", "h2o_server(**options): arguments for the emulator behind h2o_server"
    )


@pytest.fixture
def h2o_server(request: pytest.FixtureRequest) -> "Iterator[Emulator]":
    """A fresh local chat server that the test controls.

    `H2oClient()` and `AsyncH2oClient()` connect to it without arguments, in subprocesses too:
    during the test `H2O_CHAT_URL` is its URL, `H2O_CHAT_MODEL`, `H2O_CHAT_SESSION` and
    `H2O_CHAT_TOKEN` are unset, and requests to it bypass the environment's proxies.

        h2o_server.reply(" Hello!", " Bye!")    # the next answers; by default a few stock phrases
        h2o_server.fail(status=429)             # the next message is rejected
        h2o_server.cut(after=5)                 # the next answer's connection is lost
        h2o_server.requests                     # the requests received, in order
        h2o_server.conversations                # the conversations left on the server
        h2o_server.url                          # its base URL

    A marker passes arguments, such as the kind of server to emulate:

        @pytest.mark.h2o_server(dialect="chat-ui-2025")
        def test_something(h2o_server): ...

    For all its methods, see `h2o_client.emulator`.
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
        from h2o_client.extras import install_hint

        pytest.fail(f"h2o_server needs {name} ({install_hint('testing')})", pytrace=False)
    return Emulator
