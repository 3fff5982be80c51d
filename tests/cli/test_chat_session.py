"""Interactive conversations, typed in a real terminal, and resuming the last one."""

import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals require POSIX", allow_module_level=True)

from asked import prompts, requested
from command import Command, InTerminal, script
from pseudo_terminal import CTRL_C, CTRL_D, ENTER, PROMPT, TAB, UP, Session, session
from screen import Screen

from h2o_client import H2oClient
from h2o_client.cli import state
from h2o_client.cli.outcome import App
from h2o_client.emulator import Answer, Emulator, Fault

SMALL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
LARGE = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"

Start = Callable[..., AbstractContextManager[Session]]


@pytest.fixture
def start(server: Emulator, home: Path) -> Start:
    """Return a function that starts `chat` in a real terminal, connected to the server."""

    @contextmanager
    def start(*arguments: str, **options: Any) -> Generator[Session]:
        env = {**os.environ, "H2O_CHAT_URL": server.url}
        with session("chat", *arguments, env=env, **options) as started:
            yield started

    assert not home.exists()
    return start


@pytest.fixture
def terminal(server: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch) -> InTerminal:
    """`chat` in this process, in a simulated terminal, connected to the server."""
    assert not home.exists()
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    return InTerminal(monkeypatch, "chat")


def kept(home: Path) -> dict[str, Any]:
    (path,) = home.iterdir()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# Typing


def test_conversation_remembers_earlier_messages(terminal: InTerminal, server: Emulator) -> None:
    assert terminal(typed=["My name is Ann.", "What did I say before?", "/quit"]) == 0
    assert "turn 1." in terminal.text
    assert "the first was: My name is Ann." in terminal.text
    (conversation,) = server.conversations
    assert len(conversation.messages) == 4


@pytest.mark.slow
def test_lines_can_be_edited_and_recalled(start: Start, server: Emulator) -> None:
    with start() as chat:
        chat.line("Helo\x1b[Dl")  # one to the left, then the missing letter
        chat.until("How can I help you?")
        chat.line(UP)
        chat.until("How can I help you?")
        chat.line("two\x1b\rlines")
        chat.until("turn 3.")
        chat.line(" /quit")
        chat.until("You said: /quit")
        chat.until(PROMPT)
        chat.type(CTRL_D)
        chat.until("To continue it:")
        assert chat.ended() == 0
    assert prompts(server) == ["Hello", "Hello", "two\nlines", " /quit"]


@pytest.mark.long
def test_commands_are_completed(start: Start) -> None:
    with start() as chat:
        chat.line_begun("/sha" + TAB, "/share")
        chat.type(ENTER)
        chat.until("nothing has been sent yet")
        chat.line("/models")
        chat.until(SMALL)
        chat.line_begun("/model 7b" + TAB, SMALL)
        chat.type(ENTER)
        chat.until(f"a new conversation, with {SMALL}")
        chat.line("/quit")
        assert chat.ended() == 0


def test_typed_text_is_cleared_by_ctrl_c(terminal: InTerminal, server: Emulator) -> None:
    assert terminal(typed=[f"nonsense{CTRL_C}Hello", "/quit"]) == 0
    assert prompts(server) == ["Hello"]


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(start: Start, server: Emulator) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    with start() as chat:
        chat.line("Count")
        chat.until("one two")
        server.wait_held()
        chat.type(CTRL_C)
        chat.until("(incomplete answer)")
        chat.until("Press Ctrl-C again to leave.")
        chat.line("And now?")
        chat.until("turn 2.")
        chat.line("/quit")
        assert chat.ended() == 0
    assert server.stops == 1
    (conversation,) = server.conversations
    assert len(conversation.messages) == 4


@pytest.mark.long
def test_second_ctrl_c_leaves_after_a_retry(start: Start, server: Emulator) -> None:
    server.reply("first", Answer(" again one", hold_after=1))
    with start() as chat:
        chat.line("Ask")
        chat.until("first")
        chat.line("/retry")
        server.wait_held()
        chat.until("again")  # while the answer arrives
        chat.type(CTRL_C)
        chat.until("(incomplete answer)")
        chat.until("Press Ctrl-C again to leave.")
        chat.until(PROMPT)
        chat.type(CTRL_C)
        assert chat.ended() == 130
    server.wait_idle()
    assert server.stops == 1
    assert "Traceback" not in chat.text


@pytest.mark.slow
def test_second_ctrl_c_leaves_while_the_stop_is_sent(start: Start, server: Emulator) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    server.fault("stop", Fault(hang=True))
    with start() as chat:
        chat.line("Count")
        chat.until("one two")
        server.wait_held()
        chat.type(CTRL_C)
        requested(server, "stop")
        chat.type(CTRL_C)
        assert chat.ended() == 130
    assert "Traceback" not in chat.text
    server.release()


