"""Flows and effects: how the core asks for I/O without doing any.

An operation is a generator, a *flow*. It yields effects, is sent their answers, and returns its
result; a failure of the transport is thrown in, and the flow decides what follows. A shell is a
loop that performs one effect after the other:

    ==================  ==========================================================
    effect              answered with
    ==================  ==========================================================
    `Fetch(request, …)` the `Head` of the response, and its body
    `Send(request, …)`  the `Head` of the response that it opened
    `Read(deadline)`    the next bytes of that response, b"" at its end
    `Close()`           None: the response is released
    `Sleep(seconds)`    None
    `Emit(tokens)`      None, when the caller wants more
    `Pump(parser, …)`   the time at which the read began that gave no texts
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
from h2o_client.protocol.deadline import Deadline
from h2o_client.types import Token

T = TypeVar("T")


class Request(NamedTuple):
    """A complete request.

    Attributes:
        method: the HTTP method.
        url: the absolute URL.
        headers: names and values, in order. They hold the session: see `__repr__`.
        content: the body, or None.
        operation: its purpose in one word, for logs and errors.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None
    operation: str

    def __repr__(self) -> str:
        # Headers and body hold the session, the token and the prompt.
        return f"<Request {self.operation}: {self.method}>"

    @property
    def line(self) -> str:
        """Method and URL, for errors, without the query: it holds the prompt of a web search."""
        return f"{self.method} {self.url.partition('?')[0]}"


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


class Fetch(NamedTuple):
    """Send the request, read its response to the end, and release it.

    Attributes:
        request: what to send.
        deadline: when the whole response must be there.
        connect: when a connection must have been made; as for `Send`.
        largest: the most bytes to read of a successful response's body. If it is longer, the bytes
            read so far are returned, which are more than this.
        largest_error: the same for any other response.
    """

    request: Request
    deadline: Deadline
    connect: Deadline
    largest: int
    largest_error: int


class Send(NamedTuple):
    """Send the request and wait for the head of its response.

    Attributes:
        request: what to send.
        deadline: when the head must be there.
        connect: when a connection must have been made. That time does not count towards `deadline`,
            unless that is the end of the whole call.
    """

    request: Request
    deadline: Deadline
    connect: Deadline


class Read(NamedTuple):
    """Read the next bytes of the open response.

    Attributes:
        deadline: when they must be there.
    """

    deadline: Deadline


class Close(NamedTuple):
    """Release the open response, if any.

    It is an empty tuple, and so false: test for the absence of an effect with `is None`.
    """


class Sleep(NamedTuple):
    """Wait.

    Attributes:
        seconds: how long.
    """

    seconds: float


class Emit(NamedTuple):
    """Give tokens to the caller.

    Attributes:
        tokens: at least one: all tokens of one read, so that the flow is stepped once per read.
    """

    tokens: Sequence[Token]


class TextParser(Protocol):
    """A parser that `Pump` feeds."""

    def read_on(self, data: bytes, /) -> Sequence[str]:
        """Take the next bytes, or b"" at the end, and return the texts in them.

        Returns:
            The texts to give to the caller; if empty, the flow must continue.
        """
        ...

    def tokens(self) -> Sequence[Token]:
        """Return the tokens of the last bytes, including special ones. Call it only once."""
        ...


class Pump(NamedTuple):
    """Feed the open response to the parser and pass on its texts, until a read gives none.

    Most answers arrive one token per read, and stepping the flow for each would cost more than
    everything else. So the shell reads by itself whenever the caller wants more, and the flow
    continues once a read gives no texts or fails. A shell that has been stopped does not read
    again.

    Attributes:
        parser: interprets the bytes.
        within: seconds that each read may take; None for no limit.
    """

    parser: TextParser
    within: float | None


class Exclusive(NamedTuple):
    """Play a flow alone, without any other exclusive flow of the same client.

    Attributes:
        flow: the flow, which first checks whether it is still needed.
        deadline: until when to wait for the others.
    """

    flow: "Flow[Any]"
    deadline: Deadline


class Finish(NamedTuple):
    """Play a flow to its end even if the caller is cancelled meanwhile, for a bounded time.

    Attributes:
        flow: the flow, which stores its result for the clean-up.
        within: seconds that it may still take after a cancellation.
    """

    flow: "Flow[Any]"
    within: float


Effect: TypeAlias = Fetch | Send | Read | Close | Sleep | Emit | Pump | Exclusive | Finish
Flow: TypeAlias = Generator[Effect, Any, T]


class CallerStoppedError(TransportError):
    """Thrown into a flow whose effect `stop()` ended, from another thread or task.

    It is caught before it reaches a caller.
    """


class Lock:
    """A lock that does not block, for any thread: `list.pop()` is atomic.

    Attributes:
        permit: empty while the lock is held. The code that runs for every token pops from and
            appends to it directly: a method call would double the cost.
        release: releases it. It is a builtin function because Ctrl-C could interrupt a Python one.
    """

    __slots__ = ("__weakref__", "permit", "release")

    def __init__(self) -> None:
        self.permit = [True]
        self.release = partial(self.permit.append, True)

    def acquire(self) -> bool:
        """Try to acquire the lock; return whether that worked."""
        try:
            return self.permit.pop()
        except IndexError:
            return False
        except BaseException:  # Ctrl-C, which Python checks for after the call
            self.release()
            raise


class Stepper(Lock, Generic[T]):
    """Drives one flow; the only code that meets `send()`, `throw()` and `StopIteration`.

    It is also the lock of the flow: a shell enters it (`with steps:`) while it performs effects of
    the flow, and a second thread or task that does so meanwhile gets an error.

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
        if not self.acquire():
            raise self.busy()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def busy(self) -> RuntimeError:
        """Return the error for a second thread or task that tries to drive the flow."""
        return RuntimeError("this stream is being read by another thread or task")

    @property
    def returned(self) -> bool:
        """Whether the flow has returned a result."""
        return bool(self._result)

    @property
    def result(self) -> T:
        """What the flow returned.

        Raises:
            RuntimeError: the flow has not returned.
        """
        if not self._result:
            raise RuntimeError("the flow has not returned a result")
        return self._result[0]

    def step(self, outcome: object = None) -> Effect | None:
        """Answer the last effect with its value, or with the error that it raised.

        Returns:
            The next effect, or None when the flow has returned.

        Raises:
            H2oError: the flow raised it.
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
        """End the flow at its current point for good."""
        self.finished = True
        self._flow.close()
