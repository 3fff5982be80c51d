"""A model in this process: torch and transformers, loaded when the emulator starts.

Every answer is a generator of its own, with its own cache, random numbers and
position; a step makes one token.  Steps run one at a time, in the order in which
they were asked for, on a worker thread: so several conversations go on by turns,
token by token, and a stop, which closes the generator, takes effect after the
step that runs.

The steps are those of `model.generate`: the same penalties and warpers in the
same order, and log-probabilities of what was sampled from.  It is not called
itself, since it cannot be left between two tokens.
"""

from __future__ import annotations

import importlib
import inspect
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import anyio
import anyio.to_thread

from h2o_client.emulator.engine import (
    EngineError,
    FinishReason,
    GenerationRequest,
    LiveEngine,
    Token,
    UpstreamError,
)
from h2o_client.emulator.engines.turns import chat_messages, without_oldest

try:
    # By name, so that types are checked alike where they are installed and where they are not.
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
except ModuleNotFoundError as missing:
    raise ImportError(
        f"{missing.name} is not installed: pip install 'h2o-chat-client[local-model]'"
    ) from None

SUGGESTED = "h2oai/h2o-danube3-500m-chat"
"""H2O's own small chat model: half a billion parameters, about 1 GB to download."""

HEARTBEAT = 5.0
"""Seconds between two lines that say that weights are still being loaded."""

DEFAULT_NEW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """Generation parameters, checked."""

    temperature: float
    top_k: int
    top_p: float
    typical_p: float
    repetition_penalty: float
    do_sample: bool
    max_new_tokens: int
    truncate: int
    seed: int
    stop: tuple[str, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Options:
        """Read them; what is missing or null changes nothing.

        Raises:
            UpstreamError: One is not what it has to be.
        """
        stop: object = parameters.get("stop") or []
        if not isinstance(stop, list) or not all(
            isinstance(item, str) for item in cast("list[object]", stop)
        ):
            raise _invalid("`stop` must be a list of texts")
        sample: object = parameters.get("do_sample") or False
        if not isinstance(sample, bool):
            raise _invalid("`do_sample` must be true or false")
        seed = _number(parameters, "seed", None, whole=True, least=0, most=2**63 - 1)
        return cls(
            temperature=_number(parameters, "temperature", 1.0, above=0),
            top_k=int(_number(parameters, "top_k", 0, whole=True, above=0)),
            top_p=_number(parameters, "top_p", 1.0, above=0, most=1),
            typical_p=_number(parameters, "typical_p", 1.0, above=0, most=1),
            repetition_penalty=_number(parameters, "repetition_penalty", 1.0, above=0),
            do_sample=sample,
            max_new_tokens=int(
                _number(parameters, "max_new_tokens", DEFAULT_NEW_TOKENS, whole=True, above=0)
            ),
            truncate=int(_number(parameters, "truncate", 0, whole=True, above=0)),
            seed=secrets.randbits(63) if seed is None else int(seed),
            stop=tuple(item for item in cast("list[str]", stop) if item),
        )


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
        self.device = device or _best_device()
        self._model: Any = None
        self._tokenizer: Any = None
        self._turn = anyio.CapacityLimiter(1)

    async def start(self, say: Callable[[str], None]) -> None:
        """Load the weights; closing the emulator meanwhile does not wait for them."""
        self._turn = anyio.CapacityLimiter(1)
        say(f"loading {self.name} on {self.device} …")
        began = time.monotonic()
        failures: list[Exception] = []

        def load() -> None:
            try:
                self._load()
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
            text = " ".join(str(failures[0]).split())
            raise EngineError(f"cannot load {self.name}: {text}") from failures[0]
        size = sum(weight.numel() for weight in self._model.parameters())
        passed = time.monotonic() - began
        say(f"loaded {self.name}: {size / 1e6:.1f} million parameters in {passed:.1f} s")

    async def aclose(self) -> None:
        """Let go of the weights."""
        self._model = self._tokenizer = None

    def template(self) -> str | None:
        """Its own chat template, where it has one."""
        try:
            tokenizer = self._tokenizer or _load_tokenizer(self.name)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())
            raise EngineError(f"cannot load {self.name}: {text}") from error
        found: object = tokenizer.chat_template
        return found if isinstance(found, str) else None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the tokens as they are sampled."""
        answer = await self._step(lambda: self._begin(request))
        while True:
            token = await self._step(answer.step)
            yield token
            if token.finish is not None:
                return

    async def _step(self, function: Callable[[], Any]) -> Any:
        # The limiter serves in the order of asking: that makes the turns.
        return await anyio.to_thread.run_sync(function, limiter=self._turn)

    def _load(self) -> None:
        tokenizer = _load_tokenizer(self.name)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(self.name, dtype="auto")
        self._model = model.to(self.device).eval()
        self._tokenizer = tokenizer

    def _begin(self, request: GenerationRequest) -> _Answer:
        options = Options.of(request.parameters)
        ids = self._prompt(request, options)
        most = getattr(self._model.config, "max_position_embeddings", None)
        room = options.max_new_tokens
        if isinstance(most, int):
            if len(ids) >= most:
                raise _invalid(f"`inputs` must have less than {most} tokens. Given: {len(ids)}")
            room = min(room, most - len(ids))
        return _Answer(self._model, self._tokenizer, ids, options, room)

    def _prompt(self, request: GenerationRequest, options: Options) -> list[int]:
        """The prompt's ids: whole turns go first where `truncate` wants fewer, then ids."""
        turns = chat_messages(request)
        ids = self._encode(turns, request)
        while options.truncate and len(ids) > options.truncate and len(turns) > 2:
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
            raise _invalid(f"the chat template refuses it: {error}") from error
        return cast("list[int]", tokenizer.encode(text, add_special_tokens=False))


