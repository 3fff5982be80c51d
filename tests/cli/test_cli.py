"""The command: its output, its error messages, and its exit status.

Tests run in this process, or in a separate one for signals, pipes and imports.
"""

import importlib.metadata
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import needs
import pytest
from asked import bodies, kinds, prompts
from command import COMMAND, PATIENCE, Command, Terminal, ended, process, read, run, script

import h2o_client
from h2o_client import cli
from h2o_client.cli.render import Screen
from h2o_client.emulator import Answer, Emulator

GREETING = "Hello! I am the emulator of an h2oGPT chat server. How can I help you?\n"


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# Answers


def test_answer_is_written_to_stdout(command: Command, served: Emulator) -> None:
    served.reply("  Hello there,\n you!")
    assert command("chat", "Hello") == 0
    assert command.out == " Hello there,\n you!\n"  # without the first of its two leading spaces
    assert command.err == ""
    assert kinds(served) == ["settings", "create", "message", "delete"]
    assert prompts(served) == ["Hello"]


def test_parameters_are_sent(command: Command, served: Emulator) -> None:
    given = ["temperature=0.2", "do_sample=false", 'stop=["a","b"]', "custom=a=b", "seed=1"]
    options = [part for value in given for part in ("--param", value)]
    assert command("chat", "Hello", *options, "--param", "seed=2") == 0
    (message,) = bodies(served)
    parameters = message["parameters"]
    assert parameters["temperature"] == 0.2
    assert parameters["do_sample"] is False
    assert parameters["stop"] == ["a", "b"]
    assert parameters["custom"] == "a=b"
    assert parameters["seed"] == 2


@pytest.mark.long
@pytest.mark.usefixtures("served")
def test_prompt_can_be_piped_to_a_process() -> None:
    with process("chat", stdin=subprocess.PIPE) as chat:
        assert ended(chat, "Grüße\n".encode()) == (
            0,
            "You said: Grüße\nThis is the emulator, answering turn 1.\n",
            "",
        )


@pytest.mark.long
def test_local_answers_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"http://127.0.0.1:{unused_port()}"
    for name in ("HTTP_PROXY", "ALL_PROXY", "H2O_CHAT_URL"):
        monkeypatch.setenv(name, nobody)
    monkeypatch.setenv("H2O_CHAT_MODEL", "somebody/elses-model")
    # Started as a user would, with warnings as errors.
    python = (sys.executable, "-X", "dev", "-W", "error", "-m", "h2o_client")
    assert run("chat", "--local", "Hello", program=python) == (0, GREETING, "")


def test_local_restores_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com")
    before = dict(os.environ)
    assert command("chat", "--local", "Hello", "--param", "max_new_tokens=1") == 0
    assert command.out == "Hello!\n"
    assert dict(os.environ) == before


@pytest.mark.long
def test_tokens_are_shown_as_they_arrive(served: Emulator) -> None:
    served.reply(Answer(" one two three", hold_after=2))
    with process("chat", "Hello") as chat:
        assert read(chat, "two") == "one two"
        served.release()
        assert ended(chat) == (0, " three\n", "")


@pytest.mark.parametrize(
    ("stream", "shown"),
    [(Terminal, "a[31mb\n\tc\n"), (io.StringIO, "a\x1b[31mb\r\n\tc\x07\n")],
)
def test_control_characters_are_removed_only_for_terminals(
    monkeypatch: pytest.MonkeyPatch, stream: Callable[[], io.StringIO], shown: str
) -> None:
    monkeypatch.setattr(sys, "stdout", out := stream())
    screen = Screen()
    screen.show(" a\x1b[31mb\r\n\tc\x07")
    screen.end()
    assert out.getvalue() == shown


def test_unencodable_character_is_replaced(
    served: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.reply(" naïve λ")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="latin-1"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "argv", ["h2o-client", "chat", "Hello"])
    with pytest.raises(SystemExit, match="0"):
        cli.run()
    sys.stdout.flush()
    assert out.getvalue() == "naïve ?\n".encode("latin-1")


