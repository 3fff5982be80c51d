"""The emulator's public class: a server in its own thread.

It runs its own event loop in its own thread, so that it can serve sync, asyncio and trio tests over
a real socket. Calls from other threads run inside that loop, one at a time; its counters are read
under one lock, on which `wait_idle` waits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace as copy
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.from_thread import BlockingPortal

from h2o_client.emulator.chat_ui_2023.face import Face2023
from h2o_client.emulator.chat_ui_2025.face import Face2025
from h2o_client.emulator.connection import GONE, Connection
from h2o_client.emulator.engine import EngineLike, LiveEngine
from h2o_client.emulator.engines import engine_of
from h2o_client.emulator.face import Face
from h2o_client.emulator.gateway import Gateway
from h2o_client.emulator.openai_api.face import OpenAIFace
from h2o_client.emulator.prompt import template
from h2o_client.emulator.recording import Recorder
from h2o_client.emulator.replaying import Replay
from h2o_client.emulator.script import Answer, Fault, Script, WebSearch
from h2o_client.emulator.service import Config, Intervals, Service
from h2o_client.emulator.store import DEFAULT_MODELS, Conversation, Model, Store
from h2o_client.emulator.web import Request

R = TypeVar("R")
Dialect = Literal["chat-ui-2023", "chat-ui-2025", "openai"]
FACES: Mapping[str, type[Face]] = {
    "chat-ui-2023": Face2023,
    "chat-ui-2025": Face2025,
    "openai": OpenAIFace,
}
"""The face of each dialect."""

logger = logging.getLogger(__name__)


class Emulator:
    """A local server of the chat protocol.

    Args:
        host: The address to listen on.
        port: The port; 0 for a free one.
        base_path: A prefix for all paths, such as ``/chat``.
        models: The models that it offers, the default one first; or a mapping of their names to
            engines.
        engine: The engine that answers; see `h2o_client.emulator.Engine`. A string names one:
            ``rote``, ``tgi:URL``, ``openai:URL[#model]`` or ``transformers:NAME_OR_PATH``.
        pace: Seconds between tokens; real models have their own pace.
        stop_poll: Seconds until a stop is noticed; about 1 on the real server.
        store_delay: The maximum number of seconds from the end of a response until its turn is
            stored, as with a slow database; the delay is random. 0 stores it before the final
            event.
        dialect: The kind of server to emulate: a 2023 server, a 2025 server, or OpenAI's API.
        version: For 2023 ``0.4``, or ``0.6``, where sharing, rate limits and prompts differ; for
            2025 ``main``, or ``0.10``, which does not reattach. None for the first of them.
        rate_limit: The maximum number of messages in a window; None for no limit.
        rate_window: Seconds until a message no longer counts, from the next sweep on.
        stop_lifetime: Seconds until the record of a stop expires, from the next sweep on. None
            means 30, or 5 for 2025 servers, where the record also stops the next run.
        sweep: Seconds between sweeps; 0 removes records at once, as 2025 servers do.
        cookie_name: The session cookie's name.
        cookie_secure: Whether the cookie of a 2025 server is ``Secure``.
        login: The session of the user who is logged in; a 2025 server redirects all others to a
            login provider. None to allow every session.
        conversation_limit: The maximum number of conversations per session on a 2025 server.
        message_length: The maximum number of characters of a message on a 2025 server.
        intervals: The intervals of a 2025 server; see `Intervals`.
        public_scheme: The scheme that it assumes for its own URL: ``https`` for a real server whose
            ``ORIGIN`` is not configured. It rejects forms with another referer.
        token: If set, requests without ``Authorization: Bearer <token>`` get a 401.
        keep_alive: Seconds for which a connection may be idle.
        max_sessions: The maximum number of sessions to remember.
        max_conversations: The maximum number of conversations, of shares and of searches.
        max_messages: The maximum number of messages in a conversation; a 2025 server rejects more.
        max_stored: The maximum number of characters of all messages.
        max_requests: The maximum number of requests to keep in `requests`.
        max_request_bytes: The maximum total size of their bodies.
        max_body: The maximum size of a request's body in bytes; None means half a megabyte, or 15
            megabytes for 2025 servers.
        max_generations: The maximum number of concurrent generations; more are rejected, as by an
            overloaded model.
        clock: Returns seconds since 1970, for dates and lifetimes.
        record: A folder in which to record all exchanges, as files of the capture format.
        replay: A folder of such files from which to answer all requests.
        progress: Called with the lines that an engine reports while it starts; the default logs
            them.

    Raises:
        EngineError: The name of an engine is not valid.
        ImportError: A package that an engine needs is not installed.
        OSError: A folder cannot be used.
        ValueError: `replay` does not contain recordings, `engine` is given although `models` have
            engines, or `dialect` or `version` is unknown.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        base_path: str = "",
        models: Sequence[Model] | Mapping[str, EngineLike | str] = DEFAULT_MODELS,
        engine: EngineLike | str | None = None,
        pace: float = 0.0,
        stop_poll: float = 0.02,
        store_delay: float = 0.0,
        dialect: Dialect = "chat-ui-2023",
        version: Literal["0.4", "0.6", "main", "0.10"] | None = None,
        rate_limit: int | None = None,
        rate_window: float = 60.0,
        stop_lifetime: float | None = None,
        sweep: float = 60.0,
        cookie_name: str = "hf-chat",
        cookie_secure: bool = True,
        login: str | None = None,
        conversation_limit: int | None = None,
        message_length: int | None = None,
        intervals: Intervals | None = None,
        public_scheme: Literal["http", "https"] = "http",
        token: str | None = None,
        keep_alive: float = 5.0,
        max_sessions: int = 1000,
        max_conversations: int = 1000,
        max_messages: int = 1000,
        max_stored: int = 128 * 1024 * 1024,
        max_requests: int = 10_000,
        max_request_bytes: int = 64 * 1024 * 1024,
        max_body: int | None = None,
        max_generations: int = 1000,
        clock: Callable[[], float] = time.time,
        record: str | os.PathLike[str] | None = None,
        replay: str | os.PathLike[str] | None = None,
        progress: Callable[[str], None] = logger.info,
    ) -> None:
        face_class = FACES.get(dialect)
        if face_class is None:
            raise ValueError(f"unknown dialect {dialect!r}; expected one of {', '.join(FACES)}")
        exact = version or face_class.versions[0]
        if exact not in face_class.versions:
            known = ", ".join(face_class.versions)
            raise ValueError(f"unknown version {version!r} of {dialect}; expected one of {known}")
        if stop_lifetime is None:
            stop_lifetime = face_class.stop_lifetime
        self.dialect = dialect
        self.base_path = base_path.rstrip("/")
        self._host = host
        self._port = port
        self._changes = threading.Condition(threading.RLock())
        self._script = Script()
        self._store = Store(
            clock,
            max_sessions=max_sessions,
            max_conversations=max_conversations,
            max_messages=max_messages,
            max_stored=max_stored,
            rate_window=rate_window,
            stop_lifetime=stop_lifetime,
            sweep=sweep if face_class.sweeps else 0.0,
        )
        engines: dict[str, EngineLike] = {}
        if isinstance(models, Mapping):
            if engine is not None:
                raise ValueError("each model already has an engine: engine= is not allowed")
            made: dict[str, EngineLike] = {}  # so that models with the same engine share it
            for name, given in models.items():
                if isinstance(given, str):
                    made.setdefault(given, engine_of(given))
                engines[name] = made[given] if isinstance(given, str) else given
            models = [Model(name, name) for name in models]
        if not models:
            raise ValueError("no models")
        config = Config(
            models=tuple(models),
            engine=engine_of(engine),
            engines=engines,
            max_generations=max_generations,
            store_delay=store_delay,
            pace=pace,
            stop_poll=stop_poll,
            version=exact,
            rate_limit=rate_limit,
            cookie_name=cookie_name,
            token=token,
            base_path=self.base_path,
            public_scheme=public_scheme,
            login=login,
            cookie_secure=cookie_secure,
            conversation_limit=conversation_limit,
            message_length=message_length,
            intervals=intervals or Intervals(),
        )
        self._service = Service(config, self._store, self._script, self._changed)
        face = face_class(self._service)
        recorder = None
        if record is not None:
            server = f"the emulator, as chat-ui {exact}"
            recorder = Recorder(Path(record), cookie_name, server)
            self._service.asked = recorder.asked
        self._gateway = Gateway(
            service=self._service,
            face=face,
            recorder=recorder,
            replay=Replay(Path(replay), cookie_name, face.kind, pace)
            if replay is not None
            else None,
            changes=self._changes,
            clock=clock,
            keep_alive=keep_alive,
            max_body=face.max_body if max_body is None else max_body,
            max_requests=max_requests,
            max_request_bytes=max_request_bytes,
        )
        self._streams: set[SocketStream] = set()
        self._accepted = 0
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._stop: anyio.Event | None = None
        self._starting: anyio.CancelScope | None = None
        self._ending = False
        self._progress = progress
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    # Lifetime

    def start(self) -> Self:
        """Start serving; return when engines are ready and connections are accepted.

        Raises:
            EngineError: An engine cannot be started.
            OSError: It cannot listen on the address.
        """
        if self._thread is not None:
            raise RuntimeError("the emulator is already running")
        self._ready.clear()
        self._ending = False
        self._failure = None
        self._thread = threading.Thread(target=self._run, name="h2o-emulator", daemon=True)
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # such as Ctrl-C while weights load
            self.close()
            raise
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            raise self._failure
        return self

    def close(self) -> None:
        """Stop serving: end streams, connections and threads. May be called twice."""
        self._ending = True  # first: see _start_engines
        thread, portal = self._thread, self._portal
        if thread is None:
            return
        if portal is not None:
            with suppress(RuntimeError):  # the engines' portal was closed in the meantime
                portal.call(self._end)
        thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Its URL, without a trailing slash."""
        return f"{self._service.origin}{self.base_path}"

    @property
    def templates(self) -> dict[str, str]:
        """The prompt template of each model.

        Raises:
            EngineError: An engine's template cannot be read.
        """
        config = self._service.config
        # Newer servers send messages, and templates render them without separators.
        version = config.version if self.dialect == "chat-ui-2023" else "0.6"
        found: dict[str, str] = {}
        for model in config.models:
            engine = self._service.engine(model.name)
            own = engine.template() if isinstance(engine, LiveEngine) else None
            found[model.name] = own or template(version)
        return found

    # Scripting the next requests

    def reply(self, *answers: Answer | str | Sequence[str]) -> None:
        """Answer the next messages with these, in order; after that the engine answers again."""
        self._call(lambda: self._script.answers.extend(Answer.of(item) for item in answers))

    def fault(self, on: str, *faults: Fault) -> None:
        """Apply these faults to the next requests of a kind, in order.

        Args:
            on: The kind: ``settings``, ``create``, ``message``, ``delete``, ``stop``, ``data`` (a
                conversation's), ``root`` (the first page and its data), ``summarize``,
                ``rename``, ``share``, ``vote``, ``prompt``, ``search``, ``delete_all``,
                ``shared``, for 2025 ``flags``, ``models``, ``list``, ``reattach``, ``import``,
                ``file``, ``user``, ``other``, or ``*`` for any.
            faults: One for each request.
        """
        self._call(lambda: self._script.add_faults(on, faults))

    def fail(
        self, status: int = 429, *, on: str = "message", times: int = 1, message: str | None = None
    ) -> None:
        """Make the next requests of a kind fail with a status.

        Args:
            status: The status.
            on: The kind; see `fault`.
            times: The number of requests.
            message: A message to send instead of the real server's.
        """
        body = None if message is None else {"message": message}
        self.fault(on, *[Fault(status=status, body=body)] * times)

    def cut(self, after: int = 5, *, on: str = "message") -> None:
        """Break the connection of the next message after some tokens; generation continues.

        Args:
            after: The number of tokens; for a client that reattached, of events.
            on: ``message``, or ``reattach`` in 2025.
        """
        if on not in {"message", "reattach"}:
            raise ValueError("`on` must be `message`, or for 2025 servers `reattach`")
        self._call(lambda: self._script.cuts[on].append(after))

    def search(self, *searches: WebSearch) -> None:
        """Make the next web searches succeed with these results."""
        self._call(lambda: self._script.searches.extend(searches))

    def clear(self) -> None:
        """Forget the requests, and everything scripted that is unused."""
        self._call(self._script.clear)
        self._gateway.clear()

    # Inspection

    @property
    def requests(self) -> list[Request]:
        """The requests, in the order of arrival; the oldest are forgotten first."""
        return self._gateway.requests()

    @property
    def conversations(self) -> list[Conversation]:
        """Copies of all conversations."""
        return self._call(lambda: [copy(item) for item in self._store.conversations.values()])

    @property
    def sessions(self) -> list[str]:
        """The ids of the sessions that posted settings."""
        return self._call(lambda: list(self._store.sessions))

    @property
    def generating(self) -> int:
        """The number of generations that are running."""
        return self._call(lambda: len(self._service.generations))

    @property
    def generations(self) -> int:
        """The number of generations that were started."""
        return self._call(lambda: self._service.started)

    @property
    def held(self) -> int:
        """The number of generations that are held; see `Answer.hold_after`."""
        return self._call(self._count_held)

    @property
    def stops(self) -> int:
        """The number of generations that a stop has ended."""
        return self._call(lambda: self._service.stops)

    @property
    def connections(self) -> int:
        """The number of open client connections."""
        return self._call(lambda: len(self._streams))

    @property
    def accepted(self) -> int:
        """The number of client connections so far."""
        return self._call(lambda: self._accepted)

    def wait_idle(self, timeout: float = 30.0) -> None:
        """Wait until all generations and requests have ended.

        Args:
            timeout: The maximum number of seconds to wait.

        Raises:
            TimeoutError: A generation or a request is still running.
        """
        self._wait(self._is_idle, timeout, "the emulator is not idle")

    def wait_held(self, count: int = 1, timeout: float = 30.0) -> None:
        """Wait until generations are held at their `Answer.hold_after`.

        Args:
            count: How many.
            timeout: The maximum number of seconds to wait.

        Raises:
            TimeoutError: Fewer are held.
        """
        self._wait(lambda: self._count_held() >= count, timeout, "too few generations are held")

    # Actions

    def release(self) -> None:
        """Let held generations continue, and do not hold later ones."""

        def release() -> None:
            for generation in self._service.generations:
                generation.release()

        self._call(release)

    def forget_sessions(self) -> None:
        """Forget the sessions, like a server that was reinstalled: the terms apply again.

        Conversations are kept, under their session's id.
        """
        self._call(self._store.sessions.clear)

    def retire(self, model: str) -> None:
        """Stop serving a model: messages to its conversations get a 410.

        Args:
            model: Its name, except that of the default model.
        """
        # 25
        self._call(lambda: self._service.retire(model))

    def disconnect_all(self) -> None:
        """Close all client connections; generations continue."""
        portal = self._portal
        if portal is not None:
            portal.call(self._close_streams)

    # Internals

    def _run(self) -> None:
        try:
            # Never in asyncio's debug mode, which would warn about slow tasks on a busy machine.
            anyio.run(self._serve, backend="asyncio", backend_options={"debug": False})
        except BaseException as error:  # start() raises it in the caller's thread
            if self._ready.is_set():
                raise
            self._failure = error  # such as a port that is in use
        finally:
            self._portal = None
            self._ready.set()

    async def _serve(self) -> None:
        self._stop = stop = anyio.Event()
        engines = self._service.live_engines()
        try:
            if await self._start_engines(engines):
                await self._listen(stop)
        finally:
            with anyio.CancelScope(shield=True):
                for engine in engines:
                    await engine.aclose()

    async def _start_engines(self, engines: Sequence[LiveEngine]) -> bool:
        """Start the engines; return whether the emulator is still open afterwards."""
        if not engines:
            return True
        failure: Exception | None = None
        async with BlockingPortal() as portal:
            self._starting = anyio.CancelScope()
            self._portal = portal
            with self._starting:
                try:
                    for engine in engines:
                        if self._ending:
                            break
                        await engine.start(self._progress)
                except Exception as error:  # noqa: BLE001 -- raised below, not in a group
                    failure = error
            self._portal = None
        if failure is not None:
            raise failure
        return not self._ending

    def _end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._stop is not None:
            self._stop.set()

    async def _listen(self, stop: anyio.Event) -> None:
        listener = await anyio.create_tcp_listener(
            local_host=self._host, local_port=self._port, backlog=4096
        )
        async with listener, BlockingPortal() as portal, anyio.create_task_group() as tasks:
            port: int = listener.extra_attributes[SocketAttribute.local_port]()
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._service.origin = f"http://{host}:{port}"
            self._service.one_host = self._host not in {"", "0.0.0.0", "::"}  # noqa: S104
            self._service.spawn = lambda function, *args: tasks.start_soon(
                self._guarded, function, *args
            )
            self._portal = portal
            if self._ending:
                stop.set()
            tasks.start_soon(listener.serve, self._connection)
            self._ready.set()
            await stop.wait()
            await self._close_streams()
            tasks.cancel_scope.cancel()

    async def _guarded(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a function whose failure must not end the server, such as an engine."""
        try:
            await function(*args)
        except Exception:  # an engine may raise anything
            logger.exception("emulator: a background task failed")

    async def _connection(self, stream: SocketStream) -> None:
        self._accepted += 1
        self._streams.add(stream)
        try:
            address = str(stream.extra_attributes[SocketAttribute.remote_address]()[0])
            await Connection(stream, self._gateway, address).serve()
        except GONE:
            logger.debug("client connection broke")
        except Exception:  # one connection must not bring down the server
            logger.exception("emulator: a connection failed")
        finally:
            self._streams.discard(stream)
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            self._changed()

    async def _close_streams(self) -> None:
        for stream in tuple(self._streams):
            await stream.aclose()

    def _call(self, function: Callable[[], R]) -> R:
        """Call a function in the loop's thread, or directly if the loop is not running."""
        portal, thread = self._portal, self._thread
        if portal is None or thread is None or thread.ident == threading.get_ident():
            return function()
        return portal.call(function)

    def _changed(self) -> None:
        with self._changes:
            self._changes.notify_all()

    def _count_held(self) -> int:
        return sum(item.held for item in tuple(self._service.generations))

    def _is_idle(self) -> bool:
        return not self._service.generations and not self._gateway.busy

    def _wait(self, condition: Callable[[], bool], timeout: float, complaint: str) -> None:
        with self._changes:
            if not self._changes.wait_for(condition, timeout):
                raise TimeoutError(complaint)