class _Answer:
    """One answer that is being made."""

    def __init__(
        self, model: Any, tokenizer: Any, ids: list[int], options: Options, room: int
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._room = room
        self._ids = torch.tensor([ids], device=model.device)
        self._next = self._ids
        self._cache: Any = None
        keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._more = {"logits_to_keep": 1} if keep else {}  # of a long prompt only the last
        self._processors = _processors(options)
        self._ends = _ends(model, tokenizer)
        self._specials = frozenset(tokenizer.all_special_ids)
        self._random = torch.Generator(device=model.device).manual_seed(options.seed)
        self._said: list[int] = []
        self._from = self._to = 0  # the ids whose text is known, and may change no more
        self._text = ""
        self._count = 0

    def step(self) -> Token:
        """Make one token."""
        with torch.inference_mode():
            number, logprob = self._sample()
        self._count += 1
        full = self._count >= self._room
        seed = self._options.seed
        if number in self._specials or number in self._ends:
            finish: FinishReason | None = None
            if number in self._ends:
                finish = "eos_token"
            elif full:
                finish = "length"
            text = str(self._tokenizer.decode([number]))
            return Token(text, finish, number, logprob, True, seed, self._count)
        self._said.append(number)
        text = self._new_text(flush=full)
        self._text += text
        if any(stop in self._text for stop in self._options.stop):
            return Token(text, "stop_sequence", number, logprob, False, seed, self._count)
        finish = "length" if full else None
        return Token(text, finish, number, logprob, False, seed, self._count)

    def _sample(self) -> tuple[int, float]:
        output = self._model(
            input_ids=self._next, past_key_values=self._cache, use_cache=True, **self._more
        )
        self._cache = getattr(output, "past_key_values", None)
        scores = output.logits[:, -1].to(dtype=torch.float32, copy=True)
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


def _load_tokenizer(name: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(name)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _number(
    parameters: Mapping[str, Any],
    name: str,
    default: Any,
    *,
    whole: bool = False,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    value: object = parameters.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _invalid(f"`{name}` must be a {'whole ' if whole else ''}number")
    if above is not None and not value > above:
        raise _invalid(f"`{name}` must be strictly positive")
    if (least is not None and value < least) or (most is not None and value > most):
        raise _invalid(f"`{name}` is out of its range")
    return value


def _invalid(text: str) -> UpstreamError:
    body = {"error": f"Input validation error: {text}", "error_type": "validation"}
    return UpstreamError(422, body)
