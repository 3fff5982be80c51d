"""The command `batch`: its output file, and a journal that never loses an answer."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from asked import bodies, eventually, kinds, prompts
from command import PATIENCE, Command, Terminal, process

from h2o_client import H2oClient, Reply
from h2o_client import batch as many
from h2o_client.cli import journalled_batch
from h2o_client.cli.batch import Progress
from h2o_client.cli.items import Item
from h2o_client.cli.journal import Journal
from h2o_client.emulator import Answer, Emulator, Fault, GenerationRequest

LIMITED = "You are sending too many messages. Try again later."


def echo(request: GenerationRequest) -> str:
    return f" {request.messages[-1][1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that repeats the prompt; after each test, nothing may be left on it."""
    with Emulator(engine=echo) as emulator:
        monkeypatch.setenv("H2O_CHAT_URL", emulator.url)
        yield emulator
        emulator.wait_idle(PATIENCE)
        assert emulator.conversations == []


class Run:
    """A batch in a directory of its own; `err` is its stderr."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.prompts = directory / "prompts.jsonl"
        self.output = directory / "answers.jsonl"
        self.journal = directory / "answers.jsonl.journal"
        self.command = Command(capsys)
        self.err = ""

    def write(self, *lines: object) -> None:
        """Write the prompts file; prompts other than text are written as JSON."""
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        self.prompts.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    def arguments(self, *options: str) -> list[str]:
        return ["batch", str(self.prompts), "-o", str(self.output), *options]

    def __call__(self, *options: str) -> int:
        status = self.command(*self.arguments(*options))
        self.err = self.command.err
        assert self.command.out == ""
        return status

    @contextlib.contextmanager
    def process(self, *options: str) -> "Generator[subprocess.Popen[bytes]]":
        """Run it in a separate process, which is killed at the end of the block."""
        with process(*self.arguments(*options)) as started:
            yield started

    def answers(self) -> list[dict[str, Any]]:
        lines = self.output.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def texts(self) -> list[str | None]:
        return [answer.get("text") for answer in self.answers()]

    def journalled(self) -> dict[str, str]:
        """The state of each prompt in the journal, while no process has it open."""
        with contextlib.closing(sqlite3.connect(self.journal)) as journal:
            return dict(journal.execute("SELECT key, state FROM prompts").fetchall())

    @property
    def session(self) -> str | None:
        """The session in the journal, while no process has it open."""
        with contextlib.closing(sqlite3.connect(self.journal)) as journal:
            found = journal.execute("SELECT value FROM run WHERE name = 'session'").fetchall()
            return str(found[0][0]) if found else None


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capsys)


def asked(server: Emulator) -> list[str]:
    """Return the prompts received, sorted."""
    return sorted(prompts(server))


def deleted(server: Emulator, times: int) -> Callable[[], bool]:
    """Return a check that this many conversations are deleted, hence their answers saved."""
    return lambda: kinds(server).count("delete") >= times


# Answers


@pytest.mark.slow
def test_answers_are_written_in_input_order(run: Run, server: Emulator) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    server.reply(Answer(" late", pace=0.02))
    run.write(*prompts)
    assert run() == 0
    assert sorted(run.texts(), key=str) == sorted(
        ["late", *(prompt for prompt in prompts if prompt in run.texts())], key=str
    )
    assert [answer["line"] for answer in run.answers()] == list(range(1, 21))
    assert asked(server) == sorted(prompts)
    assert run.err.startswith("20 of 20 done, 0 failed, ")
    assert run.session is None
    server.wait_idle()
    assert server.conversations == []
    assert len(server.sessions) == 1


def test_input_lines_may_be_text_or_json(run: Run, server: Emulator) -> None:
    other = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    run.write(
        "  plain text, with spaces ",
        "",
        {"id": "x", "prompt": "two", "parameters": {"max_new_tokens": 1, "temperature": 0.1}},
        {"id": 3, "messages": messages},
        {"prompt": "four", "model": other},
        '"quoted" is text',
    )
    assert run("--param", "temperature=0.9") == 0
    model = run.answers()[1]["model"]
    assert run.answers()[1:4] == [
        answer({"id": "x"}, "two", model, 2),
        answer({"id": 3}, "User: a\nAssistant: b\nAssistant:", model, 6),
        answer({"line": 5}, "four", other, 2),
    ]
    assert run.texts()[0] == "plain text, with spaces"  # the server strips
    assert run.texts()[4] == '"quoted" is text'
    heat = {body["inputs"]: body["parameters"]["temperature"] for body in bodies(server)}
    assert heat.pop("two") == 0.1
    assert set(heat.values()) == {0.9}


def answer(name: dict[str, Any], text: str, model: str, tokens: int) -> dict[str, Any]:
    found = {"text": text, "model": model, "finish_reason": "eos_token"}
    return {**name, **found, "generated_tokens": tokens, "recovered": False}


def test_any_text_can_be_written(run: Run, server: Emulator) -> None:
    """A lone surrogate, which UTF-8 cannot encode, is written as a JSON escape."""
    half = {"id": "\ud83d", "prompt": "one"}
    run.write(half, {"id": 2, "prompt": "bad \ud83d"}, '{"id": 3, "prompt": "\\u0000 \\u2028 z"}')
    with begin(run, server) as journal:
        for number, key in enumerate(["four", "five"], 4):
            item = Item.read(number, key)
            outcome = {"text": "an answer\udc00\ufffe\U0001f600"}
            (journal.answered if number == 4 else journal.failed)(item.key, item.digest, outcome)
    run.prompts.write_text(run.prompts.read_text("utf-8") + "four\nfive\n", "utf-8")
    assert run() == 1
    first, second, third, fourth, fifth = run.answers()
    assert (first["id"], first["text"]) == ("\ud83d", "one")
    assert second["error"]["type"] == "ValueError"
    assert third["text"] == "\u0000 \u2028 z"
    assert fourth["text"] == fifth["error"]["text"] == "an answer\udc00\ufffe\U0001f600"
    assert "😀" in run.output.read_text("utf-8")


# Failures


def test_answer_with_a_lone_surrogate_is_written(run: Run, server: Emulator) -> None:
    server.reply(Answer(tokens=(" a\ud83d", " b", "\ud83d", "\ude00")))
    run.write("one")
    assert run() == 0
    (answer,) = run.answers()
    assert answer["text"] == "a\ufffd b😀"


def test_failed_prompts_have_their_error(run: Run, server: Emulator) -> None:
    server.reply(" fine", Answer(" half", ending="error", error="out of memory"), " good")
    run.write("one", "two", {"id": "bad", "nonsense": 1}, '{"torn', {"id": [1]}, "six")
    assert run("--concurrency", "1") == 1
    first, second, third, fourth, fifth, sixth = run.answers()
    assert (first["text"], sixth["text"]) == ("fine", "good")
    assert second["line"] == 2
    assert second["error"]["type"] == "GenerationError"
    assert "out of memory" in second["error"]["message"]
    assert second["error"]["partial"] == "half"
    assert third["id"] == "bad"
    assert "nonsense" in third["error"]["message"]
    assert fourth["error"]["type"] == "ValueError"
    assert fifth["line"] == 5
    assert "6 of 6 done, 4 failed" in run.err
    assert run.err.endswith("4 failed; --retry-failed sends them again\n")
    server.wait_idle()
    assert server.conversations == []

    server.clear()  # the same command sends nothing
    assert run() == 1
    assert run.answers()[5] == sixth
    assert server.requests == []

    server.clear()  # an invalid line can be corrected
    run.write(
        "one", "two", {"id": "bad", "prompt": "three"}, "four", {"id": 1, "prompt": "5"}, "six"
    )
    assert run("--retry-failed") == 0
    assert asked(server) == ["5", "four", "three", "two"]
    assert run.texts() == ["fine", "two", "three", "four", "5", "good"]
    assert run.session is None


def test_unreachable_server_fails_every_prompt(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write("one", "two")
    server.fail(500, times=2)
    assert run() == 1
    assert {answer["error"]["status"] for answer in run.answers()} == {500}
    monkeypatch.undo()
    assert run("--base-url", server.url, "--retry-failed") == 0
    assert run.texts() == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("on", ["create", "rename", "message"])
def test_rate_limit_pauses_the_batch(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    monkeypatch.setattr(many, "WINDOW", 0.02)
    server.fault(on, Fault(), *[Fault(status=429, body={"message": LIMITED})] * 3)
    run.write(*"abcdefgh")
    assert run() == 0
    assert run.texts() == list("abcdefgh")
    assert kinds(server).count(on) == (8 if on == "rename" else 11)
    if on != "create":
        assert kinds(server).count("create") == 8  # creating a conversation waits, too


@pytest.mark.slow
def test_pause_is_shown(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(many, "WINDOW", 0.6)
    server.fault("message", Fault(status=429, body={"message": LIMITED}))
    run.write(*"abc")
    assert run("--concurrency", "1") == 0
    told = "0 of 3 done, 0 failed, paused by the service's rate limit for 1 s\n"
    assert run.err.startswith(told)
    assert run.err.count("paused") == 1
    progress = Progress(5)
    progress.pause(100)
    assert progress.line() == "0 of 5 done, 0 failed, paused by the service's rate limit for 100 s"
    assert capsys.readouterr().err == f"{progress.line()}\n"


# Interruptions


@pytest.mark.slow
@needs.posix
def test_killed_run_resumes_without_sending_twice(run: Run, server: Emulator) -> None:
    server.reply(*[" early"] * 5, *[Answer(" in flight", hold_after=1)] * 3)
    prompts = [f"p{number:02}" for number in range(20)]
    run.write(*prompts)
    with run.process("--concurrency", "3") as started:
        server.wait_held(3, PATIENCE)
        eventually(deleted(server, 5))
        started.kill()
        out, err = started.communicate(timeout=PATIENCE)
    assert (out, err) == (b"", b"")
    assert not run.output.exists()
    assert stat.S_IMODE(run.journal.stat().st_mode) == 0o600
    assert list(run.journalled().values()).count("answered") == 5
    (session,) = server.sessions
    assert session == run.session
    server.release()
    server.wait_idle()
    before = asked(server)
    assert len(before) == 8

    assert run("--concurrency", "3") == 0
    assert asked(server) == sorted(prompts), "a prompt was sent twice"
    assert sorted(map(str, run.texts())) == sorted(
        ["early"] * 5 + ["in flight"] * 3 + [p for p in prompts if p not in before]
    )
    found = [answer for answer in run.answers() if answer["recovered"]]
    assert [answer["text"] for answer in found] == ["in flight"] * 3
    assert {answer["generated_tokens"] for answer in found} == {None}
    assert session not in run.err
    assert server.sessions == [session]
    server.wait_idle()
    assert server.conversations == []
    assert run.session is None


@needs.posix
@pytest.mark.long
def test_run_killed_repeatedly_loses_nothing(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten kills at random moments, no answer is lost and no prompt sent twice."""
    monkeypatch.setattr(journalled_batch, "ANSWER_WAIT", 0.0)
    main = (
        "from h2o_client.cli import journalled_batch\njournalled_batch.ANSWER_WAIT = 1.0\n"
        "from h2o_client.__main__ import main\nmain()"
    )
    program = (sys.executable, "-W", "error", "-c", main)
    prompts = [f"p{number:04}" for number in range(2000)]
    run.write(*prompts)
    moments = random.Random(12)
    for _ in range(10):
        before = len(server.requests)
        with process(*run.arguments(), program=program) as started:
            wanted = before + moments.randrange(1, 800)
            while len(server.requests) < wanted:
                assert started.poll() is None
                time.sleep(0.01)
        assert not run.output.exists(), "too few prompts for ten kills"
        server.wait_idle(PATIENCE)
    assert run() == 0
    assert run.texts() == prompts
    assert asked(server) == prompts


