"""Conversations: typed in a real terminal, and resuming the last one."""

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)

from asked import requested
from command import Command, script
from pseudo_terminal import CTRL_C, CTRL_D, ENTER, PROMPT, TAB, UP, Session, session

from h2o_client import H2oClient
from h2o_client.cli import state
from h2o_client.cli.outcome import App
from h2o_client.emulator import Answer, Emulator, Fault

SMALL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
LARGE = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"

Talk = Callable[..., AbstractContextManager[Session]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where state is kept."""
    path = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(path))
    return path / "h2o-client"


@pytest.fixture
def talk(server: Emulator, home: Path) -> Talk:
    """Start `chat` in a terminal, at the server."""

    @contextmanager
    def start(*arguments: str, **options: Any) -> Generator[Session]:
        env = {**os.environ, "H2O_CHAT_URL": server.url}
        with session("chat", *arguments, env=env, **options) as started:
            yield started

    assert not home.exists()
    return start


@pytest.fixture
def chat(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`chat` in this process, at the server."""
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    return Command(capsys, "chat")


def prompts(server: Emulator) -> list[str]:
    return [item.json()["inputs"] for item in server.requests if item.kind == "message"]


def kept(home: Path) -> dict[str, Any]:
    (path,) = home.iterdir()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# Typing


def test_a_conversation_remembers(talk: Talk, server: Emulator) -> None:
    with talk() as terminal:
        terminal.line("My name is Ann.")
        terminal.until("turn 1.")
        terminal.line("What did I say before?")
        terminal.until("the first was: My name is Ann.")
        terminal.line("/quit")
        assert terminal.ended() == 0
    (conversation,) = server.conversations
    assert len(conversation.messages) == 4


def test_lines_are_edited_and_recalled(talk: Talk, server: Emulator) -> None:
    with talk() as terminal:
        terminal.line("Helo\x1b[Dl")  # one to the left, and the missing letter
        terminal.until("How can I help you?")
        terminal.line(UP)
        terminal.until("How can I help you?")
        terminal.line("two\x1b\rlines")
        terminal.until("turn 3.")
        terminal.line(" /quit")
        terminal.until("You said: /quit")
        terminal.until(PROMPT)
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    assert prompts(server) == ["Hello", "Hello", "two\nlines", " /quit"]


def test_commands_are_completed(talk: Talk) -> None:
    with talk() as terminal:
        terminal.line_begun("/sha" + TAB, "/share")
        terminal.type(ENTER)
        terminal.until("nothing was said yet")
        terminal.line("/models")
        terminal.until(SMALL)
        terminal.line_begun("/model 7b" + TAB, SMALL)
        terminal.type(ENTER)
        terminal.until(f"a new conversation, with {SMALL}")
        terminal.line("/quit")
        assert terminal.ended() == 0


def test_typed_text_is_cleared_by_ctrl_c(talk: Talk, server: Emulator) -> None:
    with talk() as terminal:
        terminal.until(PROMPT)
        terminal.type("nonsense" + CTRL_C + "Hello" + ENTER)
        terminal.until("How can I help you?")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert prompts(server) == ["Hello"]


# Ctrl-C


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(talk: Talk, server: Emulator) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    with talk() as terminal:
        terminal.line("Count")
        terminal.until("one two")
        server.wait_held()
        terminal.type(CTRL_C)
        terminal.until("(not the whole answer)")
        terminal.until("Ctrl-C once more leaves.")
        terminal.line("And now?")
        terminal.until("turn 2.")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert server.stops == 1
    (conversation,) = server.conversations
    assert len(conversation.messages) == 4


def test_a_second_ctrl_c_leaves(talk: Talk, server: Emulator) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    with talk() as terminal:
        terminal.line("Count")
        terminal.until("one two")
        server.wait_held()
        terminal.type(CTRL_C)
        terminal.until("Ctrl-C once more leaves.")
        terminal.until(PROMPT)
        terminal.type(CTRL_C)
        assert terminal.ended() == 130
    server.wait_idle()
    assert server.stops == 1
    assert "Traceback" not in terminal.text


def test_a_second_ctrl_c_leaves_while_the_stop_is_told(talk: Talk, server: Emulator) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    server.fault("stop", Fault(hang=True))
    with talk() as terminal:
        terminal.line("Count")
        terminal.until("one two")
        server.wait_held()
        terminal.type(CTRL_C)
        requested(server, "stop")
        terminal.type(CTRL_C)
        assert terminal.ended() == 130
    assert "Traceback" not in terminal.text
    server.release()


def test_ctrl_c_at_the_prompt_leaves_the_second_time(talk: Talk) -> None:
    with talk() as terminal:
        terminal.until(PROMPT)
        terminal.type(CTRL_C)
        terminal.until("Ctrl-C once more leaves.")
        terminal.line("Hello")  # which makes the next one the first again
        terminal.until("How can I help you?")
        terminal.until(PROMPT)
        terminal.type(CTRL_C)
        terminal.until("once more")
        terminal.until(PROMPT)
        terminal.type(CTRL_C)
        assert terminal.ended() == 130


@pytest.mark.parametrize("asked", [False, True])
def test_a_signal_ends_it(talk: Talk, server: Emulator, asked: bool) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    with talk() as terminal:
        terminal.until(PROMPT)
        if asked:
            terminal.type("Count" + ENTER)
            terminal.until("one two")
            server.wait_held()
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 143
    server.wait_idle()
    assert server.stops == int(asked)
    assert "Traceback" not in terminal.text


def test_ctrl_c_in_a_retry(talk: Talk, server: Emulator) -> None:
    server.reply("first", Answer(" again one", hold_after=1))
    with talk() as terminal:
        terminal.line("Ask")
        terminal.until("first")
        terminal.line("/retry")
        server.wait_held()
        terminal.until("again")  # as it comes
        terminal.type(CTRL_C)
        terminal.until("(not the whole answer)")
        terminal.until("once more leaves")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert server.stops == 1


# What is shown


@pytest.mark.parametrize("option", ["--raw", "--json"])
def test_a_retry_is_told(talk: Talk, server: Emulator, option: str) -> None:
    server.fault("create", Fault(status=503, body="no room"))
    server.reply(" Here.")
    with talk("Hello", option) as terminal:
        terminal.until("trying again in")
        terminal.until("Here.")
        assert terminal.ended() == 0


def test_a_retry_of_a_command_is_told(server: Emulator) -> None:
    server.fault("root", Fault(status=503, body="no room"))
    env = {**os.environ, "H2O_CHAT_URL": server.url}
    with session("models", env=env, columns=50) as terminal:
        line = terminal.until("…")
        assert line.startswith("trying again in 0.")
        assert len(line.strip()) == 50
        terminal.until("what it is")
        assert terminal.ended() == 0


def test_no_colours_where_none_are_wanted(server: Emulator) -> None:
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        env = {**os.environ, "H2O_CHAT_URL": server.url}
        with session("doctor", env=env, more={name: value}) as terminal:
            assert terminal.ended() == 0
        assert "\x1b" not in terminal.raw
        assert "ok      terms " in terminal.text


def test_help_is_wrapped_between_words(talk: Talk) -> None:
    with talk(columns=50) as terminal:
        terminal.line("/help")
        shown = terminal.until("recalls.")
    assert "/retry   ask the last message again; the new\n         answer replaces" in shown


def test_markdown_is_rendered(talk: Talk, server: Emulator) -> None:
    server.reply("# Title\n\nA **bold** word and [text](http://example.com/x)\n\n```\ncode\n```")
    with talk("Show") as terminal:
        assert terminal.ended() == 0
    assert "**" not in terminal.text
    assert "```" not in terminal.text
    assert "\x1b[1mbold\x1b[0m" in terminal.raw
    assert not any(line.endswith(" ") for line in terminal.text.split("\n") if "bold" in line)
    assert "text (http://example.com/x)" in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")  # the cursor is back


def test_raw_is_not_rendered(talk: Talk, server: Emulator) -> None:
    server.reply("A **bold**\x1b]0;title\x07 word")
    with talk("Show", "--raw") as terminal:
        assert terminal.ended() == 0
    assert terminal.raw == "A **bold**]0;title word\r\n"


def test_an_answer_obeys_no_control_character(talk: Talk, server: Emulator) -> None:
    server.reply("before\x1b]0;title\x07 after\x9b2J")
    with talk("Show") as terminal:
        assert terminal.ended() == 0
    assert "\x1b]" not in terminal.raw
    assert "before]0;title after2J" in terminal.text


def test_an_answer_longer_than_the_screen(talk: Talk, server: Emulator) -> None:
    answer = "\n\n".join(f"paragraph number-{n}." for n in range(40))
    server.reply(answer + "\n\n```\n" + "\n".join(f"code-{n}." for n in range(40)) + "\n```")
    with talk("Show", lines=10) as terminal:
        assert terminal.ended() == 0
    last = terminal.raw[terminal.raw.rindex("\x1b[?25h") :]
    assert all(f"code-{n}." in last for n in range(40))
    assert all(terminal.text.count(f"number-{n}.") >= 1 for n in range(40))


def test_the_terminal_is_resized(talk: Talk, server: Emulator) -> None:
    words = " ".join(f"word{n}" for n in range(20))
    server.reply(Answer(f"start {words}", hold_after=2), "short")
    with talk(columns=100) as terminal:
        terminal.line("Go")
        terminal.until("word0")
        server.wait_held()
        terminal.resize(20, 40)
        server.release()
        terminal.until("word19")
        terminal.line("Again")
        terminal.until("short")
        terminal.line("/quit")
        assert terminal.ended() == 0
    final = [line for line in terminal.text.split("\n") if "word19" in line]
    assert all(len(line.strip()) <= 40 for line in final)


def test_an_error_does_not_end_it(talk: Talk, server: Emulator) -> None:
    server.fail(status=403)
    server.reply(Answer(" One two", ending="error", error="out of\x1b[31m memory"))
    with talk() as terminal:
        terminal.line("Hello")
        terminal.until("h2o-client: ")
        terminal.until("403")
        terminal.line("Hello")
        terminal.until("One two")
        terminal.until("out of[31m memory")
        terminal.line("/retry")
        terminal.until("How can I help you?")
        terminal.line("/nonsense")
        terminal.until("unknown command")
        terminal.line("/quit")
        assert terminal.ended() == 0


# Commands


def test_what_commands_do(talk: Talk, server: Emulator, tmp_path: Path) -> None:
    saved, text = tmp_path / "talk.json", tmp_path / "talk.md"
    with talk("--system", "Be brief.") as terminal:
        terminal.line("/help")
        terminal.until("Alt-Enter")
        terminal.line("/model")
        terminal.until(LARGE)
        terminal.line("/save")
        terminal.until("/save FILE")
        terminal.line("one")
        terminal.until("turn 1.")
        terminal.line("two")
        terminal.until("turn 2.")
        terminal.line("/retry")
        terminal.until("turn 2.")
        terminal.line("/title Numbers")
        terminal.until("“Numbers”")
        terminal.line("/title")
        terminal.until("it is called “")
        terminal.line("/share")
        terminal.until(f"{server.url}/r/")
        terminal.line(f"/save {saved}")
        terminal.until("saved to")
        terminal.line(f"/save {saved}")
        terminal.until("exists already")
        terminal.line(f"/save {text}")
        terminal.until("saved to")
        terminal.line("/system Be long.")
        terminal.until("Be long.")
        terminal.line("/new")
        terminal.until("a new conversation")
        terminal.line("three")
        terminal.until("turn 1.")
        terminal.line("/system -")
        terminal.until("none")
        terminal.line("/new")
        terminal.until("a new conversation")
        terminal.line("four")
        terminal.until("turn 1.")
        terminal.line("/model nonsense")
        terminal.until("no model nonsense")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert prompts(server) == ["Be brief.\n\none", "two", "two", "Be long.\n\nthree", "four"]
    roles = [message["role"] for message in json.loads(saved.read_text())]
    assert roles == ["user", "assistant"] * 2
    assert text.read_text().startswith("**User**\n\nBe brief.\n\none\n\n**Assistant**\n\nYou said")


# Resuming


def test_resuming_the_last_conversation(talk: Talk, server: Emulator, home: Path) -> None:
    with talk() as terminal:
        terminal.line("My name is Ann.")
        terminal.until("turn 1.")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()] == [0o600]
    secret = kept(home)["session"]
    with talk("-c") as terminal:
        terminal.until("2 messages")
        terminal.until("My name is Ann.")
        terminal.line(UP)
        terminal.until("turn 2.")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert secret not in terminal.raw
    with talk("-c", "What did I say before?") as terminal:
        assert terminal.ended() == 0
    assert "the first was: My name is Ann." in " ".join(terminal.text.split())
    (conversation,) = server.conversations
    assert kept(home)["conversation"] == conversation.id
    assert len(server.sessions) == 1


