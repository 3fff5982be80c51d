"""Importing the package and creating a client imports only what is necessary."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from h2o_client import {name}
client = {name}("http://127.0.0.1:9"{options})
print(*sorted(n.rpartition(".")[2] for n in sys.modules if n.count(".") == 2 and "chat_ui" in n))
"""
IMPORTED = {
    "": "chat_ui_2023",
    ', dialect="chat-ui-2023"': "chat_ui_2023",
    ', dialect="chat-ui-2025"': "chat_ui_2025",
}


def printed_by(script: str) -> list[str]:
    """Run a script, and return the words that it prints."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["H2oClient", "AsyncH2oClient"])
@pytest.mark.parametrize("options", IMPORTED)
def test_unused_dialect_is_not_imported(name: str, options: str) -> None:
    assert printed_by(SCRIPT.format(name=name, options=options)) == [IMPORTED[options]]


@pytest.mark.parametrize("name", ["H2oClient", "AsyncH2oClient"])
def test_import_of_a_client_loads_no_event_loop(name: str) -> None:
    script = f"""
import sys
import httpx
before = set(sys.modules)
from h2o_client import {name}
print(*sorted(set(sys.modules) - before))
"""
    assert not {"anyio._core", "asyncio", "concurrent.futures"} & set(printed_by(script))
