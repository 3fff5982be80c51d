"""`serve`: engines, several models, recordings, and a shutdown that ends streams."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import needs
import pytest
from command import Command, InTerminal, ended, process, read, script
from model_servers import LEFT, WHOLE, Asked, Handler, OpenAIStub, delta, running
from test_cli import GREETING

from h2o_client import H2oClient, H2oError, OverloadedError, ServerError
from h2o_client.cli.local import local_server
from h2o_client.emulator import Emulator


@contextmanager
def serving(
    *arguments: str,
) -> "Generator[tuple[subprocess.Popen[bytes], str, str]]":
    """Run `serve`; yield the process, its URL and its output."""
    with process("serve", "--port", "0", "--pace", "0", *arguments) as serve:
        shown = read(serve, "chat")
        found = re.search(r"H2O_CHAT_URL=(\S+)", shown)
        assert found is not None
        yield serve, found[1], shown


def stop(serve: "subprocess.Popen[bytes]", *, warned: bool = False) -> None:
    """Stop it, and check that it exits cleanly."""
    serve.terminate()
    status, _, err = ended(serve)
    assert status == 0
    assert err.endswith("\nstopped\n") if warned else err == "\nstopped\n"


@pytest.mark.slow
@needs.posix
def test_serve_speaks_chat_ui_2025() -> None:
    with serving("--dialect", "chat-ui-2025") as (serve, url, _):
        flags = httpx.get(f"{url}/api/v2/feature-flags", trust_env=False)
        assert flags.json()["json"]["loginEnabled"] is False
        stop(serve)


def test_local_server_speaks_the_chosen_dialect(command: Command) -> None:
    for dialect, status in {"chat-ui-2023": 404, "chat-ui-2025": 200}.items():
        with local_server(0.0, dialect=dialect) as url:
            flags = httpx.get(f"{url}/api/v2/feature-flags", trust_env=False)
            assert flags.status_code == status
    assert command("chat", "--dialect", "chat-ui-2025", "Hi") == 2
    assert "add --local" in command.err


@pytest.mark.slow
@needs.posix
def test_serve_speaks_the_openai_api(server: Emulator) -> None:
    """In front of a chat-ui server, and in front of an engine."""
    for options, answer in ((("--upstream", server.url), "Hi"), (("--engine", "rote"), GREETING)):
        with process("serve", "--port", "0", "--pace", "0", "--api", "openai", *options) as serve:
            shown = read(serve, "falcon")
            found = re.search(r"OPENAI_BASE_URL=(\S+)", shown)
            assert found is not None
            server.reply(" Hi")
            with httpx.Client(base_url=found[1], trust_env=False) as http:
                model = http.get("/models").json()["data"][0]["id"]
                asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
                (choice,) = http.post("/chat/completions", json=asked).json()["choices"]
            assert choice["message"]["content"] == answer.strip()
            stop(serve)
    assert server.conversations == []


def test_unreachable_upstream_is_reported(command: Command) -> None:
    assert command("serve", "--api", "openai", "--upstream", "http://127.0.0.1:1") == 1
    assert "127.0.0.1:1" in command.err
    assert command.err.endswith("; run `h2o-client doctor http://127.0.0.1:1`\n")
    upstream = "http://ann:s3cret@127.0.0.1:1"
    assert command("serve", "--api", "openai", "--upstream", upstream) == 1
    assert command.err.endswith("; run `h2o-client doctor http://127.0.0.1:1`\n")


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize(
    ("options", "variable", "key"),
    [
        ((), None, "any text"),
        (("--token", "s3cret"), "0ther", "the --token"),
        ((), "s3cret", "the value of $H2O_CHAT_TOKEN"),
    ],
)
def test_openai_api_key_comes_from_option_or_environment(
    options: tuple[str, ...], variable: str | None, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("H2O_CHAT_TOKEN", variable)
    with process("serve", "--port", "0", "--api", "openai", *options) as serve:
        assert f"The key is {key}. " in read(serve, "The models:")
        stop(serve)


@pytest.mark.slow
@needs.posix
def test_serve_offers_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    stub = OpenAIStub(list(WHOLE))

    def tgi(_: Asked, handler: Handler) -> None:
        token = {"id": 1, "text": " Hi", "logprob": -0.1, "special": False}
        handler.whole(
            200,
            b'data:{"token":%s,"generated_text":" Hi","details":null}\n\n'
            % json.dumps(token).encode(),
            "text/event-stream",
        )

    with running(stub) as model_server, running(tgi) as other:
        models = (
            f"real=openai:{model_server.url}#a=b",
            "by/rote=rote",
            f"tgi=tgi:{other.url}/path",
        )
        with serving(*(f"--model={model}" for model in models)) as (serve, url, shown):
            assert "H2O_CHAT_MODEL=real" in shown
            assert "sk-secret" not in shown
            with H2oClient(url, model="real") as client:
                assert [model.name for model in client.models()] == ["real", "by/rote", "tgi"]
                assert client.chat("Hi", model="tgi").text == " Hi"
                assert [asked.path for asked in other.asked] == ["/path"]
                assert client.chat("Hi").text == " Hello there"
                assert client.chat("Hello", model="by/rote").text.strip() == GREETING.strip()
            stop(serve)
        assert model_server.asked[-1].json()["model"] == "a=b"
        assert model_server.asked[-1].headers["authorization"] == "Bearer sk-secret"


def test_list_shows_models_and_engines(command: Command, tmp_path: Path) -> None:
    assert command("serve", "--list") == 0
    names = re.findall(r"^(\S+)  \((.*)\)\n    (.*)$", command.out, re.MULTILINE)
    template = "<|prompt|>{question}</s><|answer|>{answer}</s>"
    assert names == [
        ("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1", "rote", template),
        ("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3", "rote", template),
    ]
    more = ("--model", "a=tgi:http://me:sEcret@host/", "--model", "b=openai:http://me:x@host:1")
    folder = tmp_path / "record"
    options = ("--host", "0.0.0.0", "--record", str(folder))  # nothing is started or recorded
    assert command("serve", "--list", *more, *options) == 0
    assert command.out == (
        f"a  (tgi:http://host/)\n    {template}\n"
        "b  (openai:http://host:1)\n    (messages; the template is that of http://host:1/v1)\n"
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "tgi:http://user:sEcret@[::1/"),
        ("--engine", "openai:http://user:sEcret#@host"),
        ("--engine", "tgi:user:sEcret@host"),
        ("--engine", "http://user:sEcret@host"),
        ("--model", "tgi:http://user:sEcret@host"),
        ("--list", "--engine", "tgi:http://user:sEcret@[::1/"),
    ],
)
def test_messages_do_not_show_passwords(command: Command, arguments: tuple[str, ...]) -> None:
    assert command("serve", *arguments) == 2
    assert "sEcret" not in command.out + command.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--engine", "rot"), "unknown engine"),
        (("--dialect", "chat-ui-2024"), "--dialect"),
        (("--engine", "tgi:localhost"), "URL"),
        (("--model", "name"), "NAME=ENGINE"),
        (("--model", "=rote"), "NAME=ENGINE"),
        (("--model", "name="), "NAME=ENGINE"),
        (("--model", "a=rote", "--model", "a=rote"), "twice"),
        (("--model", "a=rote", "--engine", "rote"), "cannot be combined"),
        (("--replay", "x", "--engine", "rote"), "--replay"),
        (("--replay", "x", "--record", "./x"), "different folders"),
        (("--replay", "x"), "no recorded exchanges found"),
        (("--max-generations", "0"), "max-generations"),
        (("--port", "65536"), "65536"),
        (("--upstream", "http://127.0.0.1:1"), "--api openai"),
        (("--api", "openai", "--upstream", "http://x", "--engine", "rote"), "--engine"),
        (("--api", "openai", "--upstream", "127.0.0.1"), "--upstream"),
        (("--api", "openai", "--record", "x"), "--record"),
        (("--host", "0.0.0.0"), "--token"),
        (("--host", "0.0.0.0", "--engine", "rote"), "--token"),
        (("--host", "::", "--token", ""), "--token"),
        (("--host", "example.org"), "--token"),
        (("--record", "file"), "is a file"),
    ],
)
def test_invalid_usage_of_serve_is_rejected(
    command: Command,
    arguments: tuple[str, ...],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert command("serve", *arguments) == 2
    assert command.out == ""
    assert hint in " ".join(command.err.split())


def test_unavailable_address_is_reported(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command("serve", "--port", port) == 1
        assert command.err.startswith(f"h2o-client: cannot listen on 127.0.0.1, port {port}: ")
    assert command("serve", "--host", "no.such.host.invalid", "--token", "t") == 1
    assert command.err.startswith("h2o-client: cannot listen on no.such.host.invalid, port 8000: ")


def test_unwritable_record_folder_is_reported(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert command("serve", "--record", str(tmp_path / "file" / "folder")) == 1
    assert str(tmp_path) in command.err


def test_chat_with_an_engine_is_one_command(command: Command) -> None:
    """`chat --engine`: the emulator with a model server, for one answer."""
    with running(OpenAIStub(list(WHOLE))) as model_server:
        assert command("chat", "--engine", f"openai:{model_server.url}#tiny", "Hi") == 0
        assert (command.out, command.err) == ("Hello there\n", "")
        assert model_server.asked[-1].json()["messages"] == [{"role": "user", "content": "Hi"}]


def test_engine_option_works_for_other_commands(command: Command) -> None:
    assert command("models", "--engine", "rote") == 0
    assert "falcon" in command.out
    assert command("chat", "Hi", "--engine", "rot") == 2
    assert "unknown engine" in command.err
    assert command("chat", "Hi", "--engine", "rote", "--base-url", "http://127.0.0.1") == 2
    assert "--engine and --base-url cannot be combined" in command.err


DEAD = "the model server at http://127.0.0.1:1 does not answer: ConnectError: Connection refused"


@needs.posix
@pytest.mark.parametrize("arguments", [("chat", "Hi"), ("chat",), ("models",)])
def test_unreachable_engine_is_reported_immediately(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    terminal = InTerminal(monkeypatch, *arguments)
    env = {"COLUMNS": "200"}
    assert terminal("--engine", "openai:http://127.0.0.1:1#m", env=env, typed=["Hi"]) == 1
    assert terminal.text == f"h2o-client: {DEAD}\n"


@pytest.mark.slow
@needs.posix
def test_unreachable_engine_is_reported_once_and_without_its_password() -> None:
    models = [f"--model={name}=openai:http://me:sEcret@127.0.0.1:1#m" for name in "ab"]
    with serving(*models) as (serve, url, _), H2oClient(url, model="a", retries=0) as client:
        for _ in range(2):
            with pytest.raises(ServerError):
                client.chat("Hi")
        serve.terminate()
        assert ended(serve)[::2] == (0, f"{DEAD}\n\nstopped\n")


@pytest.mark.long
@needs.posix
def test_serve_waits_for_an_engine_that_starts_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = f"openai:http://127.0.0.1:{port}#m"
    with serving("--engine", engine) as (serve, url, _), H2oClient(url) as client:
        with running(OpenAIStub(list(WHOLE)), port):
            assert client.chat("Hi").text == " Hello there"
        stop(serve, warned=True)


@pytest.mark.long
@needs.posix
def test_token_is_required_from_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    address = ("--host", "0.0.0.0", "--port", "0", "--token", "s3cret")
    with process("serve", *address) as serve:
        shown = read(serve, "chat")
        assert "s3cret" not in shown
        found = re.search(r"H2O_CHAT_TOKEN=… H2O_CHAT_URL=http://0\.0\.0\.0:(\d+)", shown)
        assert found is not None
        url = f"http://127.0.0.1:{found[1]}"
        for token, status in ((None, 401), ("wrong", 401), ("s3cret", None)):
            if token is not None:
                monkeypatch.setenv("H2O_CHAT_TOKEN", token)
            with H2oClient(url, retries=0) as client:
                if status is None:
                    assert client.chat("Hello").text.strip() == GREETING.strip()
                    continue
                with pytest.raises(H2oError) as caught:
                    client.chat("Hello")
                assert getattr(caught.value, "status", None) == status
        stop(serve)


@pytest.mark.slow
@needs.posix
def test_second_ctrl_c_during_shutdown_prints_no_traceback() -> None:
    """A second Ctrl-C during shutdown prints no traceback."""
    with process("serve", "--port", "0") as serve:
        read(serve, "chat")
        serve.send_signal(signal.SIGINT)
        serve.send_signal(signal.SIGINT)
        status, _, err = ended(serve)
    assert status in {0, 130}
    assert "Traceback" not in err


@pytest.mark.long
def test_missing_package_of_an_engine_is_reported() -> None:
    text = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv[1:] = ['serve', '--engine', 'transformers:some/model']\n"
        "import h2o_client.__main__ as command\ncommand.main()"
    )
    status, _, err = script(text)
    assert status == 1
    assert err == (
        "h2o-client: torch is not installed (from a clone: pip install '.[local-model]')\n"
    )


@pytest.mark.long
@needs.posix
def test_serve_records_and_replays(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with serving("--record", str(folder)) as (serve, url, _), H2oClient(url) as client:
        texts = [client.chat(text).text for text in ("Hello", "What else?")]
        stop(serve)
    (kept,) = folder.iterdir()
    assert len(json.loads(kept.read_text("utf-8"))["exchanges"]) == 7
    with serving("--replay", str(folder)) as (serve, url, _), H2oClient(url, retries=0) as client:
        assert [client.chat(text).text for text in ("Hello", "What else?")] == texts
        with pytest.raises(H2oError, match="nothing was recorded"):
            client.chat("Something new")
        stop(serve)


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_running_streams(number: int) -> None:
    stub = OpenAIStub([delta(" Hello"), LEFT])
    with running(stub) as model_server:
        engine = ("--engine", f"openai:{model_server.url}#tiny", "--max-generations", "1")
        with serving(*engine) as (serve, url, _), H2oClient(url, retries=0) as client:
            with client.stream("Hi", recover=False) as stream:
                assert next(iter(stream)) == " Hello"
                with pytest.raises(OverloadedError):  # the generation limit
                    client.chat("Hi")
                begun = time.monotonic()
                serve.send_signal(number)
                with pytest.raises(H2oError):
                    list(stream)
            assert ended(serve)[::2] == (0, "\nstopped\n")
            assert time.monotonic() - begun < 20
        assert model_server.left.wait(20)