def test_second_ctrl_c_at_the_prompt_leaves(terminal: InTerminal) -> None:
    # A line in between starts over.
    assert terminal(typed=[f"{CTRL_C}Hello", CTRL_C + CTRL_C]) == 130
    assert "How can I help you?" in terminal.text
    assert terminal.text.count("Press Ctrl-C again to leave.") == 2


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, pytest.param(True, marks=pytest.mark.long)])
def test_sigterm_ends_the_session(start: Start, server: Emulator, asked: bool) -> None:
    server.reply(Answer(" one two three", hold_after=2))
    with start() as chat:
        chat.until(PROMPT)
        if asked:
            chat.type("Count" + ENTER)
            chat.until("one two")
            server.wait_held()
        chat.process.send_signal(signal.SIGTERM)
        assert chat.ended() == 143
    server.wait_idle()
    assert server.stops == int(asked)
    assert "Traceback" not in chat.text


# Display


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--raw", "--json"])
def test_retry_of_a_message_is_shown(terminal: InTerminal, server: Emulator, option: str) -> None:
    server.fault("create", Fault(status=503, body="no room"))
    server.reply(" Here.")
    assert terminal("Hello", option) == 0
    assert re.match(r"trying again in .*no room.*\n.*Here\.", terminal.text)


@pytest.mark.slow
def test_retry_of_another_request_is_shown(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fault("root", Fault(status=503, body="no room"))
    models = InTerminal(monkeypatch, "models", "--base-url", server.url)
    assert models(env={"COLUMNS": "50"}) == 0
    line, *rest = models.text.splitlines()
    assert line.startswith("trying again in 0.")
    assert line.endswith("…")
    assert len(line) == 50
    assert "description" in "".join(rest)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_if_disabled_by_the_environment(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    doctor = InTerminal(monkeypatch, "doctor", server.url)
    assert doctor(env={name: value}) == 0
    assert "\x1b" not in doctor.raw
    assert "ok      terms " in doctor.text


def test_help_is_wrapped_between_words(terminal: InTerminal) -> None:
    assert terminal(typed=["/help", "/quit"], env={"COLUMNS": "50"}) == 0
    assert (
        "/retry   send the last message again; the new\n         answer replaces" in terminal.text
    )


def test_markdown_is_rendered(terminal: InTerminal, server: Emulator) -> None:
    server.reply("# Title\n\nA **bold** word and [text](http://example.com/x)\n\n```\ncode\n```")
    assert terminal("Show") == 0
    assert "**" not in terminal.text
    assert "```" not in terminal.text
    assert "\x1b[1mbold\x1b[0m" in terminal.raw
    assert not any(line.endswith(" ") for line in terminal.text.split("\n") if "bold" in line)
    assert "text (http://example.com/x)" in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex(
        "\x1b[?25l"
    )  # the cursor is visible again


VERSE = (
    "# Verse\n\nRoses are red,\nViolets are blue.\n\n- a\n- b\n\n```\ncode\n```\n\n"
    "| x |\n|---|\n| 1 |\n"
)


@pytest.mark.slow
def test_rendering_does_not_depend_on_token_boundaries(start: Start, server: Emulator) -> None:
    server.reply(Answer(tokens=(VERSE,)), Answer(tokens=tuple(VERSE), pace=0.004))
    found = []
    for _ in range(2):
        with start("Show", lines=20, columns=40) as chat:
            assert chat.ended() == 0
            found.append(Screen(20, 40))
            found[-1].feed(chat.raw)
    assert found[0].cells == found[1].cells
    lines = found[0].lines
    assert lines[lines.index("Roses are red,") + 1] == "Violets are blue."
    rows = found[0].cells
    assert all(
        any(rows[place : place + 3]) for place in range(len(rows) - 2)
    )  # at most two blank ones in a row


def test_raw_output_is_not_rendered(terminal: InTerminal, server: Emulator) -> None:
    server.reply("A **bold**\x1b]0;title\x07 word")
    assert terminal("Show", "--raw") == 0
    assert terminal.raw == "A **bold**]0;title word\n"


@pytest.mark.slow
def test_answer_longer_than_the_screen_is_shown_whole(
    terminal: InTerminal, server: Emulator
) -> None:
    answer = "\n\n".join(f"paragraph number-{n}." for n in range(40))
    server.reply(answer + "\n\n```\n" + "\n".join(f"code-{n}." for n in range(40)) + "\n```")
    assert terminal("Show", env={"LINES": "10"}) == 0
    last = terminal.raw[terminal.raw.rindex("\x1b[?25h") :]
    assert all(f"code-{n}." in last for n in range(40))
    assert all(terminal.text.count(f"number-{n}.") >= 1 for n in range(40))


@pytest.mark.long
def test_terminal_can_be_resized_during_an_answer(start: Start, server: Emulator) -> None:
    words = " ".join(f"word{n}" for n in range(20))
    server.reply(Answer(f"start {words}", hold_after=2), "short")
    with start(columns=100) as chat:
        chat.line("Go")
        chat.until("word0")
        server.wait_held()
        chat.resize(20, 40)
        server.release()
        chat.until("word19")
        chat.line("Again")
        chat.until("short")
        chat.line("/quit")
        assert chat.ended() == 0
    final = [line for line in chat.text.split("\n") if "word19" in line]
    assert all(len(line.strip()) <= 40 for line in final)


def test_error_does_not_end_the_session(terminal: InTerminal, server: Emulator) -> None:
    server.fail(status=403)
    server.reply(Answer(" One two", ending="error", error="out of\x1b[31m memory"))
    assert terminal(typed=["Hello", "Hello", "/retry", "/nonsense", "/quit"]) == 0
    shown = ["h2o-client: ", "403", "One two", "out of[31m memory", "How can I help you?"]
    check_order(terminal.text, [*shown, "unknown command"])


# Leaving


@pytest.mark.parametrize("word", ["exit", "quit ", "/exit", "/quit"])
def test_words_that_leave_the_session(terminal: InTerminal, server: Emulator, word: str) -> None:
    assert terminal(typed=[" exit", "what does quit do?", word, "not read"]) == 0
    assert prompts(server) == [" exit", "what does quit do?"]
    hint = f"To send the word “{word.strip()}”, put a space before it."
    assert (hint in terminal.text) == (not word.startswith("/"))
    assert terminal.text.endswith(
        "The conversation is saved on the server. To continue it:\n    h2o-client -c\n"
    )


def test_leaving_with_ctrl_c_says_how_to_continue(terminal: InTerminal, server: Emulator) -> None:
    assert terminal("--base-url", server.url, typed=["Hello", CTRL_C + CTRL_C]) == 130
    assert terminal.text.endswith(f"To continue it:\n    h2o-client -c --base-url {server.url}\n")


def test_leaving_without_a_conversation_says_nothing(terminal: InTerminal) -> None:
    assert terminal(typed=["Hello", "/new", "quit"]) == 0
    assert "is saved" not in terminal.text


# Commands


def test_retry_without_a_message_creates_nothing(
    terminal: InTerminal, server: Emulator, home: Path
) -> None:
    assert terminal(typed=["/retry", "/quit"]) == 0
    assert "nothing has been sent yet" in terminal.text
    assert server.conversations == []
    assert not home.exists()
    assert terminal(typed=["Hello", "/new", "/retry", "/quit"]) == 0
    assert prompts(server) == ["Hello"]
    (conversation,) = server.conversations
    assert kept(home)["conversation"] == conversation.id


def test_retry_after_a_failed_creation_sends_the_message(
    terminal: InTerminal, server: Emulator
) -> None:
    server.fail(403, on="create")
    assert terminal(typed=["Hello", "/retry", "/quit"]) == 0
    check_order(terminal.text, ["403", "How can I help you?"])
    assert prompts(server) == ["Hello"]


def test_unknown_command_is_reported(terminal: InTerminal, server: Emulator) -> None:
    typed = ["/retyr", "/nothing-like-it", "/quit"]
    assert terminal(typed=typed, env={"COLUMNS": "60"}) == 0
    text = terminal.text.replace("\n", " ")
    assert "unknown command /retyr: did you mean /retry? /help shows" in text
    assert "unknown command /nothing-like-it: /help shows the commands." in text
    assert "begins with a slash, put a space before it" in text
    assert max(map(len, terminal.text.splitlines()[1:])) <= 60
    assert server.requests == []


def check_order(text: str, parts: Sequence[str]) -> None:
    """Check that a text contains all parts in this order."""
    for part in parts:
        before, found, text = text.partition(part)
        assert found, f"no {part!r} in {before!r}"


@pytest.mark.slow
def test_each_command_works(terminal: InTerminal, server: Emulator, tmp_path: Path) -> None:
    saved, text = tmp_path / "chat.json", tmp_path / "chat.md"
    lines = [
        ("/help", "Alt-Enter"),
        ("/model", LARGE),
        ("/save", "/save FILE"),
        ("one", "turn 1."),
        ("two", "turn 2."),
        ("/retry", "turn 2."),
        ("/title Numbers", "“Numbers”"),
        ("/title", "renamed to “"),
        ("/share", f"{server.url}/r/"),
        (f"/save {saved}", "saved to"),
        (f"/save {saved}", "exists already"),
        (f"/save {text}", "saved to"),
        ("/system Be long.", "Be long."),
        ("/new", "a new conversation"),
        ("three", "turn 1."),
        ("/system -", "none"),
        ("/new", "a new conversation"),
        ("four", "turn 1."),
        ("/model nonsense", "model nonsense not found"),
        ("/quit", ""),
    ]
    typed = [line for line, _ in lines]
    assert terminal("--system", "Be brief.", typed=typed, env={"COLUMNS": "1000"}) == 0
    check_order(terminal.text, [shown for _, shown in lines[:-1]])
    assert prompts(server) == ["Be brief.\n\none", "two", "two", "Be long.\n\nthree", "four"]
    roles = [message["role"] for message in json.loads(saved.read_text())]
    assert roles == ["user", "assistant"] * 2
    assert text.read_text().startswith("**User**\n\nBe brief.\n\none\n\n**Assistant**\n\nYou said")


# Resuming


def test_last_conversation_can_be_resumed(
    terminal: InTerminal, server: Emulator, home: Path
) -> None:
    assert terminal(typed=["My name is Ann.", "/quit"]) == 0
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()] == [0o600]
    secret = kept(home)["session"]
    assert terminal("-c", typed=[UP, "/quit"]) == 0
    check_order(terminal.text, ["2 messages", "My name is Ann.", "turn 2."])
    assert secret not in terminal.raw
    assert terminal("-c", "What did I say before?") == 0
    assert "the first was: My name is Ann." in " ".join(terminal.text.split())
    (conversation,) = server.conversations
    assert kept(home)["conversation"] == conversation.id
    assert len(server.sessions) == 1


def test_system_message_in_a_resumed_conversation(terminal: InTerminal, server: Emulator) -> None:
    with H2oClient(server.url) as client, client.conversation(keep=True) as conversation:
        conversation.send("one")
        state.save(server.url, state.Saved(client.session, conversation.id))
    server.fail(status=403)
    assert terminal("-c", "--system", "Be brief.", typed=["two", "three", "four", "/quit"]) == 0
    check_order(terminal.text, ["403", "turn 2.", "turn 3."])
    assert prompts(server) == ["one", "Be brief.\n\ntwo", "Be brief.\n\nthree", "four"]


def test_unwritable_state_is_reported_once(terminal: InTerminal, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("in the way")
    assert terminal(typed=["Hello", "Hello", "/quit"]) == 0
    assert "How can I help you?" in terminal.text
    assert terminal.text.count("-c will not find this conversation") == 1


@pytest.mark.slow
def test_local_conversation_is_not_saved(terminal: InTerminal, home: Path) -> None:
    assert terminal("--local", typed=["Hello", "/quit"]) == 0
    assert "How can I help you?" in terminal.text
    assert not home.exists()


def test_invalid_usage_in_a_terminal_is_rejected(terminal: InTerminal, server: Emulator) -> None:
    assert terminal("--param", "temprature=1") == 2
    assert "temperature" in terminal.text
    assert server.requests == []


@pytest.mark.parametrize("text", ["", "[]", '{"session": 1, "conversation": null}', "\xff", "{}"])
def test_invalid_state_file_is_ignored(server: Emulator, home: Path, text: str) -> None:
    state.save(server.url, state.Saved("secret", "0" * 24))
    assert state.load(server.url) == state.Saved("secret", "0" * 24)
    assert "secret" not in repr(state.load(server.url))
    (path,) = home.iterdir()
    path.write_bytes(text.encode("latin-1"))
    assert state.load(server.url) == state.Saved()


# For scripts


def test_json_output_describes_the_answer(command: Command, served: Emulator) -> None:
    served.reply(" naïve", Answer(" One", ending="error", error="out of memory"))
    assert command("chat", "Hello", "--json") == 0
    found = json.loads(command.out)
    assert command.err == ""
    assert (found["text"], found["model"], found["finish_reason"]) == ("naïve", LARGE, "eos_token")
    assert command("chat", "Hello", "--json") == 1
    error = json.loads(command.out)["error"]
    assert (error["type"], error["partial"], error["status"]) == ("GenerationError", "One", None)
    assert command.err == f"h2o-client: {error['message']}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        # httpx imports rich, if installed, for a command of its own.
        (("chat", "Hello"), {"prompt_toolkit", "markdown_it", "asyncio", "http.server"}),
        (("--version",), {"prompt_toolkit", "markdown_it", "rich", "httpx", "http.client"}),
    ],
)
def test_commands_import_only_what_they_need(
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
        ("prompt_toolkit", "prompt_toolkit is not installed (from a clone: pip install '.[cli]')"),
        ("rich.console", "rich is not installed (from a clone: pip install '.[cli]')"),
        ("other", "No module named 'other'"),
    ],
)
def test_missing_package_is_reported(
    capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    group = App("h2o-client")

    @group.command()
    def use() -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(SystemExit) as exit_:
        group.main(["use"])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == f"h2o-client: {said}\n"
