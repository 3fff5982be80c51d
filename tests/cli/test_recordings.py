"""The terminal output in the manual matches the command's output."""

import os
import re
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals require POSIX", allow_module_level=True)

from command import Command
from pseudo_terminal import CTRL_C, session

from h2o_client.emulator import Answer, Emulator

GUIDE = Path(__file__).parents[2] / "docs/manual/guides/command-line.md"


def recording(command: str) -> list[str]:
    """Return the output that the guide shows for a command."""
    page = GUIDE.read_text("utf-8")
    (found,) = re.findall(rf"^```text\n\$ {command}.*\n([^`]*)^```$", page, re.MULTILINE)
    return str(found).splitlines()


@pytest.mark.slow
def test_manual_shows_a_real_conversation(server: Emulator, tmp_path: Path) -> None:
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


def test_manual_shows_real_doctor_output(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys, "doctor")
    assert command("http://127.0.0.1:1") == 1
    shown = re.sub(r"\d+ ms", "0 ms", command.out).splitlines()
    assert shown == recording("h2o-client doctor")
