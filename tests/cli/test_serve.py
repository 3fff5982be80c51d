"""`serve` with an engine, several models, recordings, and an end that ends streams."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from model_servers import DONE, LEFT, OpenAIStub, delta, running
from test_cli import GREETING, Command, ended, posix, process, python, read

from h2o_client import H2oClient, H2oError, OverloadedError

WHOLE = [delta(" Hello"), delta(" there"), delta(None, "stop"), DONE]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@contextmanager
def serving(
    *arguments: str,
) -> "Generator[tuple[subprocess.Popen[bytes], str, str]]":
    """Run `serve`: the process, where it is, and what it shows."""
    with process("serve", "--port", "0", "--pace", "0", *arguments) as serve:
        shown = read(serve, "chat")
        found = re.search(r"H2O_CHAT_URL=(\S+)", shown)
        assert found is not None
        yield serve, found[1], shown


def stop(serve: "subprocess.Popen[bytes]") -> None:
    """End it, as it should end."""
    serve.terminate()
    assert ended(serve)[::2] == (0, "\nstopped\n")


@posix
def test_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    stub = OpenAIStub(list(WHOLE))
    with running(stub) as model_server:
        models = ("--model", f"real=openai:{model_server.url}#a=b", "--model", "by/rote=rote")
        with serving(*models) as (serve, url, shown):
            assert "H2O_CHAT_MODEL=real" in shown
            assert "sk-secret" not in shown
            with H2oClient(url, model="real") as client:
                assert [model.name for model in client.models()] == ["real", "by/rote"]
                assert client.chat("Hi").text == " Hello there"
                assert client.chat("Hello", model="by/rote").text.strip() == GREETING.strip()
            stop(serve)
        assert model_server.asked[-1].json()["model"] == "a=b"
        assert model_server.asked[-1].headers["authorization"] == "Bearer sk-secret"


def test_list(command: Command, tmp_path: Path) -> None:
    assert command("serve", "--list") == 0
    names = re.findall(r"^(\S+)  \((.*)\)\n    (.*)$", command.out, re.MULTILINE)
    template = "<|prompt|>{question}</s><|answer|>{answer}</s>"
    assert names == [
        ("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1", "rote", template),
        ("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3", "rote", template),
    ]
    more = ("--model", "a=tgi:http://host/", "--model", "b=openai:http://host:1")
    folder = tmp_path / "record"
    options = ("--host", "0.0.0.0", "--record", str(folder))  # nothing listens, nothing is kept
    assert command("serve", "--list", *more, *options) == 0
    assert command.out == (
        f"a  (tgi:http://host/)\n    {template}\n"
        "b  (openai:http://host:1)\n    (messages; the template is that of http://host:1/v1)\n"
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--engine", "rot"), "unknown engine"),
        (("--engine", "tgi:localhost"), "URL"),
        (("--model", "name"), "NAME=ENGINE"),
        (("--model", "=rote"), "NAME=ENGINE"),
        (("--model", "name="), "NAME=ENGINE"),
        (("--model", "a=rote", "--model", "a=rote"), "twice"),
        (("--model", "a=rote", "--engine", "rote"), "exclude"),
        (("--replay", "x", "--engine", "rote"), "--replay"),
        (("--replay", "x", "--record", "./x"), "folders of their own"),
        (("--replay", "x"), "no recorded exchanges"),
        (("--max-generations", "0"), "max-generations"),
        (("--host", "0.0.0.0", "--engine", "rote"), "--token"),
    ],
)
def test_wrong_use(
    command: Command,
    arguments: tuple[str, ...],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("serve", *arguments) == 2
    assert command.out == ""
    assert hint in " ".join(command.err.split())


def test_the_extra_is_missing() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv[1:] = ['serve', '--engine', 'transformers:some/model']\n"
        "import h2o_client.__main__ as command\ncommand.main()"
    )
    status, _, err = ended(python("-c", script))
    assert status == 1
    assert err == (
        "h2o-client: torch is not installed: pip install 'h2o-chat-client[local-model]'\n"
    )


@posix
def test_record_and_replay(tmp_path: Path) -> None:
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


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_streams(number: int) -> None:
    stub = OpenAIStub([delta(" Hello"), LEFT])
    with running(stub) as model_server:
        engine = ("--engine", f"openai:{model_server.url}#tiny", "--max-generations", "1")
        with serving(*engine) as (serve, url, _), H2oClient(url, retries=0) as client:
            with client.stream("Hi", recover=False) as stream:
                assert next(iter(stream)) == " Hello"
                with pytest.raises(OverloadedError):  # the bound
                    client.chat("Hi")
                begun = time.monotonic()
                serve.send_signal(number)
                with pytest.raises(H2oError):
                    list(stream)
            assert ended(serve)[::2] == (0, "\nstopped\n")
            assert time.monotonic() - begun < 5
        assert model_server.left.wait(5)


@posix
def test_an_address_that_others_reach() -> None:
    with process("serve", "--host", "0.0.0.0", "--port", "0", "--token", "s3cret") as serve:
        shown = read(serve, "chat")
        assert "H2O_CHAT_TOKEN=… H2O_CHAT_URL=http://0.0.0.0:" in shown
        assert "s3cret" not in shown
        stop(serve)
