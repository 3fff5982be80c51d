# pyright: reportMissingImports=false
"""The plugin in the real `llm`: its command, and its sync and async Python API."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import llm
import pytest
from llm.cli import cli

import h2o_client
from h2o_client.emulator import Answer, Emulator

CUT = Answer(" Half an", ending="error", error="boom", again=Answer(ending="cut"))
GREETING = "Hello! I am the emulator of an h2oGPT chat server. How can I help you?"
Command = Callable[..., click.testing.Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Emulator) -> Path:  # noqa: ARG001 -- before it
    """The folder of `llm`."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def command() -> Command:
    def run(*arguments: str, given: str | None = None) -> click.testing.Result:
        return click.testing.CliRunner().invoke(cli, arguments, input=given)

    return run


@pytest.fixture
def model(home: Path) -> llm.Model:  # noqa: ARG001 -- before it
    found = llm.get_model("h2o-chat")
    assert isinstance(found, llm.Model)
    return found


@pytest.fixture
def async_model(home: Path) -> llm.AsyncModel:  # noqa: ARG001 -- before it
    found = llm.get_async_model("h2o-chat")
    assert isinstance(found, llm.AsyncModel)
    return found


def prompts(server: Emulator) -> list[str]:
    """Return the messages sent to the model."""
    found: list[str] = []
    for request in server.requests:
        if request.kind == "message":
            text = request.parts()[0].value if server.dialect == "chat-ui-2025" else request.body
            found.append(json.loads(text)["inputs"])
    return found


def kinds(server: Emulator) -> list[str]:
    return [request.kind for request in server.requests]


# Command


