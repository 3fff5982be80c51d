"""A model in this process: torch and transformers, loaded when the emulator starts.

Every answer has its own cache, random numbers and position; a step reads a part of
its prompt, or makes one token.  Steps run one at a time, in the order in which
they were asked for, on a worker thread: so several conversations go on by turns,
and a stop, which closes the generator, takes effect after the step that runs.

The steps are those of `model.generate`: the same penalties and warpers in the
same order, and log-probabilities of what was sampled from.  It is not called
itself, since it cannot be left between two tokens.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

from h2o_client.emulator.engine import (
    EngineError,
    FinishReason,
    GenerationError,
    GenerationRequest,
    LiveEngine,
    Token,
    UpstreamError,
)
from h2o_client.emulator.engines.turns import chat_messages, without_oldest
from h2o_client.emulator.parameters import Options, invalid

for _needed in ("torch", "transformers"):
    if importlib.util.find_spec(_needed) is None:
        raise ImportError(f"{_needed} is not installed: pip install 'h2o-chat-client[local-model]'")

SUGGESTED = "h2oai/h2o-danube3-500m-chat"
"""H2O's own small chat model: half a billion parameters, about 1 GB to download."""

HEARTBEAT = 5.0
"""Seconds between two lines that say that weights are still being loaded."""

AT_ONCE = 256
"""Tokens of a prompt that are read in one step: a long one must not keep the others waiting."""

R = TypeVar("R")
logger = logging.getLogger(__name__)


class TransformersEngine(LiveEngine):
    """A causal language model of transformers, in this process.

    Args:
        name: Its name on the Hugging Face hub, or a folder.
        device: Where it runs; None takes a GPU where there is one.
    """

    def __init__(self, name: str, *, device: str | None = None) -> None:
        if not name:
            raise EngineError(f"transformers:NAME needs a name or a folder, such as {SUGGESTED}")
        self.name = name
        self.device = device
        self._model: Any = None
        self._tokenizer: Any = None
        self._turn = anyio.CapacityLimiter(1)

    async def start(self, say: Callable[[str], None]) -> None:
        """Load the weights; closing the emulator meanwhile does not wait for them."""
        self._turn = anyio.CapacityLimiter(1)
        say(f"loading {self.name} …")
        began = time.monotonic()
        loaded: list[tuple[Any, Any]] = []
        failures: list[Exception] = []

        def load() -> None:
            try:
                loaded.append(self._load())
            except Exception as error:  # noqa: BLE001 -- raised below, in the caller
                failures.append(error)

        # A daemon: what cannot be interrupted must not hold up the end of the process.
        thread = threading.Thread(target=load, name="h2o-load", daemon=True)
        thread.start()
        told = 1
        while thread.is_alive():
            await anyio.sleep(0.02)
            passed = time.monotonic() - began
            if passed > told * HEARTBEAT:
                say(f"loading {self.name}: {passed:.0f} s")
                told += 1
        if failures:
            raise self._cannot_load(failures[0]) from failures[0]
        self._model, self._tokenizer = loaded[0]
        size = sum(weight.numel() for weight in self._model.parameters())
        passed = time.monotonic() - began
        say(
            f"loaded {self.name}: {size / 1e6:.1f} million parameters,"
            f" on {self._model.device}, in {passed:.1f} s"
        )

    async def aclose(self) -> None:
        """Let go of the weights."""
        self._model = self._tokenizer = None

    def template(self) -> str | None:
        """Its own chat template, where it has one."""
        try:
            tokenizer = self._tokenizer or self._load_tokenizer()
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from error
        found: object = tokenizer.chat_template
        return found if isinstance(found, str) else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the tokens as they are sampled."""
        answer = await self._step(lambda: self._begin(request))
        while not answer.ready:
            await self._step(answer.read)
        while True:
            for token in await self._step(answer.step):
                yield token
                if token.finish is not None:
                    return

    async def _step(self, function: Callable[[], R]) -> R:
        try:
            # The limiter serves in the order of asking: that makes the turns.
            return await anyio.to_thread.run_sync(function, limiter=self._turn)
        except UpstreamError:
            raise
        except Exception as error:  # such as no memory for it
            logger.warning("%s failed: %s", self.name, error)
            text = f"Request failed during generation: Server error: {error}"
            raise GenerationError(text) from error

    def _load(self) -> tuple[Any, Any]:
        tokenizer = self._load_tokenizer()
        transformers = _library("transformers")
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(self._where(), dtype="auto")
        return model.to(self.device or _best_device()).eval(), tokenizer

    def _load_tokenizer(self) -> Any:
        return _library("transformers").AutoTokenizer.from_pretrained(self._where())

    def _where(self) -> str:
        """The name, or the folder; what looks like one is not asked for on the hub."""
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            return str(folder)
        if self.name.startswith(("/", ".", "~")) or self.name.count("/") > 1 or "\\" in self.name:
            raise FileNotFoundError("there is no such folder")
        return self.name

    def _cannot_load(self, error: Exception) -> EngineError:
        return EngineError(f"cannot load {self.name}: {' '.join(str(error).split())}")

    def _begin(self, request: GenerationRequest) -> _Answer:
        options = Options.of(request.parameters)
        room = options.max_new_tokens
        most: object = getattr(
            self._model.config.get_text_config(), "max_position_embeddings", None
        )
        ids = self._prompt(request, options, most if isinstance(most, int) else 0)
        if isinstance(most, int):
            if len(ids) >= most:
                raise invalid(f"`inputs` must have less than {most} tokens. Given: {len(ids)}")
            room = min(room, most - len(ids))
        return _Answer(self._model, self._tokenizer, ids, options, room)

    def _prompt(self, request: GenerationRequest, options: Options, most: int) -> list[int]:
        """The prompt's ids: the oldest turns go where there is no room, then ids for `truncate`."""
        turns = chat_messages(request)
        ids = self._encode(turns, request)
        room = min(options.truncate or len(ids), most - 1 if most else len(ids))
        while len(ids) > room and len(turns) > 2:
            turns = without_oldest(turns)
            ids = self._encode(turns, request)
        return ids[-options.truncate :] if options.truncate else ids

    def _encode(self, turns: list[dict[str, str]], request: GenerationRequest) -> list[int]:
        tokenizer = self._tokenizer
        if not tokenizer.chat_template:
            return cast("list[int]", tokenizer.encode(request.prompt))
        try:
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            # A template is a program: it raises what it likes, such as on roles out of turn.
            raise invalid(f"the chat template refuses it: {error}") from error
        return cast("list[int]", tokenizer.encode(text, add_special_tokens=False))


