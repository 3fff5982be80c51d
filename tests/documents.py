"""Reads the code blocks of the README and the manual, and runs them.

Comments before a block, which are not rendered, say what it needs:

    <!-- test: server.reply("Hi!") -->    Python that runs first; see `Page.prepare`
    <!-- needs: openai -->                the block runs only if this package is installed
    <!-- in: example.toml -->             the block is the content of this file
    <!-- shown -->                        the block is not run: it shows a format or a picture

A `text` block right below a code block is its expected output, with "..." for what varies from run
to run. In a `console` block, the lines after a line with "$ " are the expected output.
"""

import doctest
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytest

from h2o_client.cli import app
from h2o_client.emulator import Answer, Emulator, Fault, WebSearch

ROOT = Path(__file__).parent.parent
MANUAL = ROOT / "docs" / "manual"
TYPED = "http://127.0.0.1:8000"  # the emulator's address in the pages
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
_BLOCK = re.compile(
    r"(?P<notes>(?:^<!--.*?-->\n+)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$(?P<after>\n*)",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- (\w+)(?:: (.*?))? -->", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*")


@dataclass
class Block:
    """A code block on a page.

    Attributes:
        language: its language.
        code: its text.
        line: its first line.
        notes: the comments before it, as names and values.
        output: the expected output, or None if the page does not show any.
    """

    language: str
    code: str
    line: int
    notes: dict[str, str]
    output: str | None = None

    @property
    def runs(self) -> bool:
        """Whether the block is run here."""
        needs = self.notes.get("needs")
        missing = needs is not None and importlib.util.find_spec(needs) is None
        return not (missing or "shown" in self.notes)


def blocks(path: Path) -> list[Block]:
    """Return all blocks of a page, including those that are only shown."""
    text = path.read_text("utf-8")
    found: list[Block] = []
    end = -1
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(match["language"], match["code"], line, dict(_NOTE.findall(match["notes"])))
        follows = bool(found) and match.start() == end and found[-1].language in {"python", "bash"}
        if block.language == "text" and follows and "shown" not in block.notes:
            found[-1].output = block.code
        else:
            found.append(block)
        end = match.end()
    return found


def commands(block: Block) -> Iterator[tuple[str, str | None]]:
    """Yield the commands of a block, each with its expected output, if any."""
    if block.language == "bash":
        lines = block.code.replace("\\\n", " ").splitlines()
        typed = [line for line in lines if line.strip() and not line.startswith("#")]
        for number, line in enumerate(typed, 1):
            yield line, block.output if number == len(typed) else None
        return
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, output = re.sub(r"\\\n", " ", part).partition("\n")
        yield command, output


def check_output(got: str, expected: str, where: str) -> None:
    """Fail if the output differs from the page."""
    checker = doctest.OutputChecker()
    if not checker.check_output(expected, got, doctest.ELLIPSIS):
        example = doctest.Example("", expected)
        difference = checker.output_difference(example, got, doctest.REPORT_NDIFF)
        pytest.fail(f"{where}: {difference}", pytrace=False)


