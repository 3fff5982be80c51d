"""What the emulator was asked, and the wait for what it does not announce.

The waits block: a scenario gives them to `api.wait()`.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import backends

from h2o_client.emulator import Emulator


def kinds(server: Emulator) -> list[str]:
    """The kinds of the requests that came, in order."""
    return [request.kind for request in server.requests]


def bodies(server: Emulator, kind: str = "message") -> list[dict[str, Any]]:
    """The bodies of the requests of a kind, in order."""
    return [request.json() for request in server.requests if request.kind == kind]


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + backends.PATIENCE
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.001)


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, and again if nothing happens; return what the process printed.

    Python does not see a signal that comes between its last look and a system call that waits.
    """
    for _ in range(10):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=6)
    raise AssertionError("Ctrl-C did not end the process")


def requested(server: Emulator, kind: str, times: int = 1) -> None:
    """Wait until a request has come, so many times."""
    eventually(lambda: kinds(server).count(kind) >= times)


def no_connection(server: Emulator) -> None:
    """Wait until the server has no connection."""
    eventually(lambda: not server.connections)
