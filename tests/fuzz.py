"""Feeds arbitrary input to the parsers and flows, and checks their invariants.

    python -m tests.fuzz                        each target in turn, a minute in all
    python -m tests.fuzz answer --seconds 600   one target, ten minutes

With atheris (`pip install '.[fuzz]'`, Linux), code coverage guides the run: inputs that reach new
code are kept and mutated. Without it, or with `--blind`, inputs are recordings mutated at random
from a seed, so that a run can be repeated. The program prints the executions and crashes of each
target, and writes the input of each crash to a file for `--replay`. The exit code is nonzero
if there was a crash.

A target is a function of bytes that raises an error on failure: `AssertionError` for a broken
invariant, any other foreign error for an error that leaked through.
"""

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "protocol")]  # as in pytest

# Found through the line above, which pyright does not see.
from recorded import everything, newer, streams  # noqa: E402 # pyright: ignore[reportMissingImports]
from tree import TreeWorld  # noqa: E402 # pyright: ignore[reportMissingImports]
from world import (  # noqa: E402 # pyright: ignore[reportMissingImports]
    JSON,
    STREAM,
    Answer,
    Player,
    Scene,
    World,
    chat_of,
)

from h2o_client.errors import (  # noqa: E402 -- the same
    GenerationError,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    OverloadedError,
    ProtocolError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol import conversations, replies  # noqa: E402 -- the same
from h2o_client.protocol.address import Address  # noqa: E402 -- the same
from h2o_client.protocol.chat import ChatOperation  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2023 import replies as small  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2023 import stored  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2023.answer import AnswerParser  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2023.devalue import unflatten  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2023.web_search import WebSearchParser  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2025 import answer as answer_2025  # noqa: E402 -- the same
from h2o_client.protocol.chat_ui_2025.dialect import Dialect2025  # noqa: E402 -- the same
from h2o_client.protocol.dialect import Created, Query  # noqa: E402 -- the same
from h2o_client.protocol.effects import Head, Request  # noqa: E402 -- the same
from h2o_client.protocol.lines import LineSplitter  # noqa: E402 -- the same
from h2o_client.protocol.prompt import JS_SPACE  # noqa: E402 -- the same
from h2o_client.protocol.requests import Site  # noqa: E402 -- the same
from h2o_client.protocol.session import Session  # noqa: E402 -- the same
from h2o_client.protocol.tokens import shown_texts  # noqa: E402 -- the same
from h2o_client.types import Reply, Token, WebSearchEntry  # noqa: E402 -- the same

Target = Callable[[bytes], None]
LONGEST_TEXT = 3000  # characters of an error message
_REQUEST = Request("POST", "https://host/chat/settings", (), None, "settings")
_OURS = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"


class Tape:
    """Bytes as a series of choices; at the end, every choice is 0 or empty."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def number(self, below: int) -> int:
        """Choose a number."""
        return int.from_bytes(self.take(1 if below <= 256 else 2)) % below

    def take(self, size: int) -> bytes:
        """Take this many bytes, or what is left."""
        found = self._content[self._at : self._at + size]
        self._at += len(found)
        return found

    def rest(self) -> bytes:
        """Take all remaining bytes."""
        return self.take(len(self._content))

    def cuts(self, content: bytes) -> list[bytes]:
        """Cut bytes at up to fifteen places, possibly the same place twice."""
        places = sorted(self.number(65536) % (len(content) + 1) for _ in range(self.number(16)))
        edges = [0, *places, len(content)]
        return [content[a:b] for a, b in itertools.pairwise(edges)]

    @property
    def ended(self) -> bool:
        """Whether all bytes are used."""
        return self._at == len(self._content)


def check_error(error: H2oError, *kinds: type[H2oError]) -> None:
    """Check that an error has one of these types, and a printable message."""
    assert isinstance(error, kinds or H2oError)
    assert len(str(error)) <= LONGEST_TEXT
    str(error).encode("utf-8", "surrogatepass")


def lines(content: bytes) -> None:
    """Lines end where the rules say, however the input is cut, and stay within the limit."""
    tape = Tape(content)
    limit = (4, 64, 1 << 20)[tape.number(3)]
    head, body = tape.take(32), tape.rest()
    expected = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    splitter = LineSplitter(limit)
    found = [line for piece in Tape(head).cuts(body) for line in splitter.feed(piece)]
    if not splitter.overlong:
        assert [*found, splitter.finish()] == expected
    assert found == expected[: len(found)]
    assert all(len(line) <= limit for line in found)
    assert splitter.overlong == any(len(line) > limit for line in expected)


def answer(content: bytes) -> None:
    """Bytes yield tokens or a typed error, however they are cut; the end finishes the answer."""
    tape = Tape(content)
    limit = (16, 120, 1 << 20)[tape.number(3)]
    head, body = tape.take(32), tape.rest()
    whole = _read_answer([body], limit)
    assert repr(_read_answer(Tape(head).cuts(body), limit)) == repr(
        whole
    )  # compare the text, as NaN != NaN
    tokens, final, error = whole
    assert final is None or error is None
    if error is not None:
        assert type(error) in (ProtocolError, GenerationError, OverloadedError, InvalidRequestError)
        check_error(error)
    for token in tokens:
        assert (type(token.id), type(token.text), type(token.special)) == (int, str, bool)


def _read_answer(pieces: list[bytes], limit: int) -> tuple[list[Token], object, H2oError | None]:
    parser = AnswerParser(limit, longest=4096)
    tokens: list[Token] = []
    for piece in pieces:
        ended = parser.ended
        texts = parser.read_on(piece)
        found = parser.tokens()
        assert not (ended and found)
        assert parser.ended or texts == shown_texts(found)
        tokens += found
        assert parser.count == len(tokens)
    tokens += parser.finish()
    assert parser.feed(b"data:{}\n\n") == [] or not parser.ended
    return tokens, parser.final, parser.error


def newer_answer(content: bytes) -> None:
    """The same for 2025 answers, whether or not the stream is read again."""
    tape = Tape(content)
    again = bool(tape.number(2))
    head, body = tape.take(32), tape.rest()
    whole = _read_newer_answer([body], again=again)
    assert _read_newer_answer(Tape(head).cuts(body), again=again) == whole


def _read_newer_answer(pieces: list[bytes], *, again: bool) -> tuple[object, ...]:
    text = bytearray(b"Hel") if again else bytearray()
    parser = answer_2025.AnswerParser(text, reattached=again)
    tokens: list[Token] = []
    for piece in pieces:
        texts = parser.read_on(piece)
        found = parser.tokens()
        assert parser.ended or texts == shown_texts(found)
        tokens += found
    tokens += parser.finish()
    assert parser.final is None or parser.error is None
    text.decode()
    if parser.error is not None:
        check_error(parser.error, ProtocolError, GenerationError, StatusError)
    error = None if parser.error is None else (type(parser.error), str(parser.error))
    return tokens, text, parser.final, parser.title, parser.revised, error


def search(content: bytes) -> None:
    """Bytes yield entries or a typed error, however they are cut."""
    tape = Tape(content)
    limit = (32, 1 << 20)[tape.number(2)]
    head, body = tape.take(32), tape.rest()
    whole = _read_search([body], limit)
    cut = _read_search(Tape(head).cuts(body), limit)
    assert cut[1] == whole[1]
    if whole[2] is None or cut[2] is None:
        assert repr(cut) == repr(whole)
    else:  # entries in the same piece as an error are lost; its message may show less
        assert type(cut[2]) is type(whole[2])
        check_error(whole[2])


def _read_search(
    pieces: list[bytes], limit: int
) -> tuple[list[WebSearchEntry], str | None, H2oError | None]:
    parser = WebSearchParser(limit)
    entries: list[WebSearchEntry] = []
    try:
        for piece in pieces:
            entries += parser.feed(piece)
        parser.finish()
    except (ProtocolError, IncompleteStreamError) as error:
        return entries, parser.result, error
    assert parser.result
    assert entries[-1].type == "result"
    return entries, parser.result, None


def devalue(content: bytes) -> None:
    """Any JSON yields a value or a protocol error."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    before = json.dumps(value)
    try:
        unflatten(value)
    except ProtocolError as error:
        check_error(error)
    assert json.dumps(value) == before


def page(content: bytes) -> None:
    """Any body of `__data.json` is read, or raises one of our errors."""
    for read in (stored.read_root, stored.read_conversation):
        try:
            read(content)
        except (ProtocolError, StatusError) as error:
            check_error(error)


def reply(content: bytes) -> None:
    """Any response to any small request is read, or raises one of our errors."""
    tape = Tape(content)
    status = (200, 204, 303, 308, 400, 405, 429, 500, 503, 100 + tape.number(65536) % 900)[
        tape.number(10)
    ]
    value = tape.take(tape.number(64)).decode("latin-1")
    names = ("location", "retry-after", "date", "content-type", "content-encoding")
    head = Head(status, tuple((name, value) for name in names))
    body = tape.rest()
    with contextlib.suppress(ProtocolError):
        replies.is_plain(head)
    seconds = replies.retry_after(head)
    assert seconds is None or 0 <= seconds < 1e12
    for read in (
        small.read_settings,
        small.read_created,
        small.read_title,
        small.read_share_url,
        replies.read_prompt_preview,
        replies.check_status,
    ):
        try:
            found = read(head, body, _REQUEST)
        except H2oError as error:
            check_error(error, GenerationError, ProtocolError, StatusError)
        else:
            assert 200 <= status < 400
            if read is small.read_created:
                assert isinstance(found, Created)
                assert found.id.isascii()
                assert found.id.replace("-", "").replace("_", "").isalnum()


def newer_reply(content: bytes) -> None:
    """The same for the responses of 2025 servers."""
    tape = Tape(content)
    status = (200, 200, 200, 302, 401, 403, 404, 413, 429, 500)[tape.number(10)]
    head, body = Head(status, (("content-type", "application/json"),)), tape.rest()
    for query in _newer_queries():
        try:
            query.read(head, body, query.request)
        except H2oError as error:
            check_error(error, GenerationError, ProtocolError, StatusError)


@cache
def _newer_queries() -> list[Query[Any]]:
    """Return a query for each kind of response."""
    session, place = Session(None, _OURS), Address.parse("https://host/chat")
    dialect = Dialect2025(Site(place, session, headers={}, token=None, user_agent="fuzz"))
    return [
        dialect.create(model="m"),
        dialect.kept_settings(),
        dialect.settings(),
        dialect.models(),
        dialect.conversations(0),
        dialect.stored("c"),
        dialect.share("c"),
        dialect.share_prefix(),
        dialect.prompt("c", "m"),
        dialect.stop("c", "r", ""),
        dialect.delete_all(),
    ]


def cookies(content: bytes) -> None:
    """Whatever `Set-Cookie` contains, the session cookie can be sent."""
    session = Session(None, _OURS)
    session.adopt(content.decode("latin-1").split("\n"))
    assert session.cookie.isascii()
    assert session.cookie.isprintable()
    assert not set(session.cookie) & set(' ;,"\\')
    assert Session(session.export(), "x").cookie == session.cookie
    try:
        taken = Session(content.decode("utf-8", "surrogateescape"), _OURS)
    except ValueError:
        return
    assert Session(taken.export(), "x").cookie == taken.cookie
    assert taken.cookie.isprintable()


def address(content: bytes) -> None:
    """Any text yields a base URL for requests, or a ValueError."""
    try:
        found = Address.parse(content.decode("utf-8", "surrogatepass"))
    except ValueError:  # also for bytes that are not valid text
        return
    assert found.url.startswith(("http://", "https://"))
    assert found.url.isascii()
    assert found.url.isprintable()
    assert not set(found.url) & set("?# \\")
    assert "@" not in found.url.split("/")[2]
    assert Address.parse(found.url).url == found.url


NEWER_OPERATIONS = ("settings", "message", "delete", "stop", "data", "reattach")
OPERATIONS = ("settings", "create", "message", "delete", "stop", "data", "root")
_STATUSES = (200, 200, 200, 200, 204, 303, 308, 404, 405, 410, 422, 429, 500, 502, 503, 999)
_HEADS = (
    STREAM,
    JSON,
    (),
    (("content-type", "text/event-stream"), ("content-encoding", "gzip")),
    (("location", "https://other/settings"), ("set-cookie", "a=b; HttpOnly")),
    (("retry-after", "1"), ("set-cookie", ";;=")),
    (("retry-after", "9" * 30),),
)


@cache
def snippets() -> list[bytes]:
    """Return recorded bodies and stream lines."""
    found = [exchange.body for exchange in everything() if 0 < len(exchange.body) < 5000]
    for exchange in streams():
        found += [line + b"\n" for line in exchange.body.split(b"\n")[:40] if line]
    return list(dict.fromkeys(found))


@cache
def newer_snippets() -> list[bytes]:
    """Return bodies that were recorded from 2025 servers."""
    found = [exchange.body for exchange in newer() if 0 < len(exchange.body) < 20_000]
    return list(dict.fromkeys(found))


def _parts(tape: Tape, known: Sequence[bytes]) -> Iterator[bytes | H2oError | float]:
    for _ in range(tape.number(8)):
        match tape.number(8):
            case 0:
                yield TransportError("the connection was lost: fuzz")
            case 1:
                yield float(tape.number(65536)) / 256
            case 2 | 3:
                yield tape.take(1 + tape.number(64)) or b"?"
            case _:
                yield known[tape.number(65536) % len(known)]


def _answers(tape: Tape, known: Sequence[bytes]) -> Iterator[Answer]:
    for _ in range(tape.number(4)):
        fault: H2oError | None = None
        match tape.number(8):
            case 0:
                fault = TransportError("the connection was lost: fuzz", sent=bool(tape.number(2)))
            case 1:
                fault = TransportTimeoutError.exceeded("connect", None)
        yield Answer(
            _STATUSES[tape.number(16)],
            tuple(_parts(tape, known)),
            _HEADS[tape.number(len(_HEADS))],
            fault,
            float(tape.number(65536)) / 256,
        )


def flow(content: bytes) -> None:
    """A chat ends in a reply or a typed error wherever it is stopped; the server is told once."""
    tape = Tape(content)
    breaks, stops = tape.number(64), tape.number(64)
    recover = bool(tape.number(2))
    known = snippets()
    script = {
        OPERATIONS[tape.number(7)]: list(_answers(tape, known)) for _ in range(tape.number(8))
    }
    scene = Scene(script, recover=recover)
    result = _play(scene, scene.chat, breaks, stops)
    if isinstance(result, Reply):
        assert result.text == scene.text
    if isinstance(result, H2oError):
        assert result.partial in ("", scene.text)
    told = scene.abandon()
    assert len(told) == len(set(told)), "the server was notified twice"
    assert set(told) <= {"stop", "delete"}
    assert scene.conversations == set()
    assert scene.abandon() == []
    scene.play(conversations.sweep(scene.exchange, scene.exchange.cleanup()))
    _check_urls(scene)


def newer_flow(content: bytes) -> None:
    """The same for a chat with a 2025 server."""
    tape = Tape(content)
    breaks, stops = tape.number(64), tape.number(64)
    recover, main = bool(tape.number(2)), bool(tape.number(2))
    known = newer_snippets()
    script = {
        NEWER_OPERATIONS[tape.number(6)]: list(_answers(tape, known)) for _ in range(tape.number(8))
    }
    world = TreeWorld(script, main=main, recover=recover, session=None, model=None)
    chat = chat_of(world)
    result = _play(world, chat, breaks, stops)
    if isinstance(result, Reply) and not result.revised and not result.recovered:
        assert result.text == world.text.rstrip(JS_SPACE) or result.finish_reason == "stopped"
    before = len(world.requests)
    world.play(chat.abandon(world.exchange.cleanup()))
    assert set(world.operations[before:]) <= {"stop", "delete"}
    world.play(conversations.sweep(world.exchange, world.exchange.cleanup()))
    assert world.conversations == set()
    _check_urls(world)


def _play(world: World, chat: ChatOperation, breaks: int, stops: int) -> object:
    """Play a chat until it ends or is broken off; then the server is healthy.

    Args:
        world: its world.
        chat: the chat.
        breaks: after how many steps to break it off.
        stops: after how many steps to stop it.

    Returns:
        Its reply, its error, or None.
    """
    player = Player(world)
    steps = player.drive(chat.run())
    result: object = None
    try:
        for position in range(5000):
            if position == breaks:
                break
            if position == stops:
                world.play(chat.stop())
            next(steps)
        else:
            raise AssertionError("the flow does not end")
    except StopIteration as stop:
        result = stop.value
    except H2oError as error:
        result = error
    if isinstance(result, H2oError):
        check_error(result)
        assert result.partial in ("", chat.text)
    if isinstance(result, Reply):
        assert result.text == chat.text
        assert not player.is_open
    steps.close()
    player.release()
    world.recover()
    return result


def _check_urls(world: World) -> None:
    """Check that no request left the server, including those of the clean-up."""
    for request in world.requests:
        assert request.url.startswith("https://host/chat/")


TARGETS: dict[str, Target] = {
    "lines": lines,
    "answer": answer,
    "answer-2025": newer_answer,
    "search": search,
    "devalue": devalue,
    "page": page,
    "reply": reply,
    "reply-2025": newer_reply,
    "cookies": cookies,
    "address": address,
    "flow": flow,
    "flow-2025": newer_flow,
}


def seeds(target: str) -> list[bytes]:
    """Return the initial inputs of a target."""
    # For targets that take choices from the front of their input: all bytes, cut somewhere.
    front = {"lines": 32, "answer": 32, "answer-2025": 32, "search": 32, "reply": 1}.get(target, 0)
    first = b"\2" if front else b""
    known = snippets()
    if target.endswith("-2025"):
        first, known = b"\0", newer_snippets()
    found = [
        first + random.Random(number).randbytes(front) + body for number, body in enumerate(known)
    ]
    if target == "devalue":
        pages = [json.loads(body) for body in snippets() if body.startswith(b'{"type":"data"')]
        found = [
            json.dumps(node["data"]).encode()
            for value in pages
            for node in value["nodes"]
            if node and node.get("data")
        ]
        found.append(b'[[1,2,3,4,5],["Set",6],["Map",6,7],["Date","2026-11-20T16:58:14.000Z"],')
        found.append(b'[["Uint8Array",1],["ArrayBuffer","AQID"]]')
        found.append(b'[[-7,3,0,1],["BigInt","12"],["null","a",1],["RegExp","a","g"]]')
    elif target == "cookies":
        found = [b"hf-chat=" + _OURS.encode() + b"; Path=/; HttpOnly\nh2o=1; Domain=x"]
    elif target == "address":
        found = [b"https://ann:pw@host:8443/chat/", b"http://[::1]:80", "http://bücher".encode()]
    elif target.startswith("flow"):
        found = [bytes(range(64)), b"\xff\xff" + b"\1" * 60, b"?" * 40]
    return found or [b""]


_VALUE = re.compile(rb':("(?:[^"\\]|\\.)*"|[-\w.]+|\[[^][{}]*\]|\{\})')  # of a JSON field


def mutate(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change an input at random places."""
    made = bytearray(content[:4096])
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(made))
        match draw.randint(0, 6):
            case 6 if values := list(_VALUE.finditer(made)):
                begin, end = draw.choice(values).span(1)
                made[begin:end] = draw.choice([b"5", b"null", b"[]", b"{}", b'"x"', b"true"])
            case 0:
                made[at:at] = draw.randbytes(draw.randint(1, 8))
            case 1:
                del made[at : at + draw.randint(1, 16)]
            case 2 if at < len(made):
                made[at] ^= 1 << draw.randint(0, 7)
            case 3:
                other = draw.choice(others)
                begin = draw.randint(0, len(other))
                made[at:at] = other[begin : begin + draw.randint(1, 64)]
            case 4:
                made[at:at] = draw.choice(
                    [
                        b"\n",
                        b"\r",
                        b"\0",
                        b'"',
                        b"\\",
                        b"{",
                        b"]",
                        b"data:",
                        b"-7",
                        b"1e999",
                        b"\xff",
                    ]
                )
            case _:
                made[at:at] = made[at : at + draw.randint(1, 64)]
    return bytes(made)


class Tally:
    """The results of a target.

    Attributes:
        executions: how often it ran.
        crashes: the files with the inputs that made it fail.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory
        self._known: set[str] = set()
        self.executions = 0
        self.crashes: list[Path] = []

    def run(self, content: bytes) -> None:
        """Run once; a crash at a known place is not counted again."""
        self.executions += 1
        try:
            TARGETS[self._name](content)
        except Exception as error:  # noqa: BLE001 -- this is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__}:{place.filename}:{place.lineno}"
            if key in self._known:
                return
            self._known.add(key)
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{self._name}-{len(self._known)}"
            path.write_bytes(content)
            self.crashes.append(path)
            traceback.print_exception(error)


def run_blind(name: str, tally: Tally, *, seconds: float, runs: int | None, seed: int) -> None:
    """Run a target on randomly mutated inputs."""
    draw = random.Random(f"{seed}:{name}")
    known = seeds(name)
    until = time.monotonic() + seconds
    for content in known if runs is None else known[: runs // 2]:
        tally.run(content)
    while time.monotonic() < until and (runs is None or tally.executions < runs):
        tally.run(mutate(draw, draw.choice(known), known))


def run_guided(name: str, seconds: float, directory: Path, figures: Path) -> None:
    """Run a target under atheris, which ends the process."""
    atheris = importlib.import_module("atheris")  # an optional package, without types

    directory.mkdir(parents=True, exist_ok=True)
    tally = Tally(name, directory)
    begun = time.monotonic()

    def one(content: bytes) -> None:
        tally.run(content)
        if time.monotonic() - begun >= seconds:
            figures.write_text(json.dumps([tally.executions, [*map(str, tally.crashes)]]))
            sys.stdout.flush()
            os._exit(0)  # libFuzzer cannot stop and return

    module_names = ("h2o_client.protocol", "h2o_client.errors")
    for module in list(sys.modules.values()):
        if module.__name__.startswith(module_names):
            for value in list(vars(module).values()):
                _instrument(atheris, module.__name__, value)
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(content)
        atheris.Setup(
            [
                sys.argv[0],
                corpus,
                "-verbosity=0",
                "-max_len=8192",
                "-timeout=20",
                f"-artifact_prefix={directory}/{name}-",
            ],
            one,
        )
        atheris.Fuzz()


def _instrument(atheris: ModuleType, module: str, value: object) -> None:
    """Let atheris trace the branches of a function, or of the methods of a class."""
    if getattr(value, "__module__", None) != module:
        return
    functions = vars(value).values() if isinstance(value, type) else [value]
    for function in functions:
        function = getattr(function, "__func__", getattr(function, "fget", function))
        if hasattr(function, "__code__"):
            atheris.instrument_func(function)


def guide(name: str, seconds: float, directory: Path) -> Tally:
    """Run a target under atheris in a separate process, and return its results."""
    tally = Tally(name, directory)
    with tempfile.TemporaryDirectory() as temporary:
        figures = Path(temporary) / "figures"
        process = multiprocessing.get_context("spawn").Process(
            target=run_guided, args=(name, seconds, directory, figures)
        )
        process.start()
        process.join()
        if figures.exists():
            tally.executions, crashes = json.loads(figures.read_text())
            tally.crashes = [Path(path) for path in crashes]
        else:  # the process died, after a hang or out of memory
            tally.crashes = [directory]
    return tally


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)  # noqa: T201 -- it is a command


def has_atheris() -> bool:
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the core.")
    parser.add_argument("target", nargs="?", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default: 60)")
    parser.add_argument("--runs", type=int, help="of each target at most; implies --blind")
    parser.add_argument("--seed", type=int, default=0, help="of a blind run (default: 0)")
    parser.add_argument("--blind", action="store_true", help="run without atheris")
    parser.add_argument("--crashes", type=Path, default=Path(tempfile.gettempdir()) / "h2o-fuzz")
    parser.add_argument("--replay", type=Path, help="run the target on this file, once")
    options = parser.parse_args(arguments)
    names = [*TARGETS] if options.target == "all" else [options.target]
    if options.replay is not None:
        for name in names:
            TARGETS[name](options.replay.read_bytes())
        return 0
    blind = options.blind or options.runs is not None or not has_atheris()
    say(f"blind, seed {options.seed}" if blind else "guided by atheris")
    tallies = []
    for name in names:
        share, begun = options.seconds / len(names), time.monotonic()
        if blind:
            tally = Tally(name, options.crashes)
            run_blind(name, tally, seconds=share, runs=options.runs, seed=options.seed)
        else:
            tally = guide(name, share, options.crashes)
        tallies.append(tally)
        say(
            f"{name:8} {tally.executions:>10,} executions in {time.monotonic() - begun:6.1f} s, "
            + " ".join([f"{len(tally.crashes)} crashes", *map(str, tally.crashes)])
        )
    crashes = sum(len(tally.crashes) for tally in tallies)
    say(f"{'all':8} {sum(t.executions for t in tallies):>10,} executions, {crashes} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
