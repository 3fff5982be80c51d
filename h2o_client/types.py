"""The values that users work with: messages, tokens, replies and time limits.

They need no connection, are frozen, compare by content, and can be pickled and copied.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from os import PathLike
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

from h2o_client.safe_text import split_reasoning, to_html, to_html_table

T = TypeVar("T")
DEFAULT_BASE_URL = "https://gpt-gm.h2o.ai"
DEFAULT_MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
_LONGEST_CELL = 1000  # characters shown in a table cell, for example of a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "user", "assistant" or "system".
        content: the text.
        id: the service's id for the message, if known.
        score: the vote on it: -1, 0 or 1, if known.
        created_at: when it was stored, if the server says so.
        updated_at: when it was last changed, if the server says so.
        partial: True for an answer that was cut short or stopped.
        web_search_id: the id of the web search that the answer is based on, if any.
        parent: the id of the message that it follows, on 2025 servers.
        children: the ids of the messages that follow it, oldest first, on 2025 servers.
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


class Table(list[T]):
    """A list that notebooks show as a table.

    Args:
        items: the items.
        columns: the attributes that are shown.
    """

    def __init__(self, items: Iterable[T], columns: tuple[str, ...]) -> None:
        super().__init__(items)
        self._columns = columns

    def _repr_html_(self) -> str:
        """Render the table, without its empty columns; IPython calls this in notebooks."""
        rows = [[_in_cell(getattr(item, name)) for name in self._columns] for item in self]
        filled = [any(row[i] for row in rows) or not rows for i in range(len(self._columns))]
        return to_html_table(
            list(compress(self._columns, filled)), [list(compress(row, filled)) for row in rows]
        )


def _in_cell(value: object) -> str:
    """Return a value as the text of a cell in a table."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix(" ")
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"


MessageLike: TypeAlias = Mapping[str, Any] | Message
Messages: TypeAlias = str | Sequence[MessageLike]


class Token(NamedTuple):
    """One token of an answer, as the model server sent it.

    It is a named tuple for speed: one is made for every token of every answer.

    Attributes:
        id: its number in the model's vocabulary; None for recovered text.
        text: its text, verbatim: the first token usually begins with a space.
        logprob: natural logarithm of its probability, if the server sends it.
        special: True for a control token such as the end token; its text is not shown.
    """

    id: int | None
    text: str
    logprob: float | None = None
    special: bool = False


class Event(Token):
    """An event in an answer's stream that is not text, as the server sent it: see `events()`.

    It is a special token with an empty text.

    Attributes:
        data: the event; its `type` says what it is.
    """

    data: Mapping[str, Any]

    def __new__(cls, data: Mapping[str, Any]) -> Self:
        """Make an event from the data that the server sent."""
        event = super().__new__(cls, None, "", None, True)
        event.data = data
        return event

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data,)


class Revision(Token):
    """The whole text of an answer, which replaces all earlier texts: see `events()`.

    It is a special token: do not append its text to the answer.
    """

    def __new__(cls, text: str) -> Self:
        """Make a revision from the whole text."""
        return super().__new__(cls, None, text, None, True)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)


class File(NamedTuple):
    """A file to send with a message, for `files=`.

    Attributes:
        name: its name.
        content: its content.
        type: its MIME type, such as "image/png"; if "", it is guessed from the name.
    """

    name: str
    content: bytes
    type: str = ""


FileLike: TypeAlias = "str | PathLike[str] | File"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer.

    Attributes:
        text: the answer, verbatim. On 2023 servers it is the joined texts of the visible tokens,
            and usually begins with a space that the model generated; on 2025 servers it is the
            server's final text, without trailing white space. `str(reply)` drops the first space.
        model: the model that answered.
        finish_reason: why the answer ended: "eos_token", "length", "stop_sequence", "stopped"
            (by the caller), or None if unknown. The server reports it if you pass `details=True`;
            otherwise it is inferred from the last token.
        generated_tokens: how many tokens the model generated, including the end token; for a
            recovered answer, how many arrived before the connection was lost.
        conversation_id: the id of the conversation, which `chat()` and `stream()` delete.
        message_id: the id of the message that it answers; "" on 2025 servers, where only
            `history()` returns it.
        response_id: the id of the answer; on 2025 servers the id of its generation, which
            `send(parent=…)` also accepts.
        recovered: True if the connection was lost and the rest was fetched from the server.
        web_search: the entries of the web search, if one was requested.
        revised: True if the server restarted the answer midway, so earlier streamed texts are no
            longer part of it; `text` is the final answer.
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
        return self.text.removeprefix(" ")

    @property
    def reasoning(self) -> str:
        """The model's reasoning before the answer, from its `<think>` tags; "" if it gave none."""
        return split_reasoning(self.text)[0]

    @property
    def answer(self) -> str:
        """The text without the model's reasoning."""
        return split_reasoning(self.text)[1]

    def _repr_html_(self) -> str:
        """Render the Markdown, with any HTML in it as text; IPython calls this in notebooks."""
        return to_html(str(self))


class WebSearchSource(NamedTuple):
    """A page that a web search found.

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
        message: a description of the step, or of the failure; "" in a result.
        args: details: the search query, the error's text.
        sources: the pages that the answer is based on, in an entry of type "sources".
    """

    type: str
    message: str = ""
    args: tuple[Any, ...] = ()
    sources: tuple[WebSearchSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits, in seconds; None disables a limit.

    The limits do not cover the resolution of host names, which cannot be interrupted. With the
    sync client, a server can exceed them by sending its headers, or interim responses (100
    Continue), piece by piece, each within the limit, even during clean-up; and connecting and
    waiting for the response may each take all that is left of `total`. While a sync call waits for
    a response, `stop()` or `close()` from another thread does not wake it; the wait ends when the
    server answers or a limit is exceeded.

    Attributes:
        connect: for making a connection.
        first_token: from sending the message to the answer's first token; 2023 servers send their
            headers only with that token. Without `total`, this also limits how long a message waits
            for the previous turn to be stored.
        idle: between two tokens, and for each of the small requests around the message. Without
            `total`, this also limits how long `history()` and similar calls wait for the last turn
            to be stored. If this limit or `first_token` is exceeded, the client checks once whether
            the server has stored the answer; it does not send the message again, because the server
            may still answer it.
        total: for one whole call, not counting the clean-up at its end.
        cleanup: for stopping the generation and deleting the conversation, at the end of a call.
        recovery: for any sign of an answer whose connection was lost. The time that the answer had
            already been running is added, and the limit restarts whenever more of it appears.
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
    """The prompt that the model would get if a message were sent again.

    Attributes:
        prompt: the prompt, with the model's own markers around each message.
        model: the model.
        parameters: the parameters that the service's own page uses.
    """

    prompt: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __str__(self) -> str:
        return self.prompt
