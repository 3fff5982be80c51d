"""The service: which request is what, who may ask, and what it answers.

A request passes three gates before its route, in the real server's order: the
framework's redirect of trailing slashes, the Referer of form posts, the
welcome modal.  What they refuse carries no cookie; everything after them does.

The routes' own order of checks is kept as well, for it shows: a conversation is
looked up before the rate limit, the limit before the body [04, 06].
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from uuid import uuid4

import anyio

from h2o_client.emulator import routes
from h2o_client.emulator.engine import EngineLike, LiveEngine, lives
from h2o_client.emulator.generation import Generation
from h2o_client.emulator.handlers import Answered, Call, Stream
from h2o_client.emulator.script import Answer, Fault, Script, encode_body
from h2o_client.emulator.store import Model, StopRecord, Store
from h2o_client.emulator.upstream import ERROR_BODIES
from h2o_client.emulator.web import (
    FORM_TYPES,
    MODAL,
    NO_CONVERSATION,
    RATE_LIMITED,
    HttpError,
    InternalError,
    Request,
    Response,
    empty,
    fatal_error,
    framed_json,
    hook_error,
    html,
    origin_of,
    redirect,
    session_cookie,
)

logger = logging.getLogger(__name__)

YEAR = 365 * 24 * 3600
Spawn = Callable[..., object]
Asked = Callable[[str, object, int, str], None]
"""Takes what a model was asked: the session, the body, the tokens that came, the outcome."""


@dataclass(frozen=True, slots=True)
class Config:
    """What one emulator was asked to be."""

    models: Sequence[Model]
    engine: EngineLike
    pace: float
    stop_poll: float
    version: str
    rate_limit: int | None
    cookie_name: str
    token: str | None
    base_path: str
    public_scheme: str = "http"
    engines: Mapping[str, EngineLike] = field(default_factory=dict[str, EngineLike])  # by model
    max_generations: int = 1000


class Service:
    """The service's routes and what runs behind them."""

    def __init__(
        self, config: Config, store: Store, script: Script, changed: Callable[[], None]
    ) -> None:
        self.config = config
        self.store = store
        self.script = script
        self.changed = changed
        self.models = list(config.models)
        self.origin = ""
        self.one_host = True  # else it listens on all addresses, and goes by the Host header
        self.spawn: Spawn = _no_spawn
        self.asked: Asked = _nobody_asks
        self.generations: set[Generation] = set()
        self.asides = 0  # what is asked of a model beside them, such as titles
        self.started = 0
        self.stops = 0

    async def handle(self, request: Request) -> Answered:
        """Answer one request."""
        found = routes.find(request.path, self.config.base_path)
        if found.normal is not None:
            location = f"{found.normal}?{request.query}" if request.query else found.normal
            return Response(308, [("location", location), ("x-sveltekit-normalize", "1")])
        if found.route is not None and found.route.static:
            return routes.version_file()
        session = request.cookie(self.config.cookie_name) or str(uuid4())
        try:
            refused = self._refuse(request, found, session)
        except ValueError:
            return fatal_error(request, 500, "Internal Error")  # a Referer that is no URL [02]
        if refused is not None:
            return refused
        try:
            call = Call(self, request, session, found.path, found.ids)
            answer = await routes.dispatch(call, found)
        except HttpError as error:
            answer = fatal_error(request, error.status, error.message)
        except Exception:  # the web framework does the same with what nobody expected
            logger.exception("emulator: %s %s failed", request.method, request.path)
            answer = fatal_error(request, 500, "Internal Error")
        if answer is not None and not (found.path == "/logout" and request.method == "POST"):
            expires = formatdate(self.store.clock() + YEAR, usegmt=True)
            answer.headers.append(session_cookie(self.config.cookie_name, session, expires))
        return answer

    def _refuse(self, request: Request, found: routes.Found, session: str) -> Response | None:
        refused = self.refuse_stranger(request)
        if refused is not None:
            return refused
        if request.method == "POST" and request.media_type in FORM_TYPES:
            referer = request.header("referer")
            if not referer:
                return hook_error(request, 403, "Non-JSON form requests need to have a referer")
            own = self.origin if self.one_host else _own_origin(request)
            if origin_of(referer) != f"{self.config.public_scheme}:{own.partition(':')[2]}":
                return hook_error(request, 403, "Invalid referer for POST request")
        open_to_all = found.route is not None and found.route.name in {"settings", "login"}
        if request.method not in {"GET", "HEAD", "OPTIONS"} and not open_to_all:
            settings = self.store.sessions.use(session)
            if settings is None or settings.accepted_at is None:
                return hook_error(request, 405, MODAL)
        return None

    def refuse_stranger(self, request: Request) -> Response | None:
        """Refuse who has not the token, where there is one."""
        token = self.config.token
        # The text is from the server's source: a login was not measured.
        if token is not None and not _same(request.header("authorization"), f"Bearer {token}"):
            return hook_error(request, 401, "You have to be logged in.")
        return None

    def limit(self, call: Call, *, message: bool) -> None:
        """Refuse what is too much.

        On 0.4 only messages count, those that were let through, by session; on 0.6
        refused ones and titles do too, and by address [06_rate_limit of both].
        """
        limit, store = self.config.rate_limit, self.store
        session, address = call.session, call.request.address
        if self.config.version >= "0.6":
            store.record_event(session, address)
            count = max(store.count_events(session), store.count_events(session, address))
        elif not message:
            return
        else:
            count = store.count_events(session)
        if limit is not None and count > limit:
            raise HttpError(429, RATE_LIMITED)
        if self.config.version < "0.6":
            store.record_event(session, address)

    def model(self, name: str) -> Model | None:
        """A model on offer."""
        return next((model for model in self.models if model.name == name), None)

    def engine(self, model: str) -> EngineLike:
        """What answers for a model."""
        return self.config.engines.get(model, self.config.engine)

    def live_engines(self) -> list[LiveEngine]:
        """The engines that have a life, each once."""
        used = [self.engine(model.name) for model in self.config.models]
        return list(dict.fromkeys(life for item in used if (life := lives(item)) is not None))

    @property
    def full(self) -> bool:
        """Whether as much is being generated as may be."""
        return len(self.generations) + self.asides >= self.config.max_generations

    def take_answer(self) -> Answer | None:
        """The answer of the next message, if the engine is not to be asked."""
        return Answer(status=429) if self.full else self.script.take_answer()

    def retire(self, name: str) -> None:
        """Serve a model no longer."""
        if name == self.models[0].name:
            raise ValueError("the default model cannot be retired")
        self.models = [model for model in self.models if model.name != name]

    async def answer_message(self, generation: Generation) -> Answered:
        """Start a generation and answer with it, once it has begun to speak."""
        self.generations.add(generation)
        self.started += 1
        self.changed()
        self.spawn(self._run, generation)
        try:
            head = await generation.opened()
        except BaseException:  # a cancellation too: nobody listens to the generation any more
            generation.leave()
            raise
        if generation.down:
            raise InternalError
        if head is None:
            return None
        return Stream(head.status, list(head.headers), generation.feed, generation.leave)

    async def _run(self, generation: Generation) -> None:
        try:
            await generation.run(self.engine(generation.request.model), self.config.pace)
        finally:
            self.stops += generation.was_stopped
            self.generations.discard(generation)
            asked = generation.session, generation.request.body
            self.asked(*asked, generation.tokens, generation.outcome)
            self.changed()

    def stop(self, conversation: str) -> None:
        """Record a stop, to be noticed a little later."""
        self.spawn(self._notice, conversation, self.store.record_stop(conversation))

    async def _notice(self, conversation: str, record: StopRecord) -> None:
        await anyio.sleep(self.config.stop_poll)
        record.seen = True
        for generation in tuple(self.generations):
            if generation.conversation == conversation:
                generation.wake()

    def was_stopped(self, conversation: str, order: int) -> bool:
        """Whether a stop was noticed that is younger than the prompt [28, 11b]."""
        record = self.store.stop_record(conversation)
        return record is not None and record.seen and record.order > order

    def fault(self, request: Request, fault: Fault) -> Response:
        """The response of a scripted fault: by default what the real server says."""
        status = fault.status or 500
        extra = list(fault.headers.items())
        if fault.body is not None:
            body, content_type = encode_body(fault.body, fault.content_type)
            length = ("content-length", str(len(body)))
            usual = [length, ("content-type", content_type)]
            return Response(status, _replaced(usual, extra), body)
        answer = _usual(request, status)
        answer.headers = _replaced(answer.headers, extra)
        return answer