# Failures


@pytest.mark.usefixtures("no_retries")
def test_unreachable_server_is_a_one_line_error(command: Command) -> None:
    place = f"127.0.0.1:{unused_port()}"
    assert command("chat", "Hello", "--base-url", f"http://ann:s3cret@{place}") == 1
    assert command.out == ""
    assert command.err == (
        f"h2o-client: POST http://{place}/settings: could not connect to {place}: Connection "
        "refused (is the server running, is the port right, is a firewall in between?); run "
        f"`h2o-client doctor http://{place}`\n"
    )


@pytest.mark.usefixtures("no_retries")
def test_unknown_host_is_a_one_line_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_args: object, **_keywords: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert command("chat", "Hello", "--base-url", "http://nowhere.invalid") == 1
    assert "could not connect to nowhere.invalid:80: Name or service not known" in command.err
    assert command.err.count("\n") == 1


@pytest.mark.usefixtures("no_retries")
def test_other_web_application_is_recognised(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(base_path="/chat") as other:
        url = other.url.removesuffix("/chat") + "/v1"
        monkeypatch.setenv("H2O_CHAT_URL", url)
        assert command("chat", "Hello") == 1
    assert f"POST {url}/settings: the server answered 405" in command.err
    assert "ends in /v1" in command.err
    assert command.err.endswith("; run `h2o-client doctor`\n")


def test_error_during_an_answer_fails_the_command(command: Command, served: Emulator) -> None:
    served.reply(Answer(" One two", ending="error", error="out\nof memory"))
    assert command("chat", "Hello") == 1
    assert command.out == "One two\n"
    assert re.fullmatch(r"h2o-client: .*out of memory.*\n", command.err)
    served.wait_idle()
    assert served.conversations == []


def test_rejected_request_is_a_one_line_error(command: Command, served: Emulator) -> None:
    served.fail(status=403)
    assert command("chat", "Hello") == 1
    assert command.out == ""
    assert re.fullmatch(r"h2o-client: .*403.*\n", command.err)


@pytest.mark.parametrize("arguments", [("--debug", "chat", "Hello"), ("chat", "Hello", "--debug")])
def test_debug_shows_the_traceback(
    command: Command, served: Emulator, arguments: tuple[str, ...]
) -> None:
    served.fail(status=403)
    assert command(*arguments) == 1
    assert command.err.startswith("Traceback")
    assert command.err.splitlines()[-1].startswith("h2o-client: ")


def test_httpx_setup_error_is_a_one_line_error(
    command: Command, served: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_keywords: object) -> NoReturn:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setattr(h2o_client, "H2oClient", refuse)
    assert command("chat", "Hello") == 1
    assert re.fullmatch(r"h2o-client: .*socksio.*\n", command.err)
    assert served.requests == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("chat", ""), "blank"),
        (("chat", "Hello", "--param", "temperature"), "NAME=VALUE"),
        (("chat", "Hello", "--param", "model=other"), "not a generation parameter"),
        (("chat", "Hi", "-p", "temprature=1"), "-p temprature=…: did you mean -p temperature?"),
        (("chat", "Hi", "-p", "max_tokens=1"), "-p max_tokens=…: did you mean -p max_new_tokens?"),
        (("chat", "Hi", "-p", "model=other"), "not a generation parameter: use -m NAME"),
        (("chat", "Hello", "--param", "temperature=hot"), "a number"),
        (("chat", "Hello", "--param", "temperature=NaN"), "finite"),
        (("chat", "Hello", "--base-url", "localhost:8000"), "http://"),
        (("chat", "Hello", "--base-url", "http://127.0.0.1", "--local"), "cannot be combined"),
        (("chat", "Hello", "there"), "unexpected"),
        (("chat", "Hello", "--nonsense"), "--nonsense"),
        (("modles",), "did you mean h2o-client models?"),
        (("conversation", "list"), "did you mean h2o-client conversations?"),
        (("help",), "did you mean h2o-client --help?"),
        (("nonsense", "there"), "unexpected"),
        (("-x", "--json", "Hello"), "-x and --json cannot be combined"),
        (("-c", "Hello", "there"), "`h2o-client conversations list` shows the ids"),
        (("-c", "Hello"), "no conversation with this server"),
        (("-c", "--local", "Hello"), "-c and --local cannot be combined"),
        (("-c", "--model", "m", "Hello"), "-c and --model cannot be combined"),
        (("Hello", "--param", "web_search=true"), "not a generation parameter"),
    ],
)
def test_invalid_usage_is_rejected_with_a_hint(
    command: Command, served: Emulator, arguments: tuple[str, ...], hint: str
) -> None:
    assert command(*arguments) == 2
    assert command.out == ""
    assert hint in command.err
    assert re.fullmatch(r"h2o-client: .*\(see h2o-client.* --help\)\n", command.err)
    assert served.requests == []