def test_system_before_a_message_of_the_last_conversation(talk: Talk, server: Emulator) -> None:
    with H2oClient(server.url) as client, client.conversation(keep=True) as conversation:
        conversation.send("one")
        state.save(server.url, state.Saved(client.session, conversation.id))
    server.fail(status=403)
    with talk("-c", "--system", "Be brief.") as terminal:
        terminal.line("two")
        terminal.until("403")
        terminal.line("three")
        terminal.until("turn 2.")
        terminal.line("four")
        terminal.until("turn 3.")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert prompts(server) == ["one", "Be brief.\n\ntwo", "Be brief.\n\nthree", "four"]


def test_a_state_that_cannot_be_written(talk: Talk, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("in the way")
    with talk() as terminal:
        terminal.line("Hello")
        terminal.until("-c will not find this conversation")
        terminal.line("Hello")
        terminal.until("How can I help you?")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert terminal.text.count("will not find") == 1


def test_local_conversation_keeps_nothing(home: Path) -> None:
    with session("chat", "--local", env=dict(os.environ)) as terminal:
        terminal.line("Hello")
        terminal.until("How can I help you?")
        terminal.line("/quit")
        assert terminal.ended() == 0
    assert not home.exists()


def test_wrong_use_in_a_terminal(talk: Talk, server: Emulator) -> None:
    with talk("--param", "temprature=1") as terminal:
        assert terminal.ended() == 2
    assert "temperature" in terminal.text
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("-c", "Hello"), "no conversation with this server"),
        (("-c", "--local", "Hello"), "exclude"),
        (("-c", "--model", SMALL, "Hello"), "exclude"),
        (("Hello", "--param", "web_search=true"), "not a generation parameter"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_use_of_conversations(
    chat: Command, server: Emulator, arguments: tuple[str, ...], hint: str
) -> None:
    assert chat(*arguments) == 2
    assert hint in chat.err
    assert server.requests == []


@pytest.mark.usefixtures("home")
def test_a_conversation_that_is_gone(chat: Command, server: Emulator) -> None:
    state.save(server.url, state.Saved("5c1e5ac6-6ea2-4b0e-8a3c-2d0a6c7f3f10", "0" * 24))
    assert chat("-c", "Hello") == 1
    assert "no longer has this conversation" in chat.err


@pytest.mark.parametrize("text", ["", "[]", '{"session": 1, "conversation": null}', "\xff", "{}"])
def test_a_state_that_is_none(server: Emulator, home: Path, text: str) -> None:
    state.save(server.url, state.Saved("secret", "0" * 24))
    assert state.load(server.url) == state.Saved("secret", "0" * 24)
    assert "secret" not in repr(state.load(server.url))
    (path,) = home.iterdir()
    path.write_bytes(text.encode("latin-1"))
    assert state.load(server.url) == state.Saved()


# For scripts


def test_json(chat: Command, server: Emulator) -> None:
    server.reply(" naïve", Answer(" One", ending="error", error="out of memory"))
    assert chat("Hello", "--json") == 0
    found = json.loads(chat.out)
    assert chat.err == ""
    assert (found["text"], found["model"], found["finish_reason"]) == (" naïve", LARGE, "eos_token")
    assert chat("Hello", "--json") == 1
    error = json.loads(chat.out)["error"]
    assert (error["type"], error["partial"], error["status"]) == ("GenerationError", " One", None)
    assert chat.err == f"h2o-client: {error['message']}\n"


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        # httpx imports rich where it is installed, for a command of its own.
        (("chat", "Hello"), {"prompt_toolkit", "markdown_it", "asyncio", "http.server"}),
        (("--version",), {"prompt_toolkit", "markdown_it", "rich", "httpx", "http.client"}),
    ],
)
def test_what_needs_no_screen_imports_none(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], heavy: set[str]
) -> None:
    text = (
        "import sys; from h2o_client.cli import app\n"
        "app.main(sys.argv[1:], standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    status, out, err = script(text, *arguments)
    assert (status, err) == (0, "")
    assert not heavy & set(out.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prompt_toolkit", "prompt_toolkit is not installed: pip install 'h2o-chat-client[cli]'"),
        ("rich.console", "rich is not installed: pip install 'h2o-chat-client[cli]'"),
        ("other", "No module named 'other'"),
    ],
)
def test_what_is_not_installed(capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    group = App("h2o-client")

    @group.command()
    def use() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(SystemExit) as exit_:
        group.main(["use"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == f"h2o-client: {said}\n"
