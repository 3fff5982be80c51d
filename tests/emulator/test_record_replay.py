"""Recordings are replayed the same each time: new ones, and the captures of this project."""

import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from backends import Api, endless, new_api
from replay import CAPTURES, Clock, Replay, Stub, load, names
from test_emulator import Client, talking
from test_emulator_captures import HELD

from h2o_client import H2oClient, H2oError, StatusError
from h2o_client.emulator import Answer, Emulator, Fault, WebSearch
from h2o_client.emulator.recording import redacted


def files(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def exchanges(folder: Path) -> list[dict[str, Any]]:
    return [exchange for file in files(folder) for exchange in file["exchanges"]]


async def program(api: Api) -> list[object]:
    """Use the client in many ways; return the results, without client-side ids."""
    seen: list[object] = []
    async with api.client(retries=0) as client:
        seen += [str(await client.chat("Hello")), [m.name for m in await client.models()]]
        async with client.conversation() as talk:
            seen.append(str(await talk.send("My name is Ann.")))
            seen.append(str(await talk.send("What did I say first?")))
            sent = await talk.retry()
            seen += [str(sent), await talk.summarize()]
            history = await talk.history()
            seen += [[message.content for message in history], talk.id]
            seen.append(history[-1].id == sent.response_id)
            url = await talk.share()
            seen.append(url.removeprefix(api.server.url))
            seen.append(str(await talk.send("Search this", web_search=True)))
        try:
            await client.chat("Fail")
        except H2oError as error:
            seen.append((type(error), str(error).replace(api.server.url, "")))
        async with client.stream("Stop here") as stream:
            async for text in stream:
                seen.append(text)
                if len(seen) % 2 == 0:
                    break
            await stream.stop()
        seen.append([token.text async for token in client.stream("Tokens").events()])
    return seen


def script(server: Emulator) -> None:
    """Script the failures of the recorded run."""
    server.search(WebSearch("Facts", query="facts"))
    server.fault("message", *[Fault(delay=0)] * 5, Fault(status=503, body={"error": "no room"}))


# New recordings


@pytest.mark.slow
def test_replay_gives_the_same_results(backend: str, tmp_path: Path) -> None:
    with Emulator(record=tmp_path, stop_poll=0.002) as server:
        script(server)
        api = new_api(backend, server)
        recorded = api.run(program(api))
        server.wait_idle()
    assert len(files(tmp_path)) == 1
    before = [path.read_bytes() for path in sorted(tmp_path.glob("*"))]
    for _ in range(2):  # another run, another server
        with Emulator(replay=tmp_path) as server:
            api = new_api(backend, server)
            for _ in range(2):  # and again on the same server
                assert api.run(program(api)) == recorded
            assert server.generations == 0
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*"))] == before


def test_recordings_have_the_format_of_captures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_TOKEN", "s3cret")

    def shape(scenario: dict[str, Any]) -> list[set[str]]:
        exchange = scenario["exchanges"][-1]
        return [
            set(scenario),
            set(exchange),
            set(exchange["request"]),
            set(exchange["response"]) - {"decoded"},
            set(scenario["upstream"][0]),
        ]

    with (
        Emulator(record=tmp_path / "new" / "folder", token="s3cret") as server,
        H2oClient(server.url) as client,
    ):
        client.chat("naïve 世界")
        server.wait_idle()
    (scenario,) = files(tmp_path / "new" / "folder")
    assert shape(scenario) == shape(load("0.4/01_happy_path"))
    settings, create, message, delete = scenario["exchanges"]
    assert [item["response"]["ended"] for item in (settings, create, message, delete)] == [
        "content-length",
        "final-chunk",
        "final-chunk",
        "final-chunk",
    ]
    chunks = "".join(chunk["text"] for chunk in message["response"]["chunks"])
    assert chunks == message["response"]["body_text"]
    assert "s3cret" not in json.dumps(scenario)
    (asked,) = scenario["upstream"]
    assert json.loads(asked["body"])["inputs"] == "<|prompt|>naïve 世界</s><|answer|>"
    assert asked["outcome"] == "complete"
    assert asked["tokens_sent"] > 5


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(status=422), "http 422"),
        (Answer(" a b", ending="cut"), "broken end"),
        (Answer(ending="down"), "down"),
    ],
)
def test_failed_answers_are_recorded_and_replayed(
    tmp_path: Path, answer: Answer, outcome: str
) -> None:
    with Emulator(record=tmp_path) as server, H2oClient(server.url, retries=0) as client:
        server.reply(answer)
        with pytest.raises(H2oError) as caught:
            client.chat("Hi", recover=False)
        server.wait_idle()
    assert files(tmp_path)[0]["upstream"][0]["outcome"] == outcome
    with talking(replay=tmp_path) as client:
        with pytest.raises(type(caught.value)) as again:
            client.chat("Hi", recover=False)
        assert again.value.partial == caught.value.partial