def test_help_is_shown_without_arguments(command: Command) -> None:
    assert command() in (0, 2)  # click 8.1 returns 0
    assert (command.out + command.err).startswith("Usage: h2o-client ")


# Environment errors


PROXY = "write http://host:port"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HTTP_PROXY": "http://ann:s3cret@x:port"}, f"HTTP_PROXY: .*{PROXY}.*"),
        ({"https_proxy": "nonsense://ann:s3cret@x"}, f"https_proxy: .*{PROXY}.*"),
        ({"NO_PROXY": "[::1"}, "NO_PROXY: .*separate hosts.*"),
        ({"ALL_PROXY": "http://[::1", "NO_PROXY": "[::1"}, "ALL_PROXY: .*; NO_PROXY: .*"),
        ({"HTTP_PROXY": "http://[::1", "HTTPS_PROXY": "http://x:1"}, "HTTP_PROXY: [^;]*"),
    ],
)
def test_invalid_proxy_variable_is_reported(
    command: Command,
    served: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    told: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert command("chat", "Hello") == 2
    assert re.fullmatch(f"h2o-client: the environment's {told}\n", command.err)
    assert "s3cret" not in command.err
    assert dict(os.environ) == before
    assert served.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong", "certificate"),
        pytest.param("absent", "No such file", marks=pytest.mark.long),
    ],
)
def test_invalid_certificate_files_are_reported(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "wrong").write_text("none\n")
    env = {**os.environ, "SSL_CERT_FILE": str(tmp_path / name)}
    status, out, err = run("models", env=env)
    assert (status, out) == (2, "")
    assert re.fullmatch(f"h2o-client: the environment's SSL_CERT_FILE: .*{reason}.*\n", err)


