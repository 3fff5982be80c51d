"""The commands `conversations` and `models`."""

import io
import json
import re
import sys
from dataclasses import replace

import pytest
from command import Command, InTerminal, Terminal, keep_two

from h2o_client import H2oClient
from h2o_client.cli import state
from h2o_client.emulator import DEFAULT_MODELS, Emulator, Model

MODELS = [model.name for model in DEFAULT_MODELS]


pytestmark = pytest.mark.usefixtures("served")


def test_empty_list_is_reported(command: Command, server: Emulator) -> None:
    assert command("conversations", "list") == 0
    assert (command.out, command.err) == ("", "no conversations\n")
    assert command("conversations", "list", "--json") == 0
    assert command.out == "[]\n"
    assert command("conversations", "delete", "--all", "--yes") == 0
    assert command("conversations", "show") == 2
    assert "no conversation with this server" in command.err
    assert command("conversations", "show", "0" * 24) == 2
    assert server.requests == []


def test_conversations_are_listed(command: Command, kept: list[str]) -> None:
    assert command("conversations", "list") == 0
    rows = [line.split("\t") for line in command.out.splitlines()]
    assert sorted(rows) == sorted(
        [number, MODELS[0], f"Number {text}"]
        for number, text in zip(kept, ("one", "two"), strict=True)
    )
    assert command("conversations", "list", "--json") == 0
    assert {item["id"] for item in json.loads(command.out)} == {*kept}


def test_changed_server_dialect_fails_only_one_command(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saved dialect is wrong, and is forgotten after one failure."""
    with Emulator(dialect="chat-ui-2025") as server:
        monkeypatch.setenv("H2O_CHAT_URL", server.url)
        keep_two(server)
        state.save(server.url, replace(state.load(server.url), dialect="chat-ui-2025"))
        port = int(server.url.rpartition(":")[2])
    with Emulator(port=port) as server:
        assert command("conversations", "list") == 1
        assert command("conversations", "list") == 0
        assert command.err == "no conversations\n"


def test_conversation_is_shown(command: Command, kept: list[str]) -> None:
    assert command("conversations", "show", kept[0]) == 0
    assert command.out.startswith("**User**\n\none\n\n**Assistant**\n\nYou said: one")
    assert command("conversations", "show", "--json") == 0
    assert json.loads(command.out)[0] == {"role": "user", "content": "two"}


def test_conversation_is_renamed_and_shared(
    command: Command, kept: list[str], server: Emulator
) -> None:
    assert command("conversations", "rename", "last", "Second") == 0
    titles = {item.id: item.title for item in server.conversations}
    assert titles[kept[1]] == "Second"
    assert command("conversations", "rename", kept[0], "x" * 101) == 2
    assert "100 characters" in command.err
    assert command("conversations", "rename", kept[0], "") == 2
    assert command("conversations", "share", kept[0]) == 0
    assert command.out.startswith(f"{server.url}/r/")


def test_conversations_are_deleted(command: Command, kept: list[str], server: Emulator) -> None:
    assert command("conversations", "delete", "last") == 0
    assert [item.id for item in server.conversations] == [kept[0]]
    assert command("chat", "-c", "Hello") == 2
    assert "no conversation with this server" in command.err
    assert command("conversations", "delete") == 2
    assert command("conversations", "delete", "--all", kept[0]) == 2
    assert command("conversations", "delete", "no/id") == 2
    assert command("conversations", "delete", "--all", "--yes") == 0
    assert server.conversations == []


def test_deleting_all_needs_confirmation(
    command: Command, kept: list[str], server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert command("conversations", "delete", "--all") == 2
    assert "--yes" in command.err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert command("conversations", "delete", "--all") == 130
    assert len(server.conversations) == len(kept)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert command("conversations", "delete", "--all") == 0
    assert server.conversations == []


def test_unknown_conversation_is_a_one_line_error(command: Command, kept: list[str]) -> None:
    assert command("conversations", "show", "0" * 24) == 1
    assert command.err.startswith("h2o-client: ")
    assert command.err.count("\n") == 1
    assert len(kept) == 2


def test_session_of_the_environment_replaces_the_saved_one(
    command: Command, kept: list[str], server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = state.load(server.url).session
    assert session is not None
    with H2oClient(server.url) as other, other.conversation(keep=True) as theirs:
        theirs.send("theirs")
        state.save(server.url, state.Saved(other.session, theirs.id))
    monkeypatch.setenv("H2O_CHAT_SESSION", session)
    assert command("conversations", "list", "--json") == 0
    assert {item["id"] for item in json.loads(command.out)} == set(kept)
    assert command("conversations", "show", kept[0], "--json") == 0
    state.save(server.url, state.Saved(session, kept[0], "chat-ui-2023"))
    assert command("conversations", "show", "--json") == 0
    assert session not in command.out + command.err
    for file in state.directory().iterdir():
        assert session not in file.read_text()
    monkeypatch.delenv("H2O_CHAT_SESSION")
    assert state.load(server.url).conversation == theirs.id


@pytest.mark.usefixtures("command")
def test_terminal_shows_tables(kept: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = InTerminal(monkeypatch)
    assert terminal("conversations", "list", env={"COLUMNS": "120"}) == 0
    assert all(number in terminal.text for number in kept)
    assert re.search(rf"\* +{kept[1]}", terminal.text)
    assert "\x1b two" not in terminal.raw
    assert terminal("models") == 0
    assert re.search(rf"\* +{MODELS[0]}", terminal.text)


def test_models_are_listed(command: Command) -> None:
    assert command("models") == 0
    assert command.out.splitlines() == MODELS
    assert command("models", "--json") == 0
    assert [item["id"] for item in json.loads(command.out)] == MODELS
    with Emulator(models=[Model("own/one")]) as other:
        assert command("models", "--base-url", other.url) == 0
    assert command.out == "own/one\n"
    assert command("models", "--local") == 0
    assert command("models", "--local", "--base-url", "http://127.0.0.1") == 2
