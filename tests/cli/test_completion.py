"""Shell completion, in the real shells; `.ci/run full` installs those that most machines lack."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("these shells and pseudo-terminals require POSIX", allow_module_level=True)

from command import Command
from pseudo_terminal import CTRL_D, PROMPT, TAB, session


def script(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    command = Command(capsys, "completion")
    assert command(name) == 0
    return command.out


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment with the command on its PATH."""
    program = tmp_path / "h2o-client"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m h2o_client "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)}


def run(*arguments: str, given: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        arguments, input=given, env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(name, capsys)
    assert f"_H2O_CLIENT_COMPLETE={name}_complete" in text
    program = shutil.which(name)
    if program is not None:
        subprocess.run([program, "-n"], input=text, text=True, check=True, timeout=120)


def test_unknown_shell_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys, "completion")
    assert command("csh") == 2
    assert "'csh' is not one of" in command.err


@pytest.mark.parametrize(
    ("words", "completed"),
    [("h2o-client conversations re", "rename"), ("h2o-client modles --ex", "--extract")],
)
def test_bash_completes(
    capsys: pytest.CaptureFixture[str], installed: dict[str, str], words: str, completed: str
) -> None:
    asked = (
        f"{script('bash', capsys)}\nCOMP_WORDS=({words}) COMP_CWORD=2\n"
        '_h2o_client_completion h2o-client; echo "${COMPREPLY[@]}"'
    )
    assert run("bash", "--norc", given=asked, env=installed).split() == [completed]


@pytest.mark.long
def test_fish_completes(capsys: pytest.CaptureFixture[str], installed: dict[str, str]) -> None:
    asked = [
        script("fish", capsys),
        'complete -C "h2o-client conversations re"',
        'complete -C "h2o-client do"',
        'complete -C "h2o-client chat --base"',
    ]
    found = run("fish", "--no-config", given="\n".join(asked), env=installed).splitlines()
    assert found[0].split("\t") == ["rename", "Rename a conversation."]
    assert found[1].split("\t") == ["doctor", "Diagnose the connection to a server."]
    assert found[2].startswith("--base-url\t")


@pytest.mark.long
def test_zsh_completes(
    capsys: pytest.CaptureFixture[str], installed: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".zshrc").write_text(
        f"PS1='{PROMPT}'; autoload -Uz compinit; compinit -D\n{script('zsh', capsys)}"
    )
    with session(env=installed, program=("zsh", "-d", "-i")) as terminal:
        terminal.until(PROMPT)
        terminal.type(f"h2o-client conversations ren{TAB}")
        terminal.until("rename")
        terminal.type("\x15")  # Ctrl-U
        terminal.type(f"h2o-client do{TAB}")
        terminal.until("doctor")
        terminal.type("\x15" + CTRL_D)
        assert terminal.ended() == 0