@pytest.mark.long
@needs.posix
def test_run_killed_before_its_messages_arrived_sends_them_again(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journalled_batch, "ANSWER_WAIT", 0.05)
    server.fault("message", Fault(hang=True), Fault(hang=True))
    run.write("one", "two")
    with run.process():
        eventually(lambda: kinds(server).count("message") == 2)
    server.clear()
    assert run() == 0
    assert run.texts() == ["one", "two"]
    assert asked(server) == ["one", "two"]


@pytest.mark.long
@needs.posix
def test_resumed_run_waits_for_a_pending_answer(run: Run, server: Emulator) -> None:
    server.reply(Answer(" in time", hold_after=1))
    run.write("one")
    with run.process() as started:
        server.wait_held(timeout=PATIENCE)
    with run.process() as started:
        eventually(lambda: kinds(server).count("data") >= 1)
        server.release()
        out, _ = started.communicate(timeout=PATIENCE)
        assert (out, started.returncode) == (b"", 0)
    assert run.texts() == ["in time"]
    assert asked(server) == ["one"]


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_signal_stops_the_run_and_keeps_answers(
    run: Run, server: Emulator, number: int, status: int
) -> None:
    server.reply(" early", *[Answer(" cut off here", hold_after=2)] * 2)
    run.write("a", "b", "c", "d")
    with run.process("--concurrency", "2") as started:
        server.wait_held(2, PATIENCE)
        eventually(deleted(server, 1))
        started.send_signal(number)
        out, err = started.communicate(timeout=PATIENCE)
    assert (out, started.returncode) == (b"", status)
    assert err.decode() == ("interrupted: 1 of 4 are answered and kept; the same command resumes\n")
    server.wait_idle()
    assert server.stops == 2
    assert server.conversations == []
    assert run() == 0
    texts = run.texts()
    assert texts.count("early") == 1
    assert "cut off" not in texts, "a stopped answer was reported as complete"
    assert sorted(map(str, texts))[1:] == ["early"] or None not in texts
    assert len(asked(server)) == 6


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    "failed",
    [
        pytest.param(False, marks=pytest.mark.long, id="no pending answer"),
        pytest.param(True, id="a pending answer"),
    ],
)
def test_run_killed_before_sending_deletes_its_conversations(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    """The journal does not know these conversations, only their session."""
    monkeypatch.setattr(journalled_batch, "ANSWER_WAIT", 0.0)
    server.fault("rename", *[Fault(hang=True)] * 3)
    run.write("one", "two", "three")
    with run.process():
        eventually(lambda: kinds(server).count("rename") == 3)
    assert len(server.conversations) == 3
    assert run.journalled() == {}
    session = run.session
    if failed:  # an answer is pending, so not every conversation of the session may be deleted
        with H2oClient(server.url, session=session) as client, begin(run, server) as journal:
            conversation = client.conversation(keep=True)
            conversation.send("one")
            item = Item.read(1, "one")
            journal.asked(item.key, item.digest, str(conversation.id))
    server.clear()
    assert run() == 0
    assert asked(server) == (["three", "two"] if failed else ["one", "three", "two"])
    assert run.texts() == ["one", "two", "three"]


def test_run_killed_before_the_last_deletion_deletes_it_later(run: Run, server: Emulator) -> None:
    run.write("one")
    with H2oClient(server.url) as client, begin(run, server) as journal:
        client.conversation(keep=True).send("one")
        journal.note_session(client.session)
        item = Item.read(1, "one")
        journal.answered(item.key, item.digest, {"text": "kept"})
    assert run() == 0
    assert run.texts() == ["kept"]
    assert asked(server) == ["one"]


@pytest.mark.slow
def test_session_of_the_environment_keeps_its_conversations(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_SESSION", "my-own")
    with H2oClient(server.url) as client:
        mine = client.conversation(keep=True)
        mine.send("keep me")
    run.write("one")
    assert run() == 0
    assert run.texts() == ["one"]
    assert run.session is None
    run.write("one", "two")
    monkeypatch.delenv("H2O_CHAT_SESSION")
    assert run() == 0
    assert [item.id for item in server.conversations] == [mine.id]
    with H2oClient(server.url, session="my-own") as client:
        client.delete_conversations()


def test_session_of_the_environment_replaces_the_journals(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin(run, server) as journal:
        journal.note_session("expired")
    run.write("one")
    monkeypatch.setenv("H2O_CHAT_SESSION", "my-own")
    assert run() == 0
    cookies = {dict(request.headers)["cookie"] for request in server.requests}
    assert cookies == {"hf-chat=my-own"}
    assert run.session == "expired"


def test_prompt_of_a_deleted_conversation_is_sent_again(run: Run, server: Emulator) -> None:
    run.write("one")
    with begin(run, server) as journal:
        journal.note_session("11111111-2222-3333-4444-555555555555")
        item = Item.read(1, "one")
        journal.asked(item.key, item.digest, "0" * 24)
    assert run() == 0
    assert run.texts() == ["one"]


def test_server_error_while_waiting_for_an_answer_does_not_resend(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with H2oClient(server.url) as client, begin(run, server) as journal:
        conversation = client.conversation(keep=True)
        conversation.send("one")
        journal.note_session(client.session)
        item = Item.read(1, "one")
        journal.asked(item.key, item.digest, str(conversation.id))
    run.write("one")
    monkeypatch.setattr(journalled_batch, "ANSWER_WAIT", 0.0)
    server.clear()
    server.fail(500, on="data")
    assert run() == 1
    assert asked(server) == []
    assert run("--retry-failed") == 0
    assert asked(server) == []
    assert run.answers()[0]["recovered"] is True


@contextlib.contextmanager
def begin(run: Run, server: Emulator) -> Generator[Journal]:
    """Open the journal of a run on this server."""
    with H2oClient(server.url) as client:
        common = {"server": server.url, "model": client.model, "parameters": {}}
    with Journal(run.journal, common) as journal:
        yield journal


# Journal


def test_incomplete_journal_write_is_discarded(run: Run, server: Emulator, tmp_path: Path) -> None:
    """Incomplete writes of a killed process are discarded; earlier writes are kept."""
    run.write("one", "two")
    wal = run.journal.with_name(f"{run.journal.name}-wal")
    with begin(run, server) as journal:
        for number, text in enumerate(["one", "two"], 1):
            item = Item.read(number, text)
            journal.answered(item.key, item.digest, {"text": f"kept {text}"})
        for path in (run.journal, wal):
            shutil.copy(path, tmp_path / f"{path.name}.copy")
    for path in (run.journal, wal):
        (tmp_path / f"{path.name}.copy").rename(path)
    os.truncate(wal, wal.stat().st_size - 1000)
    assert run() == 0
    assert run.texts() == ["kept one", "two"]
    assert asked(server) == ["two"]
    assert not wal.exists()


@pytest.mark.usefixtures("server")
def test_empty_journal_is_accepted(run: Run) -> None:
    run.write("one")
    run.journal.touch()
    assert run() == 0
    assert run.texts() == ["one"]


def test_failed_journal_write_loses_no_other_entry(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {}) as journal:
        journal.answered("a", "1", {"text": "A"})
        journal._db.execute("PRAGMA max_page_count = 1")  # no space for more data
        with pytest.raises(OSError, match=rf"{path}: database or disk is full"):
            journal.answered("b", "2", {"text": "B" * 100_000})
        journal._db.execute("PRAGMA max_page_count = 1000")
        journal.failed("c", "3", {"type": "X"})
    with Journal(path, {}) as journal:
        found = {key: journal.find(key) for key in "abc"}
    assert {key: entry and entry.outcome for key, entry in found.items()} == {
        "a": {"text": "A"},
        "b": None,
        "c": {"error": {"type": "X"}},
    }
    with pytest.raises(OSError, match="closed"):
        journal.answered("d", "4", {})


@pytest.mark.slow
@needs.posix
def test_full_disk_stops_the_run_cleanly(run: Run, server: Emulator) -> None:
    server.reply(*[Answer(" begun and", hold_after=1)] * 3)
    run.write("one", "two", "three", "a" * 20_000)
    # Limit the file size to what is written before all prompts are sent.
    limit = (
        "import os, resource, signal, sys\n"
        "from h2o_client.cli import journal\n"
        "from h2o_client.__main__ import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "answered = journal.Journal.answered\n"
        "def full(self, *args):\n"
        "    size = os.path.getsize(f'{self.path}-wal')\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    answered(self, *args)\n"
        "journal.Journal.answered = full\n"
        "main()"
    )
    command = [sys.executable, "-W", "error", "-c", limit, *run.arguments()]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert re.fullmatch(rf"h2o-client: {run.journal}: .*(full|I/O).*\n", done.stderr.decode())
    assert done.returncode == 1
    assert run.journalled() == {f"line:{number}": "asked" for number in range(1, 5)}
    server.wait_idle()
    assert server.stops == 3
    assert len(server.conversations) == 1  # its answer could not be written
    # The others were stopped, and do not count as answered.
    assert run() == 0
    assert run.texts() == ["one", "two", "three", "a" * 20_000]
    assert kinds(server).count("message") == 4 + 3


def test_last_journal_entry_determines_the_state(tmp_path: Path) -> None:
    states = {
        "answered": ("answered", "c1"),
        "left": ("left", None),
        "asked": ("asked", "c3"),
        "sought": ("failed", "c4"),
        "hopeless": ("failed", None),
    }
    with Journal(tmp_path / "journal", {}) as journal:
        for number, key in enumerate(states, 1):
            journal.note_session("s1" if number < 3 else "s2")
            journal.asked(key, "p", f"c{number}")
        journal.answered("answered", "p", {})
        for key in ("answered", "left", "hopeless", "nobody"):
            journal.left(key)
        for key in ("answered", "sought", "hopeless"):
            journal.failed(key, "p", {})
    with Journal(tmp_path / "journal", {}) as journal:
        for key, (state, conversation) in states.items():
            entry = journal.find(key)
            assert entry is not None
            assert (entry.state, entry.conversation) == (state, conversation)
        assert journal.find("nobody") is None
        assert journal.conversations() == {"c3", "c4"}
        assert journal.session == "s2"


def test_second_process_is_rejected(run: Run, server: Emulator) -> None:
    run.write("one")
    with begin(run, server):
        assert run() == 2
        assert "another process" in run.err
    assert run() == 0
    assert run.texts() == ["one"]


# Usage errors


def test_existing_output_is_not_overwritten(run: Run, server: Emulator) -> None:
    run.write("one")
    run.output.write_text("precious")
    assert run() == 2
    assert "exists already, and has no journal" in run.err
    assert run.output.read_text() == "precious"
    assert server.requests == []


def test_input_cannot_be_the_output(run: Run, server: Emulator) -> None:
    run.write("one")
    other = run.prompts.parent / "other"
    other.symlink_to(run.prompts)
    for output in (run.prompts, other):
        assert run.command("batch", str(run.prompts), "-o", str(output)) == 2
        assert "PROMPTS and -o are the same file" in run.command.err
        assert "remove" not in run.command.err
    assert run.prompts.read_text() == "one\n"
    assert server.requests == []


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        ("not a journal\n", "is not a journal"),
        ("[]\n", "is not a journal"),
        ('{"journal": 1, "server": "https://elsewhere"}\n', "written by version 0.1.0"),
        ("SQLite format 3\0 and what else", "is damaged"),
    ],
)
def test_file_that_is_not_a_current_journal_is_rejected(
    run: Run, server: Emulator, found: str, hint: str
) -> None:
    run.write("one")
    run.journal.write_text(found)
    assert run() == 2
    assert hint in run.err
    assert run.journal.read_text() == found
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--param", "temperature=0.1"], "different parameters: "),
        (["--model", "somebody/elses-model"], "a different model: "),
        (
            ["--model", "somebody/elses-model", "--param", "temperature=0.1"],
            "a different model and different parameters: ",
        ),
    ],
)
def test_resuming_with_other_options_is_rejected(
    run: Run, server: Emulator, options: list[str], told: str
) -> None:
    run.write("one", " \t{")
    assert run() == 1
    assert run(*options, "--retry-failed") == 2
    assert f"was started with {told}" in run.err
    assert len(asked(server)) == 1