def _replaced(usual: list[tuple[str, str]], given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The usual headers, but for those that are given."""
    names = {name.lower() for name, _ in given}
    return [*((name, value) for name, value in usual if name.lower() not in names), *given]


def _same(given: str | None, secret: str) -> bool:
    """Whether a secret was given, without telling by the time it takes how much of it was."""
    return hmac.compare_digest((given or "").encode(), secret.encode())


def _own_origin(request: Request) -> str:
    return origin_of(f"http://{request.header('host') or ''}")


def _usual(request: Request, status: int) -> Response:
    hook = {401: "You have to be logged in.", 403: "Invalid referer for POST request", 405: MODAL}
    own = {404: NO_CONVERSATION, 410: "Model not available anymore", 429: RATE_LIMITED}
    if status in hook:
        return hook_error(request, status, hook[status])
    if status == 413:
        body = b"Invalid request body"
        return Response(413, [("content-length", str(len(body)))], body)
    if status == 500 and request.kind in {"settings", "delete_all"}:
        return framed_json(500, {"type": "error", "error": {"message": "Internal Error"}})
    if status in own or status == 500:
        return fatal_error(request, status, own.get(status, "Internal Error"))
    if status in ERROR_BODIES:
        return framed_json(status, ERROR_BODIES[status])
    if 300 <= status < 400:
        return redirect(status, "/")
    if status < 300:
        return empty() if status == 200 else Response(status, [("content-length", "0")])
    body = html(status, "The server is temporarily unable to service your request.")
    return Response(
        status, [("content-length", str(len(body))), ("content-type", "text/html")], body
    )


def _nobody_asks(*_: Any) -> None:
    """Nothing is recorded."""


def _no_spawn(*_: Any) -> None:
    raise RuntimeError("the emulator is not running")