class Page:
    """Runs the blocks of a page in order, as a reader would.

    The blocks share their variables, a folder, and a server, which the page knows as `TYPED`.

    Args:
        path: the page.
        capsys: pytest's fixture.
        monkeypatch: pytest's fixture.
    """

    def __init__(
        self, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._path = path
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._notebook: Any = None
        self._ends = ExitStack()
        self.server = self.serve()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ends.close()

    def serve(self, **options: Any) -> Emulator:
        """Start another server in place of the current one."""
        self.server = self._ends.enter_context(Emulator(**options))
        self._monkeypatch.setenv("H2O_CHAT_URL", self.server.url)
        return self.server

    def leave(self) -> None:
        """Wait until the server has finished all work for the page."""
        if self._notebook is not None:
            self._notebook.run_line_magic("unload_ext", "h2o_client")
        self.server.wait_idle()

    def prepare(self, code: str) -> None:
        """Run the Python code of a comment."""
        names: dict[str, Any] = {"Answer": Answer, "Fault": Fault, "WebSearch": WebSearch}
        names |= {"server": self.server, "serve": self.serve, "Path": Path, "names": self._names}
        names |= {"setenv": self._monkeypatch.setenv, "delenv": self._monkeypatch.delenv}
        exec(code, names)

    def run(self, block: Block) -> None:
        """Run a block, and check its output."""
        where = f"{self._path.name}, line {block.line}"
        if "test" in block.notes:
            self.prepare(block.notes["test"])
        if "in" in block.notes:
            Path(block.notes["in"]).write_text(block.code, "utf-8")
        run: Callable[[Block, str], None] = {
            "python": self._run_python,
            "bash": self._run_commands,
            "console": self._run_commands,
            "ipython": self._run_ipython,
            "json": lambda block, _: json.loads(block.code),
            "jsonl": lambda block, _: (
                [json.loads(line) for line in block.code.splitlines()] and None
            ),
            "text": lambda *_: None,
            "toml": lambda block, _: tomllib.loads(block.code) and None,
        }[block.language]
        run(block, where)

    def _printed(self) -> str:
        out, err = self._capsys.readouterr()
        return (out + err).replace(self.server.url, TYPED)

    def _run_python(self, block: Block, where: str) -> None:
        code = block.code.replace(TYPED, self.server.url)
        if "\ndef test_" in code or "\nasync def test_" in code:
            self._run_tests(code, where)
            return
        exec(compile("\n" * (block.line - 1) + code, str(self._path), "exec"), self._names)
        printed = self._printed()
        if block.output is not None:
            check_output(printed, block.output, where)

    def _run_tests(self, code: str, where: str) -> None:
        Path("test_page.py").write_text(code, "utf-8")
        # Other installed plugins would take longer to import than the tests take to run.
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "h2o_client.testing", "test_page.py"],
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{where}: {done.stdout}"

    def _run_ipython(self, block: Block, where: str) -> None:
        if self._notebook is None:
            from IPython.core.interactiveshell import InteractiveShell
            from traitlets.config import Config

            config = Config(HistoryManager={"enabled": False})
            self._notebook = InteractiveShell.instance(config=config)
            self._ends.callback(InteractiveShell.clear_instance)
        done = self._notebook.run_cell(block.code)
        assert done.success, f"{where}: {done.error_in_exec or done.error_before_exec!r}"

    def _run_commands(self, block: Block, where: str) -> None:
        for command, output in commands(block):
            self._run_command(command, f"{where}: {command}")
            printed = self._printed()
            if output is not None:
                check_output(printed, output, f"{where}: {command}")

    def _run_command(self, command: str, where: str) -> None:
        words = shlex.split(command, comments=True)
        environment: dict[str, str] = {}
        while words and _ASSIGNMENT.fullmatch(words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value.replace(TYPED, self.server.url)
        if words[:1] == ["export"]:
            for word in words[1:]:
                name, _, value = word.partition("=")
                self._monkeypatch.setenv(name, value.replace(TYPED, self.server.url))
        elif words[0] == "h2o-client" and not {"|", ">", "<"} & set(words):
            with patch.dict("os.environ", environment):
                self._call(words[1:], where)
        else:
            _RUNNERS[words[0]](command, where)
            _, installed, rest = command.partition("&& .venv/bin/h2o-client ")
            if installed:
                self._call(shlex.split(rest), where)

    def _call(self, arguments: list[str], where: str) -> None:
        """Run `h2o-client` in this process."""
        arguments = [word.replace(TYPED, self.server.url) for word in arguments]
        if {"--engine", "--model", "--upstream"} & set(
            arguments
        ):  # these models and servers do not exist here
            app.commands[arguments[0]].make_context(arguments[0], arguments[1:])
            return
        if arguments[0] == "serve" and "--list" not in arguments:
            _serve(arguments)
            return
        nothing = patch("sys.stdin", io.StringIO())
        with nothing, pytest.raises(SystemExit) as exit_:
            app.main(arguments, prog_name="h2o-client")
        if exit_.value.code not in (0, None):
            out, err = self._capsys.readouterr()
            pytest.fail(f"{where}: exit status {exit_.value.code}\n{out}{err}", pytrace=False)


def _serve(arguments: list[str]) -> None:
    """Run `h2o-client serve` on a free port, until it accepts connections."""
    with (
        patch("h2o_client.cli.serve.time.sleep", side_effect=KeyboardInterrupt),
        pytest.raises(SystemExit) as exit_,
    ):
        app.main([*arguments, "--port", "0"], prog_name="h2o-client")
    assert exit_.value.code in (0, None)


def _check_pip(command: str, where: str) -> None:
    """Check that the extras in a `pip install` command exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extras in re.findall(r"(?:h2o-chat-client|\.)\[([\w,-]+)\]", command):
        assert set(extras.split(",")) <= project["optional-dependencies"].keys(), where


def _check_python(command: str, where: str) -> None:
    """Check that the module or file of a command exists; other tests run these."""
    _, first, *rest = shlex.split(command)
    if first == "-m":
        here = ROOT / rest[0].replace(".", "/")
        assert here.is_dir() or importlib.util.find_spec(rest[0]), where
    else:
        assert (ROOT / first).exists(), where


def _check_ci(command: str, where: str) -> None:
    """Check that CI runs this command."""
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert command.startswith(".ci/run") or command in script, where


def _run_shell(command: str, where: str) -> None:
    """Run a pipeline with the programs of this Python environment."""
    python = shlex.quote(sys.executable)
    script = "set -o pipefail\n"
    for program, module in {"h2o-client": "h2o_client", "llm": "llm"}.items():
        script += f'{program}() {{ {python} -m {module} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", script + command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{where}: {done.stderr}"
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)


_RUNNERS: dict[str, Callable[[str, str], None]] = {
    ".ci/run": _check_ci,
    "cat": _run_shell,
    "h2o-client": _run_shell,
    "llm": _run_shell,
    "mkdocs": _check_ci,
    "mypy": _check_ci,
    "pip": _check_pip,
    "pyright": _check_ci,
    "python": _check_python,
    "python3": _check_pip,
    "ruff": _check_ci,
}