def test_stops_and_disconnects_are_replayed(tmp_path: Path) -> None:
    def run(server: Emulator, *, live: bool) -> list[str]:
        with H2oClient(server.url) as client, client.conversation() as talk:
            if live:
                server.reply(endless(" one", " two"), " all")
            with talk.stream("Count") as stream:
                texts = [next(iter(stream)), next(iter(stream))]
                stream.stop()
            with client.stream("Leave") as left:
                texts.append(next(iter(left)))
            return [*texts, str(stream.reply)]

    with Emulator(record=tmp_path, stop_poll=0.002) as server:
        first = run(server, live=True)
        server.wait_idle()
    assert "peer gone: stopped" in [item["outcome"] for item in files(tmp_path)[0]["upstream"]]
    with Emulator(replay=tmp_path) as server:
        assert run(server, live=False) == first
        assert run(server, live=False) == first


def test_repeated_requests_are_replayed_in_order(tmp_path: Path) -> None:
    with Emulator(record=tmp_path) as server, H2oClient(server.url) as client:
        server.reply(" one", " two", " three")
        for _ in range(3):
            client.chat("Count")
        server.wait_idle()
    with talking(replay=tmp_path) as client:
        texts = [client.chat("Count").text for _ in range(6)]
    assert texts == [" one", " two", " three"] * 2


def test_head_requests_are_replayed(tmp_path: Path) -> None:
    def ask(server: Emulator) -> tuple[int, bytes, str | None]:
        connection = http.client.HTTPConnection(server.url[7:], timeout=30)
        connection.request("HEAD", "/")
        with connection.getresponse() as answer:
            found = answer.status, answer.read(), answer.getheader("content-length")
        connection.close()
        return found

    with Emulator(record=tmp_path) as server:
        first = ask(server)
        server.wait_idle()
    assert exchanges(tmp_path)[0]["response"]["ended"] == "no-body"
    with Emulator(replay=tmp_path) as server:
        assert ask(server) == first


def test_unrecorded_request_is_an_error(tmp_path: Path) -> None:
    with Emulator(record=tmp_path) as server, H2oClient(server.url) as client:
        client.chat("Hi")
        server.wait_idle()
    with talking(replay=tmp_path) as client:
        with pytest.raises(StatusError, match="nothing was recorded") as caught:
            client.chat("Something else")
        assert caught.value.status == 501
        with pytest.raises(StatusError, match="nothing was recorded"):
            client.chat("Hi", temperature=0.1)  # another parameter is another request


def test_session_id_cannot_inject_a_header(tmp_path: Path) -> None:
    with Emulator(record=tmp_path) as server:
        Client(server).ask("GET", "/privacy")
        server.wait_idle()
    with Emulator(replay=tmp_path) as server:
        client = Client(server, session="a%0d%0aX-Injected:%20y")
        status, _, headers = client.ask("GET", "/privacy")
    assert status == 200
    assert headers["set-cookie"].startswith("hf-chat=a%0D%0AX-Injected%3A%20y;")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", "[" * 1000 + "]" * 1000),
        ("multipart/form-data; boundary=x", "--x\r\nContent-Type: multipart/mixed\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", "--x\r\nContent-Type: a/b; charset=z\r\n\r\n--x--"),
        ("multipart/form-data", "x"),
    ],
)
def test_unreadable_body_is_an_unrecorded_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content_type: str, body: str
) -> None:
    _one_file(tmp_path, "0.4/01_happy_path")
    with Emulator(replay=tmp_path) as server:
        headers = {"Content_Type": content_type}
        status, answer, _ = Client(server).ask("POST", "/settings", body, **headers)
    assert (status, "nothing was recorded" in answer.decode()) == (501, True)
    assert caplog.text == ""