def test_llm_command_answers_a_prompt(server: Emulator) -> None:
    asked = [sys.executable, "-m", "llm", "-m", "h2o-chat", "Hello"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{GREETING}\n", "")
    assert server.conversations == []


@pytest.mark.parametrize("options", [(), ("--no-stream",), ("--async",)])
def test_prompt_can_be_continued(
    server: Emulator, command: Command, options: tuple[str, ...]
) -> None:
    assert command("-m", "h2o-chat", "Hello", *options).output == f"{GREETING}\n"
    again = command("-c", "What did I ask before?", *options)
    assert again.output == "You asked 1 before; the first was: Hello\n"
    assert prompts(server)[-1] == (
        f"User: Hello\nAssistant: {GREETING}\nUser: What did I ask before?\nAssistant:"
    )


def test_answer_is_logged(server: Emulator, command: Command) -> None:
    server.reply(" Hello")
    command("-m", "h2o-chat", "Hi")
    (logged,) = json.loads(command("logs", "--json").output)
    assert (logged["model"], logged["prompt"], logged["response"]) == ("h2o-chat", "Hi", "Hello")
    assert logged["resolved_model"].startswith("h2oai/")


@pytest.mark.parametrize("options", [(), ("--no-stream",), ("--async",)])
def test_llm_reports_a_cut_answer(
    server: Emulator, command: Command, options: tuple[str, ...]
) -> None:
    server.reply(CUT)
    failed = command("-m", "h2o-chat", "Hello", *options)
    assert failed.exit_code == 1
    assert "Error: " in failed.output
    assert json.loads(command("logs", "--json").output) == []


def test_llm_chat_is_one_conversation(server: Emulator, command: Command) -> None:
    shown = command("chat", "-m", "h2o-chat", given="Hello\nWhat did I ask first?\nexit\n")
    assert "You asked 1 before; the first was: Hello" in shown.output
    assert prompts(server) == ["Hello", "What did I ask first?"]
    gc.collect()
    assert (kinds(server).count("create"), server.conversations) == (1, [])


def test_llm_lists_models(server: Emulator, command: Command, home: Path) -> None:
    assert "h2o-chat/" not in command("models").output
    assert server.requests == []  # no request until it is needed
    names = command("h2o-chat", "models").output.split()
    assert len(names) == 2
    assert all(name in command("models").output for name in names)
    server.reply(" Hello")
    assert command("-m", names[1], "Hi").output == "Hello\n"
    (created,) = (request for request in server.requests if request.kind == "create")
    assert created.json()["model"] == names[1].removeprefix("h2o-chat/")
    (home / "h2o-chat-models.json").write_text("[broken")
    assert "h2o-chat/" not in command("models").output


def test_llm_stores_no_password(
    server: Emulator, command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", server.url.replace("//", "//me:sEcret@"))
    assert command("h2o-chat", "models").exit_code == 0
    kept = (home / "h2o-chat-models.json").read_text()
    assert "sEcret" not in kept
    assert server.url in kept


def test_llm_reports_an_unreachable_server(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", "http://127.0.0.1:1")
    asked = command("h2o-chat", "models")
    assert asked.exit_code == 1
    assert asked.output.startswith("Error: ")
    assert "127.0.0.1:1" in asked.output


# Python API


def test_llm_conversation_remembers(server: Emulator, model: llm.Model) -> None:
    server.reply(" One", " Two", " Three")
    conversation = model.conversation()
    assert [conversation.prompt(text).text() for text in "abc"] == ["One", "Two", "Three"]
    assert prompts(server) == ["a", "b", "c"]
    assert len(server.conversations) == 1
    del conversation
    gc.collect()
    assert server.conversations == []


def test_llm_conversation_continues_after_an_error(server: Emulator, model: llm.Model) -> None:
    server.reply(" One", CUT, " Three")
    conversation = model.conversation()
    conversation.prompt("a").text()
    with pytest.raises(h2o_client.H2oError):
        conversation.prompt("b").text()
    assert conversation.prompt("c").text() == "Three"
    assert prompts(server)[-1] == "User: a\nAssistant: One\nUser: c\nAssistant:"
    del conversation
    gc.collect()
    assert server.conversations == []


def test_leaving_an_llm_response_stops_the_answer(server: Emulator, model: llm.Model) -> None:
    server.reply(Answer(" One two", hold_after=1))
    conversation = model.conversation()
    texts: Any = iter(conversation.prompt("a"))
    assert next(texts) == "One"
    texts.close()  # as with `break` and Ctrl-C
    server.wait_idle()
    assert server.stops == 1


def test_system_prompt_is_sent(server: Emulator, model: llm.Model) -> None:
    server.reply(" One", " Two")
    conversation = model.conversation()
    conversation.prompt("a", system="Be brief.").text()
    conversation.prompt("b").text()
    if server.dialect == "chat-ui-2023":
        assert prompts(server)[-1].startswith("System: Be brief.\nUser: a\nAssistant: One\nUser: b")
    else:
        created = [request for request in server.requests if request.kind == "create"]
        assert [request.json()["preprompt"] for request in created] == ["Be brief."] * 2
        assert prompts(server)[-1] == "User: a\nAssistant: One\nUser: b\nAssistant:"


def test_llm_options_are_sent(server: Emulator, model: llm.Model) -> None:
    given: dict[str, Any] = {
        "temperature": 0.5,
        "max_new_tokens": 7,
        "stop": "x",
        "do_sample": True,
    }
    asked = model.prompt("Hello", **given)
    if server.dialect == "chat-ui-2025":
        with pytest.raises(h2o_client.UnsupportedError, match="parameters"):
            asked.text()
        return
    asked.text()
    (sent,) = (request.json() for request in server.requests if request.kind == "message")
    assert sent["parameters"].items() >= {**given, "stop": ["x"]}.items()
    with pytest.raises(ValueError, match="temperature"):
        model.prompt("Hello", temperature="hot")
    with pytest.raises(ValueError, match="temprature"):
        model.prompt("Hello", temprature=1)


def test_attachments_are_sent_as_files(server: Emulator, model: llm.Model) -> None:
    attachment = llm.Attachment(type="text/plain", content=b"Noon.")
    asked = model.prompt("What is in it?", attachments=[attachment])
    if server.dialect == "chat-ui-2023":
        with pytest.raises(h2o_client.UnsupportedError, match="files"):
            asked.text()
        return
    asked.text()
    (sent,) = (request for request in server.requests if request.kind == "message")
    file = sent.parts()[1]
    assert (file.filename, file.content_type) == ("base64;1.txt", "text/plain")
    image = llm.Attachment(type="image/png", content=b"\x89PNG")
    with pytest.raises(ValueError, match="image/png"):
        model.prompt("And this?", attachments=[image]).text()


async def test_async_model_answers(server: Emulator, async_model: llm.AsyncModel) -> None:
    server.reply(" One", " Two")
    conversation = async_model.conversation()
    assert await conversation.prompt("a").text() == "One"
    assert [text async for text in conversation.prompt("b")] == ["Two"]
    assert prompts(server)[-1] == "User: a\nAssistant: One\nUser: b\nAssistant:"
    server.reply(CUT)
    with pytest.raises(h2o_client.H2oError):
        await conversation.prompt("c").text()


async def test_leaving_an_async_response_stops_the_answer(
    server: Emulator, async_model: llm.AsyncModel
) -> None:
    server.reply(Answer(" One two", hold_after=1))
    events = async_model.prompt("a").astream_events()
    assert (await anext(events)).chunk == "One"
    await events.aclose()
    server.wait_idle()
    assert server.stops == 1


def test_llm_reports_a_restarted_answer(server: Emulator, model: llm.Model) -> None:
    """Text already printed cannot be replaced, so this is an error, as on 2023 servers anyway."""
    if server.dialect == "chat-ui-2023":
        return
    server.reply(Answer(" Half an", ending="cut", again=" Whole"))
    with pytest.raises(h2o_client.GenerationError, match="restarted the answer") as caught:
        model.prompt("a").text()
    assert caught.value.partial.strip() == "Whole"
    server.reply(Answer(" Half an", ending="cut", again=" Whole"))
    assert model.prompt("a", stream=False).text() == "Whole"
