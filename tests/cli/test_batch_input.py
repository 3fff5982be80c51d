"""The input of `batch`: changes between two runs, invalid lines, stdin and stdout."""

import io
import json
import os
import signal
import subprocess
import sys

import needs
import pytest
from asked import eventually
from command import PATIENCE, process
from test_batch import Run, asked, deleted, run, server

from h2o_client.emulator import Answer, Emulator

__all__ = ["run", "server"]  # the fixtures


# Repeated runs


def test_finished_command_sends_nothing_again(run: Run, server: Emulator) -> None:
    run.write("one", "two")
    assert run() == 0
    written = run.output.read_text()
    server.clear()
    assert run() == 0
    assert run.err == "2 of 2 are answered: nothing to send\n"
    assert run.output.read_text() == written
    assert server.requests == []
    run.output.unlink()
    assert run() == 0
    assert f"nothing to send; the answers are taken from {run.journal}\n" in run.err
    assert run.output.read_text() == written


def test_added_prompts_are_sent(run: Run, server: Emulator) -> None:
    server.reply(" kept")
    run.write("one")
    assert run() == 0
    run.write("one", "two")
    assert run() == 0
    assert run.texts() == ["kept", "two"]
    run.write("zero", "one", {"id": 7, "prompt": "between"}, "two")  # also in the middle
    assert run() == 0
    assert run.texts() == ["zero", "kept", "between", "two"]
    assert [answer.get("line") for answer in run.answers()] == [1, 2, None, 4]
    assert asked(server) == ["between", "one", "two", "zero"]


@pytest.mark.parametrize(
    ("lines", "told", "sent"),
    [
        (["a", "c", "d", "e"], "line 2 was deleted", []),
        (["a", "d", "e"], "lines 2 and 3 were deleted", []),
        (["a", "B", "c", "d", "e"], "line 2 was changed", ["B"]),
        (["B", "c", "d", "E"], "line 1 was changed, line 2 and id 9 were deleted", ["B", "E"]),
        (["a", "b", "c", "d"], "id 9 was deleted", []),
    ],
)
def test_removed_lines_need_accept_changes(
    run: Run, server: Emulator, lines: list[str], told: str, sent: list[str]
) -> None:
    answers = {letter: f"answer {letter}" for letter in "abcde"}

    def write(letters: list[str]) -> None:
        run.write(*({"id": 9, "prompt": text} if text == "e" else text for text in letters))

    server.reply(*answers.values())
    write(list(answers))
    assert run("--concurrency", "1") == 0
    server.clear()
    write(lines)
    assert run() == 2
    assert told in run.err
    assert "--accept-changes" in run.err
    assert server.requests == []
    assert len(run.answers()) == 5
    assert run("--accept-changes") == 0
    assert asked(server) == sorted(sent)
    assert run.texts() == [answers.get(text, text) for text in lines]
    assert run() == 0  # the change was accepted permanently


def test_duplicate_lines_keep_their_answers(run: Run, server: Emulator) -> None:
    server.reply(" first", " second")
    run.write("same", "same")
    assert run("--concurrency", "1") == 0
    run.write("new", "same", "same")
    assert run() == 0
    assert sorted(map(str, run.texts())) == ["first", "new", "second"]
    assert asked(server) == ["new", "same", "same"]


def test_corrected_line_is_sent(run: Run, server: Emulator) -> None:
    run.write("one", '{"torn')
    assert run() == 1
    run.write("one", "two")
    assert run() == 0
    assert run.texts() == ["one", "two"]
    assert asked(server) == ["one", "two"]


# Invalid and unusual lines


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["one", '["two"]'], "line 2 is JSON but not an object"),
        (['"one"'], "line 1 is JSON but not an object"),
        (["7"], "line 1 is JSON but not an object"),
        (["null"], "line 1 is JSON but not an object"),
        (["[", '"one"', "]"], "line 1 starts a JSON array"),
        (["id,prompt", "1,What?"], "line 1 looks like the header of a CSV file"),
        (["", '"id"; "Question"'], "line 2 looks like the header of a CSV file"),
        (["prompt", "What?"], "line 1 looks like the header of a CSV file"),
    ],
)
def test_invalid_line_is_reported(run: Run, server: Emulator, lines: list[str], told: str) -> None:
    run.write(*lines)
    assert run() == 2
    assert told in run.err
    assert server.requests == []
    assert not run.output.exists()
    assert not run.journal.exists()