def test_replay_requires_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(record=tmp_path) as server, H2oClient(server.url) as client:
        client.chat("Hi")
        server.wait_idle()
    with Emulator(replay=tmp_path, token="s3cret") as server:
        with H2oClient(server.url, retries=0) as client, pytest.raises(StatusError) as caught:
            client.chat("Hi")
        assert caught.value.status == 401
        monkeypatch.setenv("H2O_CHAT_TOKEN", "s3cret")
        with H2oClient(server.url) as client:
            assert client.chat("Hi").text


def test_replay_can_be_paced_and_recorded(tmp_path: Path) -> None:
    with Emulator(record=tmp_path / "one") as server, H2oClient(server.url) as client:
        client.chat("Hi")
        server.wait_idle()
    with (
        Emulator(replay=tmp_path / "one", record=tmp_path / "two", pace=0.001) as server,
        H2oClient(server.url) as client,
    ):
        assert "emulator" in client.chat("Hi").text
        server.wait_idle()
    assert [item["name"] for item in exchanges(tmp_path / "two")] == [
        item["name"] for item in exchanges(tmp_path / "one")
    ]


@pytest.mark.slow
def test_recordings_are_limited_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("h2o_client.emulator.recording.PER_FILE", 3)
    monkeypatch.setattr("h2o_client.emulator.recording.MAX_OPEN", 2)
    (tmp_path / "session-0002.json").write_text("{}")
    for _ in range(2):
        with Emulator(record=tmp_path) as server:
            for _ in range(3):
                with H2oClient(server.url) as client:
                    client.chat("Hi")
            server.wait_idle()
    assert (tmp_path / "session-0002.json").read_text() == "{}"
    (tmp_path / "session-0002.json").unlink()
    assert len(exchanges(tmp_path)) == 2 * 3 * 4
    assert max(len(file["exchanges"]) for file in files(tmp_path)) == 3


def test_secrets_are_not_recorded(tmp_path: Path) -> None:
    """Sent secrets and those set by a model server are redacted; the session gets another id."""

    def ask(server: Emulator) -> tuple[int, list[str]]:
        connection = http.client.HTTPConnection(server.url[7:], timeout=30)
        body = "ethicsModalAccepted=true"
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Referer": f"{server.url}/?token=sEcret7&model=some",
            "Cookie": "other=sEcret1; hf-chat=sEcret2; more=sEcret3",
            "Authorization": "Bearer sEcret4",
            "X-API-Key": "sEcret5",
            "X-Forwarded-Access-Token": "sEcret8",
            "X-Never-Heard-Of": "sEcret9",
        }
        connection.request("POST", "/settings?token=sEcret10&sEcret11", body, headers)
        answer = connection.getresponse()
        answer.read()
        made = answer.status, answer.headers.get_all("set-cookie") or []
        connection.close()
        return made

    with Emulator(record=tmp_path) as server, H2oClient(server.url, session="sEcret2") as client:
        first = ask(server)
        told = [("set-cookie", "upstream=sEcret6; Path=/"), ("x-upstream-secret", "sEcret12")]
        server.reply(Answer(" Hi", headers=told))
        client.chat("Hi")
        server.wait_idle()
    assert "sEcret2" in first[1][0]
    (kept,) = files(tmp_path)  # one session, one file
    assert len(kept["exchanges"]) == 4
    text = json.dumps(kept)
    assert "sEcret" not in text
    assert "upstream=(left out); Path=/" in text
    assert "/settings?token=left-out&left-out" in text
    assert "/?token=left-out&model=some" in text
    with Emulator(replay=tmp_path) as server:
        again = ask(server)
    assert (again[0], again[1][0].partition(";")[0]) == (first[0], first[1][0].partition(";")[0])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/conversations?/delete", "/conversations?/delete"),
        ("/a/web-search?prompt=Who%3F&x", "/a/web-search?prompt=Who%3F&left-out"),
        ("/?x-sveltekit-invalidated=01&key=k&empty=", None),
        ("http://user:pw@host:80/a?token=t#part", "http://host:80/a?token=left-out"),
        ("https://u:p@ss@host", "https://host"),
        ("/path", "/path"),
        ("", ""),
    ],
)
def test_unknown_query_values_are_redacted(url: str, shown: str | None) -> None:
    if shown is None:
        shown = "/?x-sveltekit-invalidated=01&key=left-out&empty=left-out"
    assert redacted(url) == shown


