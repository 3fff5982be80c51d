"""Flows and effects: how the core requests I/O without doing any.

An operation is a generator, called a *flow*. It yields effects, is sent their answers, and returns
its result; a failure of the transport is thrown into it, and the flow decides what to do next. A
shell is a loop that performs one effect after another:

    ==================  ==========================================================
    effect              answered with
    ==================  ==========================================================
    `Fetch(request, …)` the `Head` of the response, and its body
    `Send(request, …)`  the `Head` of the response that it opened
    `Read(deadline)`    the next bytes of that response, b"" at its end
    `Close()`           None: the response is released
    `Sleep(seconds)`    None
    `Emit(tokens)`      None, when the caller wants more
    `Pump(parser, …)`   the start time of the read that returned no texts
    `Exclusive(flow)`   the result of that flow, which runs while no other
                        exclusive flow of the client does
    `Finish(flow)`      the result of that flow, which a cancellation does not
                        interrupt at once: it has a limited time to end
    ==================  ==========================================================

A flow has at most one open response; `Send` releases the previous one. When an effect fails, its
response has already been released.

Effects are named tuples: a frozen dataclass takes seven times as long to define, and every script
waits for its imports.

Two rules apply to every flow. It never yields inside `finally` or `except BaseException`, because
closing the generator there fails with "generator ignored GeneratorExit": a second flow tells the
server that the caller has stopped. And only a `Stepper` drives a flow.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from h2o_client.errors import H2oError, TransportError
from h2o_client.protocol.answer import AnswerParser
from h2o_client.protocol.deadline import Deadline
from h2o_client.types import Token

T = TypeVar("T")


class Request(NamedTuple):
    """A complete request.

    Attributes:
        method: the HTTP method.
        url: the absolute URL.
        headers: names and values, in order. They contain the session: see `__repr__`.
        content: the body, or None.
        operation: its purpose in one word, for logs and errors.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    content: bytes | None
    operation: str

    def __repr__(self) -> str:
        # Headers and body contain the session, the token and the prompt.
        return f"<Request {self.operation}: {self.method}>"

    @property
    def line(self) -> str:
        """Method and URL, for errors; without the query, which can contain a prompt."""
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
        # The headers contain the session cookie.
        return f"<Head {self.status}>"


class Fetch(NamedTuple):
    """Send the request, read its response to the end, and release it.

    Attributes:
        request: the request.
        deadline: by when the whole response must have arrived.
        connect: by when a connection must have been made; see `Send`.
        largest: the maximum size of a successful response's body, in bytes. Of a longer body, the
            bytes read so far are returned, which are more than this.
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
        request: the request.
        deadline: by when the head must have arrived.
        connect: by when a connection must have been made. The time for that does not count towards
            `deadline`, unless `deadline` is the limit of the whole call.
    """

    request: Request
    deadline: Deadline
    connect: Deadline


class Read(NamedTuple):
    """Read the next bytes of the open response.

    Attributes:
        deadline: by when they must have arrived.
    """

    deadline: Deadline


class Close(NamedTuple):
    """Release the open response, if any.

    It is an empty tuple, which is falsy: use `is None` to test for the absence of an effect.
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
        tokens: all tokens of one read, at least one. This way the flow is stepped once per read.
    """

    tokens: Sequence[Token]


class Pump(NamedTuple):
    """Feed the open response to the parser and give its texts to the caller.

    Most answers arrive one token per read, and stepping the flow for each would cost more than
    everything else. So the shell reads by itself whenever the caller wants more, and the flow
    continues once a read returns no texts or fails. A shell that has been stopped does not read
    again.

    Attributes:
        parser: parses the bytes.
        within: the time limit of each read, in seconds; None for no limit.
    """

    parser: AnswerParser
    within: float | None


class Exclusive(NamedTuple):
    """Run a flow while no other exclusive flow of the same client runs.

    Attributes:
        flow: the flow, which first checks whether it is still needed.
        deadline: until when to wait for the others.
    """

    flow: "Flow[Any]"
    deadline: Deadline


class Finish(NamedTuple):
    """Run a flow to its end, for a limited time even after the caller is cancelled.

    Attributes:
        flow: the flow, which stores its result for the clean-up.
        within: seconds that it may still take after a cancellation.
    """

    flow: "Flow[Any]"
    within: float


Effect: TypeAlias = Fetch | Send | Read | Close | Sleep | Emit | Pump | Exclusive | Finish
Flow: TypeAlias = Generator[Effect, Any, T]


class CallerStoppedError(TransportError):
    """Thrown into a flow when `stop()`, in another thread or task, has ended its effect.

    It is caught before it reaches a caller.
    """


class Lock:
    """A non-blocking lock. It is thread-safe because `list.pop()` is atomic.

    Attributes:
        permit: empty while the lock is held. The code that runs for every token pops from it and
            appends to it directly: a method call would double the cost.
        release: releases the lock. It is a builtin function, as Ctrl-C could interrupt a Python
            one.
    """

    __slots__ = ("__weakref__", "permit", "release")

    def __init__(self) -> None:
        self.permit = [True]
        self.release = partial(self.permit.append, True)

    def acquire(self) -> bool:
        """Try to acquire the lock; return whether that succeeded."""
        try:
            return self.permit.pop()
        except IndexError:
            return False
        except BaseException:  # Ctrl-C, which Python checks for after the call
            self.release()
            raise


class Stepper(Lock, Generic[T]):
    """Drives one flow; the only code that uses `send()`, `throw()` and `StopIteration`.

    It is also the lock of the flow: a shell enters it (`with steps:`) while it performs effects of
    the flow, and any other thread or task that tries to enter it then gets an error.

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
        """The return value of the flow.

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
        except BaseException:  # any exception ends a flow
            self.finished = True
            raise
        finally:
            del outcome  # an error, its traceback and this frame would form a reference cycle

    def close(self) -> None:
        """End the flow at its current point."""
        self.finished = True
        self._flow.close()