class _Answer:
    """One answer that is being made.

    Attributes:
        ready: Whether the prompt is read so far that the next step makes a token.
    """

    def __init__(
        self, model: Any, tokenizer: Any, ids: list[int], options: Options, room: int
    ) -> None:
        self._torch = torch = _library("torch")
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._room = room
        self._ids = torch.tensor([ids], device=model.device)
        self._next = self._ids
        self._cache: Any = None
        self.ready = len(ids) <= AT_ONCE
        keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._more = {"logits_to_keep": 1} if keep else {}  # of a long prompt only the last
        self._processors = _processors(options)
        self._ends = _ends(model, tokenizer)
        self._specials = frozenset(tokenizer.all_special_ids)
        self._seed: int | None = None
        if options.do_sample:
            self._seed = secrets.randbits(64) if options.seed is None else options.seed
            self._random = torch.Generator(device=model.device).manual_seed(self._seed)
        self._said: list[int] = []
        self._from = self._to = 0  # the ids whose text is known, and may change no more
        self._text = ""
        self._count = 0
        self._held: Token | None = None  # its text is still to come

    def read(self) -> None:
        """Read a part of the prompt."""
        part, rest = self._next[:, :AT_ONCE], self._next[:, AT_ONCE:]
        self._forward(part)
        if self._cache is None:  # a model that keeps nothing has to see all at once
            self.ready = True
        else:
            self._next = rest
            self.ready = rest.shape[-1] <= AT_ONCE

    def step(self) -> list[Token]:
        """Make one token; it is kept back while its text is not known."""
        number, logprob = self._sample()
        self._count += 1
        full = self._count >= self._room
        special = number in self._specials or number in self._ends
        finish: FinishReason | None = "length" if full else None
        if number in self._ends:
            finish = "eos_token"
        made: list[Token] = []
        if special:
            text = str(self._tokenizer.decode([number]))
            if self._held is not None:  # half a character, and the rest does not come
                made.append(replace(self._held, text=self._new_text(flush=True)))
        else:
            self._said.append(number)
            text = self._new_text(flush=full)
            self._text += text
            if any(stop in self._text for stop in self._options.stop):
                finish = "stop_sequence"
            if self._held is not None:
                made.append(self._held)
        self._held = None
        token = Token(text, finish, number, logprob, special, self._seed, self._count)
        if not special and not text and finish is None:
            self._held = token
            return made
        return [*made, token]

    def _sample(self) -> tuple[int, float]:
        torch = self._torch
        logits = self._forward(self._next)
        with torch.inference_mode():
            scores = logits[:, -1].to(dtype=torch.float32, copy=True)
            for processor in self._processors:
                scores = processor(self._ids, scores)
            logprobs = torch.log_softmax(scores, dim=-1)
            if self._options.do_sample:
                chosen = torch.multinomial(logprobs.exp(), 1, generator=self._random)
            else:
                chosen = scores.argmax(dim=-1, keepdim=True)
            self._ids = torch.cat([self._ids, chosen], dim=-1)
            self._next = self._ids if self._cache is None else chosen
            return int(chosen.item()), float(logprobs[0, chosen.item()])

    def _forward(self, ids: Any) -> Any:
        """Let the model see ids; returns what it makes of them."""
        with self._torch.inference_mode():
            output = self._model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, **self._more
            )
        self._cache = getattr(output, "past_key_values", None)
        return output.logits

    def _new_text(self, *, flush: bool) -> str:
        """The text that came with the last id; none while a character is unfinished.

        An id's text depends on those before it: what is new is the difference that it makes.
        """
        known = self._decode(self._said[self._from : self._to])
        whole = self._decode(self._said[self._from :])
        if len(whole) <= len(known) or (whole.endswith("\ufffd") and not flush):
            return ""
        self._from, self._to = self._to, len(self._said)
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def _processors(options: Options) -> list[Any]:
    """What `model.generate` does to the scores, in its order."""
    transformers = _library("transformers")
    made: list[Any] = []
    if options.repetition_penalty != 1:
        made.append(transformers.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if not options.do_sample:
        return made
    if options.temperature != 1:
        made.append(transformers.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        made.append(transformers.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        made.append(transformers.TopPLogitsWarper(options.top_p))
    if options.typical_p < 1:
        made.append(transformers.TypicalLogitsWarper(options.typical_p))
    return made


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The end tokens, of the model and of its tokenizer."""
    found: set[int] = set()
    for item in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found.update(cast("list[int]", item) if isinstance(item, list) else [])
        found.update([item] if isinstance(item, int) else [])
    return frozenset(found)


def _library(name: str) -> Any:
    """A package, by name, so that types are checked alike with it and without it.

    It is imported when it is needed, for that alone takes seconds.
    """
    return importlib.import_module(name)


def _best_device() -> str:
    torch = _library("torch")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