@needs.posix
@pytest.mark.parametrize("existing", [False, True])
def test_recordings_are_readable_only_by_their_owner(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "new" / "folder"
    if existing:
        folder.mkdir(parents=True)
        (folder / "session-0001.part").write_text("left by another run")
    before = os.umask(0)
    try:
        with Emulator(record=folder) as server, H2oClient(server.url) as client:
            client.chat("Hi")
            client.chat("Hi again")
            server.wait_idle()
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
    if not existing:
        made = [folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777]
        assert made == [0o700, 0o700]


def test_full_recording_is_not_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2o_client.emulator.recording.FULL", 20_000)
    with Emulator(record=tmp_path) as server, H2oClient(server.url) as client:
        for _ in range(3):
            client.chat("x" * 20_000)
        server.wait_idle()
    assert len(files(tmp_path)) == 4
    assert len(exchanges(tmp_path)) == 10


def test_full_disk_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "gone"
    with Emulator(record=folder) as server, H2oClient(server.url) as client:
        folder.rmdir()
        assert client.chat("Hi").text
        server.wait_idle()
    assert "cannot record" in caplog.text


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[Emulator, dict[str, Any], str]]:
    """A replay of a stop, the exchange that it ended, and the path of the stop request."""
    _one_file(tmp_path, "0.4/11_stop_generating")
    capture = load("0.4/11_stop_generating")
    stream = next(e for e in capture["exchanges"] if e["response"]["ended"] == "eof")
    paths = (exchange["request"]["path"] for exchange in capture["exchanges"])
    with Emulator(replay=tmp_path) as server:
        yield server, stream, next(path for path in paths if "stop" in path)


def begin(
    server: Emulator, path: str, body: str | None = None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(server.url[7:], timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def test_replay_waits_for_a_stop_on_another_connection(
    stopped: tuple[Emulator, dict[str, Any], str],
) -> None:
    """An answer that a stop ended does not end before the stop arrives."""
    server, stream, stop = stopped
    one, answer = begin(server, stream["request"]["path"], stream["request"]["body"])
    got = b""
    while len(got) < len(stream["response"]["body_text"].encode()):
        got += answer.read1()
    assert answer.fp is not None  # still open
    two, told = begin(server, stop)
    assert told.read() == b""
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    one.close()
    two.close()


def test_replayed_stop_applies_only_to_earlier_messages(
    stopped: tuple[Emulator, dict[str, Any], str],
) -> None:
    """A stop for a disconnected client does not stop the next message."""
    server, stream, stop = stopped
    connection, answer = begin(server, stream["request"]["path"], stream["request"]["body"])
    assert answer.read1()
    answer.close()
    connection.close()
    other, told = begin(server, stop)
    assert told.read() == b""
    other.close()
    connection, answer = begin(server, stream["request"]["path"], stream["request"]["body"])
    connection.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer.read()  # it pauses until its own stop
    answer.close()
    connection.close()


@pytest.mark.parametrize("text", [None, "{}", "[]", "no JSON", '{"exchanges": [{}]}'])
def test_folder_without_recordings_is_rejected(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "one.json").write_text(text)
    with pytest.raises(ValueError, match="record"):
        Emulator(replay=tmp_path)


# Captures of this project


def _one_file(folder: Path, name: str) -> None:
    version, _, scenario = name.partition("/")
    shutil.copy(CAPTURES / f"chat-ui-{version}" / f"{scenario}.json", folder)


@pytest.mark.parametrize("name", [name for name in names() if name not in HELD])
def test_capture_can_be_replayed(name: str, tmp_path: Path) -> None:
    _one_file(tmp_path, name)
    with Emulator(replay=tmp_path) as server:
        replay = Replay(name, server, Stub(), Clock(0))
        for index in range(len(replay.exchanges)):
            got, exchange = replay.play(index)
            if exchange["response"]["headers"] is not None:
                kept = exchange["response"]["headers"]
                for pair in kept:
                    if pair[0] == "Keep-Alive":
                        pair[1] = "timeout=5"
            replay.compare(got, exchange)


def test_sdk_works_with_a_replayed_capture(tmp_path: Path) -> None:
    _one_file(tmp_path, "0.4/01_happy_path")
    capture = load("0.4/01_happy_path")
    asked = next(e for e in capture["exchanges"] if '"inputs"' in (e["request"]["body"] or ""))
    body = json.loads(asked["request"]["body"])
    with talking(replay=tmp_path) as client:
        reply = client.chat(body["inputs"], **body["parameters"])
    assert reply.text == " Hello! I am a stub of h2oGPT, running on loopback. How can I help?"
