"""What the README shows of the command is what a terminal shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)

from pseudo_terminal import CTRL_C, session

from h2o_client.emulator import Answer, Emulator

README = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")


def recording(command: str) -> list[str]:
    """The lines that the README shows of a command, without the command itself."""
    (found,) = re.findall(rf"^```text\n\$ {command}.*\n([^`]*)^```$", README, re.MULTILINE)
    return str(found).splitlines()


def test_a_conversation(server: Emulator, tmp_path: Path) -> None:
    server.reply(Answer(" It would take days", hold_after=3))
    env = {**os.environ, "H2O_CHAT_URL": server.url, "XDG_STATE_HOME": str(tmp_path)}
    with session("chat", "--raw", env=env, cwd=tmp_path) as terminal:
        for line in recording("h2o-client chat"):
            typed, shown = line.startswith("> "), line.removeprefix("> ")
            if typed:
                terminal.line(shown)
                terminal.until(f"> {shown}\n")
            elif shown.endswith("^C"):
                begun = shown.removesuffix("^C")
                assert terminal.until(begun) == begun
                server.wait_held()
                terminal.type(CTRL_C)
                assert terminal.until("\n") == "^C\n"
            else:
                found = terminal.until("\n").replace(server.url, "http://127.0.0.1:8000")
                assert found == f"{shown}\n"
        assert terminal.ended() == 0
    assert (tmp_path / "everything.md").read_text().startswith("**User**\n\nTell me everything")


def test_doctor() -> None:
    command = [sys.executable, "-W", "error", "-m", "h2o_client", "doctor", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    shown = re.sub(r"\d+ ms", "0 ms", done.stdout).splitlines()
    assert shown == recording("h2o-client doctor")
