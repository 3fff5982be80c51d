"""The message that the command sends: prompt, piped text, files, and its conversation."""

import io
import json
import os
import sys
from pathlib import Path

import needs
import pytest
from asked import bodies, prompts
from command import Command

from h2o_client.cli import state
from h2o_client.emulator import Answer, Emulator, Model

SMALL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
CODE = "First:\n\n1. Do\n\n   ````sh\n   echo ```\n   ````\n\n```python\nprint(2)\n```"


pytestmark = pytest.mark.usefixtures("served")


def test_restarted_answer_is_reported_in_a_pipe(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text already written cannot be replaced."""
    with Emulator(dialect="chat-ui-2025") as server:
        monkeypatch.setenv("H2O_CHAT_URL", server.url)
        restarted = Answer("Hello there", ending="cut", again="Hello there my friend")
        server.reply(restarted, restarted)
        assert command("chat", "Hi") == 1
        assert command.out.endswith("\nHello there my friend\n")
        assert "the server restarted the answer" in command.err
        assert command("chat", "--json", "Hi") == 0
        assert json.loads(command.out)["text"] == "Hello there my friend"


# Prompts and piped text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "piped", "sent"),
    [
        (("chat", "Summarise:"), "two\nlines\n", "Summarise:\n\ntwo\nlines"),
        (("Summarise:",), "two\n", "Summarise:\n\ntwo"),
        (("chat", "Hello"), "", "Hello"),
        (("chat", "Hello"), " \n", "Hello"),
        (("chat", "-"), "all", "all"),
        (("chat",), "all", "all"),
        (("What is it?",), "", "What is it?"),
        (("-m", SMALL, "What is it?"), "", "What is it?"),
        (("--debug", "What?"), "", "What?"),
    ],
)
def test_prompt_and_piped_text_are_sent(
    command: Command,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    piped: str,
    sent: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    assert command(*arguments) == 0
    assert prompts(server) == [sent]


@pytest.mark.parametrize(
    "names", [("--model", "--system", "--param"), ("-m", "-s", "-p")], ids=["long", "short"]
)
def test_long_and_short_options_are_accepted(
    command: Command, server: Emulator, names: tuple[str, ...]
) -> None:
    model, system, param = names
    parameters = (param, "temperature=0.1", param, "top_k=3")
    assert command(model, SMALL, system, "Be brief.", *parameters, "Hello") == 0
    assert bodies(server, "create") == [{"model": SMALL}]
    (message,) = bodies(server)
    assert message["inputs"] == "System: Be brief.\nUser: Hello\nAssistant:"
    assert (message["parameters"]["temperature"], message["parameters"]["top_k"]) == (0.1, 3)


# Code extraction


def test_extract_prints_the_first_code_block(command: Command, server: Emulator) -> None:
    server.reply(CODE)
    assert command("-x", "Write") == 0
    assert (command.out, command.err) == ("echo ```\n", "")


def test_extract_without_code_fails(command: Command, server: Emulator) -> None:
    server.reply(" Only `inline`.")
    assert command("-x", "Write") == 1
    assert command.out == ""
    assert command.err == "Only `inline`.\nh2o-client: the answer contains no code block\n"


# Files


def test_files_become_text(command: Command, server: Emulator, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```\ncode\n```\n")
    (tmp_path / "b.rs").write_text("fn main() {}")
    assert command("Explain:", "-f", str(tmp_path / "a.md"), "-f", str(tmp_path / "b.rs")) == 0
    assert prompts(server) == [
        "Explain:\n\na.md:\n\n````\n```\ncode\n```\n````\n\nb.rs:\n\n```\nfn main() {}\n```"
    ]


def test_binary_file_is_rejected(command: Command, server: Emulator, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    for name in ("a.png", "b.txt"):
        assert command("Explain:", "-f", str(tmp_path / name)) == 2
        assert f"{name} is a binary file, and this kind of server" in command.err
    assert prompts(server) == []
    assert command("Explain:", "-f", str(tmp_path / "missing")) == 2
    assert "does not exist" in command.err


def test_files_are_uploaded_if_the_server_supports_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["text.rs", "picture.png"]
    (tmp_path / names[0]).write_text("fn main() {}")
    (tmp_path / names[1]).write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    models = [Model("seeing", multimodal=True), Model("reading")]
    with Emulator(dialect="chat-ui-2025", models=models) as server:
        monkeypatch.setenv("H2O_CHAT_URL", server.url)
        options = [part for name in names for part in ("-f", str(tmp_path / name))]
        assert command("What is this?", *options) == 0
        sent = next(item.body for item in server.requests if item.kind == "message")
        assert all(name.encode() in sent for name in (*names, "text/plain", "image/png"))
        assert command("-m", "reading", "What is this?", *options) == 2
        assert "does not accept the file 'picture.png'" in command.err
        assert server.conversations == []


def test_json_reports_an_error_while_detecting_the_server(
    command: Command, server: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Noon.")
    server.fail(403, on="root")
    assert command("--json", "Explain:", "-f", str(tmp_path / "a.txt")) == 1
    assert json.loads(command.out)["error"]["status"] == 403


# Choosing the conversation


def test_last_conversation_is_continued(
    command: Command, server: Emulator, kept: list[str]
) -> None:
    for arguments in [("-c", "and now?"), ("and now?", "-c"), ("chat", "-c", "last", "and now?")]:
        assert command(*arguments) == 0
    assert prompts(server) == ["and now?"] * 3
    assert {item.id: len(item.messages) for item in server.conversations}[kept[1]] == 8


def test_conversation_is_continued_by_id(
    command: Command, server: Emulator, kept: list[str]
) -> None:
    assert command("conversations", "list") == 0
    assert kept[0] in command.out
    assert command("-c", kept[0], "and now?") == 0
    assert {item.id: len(item.messages) for item in server.conversations}[kept[0]] == 4
    assert state.load(server.url).conversation == kept[0]  # now the last one


def test_unknown_conversation_is_an_error(
    command: Command, server: Emulator, kept: list[str]
) -> None:
    assert command("-c", "0" * 24, "and now?") == 1
    assert "no longer has this conversation" in command.err
    assert command("-c", kept[0][:-1]) == 2  # too short for an id
    assert "is not the id of a conversation" in command.err
    assert prompts(server) == ["and now?"]
    assert state.load(server.url).conversation == kept[1]


def test_json_includes_the_conversation(command: Command, kept: list[str]) -> None:
    assert command("--json", "-c", kept[0], "and now?") == 0
    assert json.loads(command.out)["conversation_id"] == kept[0]


# In a real shell


@pytest.mark.slow
@needs.posix
def test_pipelines_work_in_a_shell(server: Emulator, tmp_path: Path) -> None:
    from pseudo_terminal import session

    (tmp_path / "h2o-client").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m h2o_client "$@"\n')
    (tmp_path / "h2o-client").chmod(0o755)
    (tmp_path / "notes.txt").write_text("Noon.\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "H2O_CHAT_URL": server.url}
    server.reply(CODE)
    lines = (
        'cat notes.txt | h2o-client -x "Write a script:" | cat',
        "printf 'one\\n\\ntwo\\n' | h2o-client batch - -o - | cat",
        'h2o-client -p temprature=1 "What?"',
        'h2o-client "What?"',
    )
    with session(env=env, program=("sh", "-c", "; ".join(lines)), cwd=tmp_path) as terminal:
        terminal.until("echo ```")
        terminal.until("line 2 is empty and skipped")
        terminal.until('"line": 3, "text": "You said: two')
        terminal.until("-p temprature=…: did you mean -p temperature?")
        terminal.until("You said: What?")
        assert terminal.ended() == 0
    assert sorted(prompts(server)) == ["What?", "Write a script:\n\nNoon.", "one", "two"]
