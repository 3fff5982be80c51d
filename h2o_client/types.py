"""What users hold: messages, tokens, replies, and what can be set.

Values, without behaviour that would need a connection. They are frozen, compare by content,
pickle and copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from typing import Any, NamedTuple, Self, TypeAlias

from h2o_client.safe_text import split_reasoning, to_html

DEFAULT_BASE_URL = "https://gpt-gm.h2o.ai"
DEFAULT_MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who speaks: "user", "assistant" or "system".
        content: what is said.
        id: the service's id of the message, where it is known.
        score: the vote on it: -1, 0 or 1, where there is one.
        created_at: when it was stored, where the server told.
        updated_at: when it was changed last, where the server told.
        partial: True for an answer that broke off or was stopped.
        web_search_id: the web search that the answer rests on, where there is one.
        parent: the id of the message that it follows, on servers of 2025.
        children: the ids of the messages that follow it, the oldest first, on servers of 2025.
    """

    role: str
    content: str
    id: str | None = None
    score: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    partial: bool = False
    web_search_id: str | None = None
    parent: str | None = None
    children: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.content

    def _repr_html_(self) -> str:
        """Render the Markdown, with any HTML in it as text; IPython calls this in notebooks."""
        return to_html(self.content.removeprefix(" "))


MessageLike: TypeAlias = Mapping[str, Any] | Message
Messages: TypeAlias = str | Sequence[MessageLike]


class Token(NamedTuple):
    """One token of an answer, as the model server sent it.

    A named tuple, because one is made for every token of every answer.

    Attributes:
        id: its number in the model's vocabulary; None for text that was recovered.
        text: its text, verbatim: a first token usually begins with a space.
        logprob: natural logarithm of its probability, where the server told.
        special: True for a control token such as the end token; its text is not shown.
    """

    id: int | None
    text: str
    logprob: float | None = None
    special: bool = False


class Event(Token):
    """Something in an answer's stream that is not text, as the server sent it: see `events()`.

    It is a special token with an empty text.

    Attributes:
        data: the event; its `type` says what it is.
    """

    data: Mapping[str, Any]

    def __new__(cls, data: Mapping[str, Any]) -> Self:
        """Make an event of what the server sent."""
        event = super().__new__(cls, None, "", None, True)
        event.data = data
        return event

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data,)


class Revision(Token):
    """The whole text of an answer, which takes the place of all texts before: see `events()`.

    It is a special token: its text is not one more piece of the answer.
    """

    def __new__(cls, text: str) -> Self:
        """Make one of the whole text."""
        return super().__new__(cls, None, text, None, True)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)


class File(NamedTuple):
    """A file to send with a message, as `files=` takes it.

    Attributes:
        name: its name.
        content: what is in it.
        type: its MIME type, such as "image/png"; "": what its name tells.
    """

    name: str
    content: bytes
    type: str = ""


FileLike: TypeAlias = "str | PathLike[str] | File"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer.

    Attributes:
        text: the answer. On servers of 2023 the exact join of the texts of the tokens shown, which
            usually begins with a space; on servers of 2025 the server's final text, without the
            white space at its end.
        model: the model that was asked.
        finish_reason: why the answer ended: "eos_token", "length", "stop_sequence", "stopped"
            (by the caller), or None if it cannot be told. It is the server's word where the
            caller asked for `details=True`, otherwise concluded from the last token.
        generated_tokens: how many tokens the model generated, the end token included; of a
            recovered answer, how many came before the connection broke.
        conversation_id: the conversation that it was part of; `chat()` and `stream()` delete it.
        message_id: the id of the message that it answers; "" on servers of 2025, where only
            `history()` tells it.
        response_id: the id of the answer; on servers of 2025 that of its generation, which
            `send(parent=…)` takes as well.
        recovered: True when the connection broke and the rest was fetched from the server.
        web_search: the entries of the web search, where one was asked for.
        revised: True when the server generated again in the middle of the answer, and texts that
            were given before are not in it: `text` is the answer.
    """

    text: str
    model: str
    finish_reason: str | None
    generated_tokens: int
    conversation_id: str
    message_id: str
    response_id: str
    recovered: bool = False
    web_search: tuple["WebSearchEntry", ...] = ()
    revised: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, in `<think>` tags; "" if nothing."""
        return split_reasoning(self.text)[0]

    @property
    def answer(self) -> str:
        """The text without the model's reasoning."""
        return split_reasoning(self.text)[1]

    def _repr_html_(self) -> str:
        """Render the Markdown, with any HTML in it as text; IPython calls this in notebooks."""
        return to_html(self.text.removeprefix(" "))


class WebSearchSource(NamedTuple):
    """A page that a web search has found.

    Attributes:
        title: its title.
        link: its URL, as the server wrote it.
        hostname: the host in that URL.
    """

    title: str
    link: str
    hostname: str


@dataclass(frozen=True, slots=True)
class WebSearchEntry:
    """One step of a web search, as the server reports it.

    Attributes:
        type: "update", "error", "sources" or "result".
        message: what is done, or what failed; "" in a result.
        args: details: the search query, the error's text.
        sources: the pages that the answer rests on, in an entry of the type "sources".
    """

    type: str
    message: str = ""
    args: tuple[Any, ...] = ()
    sources: tuple[WebSearchSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits, in seconds; None switches one off.

    Not covered: the resolution of host names, which no program can interrupt. On the sync client
    neither is a server that lets the bytes of its headers drip in, or interim responses (100
    Continue), each within the limit, in the clean-up too; and making a connection and waiting for
    the response may each take what is left of `total`. A sync call that waits for a response is
    not woken by `stop()` or `close()` from another thread before the server or one of these
    limits ends the wait.

    Attributes:
        connect: for making a connection.
        first_token: from sending the message to the answer's first token; servers of 2023 send
            their headers with it, and not before. Where `total` is not set, a message
            also waits as long as this until the turn before it is stored.
        idle: between two tokens, and for each of the small requests around the message; without
            `total`, `history()` and its like wait so long until the last turn is stored. When
            this or `first_token` is exceeded, the server is polled once for the answer; the
            message is not asked again, as the server was about to answer it.
        total: for one whole call, without telling the server at its end.
        cleanup: for telling the server, at the end of a call, to stop and delete.
        recovery: for a sign of an answer whose connection was lost; as long again as the answer
            had been going, and anew whenever the server shows more of it.
    """

    # 20_slow_stream_timing: when the headers come.

    connect: float | None = 10.0
    first_token: float | None = 120.0
    idle: float | None = 60.0
    total: float | None = None
    cleanup: float = 5.0
    recovery: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect", "first_token", "idle", "total", "cleanup", "recovery"):
            value = getattr(self, name)
            if value is None and name not in ("cleanup", "recovery"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Timeouts.{name} must be a number of seconds, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"Timeouts.{name} must be more than 0 seconds, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPreview:
    """The prompt as the model would get it if a message were asked again.

    Attributes:
        prompt: the prompt, with the model's own marks around each message.
        model: the model.
        parameters: the parameters of the service's own page.
    """

    prompt: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __str__(self) -> str:
        return self.prompt