def test_socks_proxy_without_its_package_is_reported(
    command: Command, served: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert command("chat", "Hello") == 2
    assert "ALL_PROXY: a SOCKS proxy needs another package" in command.err
    assert "pip install 'httpx[socks]'" in command.err
    assert served.requests == []


def test_missing_prompt_in_a_terminal_is_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert command("chat") == 2
    assert "give a prompt" in command.err


def test_binary_stdin_is_an_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert command("chat") == 2
    assert "utf-8" in command.err


@pytest.mark.long
@needs.posix
def test_binary_stdin_is_an_error_in_the_c_locale() -> None:
    env = {**os.environ, "LC_ALL": "C"}
    with process("chat", env=env, stdin=subprocess.PIPE) as started:
        status, out, err = ended(started, b"\xff\xfe")
    assert (status, out) == (2, "")
    assert "the text on stdin is not utf-8" in err


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    ("closed", "status", "told"),
    [
        ("<&- >&- 2>&-", 2, ""),
        pytest.param(">&-", 0, "", marks=pytest.mark.long),
        pytest.param("<&-", 2, "blank", marks=pytest.mark.long),
        pytest.param("2>&-", 0, "", marks=pytest.mark.long),
    ],
)
def test_closed_standard_streams_cause_no_traceback(
    served: Emulator, closed: str, status: int, told: str
) -> None:
    prompt = "" if "<" in closed else "Hello"
    shell = ("sh", "-c", f'"$@" chat {prompt} {closed}', "sh")
    found, _, err = run(program=(*shell, *COMMAND))
    assert found == status
    assert told in err
    assert "Traceback" not in err
    assert served.conversations == []


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "Hello"),
        pytest.param(("chat", "--json", "Hi"), marks=pytest.mark.long),
        pytest.param(("models",), marks=pytest.mark.long),
    ],
)
def test_failed_write_to_stdout_is_an_error(
    served: Emulator, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """As on a full disk, the write fails."""
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "from h2o_client.__main__ import main\n"
        "main()"
    )
    with (tmp_path / "out").open("wb") as out:
        program = (sys.executable, "-W", "error", "-c", limited)
        status, _, err = run(*arguments, program=program, stdout=out)
    assert status == 1
    assert err == "h2o-client: File too large\n"
    served.wait_idle()
    assert served.conversations == []


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("click", ["--version"]),
        pytest.param("h11", ["serve", "--port", "0"], marks=pytest.mark.long),
    ],
)
def test_missing_extra_is_reported(module: str, arguments: list[str]) -> None:
    text = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {arguments!r}\n"
        "import h2o_client.__main__ as command\ncommand.main()"
    )
    assert script(text) == (
        1,
        "",
        f"h2o-client: {module} is not installed (from a clone: pip install '.[cli]')\n",
    )


# Interruptions


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_signal_during_an_answer_stops_it(served: Emulator, number: int, status: int) -> None:
    served.reply(Answer(" one two three", hold_after=2))
    with process("chat", "Hello") as chat:
        assert read(chat, "two") == "one two"
        served.wait_held(timeout=PATIENCE)
        chat.send_signal(number)
        assert ended(chat) == (status, "\n", "")
    served.wait_idle()
    assert served.stops == 1
    assert served.conversations == []


@pytest.mark.long
@needs.posix
def test_signal_before_an_answer_stops_the_command(served: Emulator) -> None:
    served.reply(Answer(" one", hold_after=0))
    with process("chat", "Hello") as chat:
        served.wait_held(timeout=PATIENCE)
        chat.send_signal(signal.SIGINT)
        assert ended(chat) == (130, "", "")
    served.wait_idle()
    assert served.conversations == []


@pytest.mark.slow
@needs.posix
def test_closed_stdout_stops_the_answer(served: Emulator) -> None:
    served.reply(Answer(" one two three four", hold_after=2, pace=0.005))
    with process("chat", "Hello") as chat:
        assert chat.stdout is not None
        read(chat, "two")
        chat.stdout.close()
        served.release()
        assert chat.stderr is not None
        assert chat.stderr.read() == b""
        assert chat.wait(PATIENCE) == 141
    served.wait_idle()
    assert served.conversations == []


# The command itself


def test_version_is_printed(command: Command) -> None:
    assert command("--version") == 0
    assert h2o_client.__version__ in command.out


@pytest.mark.parametrize("arguments", [("-h",), ("chat", "--help"), ("serve", "--help")])
def test_help_is_printed(command: Command, arguments: tuple[str, ...]) -> None:
    assert command(*arguments) == 0
    assert command.out.startswith("Usage: h2o-client")


def test_command_is_installed_under_both_names() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", module="h2o_client.__main__")
    assert {script.name for script in scripts} == {"h2o-client", "h2o-chat-client"}
    assert {script.attr for script in scripts} == {"main"}


def test_signal_handlers_are_restored(command: Command) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    command("chat", "Hello", "--local", "--param", "max_new_tokens=1")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
