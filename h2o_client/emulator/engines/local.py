"""A model in this process: torch and transformers, loaded when the emulator starts.

Each answer runs `model.generate` in its own thread, so that several conversations can run at once.
A logits processor samples each token, because every answer needs its own random numbers and the
log-probability of the sampled token. A stopping criterion forwards the token, and ends the answer
when it is complete or the reader has left, so a stop takes effect within a token.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread

from h2o_client.emulator.engine import (
    EngineError,
    FinishReason,
    GenerationError,
    GenerationRequest,
    LiveEngine,
    Token,
)
from h2o_client.emulator.engines.turns import chat_messages, without_oldest, without_system
from h2o_client.emulator.parameters import Options, invalid
from h2o_client.extras import install_hint

for _needed in ("torch", "transformers"):
    if importlib.util.find_spec(_needed) is None:
        raise ImportError(f"{_needed} is not installed ({install_hint('local-model')})")

SUGGESTED = "h2oai/h2o-danube3-500m-chat"
"""H2O's own small chat model: half a billion parameters, about 1 GB to download."""

HEARTBEAT = 5.0
"""Seconds between two progress lines while the weights load."""

logger = logging.getLogger(__name__)


class TransformersEngine(LiveEngine):
    """A causal language model of transformers, in this process.

    Args:
        name: Its name on the Hugging Face hub, or a folder.
        device: The device to run on; None for a GPU if available.
    """

    def __init__(self, name: str, *, device: str | None = None) -> None:
        if not name:
            raise EngineError(f"transformers:NAME needs a name or a folder, such as {SUGGESTED}")
        self.name = name
        self.device = device
        self._model: Any = None
        self._tokenizer: Any = None

    async def start(self, say: Callable[[str], None]) -> None:
        """Load the weights; closing the emulator does not wait for this."""
        say(f"loading {self.name} …")
        began = time.monotonic()
        loaded: Future[tuple[Any, Any]] = Future()

        def load() -> None:
            try:
                loaded.set_result(self._load())
            except Exception as error:  # noqa: BLE001 -- raised below, in the caller
                loaded.set_exception(error)

        # A daemon: loading cannot be interrupted, and must not delay the end of the process.
        threading.Thread(target=load, name="h2o-load", daemon=True).start()
        told = 1
        while not loaded.done():
            await anyio.sleep(0.02)
            passed = time.monotonic() - began
            if passed > told * HEARTBEAT:
                say(f"loading {self.name}: {passed:.0f} s")
                told += 1
        try:
            self._model, self._tokenizer = loaded.result()
        except Exception as error:
            raise self._cannot_load(error) from error
        size = sum(weight.numel() for weight in self._model.parameters())
        passed = time.monotonic() - began
        say(
            f"loaded {self.name}: {size / 1e6:.1f} million parameters,"
            f" on {self._model.device}, in {passed:.1f} s"
        )

    async def aclose(self) -> None:
        """Release the weights."""
        self._model = self._tokenizer = None

    def template(self) -> str | None:
        """Its own chat template, if any."""
        try:
            tokenizer = self._tokenizer or self._load_tokenizer()
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from error
        found: object = tokenizer.chat_template
        return found if isinstance(found, str) else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the tokens as they are sampled."""
        waits = anyio.CapacityLimiter(1)
        answer = await anyio.to_thread.run_sync(self._begin, request, limiter=waits)
        thread = threading.Thread(target=answer.run, name="h2o-generate", daemon=True)
        thread.start()
        try:
            while True:
                made = await anyio.to_thread.run_sync(
                    answer.made.get, abandon_on_cancel=True, limiter=waits
                )
                if isinstance(made, Exception):  # such as out of memory
                    logger.warning("%s failed: %s", self.name, made)
                    text = f"Request failed during generation: Server error: {made}"
                    raise GenerationError(text) from made
                yield made
                if made.finish is not None:
                    return
        finally:
            answer.stopped.set()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join, limiter=anyio.CapacityLimiter(1))

    def _load(self) -> tuple[Any, Any]:
        tokenizer = self._load_tokenizer()
        transformers = _library("transformers")
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(self._where(), dtype="auto")
        return model.to(self.device or _best_device()).eval(), tokenizer

    def _load_tokenizer(self) -> Any:
        return _library("transformers").AutoTokenizer.from_pretrained(self._where())

    def _where(self) -> str:
        """The name or folder; a path is never looked up on the hub."""
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            return str(folder)
        if self.name.startswith(("/", ".", "~")) or self.name.count("/") > 1 or "\\" in self.name:
            raise FileNotFoundError("the folder does not exist")
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
        """The prompt's ids, without the oldest turns or truncated by `truncate` if necessary."""
        turns = without_system(chat_messages(request))
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
            # A template is a program and can raise anything, such as for unexpected roles.
            raise invalid(f"the chat template rejected the messages: {error}") from error
        return cast("list[int]", tokenizer.encode(text, add_special_tokens=False))