@pytest.mark.parametrize(
    ("lines", "options", "hint"),
    [
        (['{"id": 1, "prompt": "a"}', '{"id": 1, "prompt": "b"}'], (), "lines 1 and 2"),
        (["a"], ("-p", "temprature=1"), "-p temprature=…: did you mean -p temperature?"),
        (["a"], ("--param", "retries=1"), "not a generation parameter"),
        (["a"], ("--param", "nonsense"), "NAME=VALUE"),
        (["a"], ("--concurrency", "0"), "0"),
        (["a"], ("--base-url", "nonsense"), "http"),
    ],
)
def test_invalid_usage_of_batch_is_rejected(
    run: Run, server: Emulator, lines: list[str], options: tuple[str, ...], hint: str
) -> None:
    run.write(*lines)
    assert run(*options) == 2
    assert hint in run.err
    assert "Traceback" not in run.err
    assert server.requests == []
    assert not run.output.exists()
    assert not run.journal.exists()


def test_unreadable_input_is_an_error(run: Run, server: Emulator) -> None:
    assert run() == 2
    run.prompts.write_bytes(b"\xff\xfe")
    assert run() == 2
    assert "UTF-8" in run.err
    assert server.requests == []


def test_windows_line_endings_and_bom_are_accepted(run: Run, server: Emulator) -> None:
    run.prompts.write_bytes("\ufeffone\r\ntwo\u2028lines\r\n".encode())
    assert run() == 0
    assert asked(server) == ["one", "two\u2028lines"]


# Progress


def test_progress_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(1000)
    progress.answered, progress.failed = 10, 2
    reply = Reply(
        text="",
        model="",
        finish_reason=None,
        generated_tokens=50,
        conversation_id="",
        message_id="",
        response_id="",
    )
    with progress:
        assert progress.line() == "12 of 1000 done, 2 failed"
        now += 5
        progress.show(many.Answered(index=0, prompt="", reply=reply))
        assert capsys.readouterr().err == ""
        now += 5
        progress.show(many.Failed(index=1, prompt="", error=ValueError()))
        line = "14 of 1000 done, 3 failed, 5.0 tokens/s, 1:22:10 left\n"
        assert capsys.readouterr().err == line
    assert capsys.readouterr().err == line
    progress.stopping = True
    assert progress.line() == "14 of 1000 done, 3 failed, stopping the running prompts"


def test_terminal_shows_a_progress_bar(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    server.reply(" one")
    run.write("one", "two")
    assert run() == 0
    assert "━" in err.getvalue()
    assert "2 of 2 done, 0 failed" in err.getvalue()
