"""A world for the core: a manual clock, a server defined by a table, and no I/O.

A `World` is both ends of a test. It has the service whose flows are played, answers their requests,
and records what was sent, slept and emitted. `World.play()` plays a flow as a shell does, through a
`Player`; `Player.drive()` does so effect by effect, for tests that interrupt it or act in between.
A `Scene` is a world with one chat.

The response to a request is looked up by its operation ("settings", "message", "data", …):

    World({"message": streams(token("a"), cut())})     # always this one
    World({"message": [lost(), BUSY]})                 # each once, then as a healthy server
    World({"data": chain([NOTHING] * 3, repeat(STORED))})   # each once, the last one forever
    World({"stop": lambda request: …})                 # the result of a function

A healthy server opens sessions, creates conversations, says " Hello", stores complete answers,
stops and deletes. It keeps track of its conversations and running generations, so that a test can
check what it was not told. An unexpected request fails the test.
"""

import copy
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from h2o_client.errors import H2oError, TransportError
from h2o_client.protocol.ambient import Ambient
from h2o_client.protocol.chat import ChatOperation
from h2o_client.protocol.configuration import configure
from h2o_client.protocol.conversation import ConversationCore, new_conversation
from h2o_client.protocol.conversations import sweep
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import (
    CallerStoppedError,
    Close,
    Effect,
    Emit,
    Exclusive,
    Fetch,
    Finish,
    Flow,
    Head,
    Pump,
    Read,
    Request,
    Send,
    Sleep,
    Stepper,
)
from h2o_client.protocol.exchange import new_exchange
from h2o_client.protocol.message import MessageOperation
from h2o_client.types import File, Messages, Reply, Token

T = TypeVar("T")


def uuid(number: int) -> str:
    """Return the uuids of a world in order, from 1; its session has a separate one."""
    return f"00000000-0000-4000-8000-{number:012}"


BASE_URL = "https://host/chat"
SESSION = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"
CONVERSATION = "6b007c3d1090eb6ec94d77f1"  # the first one created
MESSAGE, RESPONSE = uuid(1), uuid(2)  # of the first turn
STREAM = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)


# Responses of the server.

Part: TypeAlias = bytes | float | H2oError | Callable[[], "bytes | H2oError"]
"""A part of a body: bytes, seconds of silence, a failure, or a function that returns one."""


