"""The FastAPI example: in this process, and as a server whose client disconnects."""

import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from h2o_client.emulator import Answer, Emulator

pytestmark = pytest.mark.long  # the extra `dev` includes FastAPI, `test` does not
EXAMPLE = Path(__file__).parent.parent / "examples" / "fastapi_app.py"


def test_app_returns_an_answer_and_an_error(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    server.reply("It is noon.")
    with testclient.TestClient(runpy.run_path(str(EXAMPLE))["app"]) as client:
        assert client.get("/ask", params={"question": "When?"}).text == "It is noon."
        server.fail(status=403)
        answer = client.get("/ask", params={"question": "When?"})
        assert answer.status_code == 502
        assert "403" in answer.json()["detail"]
    server.wait_idle()
    assert server.conversations == []


def test_disconnecting_stops_the_answer(server: Emulator) -> None:
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server.reply(Answer(" It would take long", hold_after=2))
    url = f"http://127.0.0.1:{port}/ask"
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), str(port)], env={**os.environ, "H2O_CHAT_URL": server.url}
    ) as process:
        try:
            wait_until_open(port)
            with httpx.stream("GET", url, params={"question": "How?"}, timeout=60) as response:
                assert next(response.iter_text()).startswith(" It")
            server.wait_idle()
        finally:
            process.terminate()
    assert server.stops == 1
    assert server.conversations == []


def wait_until_open(port: int) -> None:
    """Wait until a server accepts connections on a port."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing listens on port {port}")
