"""A world for the core: a clock that goes when told, and a server that is a table.

`World.play()` performs the effects of a flow by hand. What a request is answered with is looked up
by its operation; of several answers each serves once, the last one from then on.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from h2o_client.protocol.service import Ambient
from h2o_client.types import Token

T = TypeVar("T")
BASE_URL = "http://127.0.0.1:3004"
CONVERSATION = "6b007c3d1090eb6ec94d77f1"
SESSION = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"
MESSAGE = "11111111-1111-4111-8111-111111111111"
RESPONSE = "22222222-2222-4222-8222-222222222222"
EVENTS = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)


@dataclass(frozen=True)
class Answered:
    """A response.

    Attributes:
        pieces: what is read of it, one after the other; a number is a silence in seconds, an
            error is what the read ends with, a function is called, and gives one of these or None.
        after: seconds until its head.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = JSON
    pieces: "Sequence[Piece]" = ()
    after: float = 0.0


Piece: TypeAlias = bytes | float | H2oError | Callable[[], "bytes | H2oError | None"]
Outcome: TypeAlias = Answered | H2oError
Answer: TypeAlias = Outcome | Callable[[Request], Outcome]


def lost(*, sent: bool = True) -> TransportError:
    """Make the error of a connection that broke, or was never made."""
    return TransportError("the connection broke: gone", sent=sent)


def body(content: object, status: int = 200) -> Answered:
    """Answer with bytes, or with JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answered(status, JSON, (data,) if data else ())


def stream(*pieces: Piece) -> Answered:
    """Answer with a stream of events."""
    return Answered(200, EVENTS, pieces)


def event(
    text: str, number: int = 100, *, special: bool = False, final: str | None = None
) -> bytes:
    """Write one event as the service does [01_happy_path]."""
    token = {"id": number, "text": text, "logprob": -0.05, "special": special}
    value = {"token": token, "generated_text": final, "details": None}
    return b"data:" + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def whole(*texts: str) -> bytes:
    """Write a whole answer."""
    end = event("<|endoftext|>", 11, special=True, final="".join(texts))
    return b"".join([event(text) for text in texts]) + end


def data(*messages: tuple[str, str, str], title: str = "Untitled 1", model: str = "m") -> bytes:
    """Write a conversation's data: (role, content, id) of each message [13_data_json]."""
    flat: list[Any] = [{"messages": 1, "title": 2, "model": 3}, [], title, model]
    for role, content, number in messages:
        flat[1].append(len(flat))
        at = len(flat)
        flat += [{"from": at + 1, "content": at + 2, "id": at + 3}, role, content, number]
    page = {"type": "data", "nodes": [None, {"type": "data", "data": flat}]}
    return json.dumps(page).encode()


def refused(status: int, message: str) -> bytes:
    """Write data that is a refusal: it comes with 200 [13_data_json]."""
    node = {"type": "error", "error": {"message": message}, "status": status}
    return json.dumps({"type": "data", "nodes": [None, node]}).encode()


GONE = refused(404, "Conversation not found.")
_OURS: Mapping[str, Answer] = {
    "settings": body({"type": "redirect", "status": 303, "location": f"{BASE_URL}/"}),
    "create": body({"conversationId": CONVERSATION}),
    "stop": body(b""),
    "delete": body(b""),
}


class World:
    """Clock, ids, server.

    Args:
        answers: what the requests of each operation are answered with.
        ids: what `uuid4` gives; the last one again and again.
        options: of `build_service()`.

    Attributes:
        now: the clock.
        sent: the requests, in order.
        slept: the sleeps, in order.
        tokens: what was emitted.
        warnings: what was logged of problems.
        notes: what was logged beside them.
        on_sleep: called in each sleep.
        on_emit: called after each emission.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer | Sequence[Answer]] | None = None,
        *,
        ids: Iterable[str] = (MESSAGE, RESPONSE),
        **options: Any,
    ) -> None:
        self.now = 1000.0
        self.sent: list[Request] = []
        self.slept: list[float] = []
        self.tokens: list[Token] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.on_sleep: Callable[[], None] = lambda: None
        self.on_emit: Callable[[], None] = lambda: None
        self._answers = {
            operation: list(given) if isinstance(given, Sequence) else [given]
            for operation, given in {**_OURS, **(answers or {})}.items()
        }
        self._ids = [SESSION]  # a session takes the first
        settings: dict[str, Any] = {
            "model": None,
            "session": SESSION,
            "share_conversations": None,
            "timeouts": None,
            "retries": None,
            "headers": None,
            "parameters": None,
            "recover": None,
            **options,
        }
        self.service = build_service(
            BASE_URL,
            **settings,
            user_agent="test",
            environ={},
            ambient=Ambient(
                clock=lambda: self.now,
                random=lambda: 1.0,
                uuid4=self._uuid4,
                warn=self.warnings.append,
                note=self.notes.append,
            ),
        )
        self._ids = list(ids)

    @property
    def operations(self) -> list[str]:
        """What was sent."""
        return [request.operation for request in self.sent]

    @property
    def text(self) -> str:
        """What was given out."""
        return "".join(token.text for token in self.tokens if not token.special)

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        """The bodies of the requests of an operation."""
        return [
            json.loads(request.content or b"{}")
            for request in self.sent
            if request.operation == operation
        ]

    def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end."""
        steps = Stepper(flow)
        hands = _Hands(self)
        with steps:
            effect = steps.step()
            while effect is not None:
                try:
                    outcome = hands.perform(effect)
                except H2oError as error:
                    hands.response = None
                    outcome = error
                effect = steps.step(outcome)
        assert hands.response is None, "a response was left open"
        return steps.result

    def answer(self, request: Request) -> Answered:
        """Answer a request."""
        self.sent.append(request)
        given = self._answers.get(request.operation)
        assert given, f"nobody expected {request.operation}"
        answer = given.pop(0) if len(given) > 1 else given[0]
        outcome: object = answer(request) if callable(answer) else answer
        if isinstance(outcome, H2oError):
            raise copy.copy(outcome)
        assert isinstance(outcome, Answered)
        return outcome

    def _uuid4(self) -> str:
        return self._ids.pop(0) if len(self._ids) > 1 else self._ids[0]


class _Hands:
    """Performs the effects of one flow."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.response: Iterator[Piece] | None = None

    def perform(self, effect: Effect) -> object:
        world = self.world
        match effect:
            case Send():
                answered = world.answer(effect.request)
                self._pass(answered.after, effect)
                self.response = iter(answered.pieces)
                return Head(answered.status, answered.headers)
            case Read():
                return self._read(effect)
            case Close():
                self.response = None
            case Sleep():
                world.slept.append(effect.seconds)
                world.now += effect.seconds
                world.on_sleep()
            case Emit():
                world.tokens += effect.tokens
                world.on_emit()
            case Exclusive() | Finish():
                return world.play(effect.flow)
        return None

    def _read(self, effect: Read) -> bytes:
        for piece in self.response or ():
            found = piece() if callable(piece) else piece
            if isinstance(found, H2oError):
                raise found
            if isinstance(found, bytes):
                return found
            if found is not None:
                self._pass(found, effect)
        self.response = None
        return b""

    def _pass(self, seconds: float, effect: Send | Read) -> None:
        """Let time pass, as long as the effect waits."""
        if effect.within is not None and seconds > effect.within:
            self.world.now += effect.within
            raise TransportTimeoutError.struck(effect.limit, effect.within)
        self.world.now += seconds