class _Answer:
    """An answer that is being generated.

    Attributes:
        made: Its tokens, the last one with a finish reason; or an error.
        stopped: Set when the reader has left.
    """

    def __init__(
        self, model: Any, tokenizer: Any, ids: list[int], options: Options, room: int
    ) -> None:
        self.made: queue.SimpleQueue[Token | Exception] = queue.SimpleQueue()
        self.stopped = threading.Event()
        self._torch = torch = _library("torch")
        self._model = model
        self._tokenizer = tokenizer
        self._ids = torch.tensor([ids], device=model.device)
        self._options = options
        self._room = room
        self._ends = _ends(model, tokenizer)
        self._specials = frozenset(tokenizer.all_special_ids) | self._ends
        self._seed: int | None = None
        if options.do_sample:
            self._seed = secrets.randbits(64) if options.seed is None else options.seed
            self._random = torch.Generator(device=model.device).manual_seed(self._seed)
        self._logprob = 0.0  # of the last sampled token
        self._count = 0
        self._said: list[int] = []
        self._from = self._to = 0  # the range of ids whose text is final
        self._text = ""
        self._held: Token | None = None  # a token whose text is not known yet

    def run(self) -> None:
        """Generate to the end."""
        try:
            self._model.generate(
                self._ids,
                attention_mask=self._torch.ones_like(self._ids),
                max_new_tokens=self._room,
                do_sample=False,  # `_draw` leaves only one token to choose from
                repetition_penalty=self._options.repetition_penalty,
                pad_token_id=0,
                logits_processor=[*_warpers(self._options), self._draw],
                stopping_criteria=[self._is_done],
            )
        except Exception as error:  # noqa: BLE001 -- the reader of the tokens raises it
            self.made.put(error)

    def _draw(self, _: Any, scores: Any) -> Any:
        """Sample a token, and return scores that force it."""
        torch = self._torch
        logprobs = torch.log_softmax(scores.float(), dim=-1)
        if self._options.do_sample:
            chosen = torch.multinomial(logprobs.exp(), 1, generator=self._random)
        else:
            chosen = logprobs.argmax(dim=-1, keepdim=True)
        self._logprob = float(logprobs[0, chosen.item()])
        return torch.full_like(scores, -math.inf).scatter(1, chosen, 0)

    def _is_done(self, ids: Any, _: Any) -> Any:
        tokens = self.add(int(ids[0, -1]), self._logprob)
        for token in tokens:
            self.made.put(token)
        done = self.stopped.is_set() or any(token.finish is not None for token in tokens)
        return self._torch.full((1,), done, device=ids.device)

    def add(self, number: int, logprob: float) -> list[Token]:
        """Add one id; a token is held back until its text is known."""
        self._count += 1
        full = self._count >= self._room
        finish: FinishReason | None = "length" if full else None
        if number in self._ends:
            finish = "eos_token"
        tokens: list[Token] = []
        special = number in self._specials
        if special:
            text = str(self._tokenizer.decode([number]))
            if self._held is not None:  # an incomplete character, whose rest will not come
                tokens.append(replace(self._held, text=self._new_text(flush=True)))
        else:
            self._said.append(number)
            text = self._new_text(flush=full)
            self._text += text
            if any(stop in self._text for stop in self._options.stop):
                finish = "stop_sequence"
            if self._held is not None:
                tokens.append(self._held)
        token = Token(text, finish, number, logprob, special, self._seed, self._count)
        self._held = None if special or text or finish is not None else token
        return tokens if self._held is not None else [*tokens, token]

    def _new_text(self, *, flush: bool) -> str:
        """The text that the last id added; empty while a character is incomplete.

        An id's text depends on the ids before it, so the new text is the difference that it makes.
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


def _warpers(options: Options) -> list[Any]:
    """The warpers that `model.generate` would apply before sampling, in the same order."""
    transformers = _library("transformers")
    made: list[Any] = []
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
    """A package, imported by name so that type checks do not depend on whether it is installed.

    It is imported on demand, because the import takes seconds.
    """
    return importlib.import_module(name)


def _best_device() -> str:
    torch = _library("torch")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
