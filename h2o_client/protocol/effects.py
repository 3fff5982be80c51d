"""Flows and effects: how the core asks for I/O without doing any.

An operation is a generator, a *flow*. It yields effects, is sent their answers, and returns its
result; a failure of the transport is thrown in, and the flow decides what follows. A shell is a
loop that performs one effect after the other:

    ==================  ==========================================================
    effect              answered with
    ==================  ==========================================================
    `Send(request)`     the `Head` of the response that it opened
    `Read(within)`      the next bytes of that response, b"" at its end
    `Close()`           None: the response is released
    `Sleep(seconds)`    None
    `Emit(tokens)`      None, when the caller wants more; the time, where the shell
                        then began a read of its own that gave no texts
    `Exclusive(flow)`   the result of that flow, played while no other exclusive
                        flow of the client is
    `Finish(flow)`      the result of that flow, which a cancellation does not
                        interrupt at once: it is given a bounded time to end
    ==================  ==========================================================

A flow has at most one response open; `Send` releases the one before. When an effect fails, its
response has been released already.

They are named tuples: a frozen dataclass takes seven times as long to define, and every script
waits for its imports.

Two rules bind every flow. No `yield` stands inside `finally` or `except BaseException`, because
closing a generator there fails with "generator ignored GeneratorExit": what to tell the server
when the caller broke off is a second flow. And no flow is driven but through a `Stepper`.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from h2o_client.errors import H2oError, TransportError
from h2o_client.types import Token

T = TypeVar("T")


class Request(NamedTuple):
    """A request, with nothing left to decide.

    Attributes:
        method: the HTTP method.
        url: the absolute URL.
        headers: names and values, in order. They hold the session: see `__repr__`.
        content: the body, or None.
        operation: what it is for, in a word, for logs and errors.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None
    operation: str

    def __repr__(self) -> str:
        # Headers and body hold the session, the token and the prompt.
        return f"<Request {self.operation}: {self.method}>"


