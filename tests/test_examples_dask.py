"""The Dask example, on a cluster of local processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from h2o_client.emulator import Emulator

EXAMPLE = Path(__file__).parent.parent / "examples" / "dask_batch.py"


@pytest.mark.long
def test_dask_example_returns_answers_and_errors(server: Emulator) -> None:
    pytest.importorskip("distributed")
    server.fail(status=403)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={**os.environ, "H2O_CHAT_URL": server.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    questions = [line for line in done.stdout.splitlines() if line.startswith("Q: ")]
    assert sorted(questions) == sorted(f"Q: What is {n} times {n}?" for n in range(1, 25))
    assert done.stdout.count("A: You said: What is ") == 23
    assert "403" in done.stdout  # the error of another process arrives intact
    kinds = [request.kind for request in server.requests]
    assert kinds.count("message") == 24
    assert kinds.count("settings") == 4  # one per task
    server.wait_idle()
    assert server.conversations == []
