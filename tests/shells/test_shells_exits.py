"""The exit matrix: every way to leave a call, in every form, on every backend.

After each, the server has been told everything that the client could know: it has no conversations
of ours except kept ones, it generates nothing, the pool has no busy connection, and neither Python
nor our log had anything to warn about. The default run has each way in each form, on a backend that
depends on the version of Python; the marker `long` adds the others, recovery, kept conversations,
and the exits at other requests.

Combinations that make no sense are excluded only by `WHY_NOT`, rules with reasons.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import anyio
import httpx
import pytest
from asked import requested
from backends import ASYNC, BACKENDS, PATIENCE, Api, endless
from interrupted import INTERRUPTED_PYTHON, press_ctrl_c
from open_responses import OpenResponses

from h2o_client import (
    AsyncChatStream,
    AsyncConversation,
    AsyncH2oClient,
    GenerationError,
    IncompleteStreamError,
    Reply,
    ServerError,
    Timeouts,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.emulator import Answer, Emulator, Fault

FORMS = ("chat", "stream", "conversation")
REQUESTS = ("settings", "create", "message", "delete")
SOON = Timeouts(recovery=0.02)
DELAY = 0.05
"""Seconds by which the server delays the request at which the exit happens."""


class OwnError(Exception):
    """The error raised by a caller."""


# Forms of a call


class Call:
    """One call in one of the forms; a context manager, if its form is one."""

    def __init__(self, client: AsyncH2oClient, form: str, *, keep: bool) -> None:
        self._client = client
        self._form = form
        self.talk: AsyncConversation | None = None
        self.stream: AsyncChatStream | None = None
        if form == "conversation":
            self.talk = client.conversation(keep=keep)
        elif form == "stream":
            self.stream = client.stream("Hi")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._form != "chat":
            await self.close()

    async def read(self) -> Reply:
        """Ask, and wait for the complete answer."""
        if self.talk is not None:
            return await self.talk.send("Hi")
        if self.stream is not None:
            return await self.stream.read()
        return await self._client.chat("Hi")

    def open(self) -> AsyncChatStream:
        """Return the object that the caller iterates over."""
        if self.talk is not None:
            return self.talk.stream("Hi")
        assert self.stream is not None
        return self.stream

    async def close(self) -> None:
        """Close what the form returns; a chat has only its client."""
        if self.talk is not None:
            await self.talk.aclose()
        elif self.stream is not None:
            await self.stream.aclose()
        else:
            await self._client.aclose()


@dataclass
class Scene:
    """One combination while it runs."""

    api: Api
    server: Emulator
    client: AsyncH2oClient
    form: str
    keep: bool
    call: Call

    async def read(self) -> Reply:
        """Make the whole call as a caller would write it."""
        async with self.call as call:
            return await call.read()

    async def reached(self, at: str) -> None:
        """Wait until the call has reached a request, or the answer's `head` or `body`."""
        if at in ("head", "body"):
            await self.api.held()
        else:
            await self.api.wait(lambda: requested(self.server, at))


# Ways to leave


async def reads(scene: Scene) -> None:
    await scene.read()


async def breaks(scene: Scene) -> None:
    async with scene.call as call, call.open() as stream:
        async for _ in stream:
            break


async def raises(scene: Scene) -> None:
    with pytest.raises(OwnError) as caught:  # noqa: PT012 -- the caller leaves the block by it
        async with scene.call as call, call.open() as stream:
            async for _ in stream:
                raise OwnError
    assert caught.value.__context__ is None


async def interrupts(scene: Scene) -> None:
    async with scene.call as call, call.open() as stream:
        async for _ in stream:
            raise KeyboardInterrupt


def closes(at: str) -> "Play":
    async def play(scene: Scene) -> None:
        async with scene.api.in_background(scene.call.read) as reader:
            await scene.reached(at)
            await scene.call.close()
        assert type(reader.error) is IncompleteStreamError

    return play


