"""A conversation in the terminal: the model of the server, and an unreachable server."""

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals require POSIX", allow_module_level=True)

from command import InTerminal
from test_chat_session import LARGE, SMALL, check_order, terminal
from test_cli import unused_port

from h2o_client.emulator import Emulator

__all__ = ["terminal"]  # the fixture


@pytest.mark.slow
def test_model_of_a_2025_server_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own first model answers; its name is unknown until the server is asked."""
    models = {"first/one": "rote", "second/one": "rote"}
    assert not home.exists()
    with Emulator(models=models, dialect="chat-ui-2025") as server:
        monkeypatch.setenv("H2O_CHAT_URL", server.url)
        terminal = InTerminal(monkeypatch, "chat")
        typed = ["/new", "one", "/model", "/new", "two", "/quit"]
        for _ in range(2):  # the second time, the kind of server is cached
            assert terminal(typed=typed) == 0
            assert terminal.text.startswith(f"{server.url}; /help")
            check_order(terminal.text, ["a new", "turn 1.", "first/one", "a new", "turn 1."])
        assert terminal(typed=["/model", "/models", "/model second/one", "/new", "x", "/quit"]) == 0
        check_order(terminal.text, ["first/one", "* first/one", "with second/one", "turn 1."])
        assert terminal("-m", "second/one", typed=["/new", "y", "/model", "/quit"]) == 0
        check_order(terminal.text, [f"second/one at {server.url}", "turn 1.", "second/one"])
        assert [talk.model for talk in server.conversations] == ["first/one"] * 4 + [
            "second/one"
        ] * 2


def test_unknown_model_is_not_shown(terminal: InTerminal, server: Emulator) -> None:
    assert terminal(typed=["/model", "/quit"]) == 0
    assert terminal.text.startswith(f"{server.url}; /help")
    assert terminal.text.count(LARGE) == 1
    assert terminal("-m", SMALL, typed=["/quit"]) == 0
    assert terminal.text.startswith(f"{SMALL} at {server.url}; /help")


@pytest.mark.usefixtures("no_retries")
def test_unreachable_server_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = InTerminal(monkeypatch, "chat")
    url = f"http://127.0.0.1:{unused_port()}"
    typed = ["Hello", "/models", "/quit"]
    assert terminal("--base-url", url, typed=typed, env={"COLUMNS": "1000"}) == 0
    assert terminal.text.count(f"; run `h2o-client doctor {url}`\n") == 2
    assert not home.exists()
