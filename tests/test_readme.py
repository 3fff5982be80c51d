"""The README's blocks of code run, and its commands are the ones that are used."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from h2o_client.emulator import Emulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [code.strip() for language, code in BLOCKS if language == "bash"]


@pytest.mark.parametrize("code", PYTHON, ids=[f"block{n}" for n in range(len(PYTHON))])
def test_each_python_block_runs(
    code: str, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", server.url)

    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})

    assert server.conversations == []


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash", "text"}
    assert len(PYTHON) >= 8


def test_the_demo_prints_what_the_readme_shows() -> None:
    command = COMMANDS[0].rpartition(".venv/bin/h2o-client ")[2]
    shown = README[README.index(COMMANDS[0]) :].partition("```text\n")[2].partition("```")[0]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "h2o_client", *shlex.split(command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert command.startswith("chat --local")
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_ci_runs_the_readmes_test_command() -> None:
    command = COMMANDS[-1].rpartition(".venv/bin/")[2]
    script = (ROOT / ".ci/run").read_text("utf-8")

    assert command == "python -m pytest -n 4"
    assert len(re.findall(rf'^\s*suite ".*" {re.escape(command)}$', script, re.MULTILINE)) == 2


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

    assert links
    for link in links:
        assert (ROOT / link).exists(), link