def test_text_that_resembles_json_is_sent_as_text(run: Run, server: Emulator) -> None:
    texts = ["Text, then more: what?", '"Quoted" is a word', "[1] is a note", "prompt"]
    run.prompts = run.prompts.with_suffix(".txt")
    run.write(*texts, "7")
    assert run() == 0
    assert asked(server) == sorted([*texts, "7"])


def test_empty_lines_are_skipped(run: Run, server: Emulator) -> None:
    run.write("one", "", " ", "two", *[""] * 5, "three")
    assert run() == 0
    assert run.err.startswith("lines 2, 3, 5, 6, 7 and 2 more are empty and skipped\n")
    assert [answer["line"] for answer in run.answers()] == [1, 4, 10]
    run.write("one", "", "", "two", *[""] * 5, "three")
    assert run() == 0
    assert len(asked(server)) == 3


@pytest.mark.parametrize("lines", [[], ["", " "]])
def test_input_without_prompts_is_an_error(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    run.write(*lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(run.prompts.read_bytes())))
    for prompts in (str(run.prompts), "-"):
        assert run.command("batch", prompts, "-o", str(run.output)) == 2
        assert "PROMPTS has no prompts" in run.command.err
        assert "empty" not in run.command.err
    assert [path.name for path in run.prompts.parent.iterdir()] == [run.prompts.name]
    assert server.requests == []


# Stdin and stdout


@pytest.mark.slow
def test_stdin_to_stdout(server: Emulator) -> None:
    command = ("batch", "-", "-o", "-")
    with process(*command, stdin=subprocess.PIPE) as started:
        out, err = started.communicate('one\n{"id": 2, "prompt": "zwei ü"}\n'.encode(), PATIENCE)
    assert started.returncode == 0
    answers = [json.loads(line) for line in out.decode().splitlines()]
    assert [answer["text"] for answer in answers] == ["one", "zwei ü"]
    assert [answers[0]["line"], answers[1]["id"]] == [1, 2]
    assert err.startswith(b"2 of 2 done, 0 failed")
    assert server.conversations == []


def test_stdin_to_a_file_can_be_resumed(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("one\n", "one\ntwo\n"):  # the second run resumes
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run.command("batch", "-", "-o", str(run.output)) == 0
    assert run.texts() == ["one", "two"]
    assert asked(server) == ["one", "two"]


def test_stdout_includes_failures(run: Run, server: Emulator) -> None:
    server.reply(" fine", Answer(" half", ending="error", error="out of memory"))
    run.write("one", "two")
    assert run.command("batch", str(run.prompts), "-o", "-", "--concurrency", "1") == 1
    first, second = map(json.loads, run.command.out.splitlines())
    assert first["text"] == "fine"
    assert second["error"]["partial"] == "half"
    assert run.command.err.endswith("\n1 failed\n")
    assert [path.name for path in run.prompts.parent.iterdir()] == [run.prompts.name]


@pytest.mark.long
@needs.posix
def test_interrupted_run_writes_finished_answers_to_stdout(run: Run, server: Emulator) -> None:
    server.reply(" early", Answer(" cut off", hold_after=1))
    run.write("a", "b", "c")
    env = {**os.environ, "TMPDIR": str(run.prompts.parent)}
    command = ("batch", str(run.prompts), "-o", "-", "--concurrency", "1")
    with process(*command, env=env) as started:
        server.wait_held(timeout=PATIENCE)
        eventually(deleted(server, 1))
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["early"]
    assert err == b"interrupted: 1 of 3 are answered and written\n"
    assert [path.name for path in run.prompts.parent.iterdir()] == [run.prompts.name]