def stops(at: str) -> "Play":
    async def play(scene: Scene) -> None:
        async with scene.call as call, call.open() as stream:
            async with scene.api.in_background(stream.read) as reader:
                await scene.reached(at)
                await stream.stop()
            assert reader.result().finish_reason == "stopped"

    return play


def is_cancelled(at: str) -> "Play":
    async def play(scene: Scene) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(scene.read)
                await scene.reached(at)
                scope.cancel()
        # A clean-up in progress was completed, and nothing was left to cancel.
        assert scope.cancelled_caught or at == "delete"

    return play


def is_cancelled_natively(at: str, again_at: str | None = None) -> "Play":
    async def play(scene: Scene) -> None:
        task = asyncio.create_task(scene.read())
        await scene.reached(at)
        task.cancel()
        if again_at is not None:
            await scene.reached(again_at)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return play


async def is_timed_out(scene: Scene) -> None:
    with anyio.move_on_after(0.1) as scope:
        await scene.read()
    assert scope.cancelled_caught


SCRIPTS = {
    "sync": """
import sys
from h2o_client import H2oClient
url, form, keep = sys.argv[1], sys.argv[2], sys.argv[3] == "keep"
with H2oClient(url) as client:
    print(client.session, flush=True)
    if form == "chat":
        client.chat("Hi")
    elif form == "stream":
        with client.stream("Hi") as stream:
            for _ in stream:
                pass
    else:
        with client.conversation(keep=keep) as talk:
            talk.send("Hi")
""",
    "async": """
import sys, anyio
from h2o_client import AsyncH2oClient
url, form, keep = sys.argv[1], sys.argv[2], sys.argv[3] == "keep"
async def main():
    async with AsyncH2oClient(url) as client:
        print(client.session, flush=True)
        if form == "chat":
            await client.chat("Hi")
        elif form == "stream":
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    pass
        else:
            async with client.conversation(keep=keep) as talk:
                await talk.send("Hi")
anyio.run(main, backend=sys.argv[4])
""",
}


