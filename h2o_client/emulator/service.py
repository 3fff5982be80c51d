"""What the service does, whichever dialect it is asked in.

It holds the configuration, the store, the script and the generations that run.
A face (`chat_ui_2023`) turns requests into calls of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from h2o_client.emulator.engine import EngineLike, LiveEngine
from h2o_client.emulator.generation import Generation
from h2o_client.emulator.script import Answer, Script
from h2o_client.emulator.store import Model, StopRecord, Store

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
    store_delay: float = 0.0


class Service:
    """What one service holds, and what runs in it."""

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

    def model(self, name: str) -> Model | None:
        """A model on offer."""
        return next((model for model in self.models if model.name == name), None)

    def engine(self, model: str) -> EngineLike:
        """What answers for a model."""
        return self.config.engines.get(model, self.config.engine)

    def live_engines(self) -> list[LiveEngine]:
        """The engines to start and close, each once."""
        used = [self.engine(model.name) for model in self.config.models]
        return list(dict.fromkeys(item for item in used if isinstance(item, LiveEngine)))

    @property
    def full(self) -> bool:
        """Whether as much is being generated as may be."""
        return len(self.generations) + self.asides >= self.config.max_generations

    def take_answer(self) -> Answer | None:
        """The answer of the next message, if the engine is not to be asked."""
        return Answer(status=429) if self.full else self.script.take_answer()

    def store_delay(self, answer: Answer | None) -> float:
        """Seconds from the end of a response until its turn is stored."""
        if answer is not None and answer.store_delay is not None:
            return answer.store_delay
        return random.uniform(0, self.config.store_delay)  # noqa: S311 -- guards nothing

    def retire(self, name: str) -> None:
        """Serve a model no longer."""
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
        """Whether a stop was noticed that is younger than the prompt."""
        # 28, 11b
        record = self.store.stop_record(conversation)
        return record is not None and record.seen and record.order > order


def _nobody_asks(*_: Any) -> None:
    """Nothing is recorded."""


def _no_spawn(*_: Any) -> None:
    raise RuntimeError("the emulator is not running")
