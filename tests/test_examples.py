"""Each example runs against the emulator, as a reader would run it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from h2o_client.emulator import Answer, Emulator

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(set(EXAMPLES.glob("*.py")) - set(EXAMPLES.glob("test_*.py")))
HELLO = "Hello! I am the emulator of an h2oGPT chat server. How can I help you?"


def run(name: str, *arguments: str, url: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env={**os.environ, "H2O_CHAT_URL": url, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(name: str, *arguments: str, url: str, **environ: str) -> str:
    done = run(name, *arguments, url=url, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_expected_examples_exist() -> None:
    names = {"script.py", "asyncio_app.py", "trio_app.py", "self_hosted.py"}
    names |= {"files.py", "reasoning.py", "fastapi_app.py"}
    assert names <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    longest = 60 if path.name == "fastapi_app.py" else 40  # an application has routes, too
    assert len(source.splitlines()) < longest
    docstring = ast.get_docstring(ast.parse(source)) or ""
    assert f"python examples/{path.name}" in docstring
    assert "H2O_CHAT_URL=" in docstring


@pytest.mark.slow
def test_script_prints_the_answer(server: Emulator) -> None:
    server.reply(" Hi!", Answer(" Because it is.", pace=0.001))
    assert output("script.py", url=server.url) == (
        "Reply:  Hi!\nStream: Because it is.\n(4 tokens, eos_token)\n"
    )
    server.wait_idle()
    assert server.conversations == []


@pytest.mark.slow
def test_script_reports_an_error(server: Emulator) -> None:
    server.reply(" Hi!", Answer(" Because", ending="error", error="out of memory"))
    done = run("script.py", url=server.url)
    assert done.returncode == 1
    assert done.stdout.endswith("Stream: Because")
    assert "out of memory" in done.stderr
    assert done.stderr.endswith("Received so far: ' Because'\n")


@pytest.mark.slow
def test_asyncio_app_answers_all(server: Emulator) -> None:
    shown = output("asyncio_app.py", url=server.url)
    assert shown.count("Q: ") == shown.count("A: ") == 4
    assert f"Q: Hello!\nA: {HELLO}\n" in shown
    assert "no answer" not in shown
    kinds = [request.kind for request in server.requests]
    assert kinds.count("settings") == 1
    assert kinds.count("delete") == 4


@pytest.mark.slow
def test_asyncio_app_reports_one_failure(server: Emulator) -> None:
    server.fail(status=403)
    shown = output("asyncio_app.py", url=server.url)
    assert shown.count("A: no answer: ") == 1
    assert shown.count("A: ") == 4


@pytest.mark.slow
def test_trio_app_answers_all(server: Emulator) -> None:
    shown = output("trio_app.py", url=server.url)
    assert f"Q: Hello!\nA: {HELLO}\n" in shown
    assert "[cut off]" not in shown


@pytest.mark.slow
def test_trio_app_times_out(server: Emulator) -> None:
    server.reply(Answer(" In time, late", hold_after=2), Answer(" In time, late", hold_after=2))
    shown = output("trio_app.py", "2", url=server.url)
    assert shown.count("A: In time, [cut off]\n") == 2
    server.wait_idle()
    assert server.stops == 2
    assert server.conversations == []


@pytest.mark.slow
def test_self_hosted_example_runs() -> None:
    with Emulator(base_path="/assistant", token="s3cret") as server:
        shown = output("self_hosted.py", "Hello!", url=server.url, H2O_CHAT_TOKEN="s3cret")
        assert shown.startswith(f"{server.url}, h2oai/")
        assert server.url.endswith("/assistant")
        assert shown.endswith(f"\n{HELLO}\n")
        (settings,) = [request for request in server.requests if request.kind == "settings"]
        assert "shareConversationsWithModelAuthors" not in settings.form()


@pytest.mark.slow
def test_self_hosted_example_uses_the_proxy(server: Emulator) -> None:
    # The emulator acts as the proxy, and records the URLs requested through it.
    run("self_hosted.py", url="http://chat.example.invalid/assistant", HTTP_PROXY=server.url)
    path = server.requests[0].path
    assert path == "http://chat.example.invalid/assistant/settings"


@pytest.mark.slow
def test_files_example_sends_files(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("At noon.")
    with Emulator(dialect="chat-ui-2025") as server:
        server.reply("It is at noon.")
        assert output("files.py", str(notes), url=server.url) == "It is at noon.\n"
        (message,) = [request for request in server.requests if request.kind == "message"]
        assert b"base64;notes.txt" in message.body


@pytest.mark.slow
def test_files_example_reports_unsupported_files(server: Emulator) -> None:
    done = run("files.py", url=server.url)
    assert done.returncode == 1
    assert "put their content into the prompt" in done.stderr


@pytest.mark.slow
def test_reasoning_example_shows_reasoning(server: Emulator) -> None:
    server.reply(Answer(tokens=["<think>", "It is odd.", "</think>", "Yes, it is."]))
    shown = output("reasoning.py", "Is 2027 prime?", url=server.url)
    assert shown == (
        "\x1b[2mIt is odd.\x1b[0mYes, it is.\n\n"
        "10 characters of reasoning, then the answer:\nYes, it is.\n"
    )