def is_interrupted(at: str) -> "Play":
    """Press Ctrl-C in a separate process."""

    async def play(scene: Scene) -> None:
        backend = scene.api.backend
        arguments = [scene.server.url, scene.form, "keep" if scene.keep else "", backend]
        script = SCRIPTS["sync" if backend == "sync" else "async"]
        with subprocess.Popen(  # noqa: ASYNC220 -- the child is waited for in another thread
            [*INTERRUPTED_PYTHON, "-c", script, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:
            await scene.reached(at)
            _, errors = await scene.api.wait(lambda: press_ctrl_c(process))
        assert errors.strip().endswith("KeyboardInterrupt"), errors
        for word in ("Exception ignored", "Warning", "could not be cleaned up"):
            assert word not in errors, errors

    return play


Play = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    """A way to leave.

    Attributes:
        name: its name.
        play: performs it.
        answers: the model server's answers.
        faults: the faults of the requests.
        raises: the error that the caller gets.
        recovers: whether recovery completes the answer.
        needs: its requirements: "loop", "tasks", "asyncio", "delete", "stop".
        warns: whether our log may contain a warning, as the server is told only later.
        timeouts: the client's.
        long: whether only the long run includes it.
    """

    name: str
    play: Play = reads
    answers: tuple[Answer | str, ...] = ()
    faults: tuple[tuple[str, Fault], ...] = ()
    raises: type[BaseException] | None = None
    recovers: bool = False
    needs: frozenset[str] = frozenset()
    warns: bool = False
    timeouts: Timeouts = SOON
    long: bool = False


HELD = (endless(" One"),)


def at_request(at: str) -> dict[str, Any]:
    """Return the options that pause the server at the point of the exit."""
    if at == "head":
        return {"answers": (endless(held=0),)}
    if at == "body":
        return {"answers": HELD}
    faults = ((at, Fault(delay=DELAY)),)
    if at == "delete":
        return {"faults": faults, "needs": frozenset({"delete"})}
    return {"faults": faults, "answers": HELD}  # where an exit that is late finds it paused


def merged(options: dict[str, Any], *needs: str) -> dict[str, Any]:
    return {**options, "needs": options.get("needs", frozenset()) | frozenset(needs)}


GOES_ON = Answer(" One two three four", drop_after=1, hold_after=2)
EXITS: list[Way] = [
    Way("success"),
    *[
        Way(
            f"HTTP error at {on}",
            faults=((on, Fault(500)),),
            # The answer has arrived: a later failure is not an error, and is retried.
            raises=None if on == "delete" else ServerError,
            warns=on == "delete",
            needs=frozenset({"delete"} if on == "delete" else ()),
        )
        for on in REQUESTS
    ],
    *[
        Way(
            f"cut at {on}",
            faults=((on, Fault(disconnect=True)),),
            raises={"message": IncompleteStreamError, "delete": None}.get(on, TransportError),
            warns=on == "delete",
            needs=frozenset({"delete"} if on == "delete" else ()),
        )
        for on in REQUESTS
    ],
    Way(
        "cut at the message, processed",
        faults=(("message", Fault(disconnect=True, processed=True)),),
        answers=(" One",),
        raises=IncompleteStreamError,
        recovers=True,
    ),
    Way("cut in the answer", answers=(GOES_ON,), raises=IncompleteStreamError),
    Way(
        "cut in the answer, later stored",
        answers=(Answer(" One two three", drop_after=1),),
        raises=IncompleteStreamError,
        recovers=True,
    ),
    Way(
        "error event",
        answers=(Answer(" One two", ending="error"),),
        raises=GenerationError,
    ),
    Way(
        "early clean end",
        answers=(Answer(" One two", ending="clean"),),
        raises=IncompleteStreamError,
    ),
    Way("break", breaks, HELD, needs=frozenset({"loop"})),
    Way("the caller's exception", raises, HELD, needs=frozenset({"loop"})),
    Way(
        "KeyboardInterrupt in the loop",
        interrupts,
        HELD,
        raises=KeyboardInterrupt,
        needs=frozenset({"loop"}),
    ),
    Way(
        "deadline of the client",
        answers=HELD,
        raises=TransportTimeoutError,
        timeouts=Timeouts(total=1.5, recovery=0.02),
    ),
    Way("deadline of the caller", is_timed_out, HELD, needs=frozenset({"tasks"})),
    *[
        Way(f"cancellation at {at}", is_cancelled(at), long=at in ("settings", "delete"), **options)
        for at in ("settings", "create", "head", "body", "delete")
        for options in [merged(at_request(at), "tasks")]
    ],
    *[
        Way(
            f"native cancellation at {at}",
            is_cancelled_natively(at),
            long=at not in ("create", "body"),
            warns=at == "delete",
            **options,
        )
        for at in ("settings", "create", "head", "body", "delete")
        for options in [merged(at_request(at), "asyncio")]
    ],
    *[
        Way(
            f"native cancellation, and again at {again}",
            is_cancelled_natively("body", again),
            HELD,
            faults=((again, Fault(delay=DELAY)),),
            needs=frozenset({"asyncio", again}),
            warns=True,
        )
        for again in ("stop", "delete")
    ],
    *[
        Way(f"closed by another at {at}", closes(at), long=at not in ("body", "head"), **options)
        for at in ("settings", "create", "head", "body")
        for options in [at_request(at)]
    ],
    *[
        Way(f"stopped by another at {at}", stops(at), long=at != "body", **merged(options, "loop"))
        for at in ("settings", "create", "head", "body")
        for options in [at_request(at)]
    ],
    *[
        Way(f"Ctrl-C at {at}", is_interrupted(at), long=at in ("settings", "delete"), **options)
        for at in ("settings", "create", "head", "body", "delete")
        for options in [at_request(at)]
    ],
]


# Table


@dataclass(frozen=True)
class Case:
    """One combination."""

    way: Way
    form: str
    backend: str
    recover: bool
    keep: bool

    @property
    def name(self) -> str:
        marks = ("-recover" if self.recover else "") + ("-kept" if self.keep else "")
        return f"{self.backend}-{self.form}-{self.way.name}{marks}"

    @property
    def long(self) -> bool:
        backends = [
            backend
            for backend in BACKENDS
            if not why_not(Case(self.way, self.form, backend, recover=False, keep=False))
        ]
        turn = EXITS.index(self.way) + FORMS.index(self.form) + sys.version_info.minor
        its_turn = backends[turn % len(backends)] == self.backend
        return self.way.long or self.recover or self.keep or not its_turn


WHY_NOT: Sequence[tuple[str, Callable[[Case], bool]]] = [
    (
        "chat() has no loop to break out of, raise in or stop",
        lambda case: case.form == "chat" and "loop" in case.way.needs,
    ),
    (
        "a thread cannot be cancelled",
        lambda case: case.backend == "sync" and not case.way.needs.isdisjoint({"tasks", "asyncio"}),
    ),
    (
        "only asyncio has native cancellation, which ignores shields",
        lambda case: case.backend == "trio" and "asyncio" in case.way.needs,
    ),
    (
        "only a conversation can be kept",
        lambda case: case.keep and case.form != "conversation",
    ),
    (
        "a kept conversation is not deleted",
        lambda case: case.keep and "delete" in case.way.needs,
    ),
]

ALL = [
    Case(*parts)
    for parts in itertools.product(EXITS, FORMS, BACKENDS, (False, True), (False, True))
]


def why_not(case: Case) -> list[str]:
    """Return the reasons for excluding a combination."""
    return [reason for reason, applies in WHY_NOT if applies(case)]


TABLE = [case for case in ALL if not why_not(case)]


def test_every_combination_is_played_or_excluded_with_a_reason() -> None:
    for reason, applies in WHY_NOT:
        assert any(map(applies, ALL)), f"a rule that excludes nothing: {reason}"
    played = {(case.way.name, case.form) for case in TABLE if not case.long}
    long = {(case.way.name, case.form, case.backend) for case in TABLE}
    for way, form, backend in itertools.product(EXITS, FORMS, BACKENDS):
        reasons = why_not(Case(way, form, backend, recover=False, keep=False))
        if not reasons:
            assert (way.name, form, backend) in long
            assert way.long or (way.name, form) in played


def played() -> list[Any]:
    """Return the cases for both kinds of server; the default run has a fifth of the newer ones.

    A newer server describes its own error at the first request, which ends nothing; a cut answer is
    reattached there, for as long as an uncut one.
    """
    newer = [
        case
        for case in TABLE
        if case.way.name != "HTTP error at settings"
        and not (case.recover and case.way.name == "cut in the answer")
    ]
    kinds = [("", "chat-ui-2023", TABLE, 1), ("-2025", "chat-ui-2025", newer, 5)]
    return [
        pytest.param(
            case,
            case.backend,
            dialect,
            id=case.name + mark,
            marks=[pytest.mark.long] if case.long or number % step else [],
        )
        for mark, dialect, cases, step in kinds
        for number, case in enumerate(sorted(cases, key=lambda case: case.long))
    ]


@pytest.mark.parametrize(("case", "backend", "dialect"), played())
async def test_exit_leaves_nothing(
    api: Api,
    server: Emulator,
    case: Case,
    responses: OpenResponses,
    caplog: pytest.LogCaptureFixture,
) -> None:
    way = case.way
    server.reply(*way.answers)
    for on, fault in way.faults:
        server.fault(on, fault)
    client = api.client(timeouts=way.timeouts, retries=0, recover=case.recover)
    scene = Scene(
        api,
        server,
        client,
        case.form,
        case.keep,
        Call(client, case.form, keep=case.keep),
    )
    expected = None if way.recovers and case.recover else way.raises
    async with client:
        with contextlib.nullcontext() if expected is None else pytest.raises(expected):
            await way.play(scene)
        if not way.warns:  # what could not be sent then is sent when the client closes
            await check_told(scene)
        responses.check()
    await check_told(scene)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert way.warns or not warned, warned


async def check_told(scene: Scene) -> None:
    """Check that the server generates nothing, and has only the conversations to keep."""
    await scene.api.wait(scene.server.wait_idle)
    assert await scene.api.wait(lambda: scene.server.generating) == 0
    left = [item.id for item in await scene.api.wait(lambda: scene.server.conversations)]
    if not scene.keep:
        assert left == []
    elif scene.call.talk is not None and scene.call.talk.id is not None:
        assert left == [scene.call.talk.id]
    else:
        assert len(left) <= 1  # created in another process


# Clean-up


@pytest.mark.parametrize("form", ["stream", "conversation"])
@pytest.mark.parametrize("on", ["stop", "delete"])
async def test_clean_up_of_a_hanging_server_is_limited(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture, form: str, on: str
) -> None:
    server.reply(endless(" One"))
    server.fault(on, *[Fault(hang=True)] * 5)
    client = api.client(timeouts=Timeouts(cleanup=0.1), retries=0)
    begun = time.monotonic()
    async with client:
        async with Call(client, form, keep=False) as call, call.open() as stream:
            assert await anext(stream) == " One"
        took = time.monotonic() - begun
    # The stream, the conversation and the client each have a clean-up.
    assert 0.1 <= took < PATIENCE / 2
    assert time.monotonic() - begun < PATIENCE / 2
    assert "could not be cleaned up" in caplog.text
    await api.wait(server.disconnect_all)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("leave", ["success", "error", "left"])
async def test_clean_up_works_with_a_pool_of_one_connection(
    api: Api, server: Emulator, responses: OpenResponses, form: str, leave: str
) -> None:
    if form == "chat" and leave == "left":
        leave = "error"  # a chat returns nothing to leave
    answers = {"success": Answer(" One"), "error": GOES_ON, "left": endless(" One")}
    server.reply(answers[leave])
    options: dict[str, Any] = {"limits": httpx.Limits(max_connections=1), "timeout": None}
    http = api.http_client(**options)
    limits = Timeouts(connect=1, recovery=0.02)
    client = api.client(http_client=http, timeouts=limits, retries=0)
    async with client:
        async with Call(client, form, keep=False) as call:
            if leave == "left":
                async with call.open() as stream:
                    assert await anext(stream) == " One"
            else:
                failing = leave == "error"
                with pytest.raises(IncompleteStreamError) if failing else contextlib.nullcontext():
                    await call.read()
        await api.settled()
        responses.check()
        assert (await client.chat("Hi")).text  # the only connection is free again
    await api.settled()
    await api.close_http(http)


@pytest.mark.slow
async def test_clean_up_without_a_free_connection_is_done_later(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Two conversations share a pool of two; one leaves while both connections are busy."""
    server.reply(endless(" One"), endless(" Two"))
    options: dict[str, Any] = {"limits": httpx.Limits(max_connections=2), "timeout": None}
    http = api.http_client(**options)
    limits = Timeouts(connect=0.3, cleanup=3)
    client = api.client(http_client=http, timeouts=limits, retries=0)
    async with client:
        talk = client.conversation()
        one = talk.stream("Hi")
        assert await anext(one) == " One"
        two = client.stream("Hi")
        assert await anext(two) == " Two"
        begun = time.monotonic()
        await client.conversation().aclose()  # nothing to clean up, so it needs no connection
        with pytest.raises(TransportTimeoutError) as caught:
            await client.models()
        assert caught.value.limit == "connect"
        await one.aclose()
        await talk.aclose()
        assert time.monotonic() - begun < PATIENCE / 2
        await two.aclose()
        await api.settled()
    assert "could not be cleaned up" not in caplog.text
    await api.close_http(http)


def test_table_covers_every_backend() -> None:
    """The table has the backends of the test harness."""
    assert {case.backend for case in TABLE} == set(BACKENDS)
    assert {case.backend for case in TABLE if "tasks" in case.way.needs} == set(ASYNC)
