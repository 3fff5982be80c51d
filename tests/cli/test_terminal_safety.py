"""Text from a server never controls the terminal, whichever command shows it."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import needs
import pytest
from attacks import CONTROLS, UNSAFE
from command import InTerminal
from pytest_httpx import HTTPXMock

from h2o_client import H2oClient
from h2o_client.cli import app, state
from h2o_client.emulator import Answer, Emulator, Fault, Model

if sys.platform != "win32":
    from pseudo_terminal import CTRL_C, ENTER, TAB, UP, session

MODEL = f"model{CONTROLS}".replace("\0", "")  # environment variables cannot contain it
OURS = frozenset("\x1b\b\r")  # rich and prompt_toolkit move the cursor
ENTITIES = "&#x202e;&rlm;&#x9b;&#27;&#x2028;"
ANSWER = Answer(f" **Hello**{CONTROLS} {ENTITIES}\n\n```\n{CONTROLS}\n```\n")
OVERLOADED = Fault(status=503, body={"message": f"busy{CONTROLS}"}, headers={"Retry-After": "0"})
REFUSED = Fault(status=403, body={"message": f"refused{CONTROLS}"})
CONVERSATION = "6b007c3d1090eb6ec94d77f1"

COMMANDS: list[tuple[str, ...]] = [
    ("batch", "{input}", "-o", "{output}"),
    ("chat", "Hello"),
    ("chat", "--raw", "Hello"),
    ("chat", "--json", "Hello"),
    ("chat", "-c", "Hello"),
    ("completion", "bash"),
    ("conversations", "list"),
    ("conversations", "list", "--json"),
    ("conversations", "show"),
    ("conversations", "show", "--raw"),
    ("conversations", "show", "--json"),
    ("conversations", "rename", "last", "Other"),
    ("conversations", "share"),
    ("conversations", "delete", "last"),
    ("doctor",),
    ("models",),
    ("models", "--json"),
    ("serve", "--list"),
]
OFFLINE = {"completion", "serve"}


@pytest.fixture
def hostile() -> Any:
    """An emulator whose texts are all malicious."""
    model = Model(MODEL, f"name{CONTROLS}", f"what it is{CONTROLS}")
    with Emulator(models=[model], engine=lambda _: ANSWER) as server:
        yield server


Run = Callable[..., str]


@pytest.fixture
def run(hostile: Emulator, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command in a simulated terminal and returns its output."""
    assert not home.exists()
    monkeypatch.setenv("H2O_CHAT_URL", hostile.url)
    monkeypatch.setenv("H2O_CHAT_MODEL", MODEL)
    terminal = InTerminal(monkeypatch)
    (tmp_path / "input").write_text("Hello\n")
    with H2oClient(hostile.url, model=MODEL) as client:
        conversation = client.conversation(keep=True)
        conversation.send(f"My words{CONTROLS}")
        conversation.rename(f"Title{CONTROLS}")
        state.save(hostile.url, state.Saved(client.session, conversation.id))

    def run(*arguments: str) -> str:
        places = {"input": tmp_path / "input", "output": tmp_path / "output"}
        terminal(*(item.format(**places) for item in arguments))
        return terminal.raw

    return run


def check(shown: str) -> None:
    assert not (UNSAFE - OURS) & set(shown), ascii(shown)
    for sequence in ("\x1b]", "\x1b[2J"):
        assert sequence not in shown, ascii(shown)


def test_every_command_is_covered() -> None:
    groups = {name for name, item in app.commands.items() if isinstance(item, click.Group)}
    known: set[tuple[str, ...]] = {(name,) for name in app.commands if name not in groups}
    for name in groups:
        group = app.commands[name]
        assert isinstance(group, click.Group)
        known |= {(name, inner) for inner in group.commands}
    assert known == {command[: 1 + (command[0] in groups)] for command in COMMANDS}


@pytest.mark.slow
def test_server_texts_do_not_control_the_terminal(run: Run) -> None:
    for command in COMMANDS:
        shown = run(*command)
        check(shown)
        assert "h2o-client: " not in shown, shown
        if "--json" in command:
            assert CONTROLS[1:20] in strings(json.loads(shown))


def strings(value: Any) -> str:
    """Yield every text in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    return "".join(map(strings, value)) if isinstance(value, list) else str(value)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log everything to stderr."""
    logger = logging.getLogger("h2o_client")
    monkeypatch.setenv("H2O_CHAT_LOG", "debug")
    monkeypatch.setattr(logger, "handlers", [])
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("logged")
def test_server_errors_do_not_control_the_terminal(run: Run, hostile: Emulator) -> None:
    for command in COMMANDS:
        if command[0] in OFFLINE:
            continue
        hostile.fault("*", OVERLOADED, *[REFUSED] * 20)
        shown = run("--debug", *command)
        hostile.clear()
        check(shown)
        assert "refused" in shown or command[0] in ("batch", "doctor"), shown


def test_error_during_an_answer_does_not_control_the_terminal(run: Run, hostile: Emulator) -> None:
    for arguments in (["--debug", "chat", "Why?"], ["chat", "--json", "Why?"]):
        hostile.reply(Answer(" Because", ending="error", error=f"broken{CONTROLS}"))
        shown = run(*arguments)
        check(shown)
        assert "broken" in shown


def test_warning_without_a_log_handler_does_not_control_the_terminal(
    run: Run, hostile: Emulator
) -> None:
    hostile.fault("delete", *[REFUSED] * 9)
    check(run("chat", "Hello"))


def test_shared_url_does_not_control_the_terminal(
    run: Run, httpx_mock: HTTPXMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", "http://chat.example")
    state.save("http://chat.example", state.Saved("s" * 36, CONVERSATION))
    url = f"http://chat.example/r/abc{CONTROLS}"
    httpx_mock.add_response(
        url=httpx.URL(f"http://chat.example/conversation/{CONVERSATION}/share"), json={"url": url}
    )
    check(run("conversations", "share"))


@pytest.mark.slow
@needs.posix
@pytest.mark.usefixtures("run")
def test_chat_session_does_not_control_the_terminal(hostile: Emulator) -> None:
    with session("chat", "-c", env=dict(os.environ)) as terminal:
        terminal.until("Title")
        terminal.line("Hello")
        terminal.until("Hello")
        terminal.line("/models")
        terminal.until("* model")
        terminal.line_begun("/model m" + TAB, "/model m")
        terminal.type(CTRL_C + "/title" + ENTER)
        terminal.until("renamed to")
        hostile.fail(403, message=f"refused{CONTROLS}")
        terminal.line("What?")
        terminal.until("refused")
        terminal.line_begun(5 * UP, "My words")  # an earlier message
        terminal.type(CTRL_C + "/quit" + ENTER)
        assert terminal.ended() == 0
    check(terminal.raw)
