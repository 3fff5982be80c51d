"""Engines: what stands where the model would be.

The service hands an engine one `GenerationRequest` -- the prompt as the real
service would send it to its model server -- and the engine yields tokens.  How
they become server-sent events is `upstream`'s business, so that an engine that
passes a real model server through has nothing to know of this protocol.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

from h2o_client.emulator.prompt import ASSISTANT, SEPARATOR, SUMMARIZE, USER
from h2o_client.emulator.script import Answer, split_words

FinishReason = Literal["length", "eos_token", "stop_sequence"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the model server is asked.

    Attributes:
        model: The model's name.
        prompt: The whole prompt, in the model's template.
        parameters: The client's own: the service adds none [08].
        messages: The same history as (``user`` or ``assistant``, text).
        stream: Whether events are wanted, or one JSON body.
        content_type: The content type that the client sent: it is passed on.
        body: The whole request body to the model server.
    """

    model: str
    prompt: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    messages: Sequence[tuple[str, str]] = ()
    stream: bool = True
    content_type: str = "application/json"
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        text: Its text, a leading space included.
        finish: Set on the last token of an answer that did not come to its end token.
    """

    text: str
    finish: FinishReason | None = None


class UpstreamError(Exception):
    """Raised by an engine before its first token: the model server's own refusal.

    Args:
        status: The HTTP status; it is passed on to the client.
        body: The body, as text or JSON.
        content_type: Its content type; None goes by the body.
    """

    def __init__(
        self, status: int, body: str | Mapping[str, Any], content_type: str | None = None
    ) -> None:
        super().__init__(f"model server answered {status}")
        self.status = status
        self.body = body
        self.content_type = content_type


@runtime_checkable
class Engine(Protocol):
    """Anything that answers prompts token by token."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        """Yield the tokens; the end token is added when the iterator is exhausted."""
        ...


EngineLike = Engine | Callable[[GenerationRequest], Answer | str | AsyncIterator[Token | str]]
"""An engine, or a function that makes an answer of a request."""


class RoteEngine:
    """A deterministic engine that knows a few sentences by heart.

    It greets, says what it was told before, and otherwise repeats what it was
    asked.  It honours `max_new_tokens` and `stop`, as a model server does.
    """

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Token | str]:
        """Yield the answer, cut as the parameters say."""
        text = self.answer(request)
        tokens = split_words(text)
        limit = _positive(request.parameters.get("max_new_tokens"), 1024)
        stops = _texts(request.parameters.get("stop"))
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
        """The whole answer, with the space that model servers put before it."""
        history = [*request.messages] or [("user", _last_question(request.prompt))]
        question = history[-1][1]
        if question.startswith(SUMMARIZE):
            return " " + " ".join(question.removeprefix(SUMMARIZE).split()[:4])
        # A flattened history comes as "Role: content" lines with "Assistant:" at the end.
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


def _positive(value: object, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in cast("list[object]", value) if isinstance(item, str) and item)