class Head(NamedTuple):
    """The beginning of a response.

    Attributes:
        status: the HTTP status.
        headers: names in lower case, and values, in order.
    """

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str, default: str = "") -> str:
        """Return the first header of this (lower case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return default

    def __repr__(self) -> str:
        # The headers hold the session cookie.
        return f"<Head {self.status}>"


class Send(NamedTuple):
    """Send the request and wait for the head of its response.

    Attributes:
        request: what to send.
        within: seconds to wait for the head once connected; None: without limit.
        connect: seconds to wait for a connection; None: without limit.
        limit: the name of the time limit that `within` stands for.
    """

    request: Request
    within: float | None
    connect: float | None
    limit: str = "idle"


class Read(NamedTuple):
    """Read the next bytes of the open response.

    Attributes:
        within: seconds to wait for them; None: without limit.
        limit: the name of the time limit that `within` stands for.
    """

    within: float | None
    limit: str = "idle"


class Close(NamedTuple):
    """Release the open response; nothing happens if there is none.

    It is an empty tuple, and so false: that there is no effect is `None`.
    """


class Sleep(NamedTuple):
    """Wait.

    Attributes:
        seconds: how long.
    """

    seconds: float


class Reader(Protocol):
    """Reads what comes of an answer, where a shell goes on by itself: see `Emit`."""

    def read_on(self, data: bytes, /) -> Sequence[str]:
        """Take the next bytes, b"" at their end.

        Returns:
            The texts to give to the caller; none: it is the flow that has to go on.
        """
        ...

    def tokens(self) -> Sequence[Token]:
        """Return the tokens of the bytes that came last, special ones too; once."""
        ...


class Emit(NamedTuple):
    """Give tokens to the caller: all those of one read, so that a step is paid per read.

    Where an answer comes a token a read, even that is much. With a reader the shell goes on by
    itself when the caller wants more, under the limit of the first `Read` of this response: it has
    the reader read what came, and gives the caller the texts, or the tokens, of it. Once there are
    no texts, the flow is resumed; where the read fails, with that error.

    Attributes:
        tokens: at least one.
        reader: reads what comes next; None: every read is asked for.
    """

    tokens: Sequence[Token]
    reader: Reader | None = None


class Exclusive(NamedTuple):
    """Play a flow while no other exclusive flow of the same client is played.

    Attributes:
        flow: the flow; it looks first whether there is still anything to do.
        within: seconds to wait for the others; None: without limit.
        limit: the name of the time limit that `within` stands for.
    """

    flow: "Flow[Any]"
    within: float | None = None
    limit: str = "total"


class Finish(NamedTuple):
    """Play a flow to its end even if the caller is cancelled meanwhile, for a bounded time.

    Attributes:
        flow: the flow; it stores its result where the clean-up finds it.
        within: seconds that are left to it after a cancellation.
    """

    flow: "Flow[Any]"
    within: float


Effect: TypeAlias = Send | Read | Close | Sleep | Emit | Exclusive | Finish
Flow: TypeAlias = Generator[Effect, Any, T]


class CallerStoppedError(TransportError):
    """Thrown into a flow whose effect `stop()` ended, from another thread or task.

    It is caught before it reaches a caller.
    """


class Claim:
    """Something that one at a time may have, in whatever thread: `list.pop()` is atomic.

    Attributes:
        permit: empty while somebody has it. Who takes it for every token pops and appends in
            person: a call costs as much as all the rest of it.
        free: gives it back. No function of ours, which Ctrl-C could come upon before it has.
    """

    __slots__ = ("__weakref__", "free", "permit")

    def __init__(self) -> None:
        self.permit = [True]
        self.free = partial(self.permit.append, True)

    def take(self) -> bool:
        """Take it; False: somebody else has it."""
        try:
            return self.permit.pop()
        except IndexError:
            return False
        except BaseException:  # Ctrl-C, which Python looks for after the call
            self.free()
            raise


class Stepper(Claim, Generic[T]):
    """Drives one flow; the only code that meets `send()`, `throw()` and `StopIteration`.

    A shell enters it (`with steps:`) for as long as it performs effects of the flow, and a second
    thread or task that tries the same meanwhile is refused: it is the claim to drive the flow.

    Attributes:
        finished: whether the flow has ended, by returning, by raising or by `close()`.
    """

    __slots__ = ("_flow", "_result", "finished")

    def __init__(self, flow: Flow[T]) -> None:
        super().__init__()
        self._flow = flow
        self._result: list[T] = []
        self.finished = False

    def __enter__(self) -> None:
        if not self.take():
            raise self.taken()

    def __exit__(self, *exc_info: object) -> None:
        self.free()

    def taken(self) -> RuntimeError:
        """Return the error for a second one who tries to drive the flow."""
        return RuntimeError("this stream is being read by another thread or task")

    @property
    def returned(self) -> bool:
        """Whether there is a result."""
        return bool(self._result)

    @property
    def result(self) -> T:
        """What the flow returned.

        Raises:
            RuntimeError: it has not returned.
        """
        if not self._result:
            raise RuntimeError("the flow has no result")
        return self._result[0]

    def step(self, outcome: object = None) -> Effect | None:
        """Answer the last effect, with a value or with the error it failed with.

        Returns:
            The next effect, or None when the flow has returned.

        Raises:
            H2oError: the flow ended with this.
        """
        if self.finished:
            return None
        try:
            if isinstance(outcome, H2oError):
                return self._flow.throw(outcome)
            return self._flow.send(outcome)
        except StopIteration as stop:
            self.finished = True
            self._result.append(stop.value)
            return None
        except BaseException:  # whatever a flow ended with, it has ended
            self.finished = True
            raise
        finally:
            del outcome  # an error, its traceback and this frame would hold each other

    def close(self) -> None:
        """End the flow where it stands; it is not resumed."""
        self.finished = True
        self._flow.close()