@dataclass(frozen=True)
class Answer:
    """A response, or the failure to get one.

    Attributes:
        status: its HTTP status.
        body: its parts, in order.
        headers: names in lower case, and values.
        fault: raised instead of the head.
        delay: seconds until its head, or the fault.
    """

    status: int = 200
    body: tuple[Part, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    fault: H2oError | None = None
    delay: float = 0.0


Reaction: TypeAlias = Answer | Callable[[Request], Answer]


def says(value: object, status: int = 200, *, delay: float = 0.0, **headers: str) -> Answer:
    """Return a response of bytes, or of JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    more = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return Answer(status, (body,) if body else (), JSON + more, delay=delay)


def streams(*parts: Part, delay: float = 0.0) -> Answer:
    """Return an answer as a stream."""
    return Answer(200, parts, STREAM, delay=delay)


def lost(*, sent: bool = True) -> Answer:
    """Return a missing response: the connection was lost, or could not be opened."""
    return Answer(fault=TransportError("the connection was lost: test", sent=sent))


def cut() -> H2oError:
    """Return an error that breaks the connection during a body."""
    return TransportError("the connection was lost: test")


def token(
    text: str, *, number: int = 100, final: str | None = None, special: bool = False, **details: Any
) -> bytes:
    """Return one event, in the service's format [01_happy_path]."""
    value = {
        "token": {"id": number, "text": text, "logprob": -0.05, "special": special},
        "generated_text": final,
        "details": details or None,
    }
    return b"data:" + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def end(text: str = "") -> bytes:
    """Return the final event, with the complete text."""
    return token("<|endoftext|>", number=11, final=text, special=True)


def whole(*texts: str) -> bytes:
    """Return a complete answer in one chunk."""
    return b"".join([token(text) for text in texts]) + end("".join(texts))


END = end()
HELLO = (token(" Hel"), token("lo"), end(" Hello"))


def data(*messages: tuple[str, str, str], title: str = "Untitled 1", model: str = "m") -> bytes:
    """Return a conversation's data: (role, content, id) of each message [13_data_json]."""
    flat: list[Any] = [{"messages": 1, "title": 2, "model": 3}, [], title, model]
    for role, content, number in messages:
        flat[1].append(len(flat))
        at = len(flat)
        flat += [{"from": at + 1, "content": at + 2, "id": at + 3}, role, content, number]
    page = {"type": "data", "nodes": [None, {"type": "data", "data": flat}]}
    return json.dumps(page).encode()


def refused(status: int, message: str) -> bytes:
    """Return data with an error, which comes with status 200 [13_data_json]."""
    node = {"type": "error", "error": {"message": message}, "status": status}
    return json.dumps({"type": "data", "nodes": [None, node]}).encode()


GONE = refused(404, "Conversation not found.")
MODAL = "You need to accept the welcome modal first"
OWN_LIMIT = "You are sending too many messages. Try again later."


class World:
    """Clock, ids, server, and the service that uses them.

    Args:
        script: the responses, by operation; see the module docstring.
        well: additional responses of a healthy server, by operation.
        ids: what `uuid4()` returns after the session's; by default `uuid(1)`, `uuid(2)`, …
        base_url: of the service.
        session: of the service; None for a new one, which must be opened.
        environ: the environment.
        options: of `configure()`, each None unless given.

    Attributes:
        exchange: used to create flows.
        script: the remaining responses, by operation.
        now: the time.
        requests: the requests sent.
        slept: the sleeps, in seconds.
        tokens: the tokens emitted.
        log: every effect, in a word or two.
        warnings: the logged problems.
        notes: the other log messages.
        conversations: those that the server has created and not deleted.
        generating: the conversations in which an answer is being generated.
        stored: the stored messages of each conversation, as `data()` takes them.
        busy: whether an exclusive flow is being played.
        on_sleep: called in each sleep.
        on_emit: called after each emission.
    """

    def __init__(
        self,
        script: Mapping[str, Reaction | Iterable[Reaction]] | None = None,
        *,
        well: Mapping[str, Answer] | None = None,
        ids: Iterable[str] | None = None,
        base_url: str | None = BASE_URL,
        session: str | None = SESSION,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.begun = self.now = 1000.0
        self.script: dict[str, Iterator[Reaction]] = {
            operation: itertools.repeat(given)
            if isinstance(given, Answer) or callable(given)
            else iter(given)
            for operation, given in (script or {}).items()
        }
        self.requests: list[Request] = []
        self.slept: list[float] = []
        self.tokens: list[Token] = []
        self.log: list[str] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.conversations: set[str] = set()
        self.generating: set[str] = set()
        self.stored: dict[str, list[tuple[str, str, str]]] = {}
        self.busy = False
        self.on_sleep: Callable[[], None] = lambda: None
        self.on_emit: Callable[[], None] = lambda: None
        self._well = well or {}
        self._asked: dict[str, dict[str, Any]] = {}  # the last message, by conversation
        self._made = itertools.count(int(CONVERSATION, 16))
        self._ids = itertools.chain([SESSION], ids or map(uuid, itertools.count(1)))
        names = ("model", "share_conversations", "timeouts", "retries", "headers")
        self.exchange = new_exchange(
            configure(
                base_url,
                session=session,
                **{name: options.pop(name, None) for name in (*names, "parameters", "recover")},
                **options,
                environ=environ or {},
            ),
            Ambient(
                clock=lambda: self.now,
                random=lambda: 1.0,
                uuid4=lambda: next(self._ids),
                warn=self.warnings.append,
                note=self.notes.append,
                wait=self.notes.append,
            ),
            user_agent="tests/1",
        )
        self._base_url = self.exchange.configuration.address.url

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.now - self.begun

    @property
    def operations(self) -> list[str]:
        """The operations of the requests, in order."""
        return [request.operation for request in self.requests]

    @property
    def text(self) -> str:
        """The emitted text."""
        return "".join(token.text for token in self.tokens if not token.special)

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests of an operation."""
        return [
            json.loads(request.content or b"{}")
            for request in self.requests
            if request.operation == operation
        ]

    def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end."""
        return Player(self).play(flow)

    def asked_by(self, flow: Flow[object]) -> list[str]:
        """Play a flow; return the operations of its requests."""
        before = len(self.requests)
        self.play(flow)
        return self.operations[before:]

    def sweep(self) -> list[str]:
        """Play the clean-up of a closing client; return the operations of its requests."""
        return self.asked_by(sweep(self.exchange, self.exchange.cleanup()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def recover(self) -> None:
        """Make the server healthy from now on."""
        self.script.clear()

    def answer(self, request: Request) -> Answer:
        """Respond as the script says, or as a healthy server."""
        self.requests.append(request)
        assert request.url.startswith(self._base_url + "/")
        names = {name.lower() for name, _ in request.headers}
        assert "referer" in names
        assert "cookie" in names or request.operation == "shared"
        given = next(self.script.get(request.operation, iter(())), None)
        if given is None:
            answer = self._answer_well(request)
        else:
            answer = given if isinstance(given, Answer) else given(request)
        self._keep_account(request, answer)
        return answer

    def conversation_of(self, request: Request) -> str:
        """Return the conversation of a request, or ""."""
        parts = request.url.removeprefix(self._base_url + "/").split("/")
        return parts[1] if len(parts) > 1 else ""

    def store(self, where: str, text: str) -> None:
        """Store the last message of a conversation, and its answer."""
        self.generating.discard(where)
        asked = self._asked[where]
        number, response = asked["options"]["id"], asked["options"]["response_id"]
        before = [found for found in self.stored.get(where, []) if found[2] != number]
        turn = [("user", asked["inputs"], number), ("assistant", text.rstrip(), response)]
        self.stored[where] = [*before, *turn]

    def _answer_well(self, request: Request) -> Answer:
        match request.operation:
            case operation if operation in self._well:
                return self._well[operation]
            case "settings":
                return says({"type": "redirect", "status": 303, "location": self._base_url + "/"})
            case "create":
                made = f"{next(self._made):024x}"
                self.conversations.add(made)
                return says({"conversationId": made})
            case "message":
                return streams(*HELLO)
            case "models":  # no server of 2023 has it [chat-ui-0.8.4/15_detect]
                return Answer(404, (b"<!doctype html>",), (("content-type", "text/html"),))
            case "stop":
                self.generating.discard(self.conversation_of(request))
                return says(b"")
            case "delete":
                return says(b"")
            case "data":
                return says(data(*self.stored.get(self.conversation_of(request), [])))
        raise AssertionError(f"unexpected request: {request.operation}")

    def _keep_account(self, request: Request, answer: Answer) -> None:
        where = self.conversation_of(request)
        fault = answer.fault
        arrived = fault is None or (isinstance(fault, TransportError) and fault.sent)
        if request.operation == "message" and arrived:
            self.generating.add(where)
            self._asked[where] = json.loads(request.content or b"{}")
        done = fault is None and (200 <= answer.status < 300 or answer.status == 404)
        if request.operation == "delete" and done:
            self.conversations.discard(where)


class Player:
    """Performs the effects of a call; like a shell, it holds at most one open response."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._body: deque[Part] | None = None
        self._where = ""

    @property
    def is_open(self) -> bool:
        """Whether a response is open."""
        return self._body is not None

    def release(self) -> None:
        """Release the open response."""
        self._body = None

    def play(self, flow: Flow[T]) -> T:
        """Play a flow to its end; nothing may be left open then."""
        steps = self.drive(flow)
        while True:
            try:
                word = next(steps)
            except StopIteration as stop:
                assert not self.is_open, "a response was left open"
                value: T = stop.value
                return value
            assert word != "wait", "the flow waits for one that continues only after it"

    def drive(self, flow: Flow[T]) -> Generator[str, None, T]:
        """Play a flow; yield a word for each effect before performing it.

        The caller may stop anywhere. The word is "wait" while another exclusive flow is running.
        """
        steps = Stepper(flow)
        try:
            with steps:
                effect = steps.step()
                while effect is not None:
                    word = _word(effect)
                    self._world.log.append(word)
                    yield word
                    if isinstance(effect, Exclusive | Finish):
                        outcome = yield from self._inner(effect)
                    else:
                        outcome = self._perform(effect)
                    effect = steps.step(outcome)
            return steps.result
        finally:
            steps.close()

    def drive_to(self, flow: Flow[T], word: str) -> Generator[str, None, T]:
        """Play a flow until the word of an effect begins so; return its rest, to drive on."""
        steps = self.drive(flow)
        while not next(steps).startswith(word):
            pass
        return steps

    def _inner(self, effect: Exclusive | Finish) -> Generator[str, None, object]:
        exclusive = isinstance(effect, Exclusive)
        while exclusive and self._world.busy:
            yield "wait"
        self._world.busy = self._world.busy or exclusive
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
                self._world.busy = False
            inner.close()

    def _perform(self, effect: Effect) -> object:
        try:
            return self._try(effect)
        except H2oError as error:
            self.release()
            return error

    def _try(self, effect: Effect) -> object:
        world = self._world
        match effect:
            case Fetch():
                head = self._send(effect)
                largest = effect.largest if head.status < 300 else effect.largest_error
                body = b""
                while len(body) <= largest and (chunk := self._read(effect.deadline)):
                    body += chunk
                self.release()
                return head, body
            case Send():
                return self._send(effect)
            case Read():
                _check(effect.deadline)
                return self._read(effect.deadline)
            case Close():
                self.release()
            case Sleep():
                assert effect.seconds >= 0
                world.slept.append(effect.seconds)
                world.now += effect.seconds
                world.on_sleep()
            case Emit():
                self._give_out(effect.tokens)
            case Pump():
                return self._pump(effect)
        return None

    def _send(self, effect: Fetch | Send) -> Head:
        _check(effect.deadline)
        _check(effect.connect)
        self.release()
        answer = self._world.answer(effect.request)
        self._pass(answer.delay, effect.deadline)
        if answer.fault is not None:
            raise copy.copy(answer.fault)  # it may be raised again
        self._body = deque(answer.body)
        self._where = self._world.conversation_of(effect.request)
        return Head(answer.status, answer.headers)

    def _give_out(self, tokens: Sequence[Token]) -> None:
        assert tokens
        self._world.tokens += tokens
        self._world.on_emit()

    def _pump(self, effect: Pump) -> float:
        """Read without the flow while texts arrive; return when the last read began."""
        stops = self._world.operations.count("stop")
        while self._world.operations.count("stop") == stops:
            begun = self._world.now
            chunk = self._read(Deadline(lambda: self._world.now, effect.within, "idle"))
            texts = effect.parser.read_on(chunk)
            if not texts:
                return begun
            self._give_out([Token(None, text) for text in texts])
        raise CallerStoppedError("the stream was stopped")

    def _read(self, deadline: Deadline) -> bytes:
        while self._body:
            part = self._body.popleft()
            if isinstance(part, int | float):
                self._pass(part, deadline)
                continue
            found = part() if callable(part) else part
            if isinstance(found, H2oError):
                raise copy.copy(found)
            if b'"generated_text": "' in found and self._where in self._world.generating:
                events = found.strip().split(b"\n\n")
                self._world.store(self._where, json.loads(events[-1][5:])["generated_text"])
            if found:
                return found
        self.release()
        return b""

    def _pass(self, seconds: float, deadline: Deadline) -> None:
        """Let time pass, until the deadline."""
        left = deadline.left()
        if left is not None and seconds > left:
            self._world.now += left
            raise deadline.exceeded()
        self._world.now += seconds


def _check(deadline: Deadline) -> None:
    assert not deadline.expired(), f"an effect cannot wait until {deadline!r}"


def _to_the_end(steps: Iterable[str]) -> None:
    try:
        deque(steps, maxlen=0)
    except H2oError:
        return


def _word(effect: Effect) -> str:
    match effect:
        case Fetch(request=request):
            return f"fetch {request.operation}"
        case Send(request=request):
            return f"send {request.operation}"
        case Sleep(seconds=seconds):
            return f"sleep {seconds:g}"
        case Emit(tokens=tokens):
            return f"emit {''.join(token.text for token in tokens)}"
    return type(effect).__name__.lower()


def chat_of(
    world: World,
    messages: Messages = "Hi",
    *,
    recover: bool | None = None,
    files: tuple[File, ...] = (),
    **keywords: Any,
) -> ChatOperation:
    """Return a chat in a world."""
    return ChatOperation(
        world.exchange,
        messages,
        model=None,
        recover=recover,
        retries=None,
        parameters=None,
        keywords=keywords,
        files=files,
    )


def talk_of(world: World, **options: Any) -> ConversationCore:
    """Return a conversation in a world."""
    arguments: dict[str, Any] = dict.fromkeys(("model", "keep", "id", "from_share"))
    return new_conversation(world.exchange, **{**arguments, **options})


def message_of(
    talk: ConversationCore, prompt: str | None = "Hi", **options: Any
) -> MessageOperation:
    """Return a message of a conversation; None repeats the last one."""
    arguments: dict[str, Any] = dict.fromkeys(("recover", "retries", "parameters"))
    arguments = {**arguments, "keywords": {}, **options}
    return MessageOperation(talk._exchange, talk, prompt, **arguments)


class Scene(World):
    """A world with one chat of a new session, without recovery by default.

    The server has nothing stored and lists no models. Otherwise like `World`.

    Attributes:
        chat: the chat.
        player: plays it.
    """

    def __init__(
        self,
        script: Mapping[str, Reaction | Iterable[Reaction]] | None = None,
        *,
        session: str | None = None,
        recover: bool = False,
        **options: Any,
    ) -> None:
        nothing = says({"message": "Not found"}, 404)
        super().__init__(
            script, well={"data": nothing, "root": nothing}, session=session, **options
        )
        self.chat = chat_of(self, recover=recover)
        self.player = Player(self)

    def run(self) -> Reply:
        """Play the chat to its end; nothing may be left open then."""
        return self.player.play(self.chat.run())

    def fail(self) -> H2oError:
        """Play the chat, and return the error that it raises."""
        try:
            reply = self.run()
        except H2oError as error:
            return error
        raise AssertionError(f"expected an error: {reply!r}")

    def abandon(self) -> list[str]:
        """Play the clean-up; return the operations of its requests."""
        return self.asked_by(self.chat.abandon(self.exchange.cleanup()))

    def stop(self) -> list[str]:
        """Play a caller's stop; return the operations of its requests."""
        return self.asked_by(self.chat.stop())
