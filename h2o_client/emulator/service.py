"""The service, independent of the dialect.

It holds the configuration, the store, the script and the running generations. A face translates
requests into calls to it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from h2o_client.emulator.engine import EngineLike, GenerationRequest, LiveEngine
from h2o_client.emulator.generation import Generation, Job
from h2o_client.emulator.script import Answer, Script
from h2o_client.emulator.store import Model, StopRecord, Store
from h2o_client.emulator.upstream import ask

Spawn = Callable[..., object]
Asked = Callable[[str, object, int, str], None]
"""Called with a request to a model: the session, the body, the number of tokens, the outcome."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of a 2025 server, in seconds; the defaults are the real ones, except `retry`.

    Attributes:
        keep_alive: Between ``keepAlive`` events.
        journal: Between checks for new events: a client that reattached gets the tokens of one
            interval together, or a heartbeat.
        save: Between saves of the text so far.
        retry: Before a request that the model server rejected is retried; 0.5 to 1 on real servers.
    """

    # 06_disconnect

    keep_alive: float = 0.1
    journal: float = 0.25
    save: float = 3.0
    retry: float = 0.0


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one emulator."""

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
    store_delay: float = 0.0
    login: str | None = None
    cookie_secure: bool = True
    conversation_limit: int | None = None
    message_length: int | None = None
    intervals: Intervals = field(default_factory=Intervals)


class Service:
    """The state of one service, and its running generations."""

    def __init__(
        self, config: Config, store: Store, script: Script, changed: Callable[[], None]
    ) -> None:
        self.config = config
        self.store = store
        self.script = script
        self.changed = changed
        self.models = list(config.models)
        self.origin = ""
        self.one_host = True  # if False, it listens on all addresses, and uses the Host header
        self.spawn: Spawn = _no_spawn
        self.asked: Asked = _nobody_asks
        self.generations: set[Generation] = set()
        self._asides = 0  # other running requests to a model, such as for titles
        self.started = 0
        self.stops = 0

    def model(self, name: str) -> Model | None:
        """Return a model by its name, if it is offered."""
        return next((model for model in self.models if model.name == name), None)

    def engine(self, model: str) -> EngineLike:
        """The engine of a model."""
        return self.config.engines.get(model, self.config.engine)

    def live_engines(self) -> list[LiveEngine]:
        """The engines to start and close, each once."""
        used = [self.engine(model.name) for model in self.config.models]
        return list(dict.fromkeys(item for item in used if isinstance(item, LiveEngine)))

    @property
    def full(self) -> bool:
        """Whether the maximum number of generations is running."""
        return len(self.generations) + self._asides >= self.config.max_generations

    def job(self, request: GenerationRequest, session: str, conversation: str) -> Job:
        """Create a job for a message, with its scripted answer, if any."""
        answer = Answer(status=429) if self.full else self.script.take_answer()
        delay = None if answer is None else answer.store_delay
        if delay is None:
            delay = random.uniform(0, self.config.store_delay)  # noqa: S311 -- not for security
        cut = self.script.take_cut()
        return Job(request, session, conversation, answer, cut, delay, self.changed)

    def retire(self, name: str) -> None:
        """Stop serving a model."""
        if name == self.models[0].name:
            raise ValueError("the default model cannot be retired")
        self.models = [model for model in self.models if model.name != name]

    def start(self, generation: Generation) -> None:
        """Start a generation."""
        self.generations.add(generation)
        self.started += 1
        self.changed()
        self.spawn(self._run, generation)

    async def _run(self, generation: Generation) -> None:
        try:
            await generation.run(self.engine(generation.job.request.model), self.config.pace)
        finally:
            self.stops += generation.was_stopped
            self.generations.discard(generation)
            tokens, outcome = generation.tokens, generation.outcome
            self.asked(generation.job.session, generation.asked(), tokens, outcome)
            self.changed()

    async def ask_aside(
        self, request: GenerationRequest, session: str, asked: object = None
    ) -> str:
        """Ask a model for something other than an answer, such as a title, without streaming.

        Raises:
            ConnectionError: The model does not answer, or too many generations are running.
            ValueError: The model's answer is not a string.
        """
        if self.full:
            raise ConnectionError("too many generations")
        self._asides += 1
        try:
            engine = self.engine(request.model)
            upstream = await ask(request, None, engine, pace=0.0, hold=anyio.lowlevel.checkpoint)
            data = await upstream.read()
            self.asked(session, request.body if asked is None else asked, 0, "json sent")
            return str(json.loads(data)[0]["generated_text"])
        except (LookupError, TypeError) as error:
            raise ValueError("the answer is not a string") from error
        finally:
            self._asides -= 1

    def stop(self, conversation: str) -> None:
        """Record a stop, which is noticed after `Config.stop_poll` seconds."""
        self.spawn(self._notice, conversation, self.store.record_stop(conversation))

    async def _notice(self, conversation: str, record: StopRecord) -> None:
        await anyio.sleep(self.config.stop_poll)
        record.seen = True
        for generation in tuple(self.generations):
            if generation.job.conversation == conversation:
                generation.wake()

    def was_stopped(self, conversation: str, order: int) -> bool:
        """Whether a stop was noticed that is newer than the prompt."""
        # 28, 11b
        record = self.store.stop_record(conversation)
        return record is not None and record.seen and record.order > order


def _nobody_asks(*_: Any) -> None:
    """Nothing is recorded."""


def _no_spawn(*_: Any) -> None:
    raise RuntimeError("the emulator is not running")
