"""However a program exits, it leaves nothing open on the server."""

import json
import subprocess
import sys
from typing import Any

import endings
import needs
import pytest

from h2o_client.emulator import Answer, Emulator

pytestmark = needs.posix

NAMES = [
    *endings.SYNC,
    *[f"{name} on {backend}" for name in endings.ASYNC for backend in ("asyncio", "trio")],
]
NAMES.remove("task on trio")  # trio has no detached tasks

FREEZE = 4.5
"""No exit takes this many seconds unless it waits for a limit (`Timeouts.cleanup` is 5)."""


def run(count: int, *names: str) -> list[dict[str, Any]]:
    """Run each program this many times; check that nothing is left on the server."""
    answer = Answer(tokens=[" a", " b"] * 1000, pace=0.01)
    with Emulator(max_requests=100) as server:
        server.reply(*[" Warm"] * 3, *[answer] * count * len(names))
        # Unbuffered: a daemon thread that prints during shutdown would abort the interpreter.
        command = [sys.executable, "-u", endings.__file__, server.url, str(count), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        trials = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(trials) == count * len(names)
        left = len(server.conversations)
        hung = [trial for trial in trials if trial["status"] == -9]
        assert (left, hung) == (0, []), [trial["errors"] for trial in trials][:3]
        server.wait_idle()  # a generation that was not stopped takes longer
    slow = [trial for trial in trials if trial["seconds"] > FREEZE]
    assert slow == []
    return trials


def check(trials: list[dict[str, Any]]) -> None:
    """Check the exit status and stderr of the children."""
    for trial in trials:
        name, status, errors = trial["name"], trial["status"], trial["errors"]
        if name == "two ctrl-c":
            assert status in (-2, 1)  # the second Ctrl-C may interrupt anything, even the traceback
            continue
        if "thread" in name or "task" in name:
            assert status == 0  # a background reader may print an error
            continue
        assert "Exception ignored" not in errors, errors
        if "handler" in name:
            assert json.loads(errors.splitlines()[0])["took"] < FREEZE
            assert len(errors.splitlines()) == 1, errors
            assert status == (3 if "sys.exit" in name else 0)
        elif "ctrl-c" in name:
            assert errors.splitlines()[-1:] == ["KeyboardInterrupt"], errors
            assert status in (-2, 1)  # in a fork under trio, the interpreter may exit with 1
            assert "ExceptionGroup" not in errors
        elif "exception" in name:
            assert status == 1
            assert "OwnError" in errors
        else:
            assert (status, errors) == (3 if name == "sys.exit" else 0, ""), name


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sync", "asyncio", "trio"])
def test_exiting_leaves_nothing_on_the_server(backend: str) -> None:
    names = [name for name in NAMES if name.endswith(f" on {backend}")]
    check(run(1, *(names or list(endings.SYNC))[::3]))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_exiting_two_hundred_times_leaves_nothing_on_the_server(name: str) -> None:
    check(run(200, name))
