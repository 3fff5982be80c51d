"""Importing the package and creating a client does not import unused dialects."""

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["H2oClient", "AsyncH2oClient"])
@pytest.mark.parametrize("options", IMPORTED)
def test_unused_dialect_is_not_imported(name: str, options: str) -> None:
    script = SCRIPT.format(name=name, options=options)
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [IMPORTED[options]]
