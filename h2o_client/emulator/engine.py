"""Engines, which generate the answers instead of a real service's model.

The service gives an engine a `GenerationRequest`, with the prompt as the real service would send it
to its model server, and the engine yields tokens. `upstream` turns them into server-sent events.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from h2o_client.emulator.prompt import ASSISTANT, ENTITLE, SEPARATOR, SUMMARIZE, USER
from h2o_client.emulator.script import Answer, split_words

FinishReason = Literal["length", "eos_token", "stop_sequence"]
MAX_BODY = 16 * 1024 * 1024
"""Bytes of one answer after which the model server is considered broken."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request to the model server.

    Attributes:
        model: The model's name.
        prompt: The whole prompt, in the model's template.
        parameters: The client's parameters; the service does not add any.
        messages: The same history as (``user`` or ``assistant``, text).
        stream: Whether to answer with events, or with one JSON body.
        content_type: The content type that the client sent; the real service forwards it.
        body: The whole request body to the model server.
        context: The result of a web search, which is at the beginning of `prompt`.
        chat: The history as a 2025 server sends it, as messages of OpenAI's chat completions, with
            system message and images; empty for 2023 servers.
    """

    # 08

    model: str
    prompt: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: Sequence[tuple[str, str]] = ()
    stream: bool = True
    content_type: str = "application/json"
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: str = ""
    chat: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        text: Its text, including a leading space.
        finish: Set on the last token of an answer; without it, the end token is added.
        id: Its number in the vocabulary; None to invent one, with a log-probability.
        logprob: Its log-probability, if it has an `id`.
        special: Whether it is a control token, such as the end token, and not part of the answer.
        seed: On the last token, the seed of the answer, if known.
        generated: On the last token, the number of generated tokens, if known.
    """

    text: str
    finish: FinishReason | None = None
    id: int | None = None
    logprob: float | None = None
    special: bool = False
    seed: int | None = None
    generated: int | None = None


class UpstreamError(Exception):
    """Raised by an engine before its first token: the model server rejects the request.

    Args:
        status: The HTTP status, which is forwarded to the client.
        body: The body, as text or JSON.
        content_type: Its content type; None to derive it from the body.
        headers: More headers, such as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        body: str | Mapping[str, Any],
        content_type: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(f"model server answered {status}")
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = tuple(headers)


class UpstreamDownError(ConnectionError):
    """The model server cannot be reached: the service itself answers 500."""

    # 05_upstream_down


class GenerationError(Exception):
    """Raised by an engine in the middle of an answer: it becomes an error event.

    Args:
        error: What went wrong.
        error_type: validation, generation, overloaded or incomplete_generation.
    """

    def __init__(self, error: str, error_type: str = "generation") -> None:
        super().__init__(error)
        self.error = error
        self.error_type = error_type


class EngineError(Exception):
    """Raised when an engine cannot be created or started: a wrong name, missing weights."""


@runtime_checkable
class Engine(Protocol):
    """Answers prompts token by token."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        """Yield the tokens; the end token is added when the iterator is exhausted."""
        ...


class LiveEngine:
    """An engine that is started and closed, and sets its own pace."""

    async def start(self, say: Callable[[str], None]) -> None:
        """Start, before the emulator accepts connections.

        Args:
            say: Called with lines about the progress, to show to users.

        Raises:
            EngineError: It cannot be started.
        """

    async def aclose(self) -> None:
        """Release everything; it can be started again."""

    def template(self) -> str | None:
        """The template of its prompts; None for the service's own."""
        return None


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A model server's response.

    Attributes:
        status: Its status.
        headers: Its headers.
        body: Its body as it arrives; raises a `ConnectionError` if it breaks off.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: AsyncGenerator[bytes]

    async def read(self) -> bytes:
        """Read the whole body.

        Raises:
            ConnectionError: The body broke off, or is longer than `MAX_BODY` bytes.
        """
        data = bytearray()
        async with aclosing(self.body) as body:
            async for part in body:
                data += part
                if len(data) > MAX_BODY:
                    raise ConnectionError("the body is too long")
        return bytes(data)


class RawEngine(LiveEngine, ABC):
    """A real model server, whose responses are forwarded unchanged."""

    @abstractmethod
    async def respond(self, request: GenerationRequest) -> RawResponse:
        """Send it the request.

        Raises:
            UpstreamDownError: It cannot be reached.
        """


EngineLike = (
    Engine | RawEngine | Callable[[GenerationRequest], Answer | str | AsyncIterator[Token | str]]
)
"""An engine, or a function that answers a request."""


class RoteEngine:
    """A deterministic engine with a few scripted sentences.

    It greets, repeats the first message if asked, and otherwise echoes the question. It honours
    `max_new_tokens` and `stop`, as a model server does.
    """

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        """Yield the answer, limited by the parameters."""
        text = self.answer(request)
        if request.chat:  # these model servers do not add the leading space
            text = text.removeprefix(" ")
        tokens = split_words(text)
        limit = request.parameters.get("max_new_tokens") or 1024
        stops = [stop for stop in request.parameters.get("stop") or () if stop]
        said = ""
        for number, token in enumerate(tokens, 1):
            said += token
            if any(stop in said for stop in stops):
                yield Token(token, "stop_sequence")
                return
            if number == limit and number < len(tokens):
                yield Token(token, "length")
                return
            yield Token(token)

    def answer(self, request: GenerationRequest) -> str:
        """The whole answer, with the leading space that model servers add."""
        history = [*request.messages] or [("user", _last_question(request.prompt))]
        question = history[-1][1]
        if question.startswith(SUMMARIZE):
            return " " + " ".join(question.removeprefix(SUMMARIZE).split()[:4])
        if question.startswith(ENTITLE):
            return " " + " ".join(question.removeprefix(ENTITLE).strip('"').split()[:4])
        # A flattened history has "Role: content" lines, and "Assistant:" at the end.
        turns = re.findall(r"^User: (.*)$", question, re.MULTILINE)
        earlier = [text for sender, text in history[:-1] if sender == "user"] or turns[:-1]
        asked = turns[-1] if turns else question
        if earlier and re.search(r"\b(first|before|earlier|remember)\b", asked, re.IGNORECASE):
            return f" You asked {len(earlier)} before; the first was: {_clip(earlier[0])}"
        if re.match(r"\W*(hi|hello|hey)\b", asked, re.IGNORECASE):
            return " Hello! I am the emulator of an h2oGPT chat server. How can I help you?"
        return (
            f" You said: {_clip(asked)}\nThis is the emulator, answering turn {len(earlier) + 1}."
        )


def _last_question(prompt: str) -> str:
    return prompt.removesuffix(ASSISTANT).rpartition(USER)[2].removesuffix(SEPARATOR)


def _clip(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
