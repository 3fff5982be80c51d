"""What differs between kinds of server: one object, the dialect.

A dialect says how each request is built and how its answer is read, has the parser of the
answer's stream, knows how a stored answer is found, and lists what its servers can do at all. The
flows ask it and do not know which one they talk to. What all dialects share stands outside: lines
and their limits, statuses and errors, retries, the life of a turn.

A small request is a `Query`: the request, and the function that makes a value of its answer.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from h2o_client.errors import H2oError
from h2o_client.protocol.effects import Head, Request, TextParser
from h2o_client.types import Message, PromptPreview, Token, WebSearchEntry

if TYPE_CHECKING:
    # Few calls read what the server has stored: what that takes is imported then.
    from h2o_client.stored import ConversationInfo, Model, Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Reader = Callable[[Head, bytes, Request], T]
MAX_ANSWER = 1024 * 1024  # bytes of a successful answer
MAX_STORED = 64 * 1024 * 1024  # bytes of what the server has stored: long conversations have MBs


class Query(NamedTuple, Generic[T]):
    """A request that does no harm when it is sent twice, and how its answer is read.

    Attributes:
        request: the request.
        read: makes a value of the answer, or raises.
        largest: bytes that a successful answer may have.
    """

    request: Request
    read: Reader[T]
    largest: int = MAX_ANSWER


class Final(Protocol):
    """The final event: the answer is whole."""

    @property
    def generated_tokens(self) -> int | None:
        """How many tokens the model generated, where the server tells."""
        ...

    def finish_reason(self, *, has_stop: bool) -> str | None:
        """Why the answer ended, as far as that can be told.

        Args:
            has_stop: whether stop sequences were given, at which it may have ended.
        """
        ...


class AnswerParser(TextParser, Protocol):
    """Reads the stream of one answer; it is fed bytes and never asks for any.

    Attributes:
        count: how many tokens have come.
        ended: whether nothing that comes now can change the answer.
        error: what is wrong with the stream, once something is: nothing follows it.
    """

    count: int
    ended: bool
    error: H2oError | None

    @property
    def final(self) -> Final | None:
        """The final event, once it has come: the answer is whole."""
        ...

    def feed(self, data: bytes, /) -> list[Token]:
        """Return the tokens whose events end within `data`, special ones too."""
        ...

    def finish(self) -> list[Token]:
        """Note that nothing more comes; return the tokens of a last line without its end."""
        ...


class WebSearchParser(Protocol):
    """Reads the stream of one web search.

    Attributes:
        result: the id of the search, once it has come.
    """

    result: str | None

    def feed(self, data: bytes, /) -> list[WebSearchEntry]:
        """Return the entries that are new with `data`."""
        ...

    def finish(self) -> None:
        """Note that the stream has ended; raises if the result had not come."""
        ...


class Overview(NamedTuple):
    """What the server tells of itself and of this session.

    Attributes:
        models: the models that the server offers, in its order.
        settings: what this session has chosen.
        conversations: this session's conversations, the newest first.
    """

    models: "tuple[Model, ...]"
    settings: "Settings"
    conversations: "tuple[ConversationInfo, ...]"


class StoredConversation(NamedTuple):
    """What the server has stored of one conversation.

    Attributes:
        title: its title.
        model: the name of its model, which the server may no longer have.
        messages: what was said, in order; empty when nothing was yet.
    """

    title: str
    model: str
    messages: tuple[Message, ...]


class Outgoing(NamedTuple):
    """A message to send.

    Attributes:
        prompt: the text.
        parameters: all generation parameters, defaults included.
        message_id: a UUID4, the user's message.
        response_id: a UUID4, the answer.
        is_retry: whether it replaces the message of this id, and all that followed it.
        web_search_id: the web search that the answer shall rest on, or "".
    """

    prompt: str
    parameters: Any
    message_id: str
    response_id: str
    is_retry: bool = False
    web_search_id: str = ""


class Dialect(Protocol):
    """One kind of server.

    Attributes:
        name: its name.
        capabilities: what its servers can do beyond what all can.
        stream_type: the content type of an answer's stream.
    """

    name: str
    stream_type: str
    capabilities: frozenset[str]

    def accept_terms(
        self, *, model: str, share: bool, custom_prompts: Mapping[str, str] | None = None
    ) -> Query[list[str]]:
        """Open a session; the answer is the `Set-Cookie` headers."""
        ...

    def create(self, *, model: str, from_share: str | None = None) -> Query[str]:
        """Open a conversation, or a copy of a shared one; the answer is its id."""
        ...

    def message(self, conversation: str, message: Outgoing) -> Request:
        """Send a message; it is answered with a stream."""
        ...

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer, which adds to `text`."""
        ...

    def stop(self, conversation: str) -> Query[None]:
        """Stop what is generated in a conversation."""
        ...

    def delete(self, conversation: str) -> Query[None]:
        """Delete a conversation."""
        ...

    def delete_all(self) -> Query[None]:
        """Delete all conversations of the session."""
        ...

    def overview(self) -> Query[Overview]:
        """Read models, settings and conversations."""
        ...

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """Read what is stored of a conversation."""
        ...

    def shared(self, share: str) -> Query[StoredConversation]:
        """Read a shared conversation."""
        ...

    def summarize(self, conversation: str) -> Query[str]:
        """Let the model name a conversation; the answer is the title."""
        ...

    def rename(self, conversation: str, title: str) -> Query[None]:
        """Give a conversation a title."""
        ...

    def share(self, conversation: str) -> Query[str]:
        """Share a conversation as it is now; the answer is the URL."""
        ...

    def vote(self, conversation: str, message: str, score: int) -> Query[None]:
        """Vote on a message."""
        ...

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """Read the prompt as the model would get it."""
        ...

    def web_search(self, conversation: str, prompt: str) -> Request:
        """Search the web; it is answered with a stream."""
        ...

    def web_search_parser(self) -> WebSearchParser:
        """Make the parser of a web search."""
        ...
