"""Plays flows by hand: a server that follows a script, a clock that only it moves, no I/O.

`Server` answers requests from a script, by operation, and otherwise as a server that is well. It
keeps account of what it was told, so that a test can ask what it still believes. `Player` performs
the effects of flows as a shell does, and writes each down; it can be broken off anywhere.
"""

import itertools
import json
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from h2o_client.errors import H2oError, TransportError, TransportTimeoutError
from h2o_client.protocol.configuration import build_service
from h2o_client.protocol.effects import (
    Close,
    Effect,
    Emit,
    Exclusive,
    Finish,
    Flow,
    Head,
    Read,
    Request,
    Send,
    Sleep,
    Stepper,
)
from h2o_client.protocol.flows import Chat
from h2o_client.protocol.service import Ambient, Service
from h2o_client.types import Messages, Reply, Timeouts, Token

T = TypeVar("T")

BASE = "https://host/chat"
STREAM = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)
MODAL = "You need to accept the welcome modal first"
OWN_LIMIT = "You are sending too many messages. Try again later."

# A part of a body: bytes, a failure, or seconds of silence.
Part: TypeAlias = bytes | H2oError | float


@dataclass(frozen=True)
class Answer:
    """A response, or the failure to get one.

    `delay` is the time until its head; `fault` comes in the head's place.
    """

    status: int = 200
    body: tuple[Part, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    fault: H2oError | None = None
    delay: float = 0.0


def says(value: object, status: int = 200, *, delay: float = 0.0, **headers: str) -> Answer:
    """A JSON response."""
    more = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return Answer(status, (json.dumps(value).encode(),), JSON + more, delay=delay)


def streams(*parts: Part, delay: float = 0.0) -> Answer:
    """An answer as it streams in."""
    return Answer(200, parts, STREAM, delay=delay)


def lost(*, sent: bool = True) -> Answer:
    """No response: the connection was lost, or none was made."""
    return Answer(fault=TransportError("the connection broke: test", sent=sent))


def cut() -> H2oError:
    """The connection breaks under a body."""
    return TransportError("the connection broke: test")


def token(text: str, *, final: str | None = None, special: bool = False, **details: Any) -> bytes:
    """One event."""
    value = {
        "token": {"id": 5, "text": text, "logprob": -0.5, "special": special},
        "generated_text": final,
        "details": details or None,
    }
    return b"data:" + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


END = token("<|endoftext|>", final="", special=True)
HELLO = (token(" Hel"), token("lo"), END)


class Server:
    """What is at the other end.

    Attributes:
        script: what is answered next, by operation; then it answers as one that is well.
        requests: what it was sent.
        conversations: those that it has made and that were not deleted.
        generating: the conversations in which it is at work on an answer.
        warnings: what was logged as a problem.
        notes: what else was logged.
        now: the time.
    """

    def __init__(self, **script: Sequence[Answer]) -> None:
        self.script: dict[str, deque[Answer]] = defaultdict(deque)
        for operation, answers in script.items():
            self.script[operation].extend(answers)
        self.requests: list[Request] = []
        self.conversations: set[str] = set()
        self.generating: set[str] = set()
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.now = 0.0
        self.busy = False  # an exclusive flow is played
        self._ids = itertools.count(1)
        self._uuids = itertools.count(1)

    @property
    def ambient(self) -> Ambient:
        """The world as the core sees it."""
        return Ambient(
            clock=lambda: self.now,
            random=lambda: 1.0,
            uuid4=lambda: f"00000000-0000-4000-8000-{next(self._uuids):012}",
            warn=self.warnings.append,
            note=self.notes.append,
        )

    @property
    def asked(self) -> list[str]:
        """The operations that it was asked for, in order."""
        return [request.operation for request in self.requests]

    def recover(self) -> None:
        """Be well from now on."""
        self.script.clear()

    def answer(self, request: Request) -> Answer:
        """Answer as the script says, or as one that is well."""
        self.requests.append(request)
        assert request.url.startswith(BASE + "/")
        names = [name.lower() for name, _ in request.headers]
        assert {"cookie", "referer"} <= set(names)
        if self.script[request.operation]:
            answer = self.script[request.operation].popleft()
            if request.operation == "message" and (answer.fault is None or _arrived(answer)):
                self.generating.add(_conversation(request))
            if request.operation == "delete" and (
                200 <= answer.status < 300 or answer.status == 404
            ):
                self.conversations.discard(_conversation(request))
            return answer
        return self._answer_well(request)

    def _answer_well(self, request: Request) -> Answer:
        where = _conversation(request)
        match request.operation:
            case "settings":
                return says({"type": "redirect", "status": 303, "location": BASE + "/"})
            case "create":
                made = f"{next(self._ids):024x}"
                self.conversations.add(made)
                return says({"conversationId": made})
            case "message":
                self.generating.add(where)
                return streams(*HELLO)
            case "stop":
                self.generating.discard(where)
                return Answer()
            case "delete":
                self.conversations.discard(where)
                return Answer()
        return says({"message": "Not found"}, 404)


def _arrived(answer: Answer) -> bool:
    return isinstance(answer.fault, TransportError) and answer.fault.sent


def _conversation(request: Request) -> str:
    parts = request.url.removeprefix(BASE + "/").split("/")
    return parts[1] if len(parts) > 1 else ""


class Player:
    """Performs effects; holds at most one open response, as a shell does.

    Attributes:
        log: every effect, as a word or two.
        emitted: the tokens that were given out.
        holding: seconds that the caller takes for the tokens of each `Emit`.
    """

    def __init__(self, server: Server, *, holding: float = 0.0) -> None:
        self.server = server
        self.log: list[str] = []
        self.emitted: list[Token] = []
        self.holding = holding
        self._body: deque[Part] | None = None
        self._request: Request | None = None

    @property
    def is_open(self) -> bool:
        """Whether a response is open."""
        return self._body is not None

    @property
    def text(self) -> str:
        """The text that was given out."""
        return "".join(token.text for token in self.emitted if not token.special)

    def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end."""
        steps = self.drive(flow)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                value: T = stop.value
                return value

    def drive(self, flow: Flow[T]) -> Generator[str, None, T]:
        """Play a flow; every effect is told before it is performed, and the rest is optional."""
        steps = Stepper(flow)
        try:
            with steps:
                effect = steps.step()
                while effect is not None:
                    word = _word(effect)
                    self.log.append(word)
                    yield word
                    if isinstance(effect, Exclusive | Finish):
                        outcome = yield from self._inner(effect)
                    else:
                        outcome = self._perform(effect)
                    effect = steps.step(outcome)
            return steps.result
        finally:
            steps.close()

    def _inner(self, effect: Exclusive | Finish) -> Generator[str, None, object]:
        exclusive = isinstance(effect, Exclusive)
        while exclusive and self.server.busy:
            yield "wait"
        self.server.busy = self.server.busy or exclusive
        inner = self.drive(effect.flow)
        try:
            while True:
                try:
                    word = next(inner)
                except StopIteration as stop:
                    return stop.value
                except H2oError as error:
                    return error
                try:
                    yield word
                except GeneratorExit:
                    if not exclusive:
                        _to_the_end(inner)
                    raise
        finally:
            if exclusive:
                self.server.busy = False
            inner.close()

    def _perform(self, effect: Effect) -> object:
        try:
            return self._try(effect)
        except H2oError as error:
            self.release()
            return error

    def _try(self, effect: Effect) -> object:
        match effect:
            case Send():
                _check_within(effect.within)
                _check_within(effect.connect)
                self.release()
                answer = self.server.answer(effect.request)
                self._pass(answer.delay, effect.within, effect.limit)
                if answer.fault is not None:
                    raise answer.fault
                self._body, self._request = deque(answer.body), effect.request
                return Head(answer.status, answer.headers)
            case Read():
                _check_within(effect.within)
                return self._read(effect)
            case Close():
                self.release()
            case Sleep():
                assert effect.seconds >= 0
                self.server.now += effect.seconds
            case Emit():
                assert effect.tokens
                self.emitted += effect.tokens
                self.server.now += self.holding
        return None

    def _read(self, effect: Read) -> bytes:
        if self._body is None:
            return b""
        while self._body:
            part = self._body.popleft()
            if isinstance(part, H2oError):
                raise part
            if isinstance(part, int | float):
                self._pass(part, effect.within, effect.limit)
                continue
            if not part:
                continue
            if b'"generated_text": ""' in part and self._request is not None:
                self.server.generating.discard(_conversation(self._request))
            return part
        self.release()
        return b""

    def _pass(self, seconds: float, within: float | None, limit: str) -> None:
        if within is not None and seconds > within:
            self.server.now += within
            raise TransportTimeoutError.struck(limit, within)
        self.server.now += seconds

    def release(self) -> None:
        """Release the open response."""
        self._body = None


def _check_within(seconds: float | None) -> None:
    assert seconds is None or seconds > 0, f"an effect cannot wait for {seconds} seconds"


def _to_the_end(steps: Iterable[str]) -> None:
    try:
        deque(steps, maxlen=0)
    except H2oError:
        return


def _word(effect: Effect) -> str:
    match effect:
        case Send(request=request):
            return f"send {request.operation}"
        case Sleep(seconds=seconds):
            return f"sleep {seconds:g}"
        case Emit(tokens=tokens):
            return f"emit {''.join(token.text for token in tokens)}"
    return type(effect).__name__.lower()


def service_of(
    server: Server,
    *,
    base_url: str | None = BASE,
    environ: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Service:
    """A service that knows this server; every argument may be given, and is None else."""
    names = ("model", "session", "share_conversations", "timeouts", "retries", "headers")
    return build_service(
        base_url,
        **{name: arguments.pop(name, None) for name in (*names, "parameters", "recover")},
        **arguments,
        user_agent="tests/1",
        environ=environ or {},
        ambient=server.ambient,
    )


def chat_of(
    service: Service, messages: Messages = "Hi", *, recover: bool = False, **keywords: Any
) -> Chat:
    """A chat; nothing is recovered unless a test asks for it."""
    return Chat(
        service,
        messages,
        model=None,
        recover=recover,
        retries=None,
        parameters=None,
        keywords=keywords,
    )


class Scene:
    """A server, a service, one chat and its player: what most tests need."""

    def __init__(
        self,
        *,
        script: Mapping[str, Sequence[Answer]] | None = None,
        holding: float = 0.0,
        timeouts: Timeouts | None = None,
        retries: int | None = None,
        session: str | None = None,
        recover: bool = False,
        **answers: Sequence[Answer],
    ) -> None:
        self.server = Server(**{**(script or {}), **answers})
        self.service = service_of(self.server, timeouts=timeouts, retries=retries, session=session)
        self.chat = chat_of(self.service, recover=recover)
        self.player = Player(self.server, holding=holding)

    def run(self) -> Reply:
        """Play the chat to its end; nothing may be left open then."""
        reply = self.player.play(self.chat.run())
        assert not self.player.is_open
        return reply

    def fail(self) -> H2oError:
        """Play the chat to the error that it ends with."""
        try:
            reply = self.run()
        except H2oError as error:
            return error
        raise AssertionError(f"that is no error: {reply!r}")

    def abandon(self) -> list[str]:
        """Play the clean-up; return what the server was asked for in it."""
        before = len(self.server.asked)
        Player(self.server).play(self.chat.abandon())
        return self.server.asked[before:]

    def stop(self) -> list[str]:
        """Play what a caller's stop does; return what the server was asked for in it."""
        before = len(self.server.asked)
        Player(self.server).play(self.chat.stop())
        return self.server.asked[before:]
