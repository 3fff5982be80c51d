"""The dialect: one object with everything that differs between kinds of server.

A dialect builds each request and reads its response, parses the stream of an answer, finds a stored
answer, and lists the capabilities of its servers. The flows use it without knowing which one it is.
The code that all dialects share is elsewhere: lines and their limits, statuses and errors, retries,
the life of a turn.

A small request is a `Query`: the request, and a function that reads its response.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from h2o_client.errors import H2oError, UnsupportedError
from h2o_client.protocol.answer import AnswerParser
from h2o_client.protocol.effects import Head, Request
from h2o_client.types import File, Message, PromptPreview, WebSearchEntry

if TYPE_CHECKING:
    # Few calls read stored conversations, so they import what they need for it.
    from h2o_client.stored import ConversationInfo, Model, Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Reader = Callable[[Head, bytes, Request], T]
MAX_ANSWER = 1024 * 1024  # bytes of a successful answer
MAX_STORED = 64 * 1024 * 1024  # bytes of stored data: long conversations take several MB


_INSTEAD = {
    "branches": "follow any message but the last: start a new conversation",
    "files": "accept files: put their content into the prompt",
    "parameters": "accept generation parameters: omit them, its models have their own",
    "summarize": "generate a title on request: it does so with the first answer, or use rename()",
    "vote": "store votes: keep them yourself, by the ids of the messages",
    "web_search": "search the web: put what the model needs to know into the prompt, or send files",
}


def unsupported(capability: str) -> UnsupportedError:
    """Make the error for a missing capability, which says what to do instead.

    Args:
        capability: its name.
    """
    return UnsupportedError(f"this kind of server cannot {_INSTEAD[capability]}")


class Query(NamedTuple, Generic[T]):
    """A request that may safely be sent twice, and a reader of its response.

    Attributes:
        request: the request.
        read: returns the value in the response, or raises.
        largest: the maximum size of a successful response, in bytes.
        proves: whether a successful response proves that the server is of this kind.
    """

    request: Request
    read: Reader[T]
    largest: int = MAX_ANSWER
    proves: bool = False


class WebSearchParser(Protocol):
    """Parses the stream of one web search.

    Attributes:
        result: the id of the search, once it has arrived.
    """

    result: str | None

    def feed(self, data: bytes, /) -> list[WebSearchEntry]:
        """Return the entries that are new with `data`."""
        ...

    def finish(self) -> None:
        """Process the end of the stream; raises if the result had not arrived."""
        ...


class Stage(Enum):
    """The state of a stored answer."""

    RUNNING = "it is being generated"
    WHOLE = "it is whole"
    STOPPED = "it was stopped"
    FAILED = "the model server failed before or during it"


class StoredAnswer(NamedTuple):
    """An answer as stored by the server.

    Attributes:
        message: the answer.
        generation: the id of its generation, if the server stores that.
        stage: its state.
        over: whether the server has finished its turn, so that the next message may be sent.
    """

    message: Message
    generation: str | None
    stage: Stage
    over: bool


class StoredConversation(NamedTuple):
    """A conversation as stored by the server.

    Attributes:
        title: its title.
        model: the name of its model, which the server may no longer have.
        messages: its messages in order, possibly empty; in a tree, those of its newest branch.
        root: the id of the first message of a tree; None if the server keeps a list.
        tree: all messages of a tree, in order of creation.
        answers: all answers in the tree, in that order.
    """

    title: str
    model: str
    messages: tuple[Message, ...]
    root: str | None = None
    tree: tuple[Message, ...] = ()
    answers: tuple[StoredAnswer, ...] = ()

    @property
    def tip(self) -> str | None:
        """The id of the message that the next one follows."""
        return self.tree[-1].id if self.tree else self.root

    @property
    def busy(self) -> bool:
        """Whether its newest answer is being generated, or the server died while generating it."""
        if not self.answers:
            return False
        newest = self.answers[-1]
        return not newest.over and newest.stage is not Stage.STOPPED

    def branch(self, last: str | None) -> tuple[Message, ...]:
        """Return the messages of a tree, from its root to the message with this id."""
        messages = {message.id: message for message in self.tree}
        found: list[Message] = []
        while (message := messages.get(last)) is not None:
            found.append(message)
            last = message.parent
        return tuple(message for message in reversed(found) if message.role != "system")

    def answer_to(self, question: str | None) -> StoredAnswer | None:
        """Return the newest answer to the question with this id."""
        newest_first = reversed(self.answers)
        return next((each for each in newest_first if each.message.parent == question), None)

    def message_id(self, given: str, known: Mapping[str, str]) -> str:
        """Return the id of a message, given that id or the id of its generation.

        Args:
            given: the id.
            known: ids of messages by the ids of generations that the server does not store.
        """
        ids = {answer.generation: answer.message.id for answer in self.answers}
        return known.get(given) or ids.get(given) or given


class Created(NamedTuple):
    """A new conversation.

    Attributes:
        id: its id.
        tip: the id of the message that the first one follows, if the server sends it.
        set_cookies: the `Set-Cookie` headers of the response.
        is_newer: whether the response proves that this is a 2025 server.
    """

    id: str
    tip: str | None = None
    set_cookies: tuple[str, ...] = ()
    is_newer: bool = False


class Outgoing(NamedTuple):
    """A message to send.

    Attributes:
        prompt: the text.
        parameters: the caller's generation parameters.
        message_id: the id of the user's message, a UUID4.
        response_id: the id of the answer or its generation, a UUID4.
        is_retry: whether it replaces the message with this id and everything after it; in a tree,
            whether to generate an alternative to the answer `parent`.
        web_search_id: the web search to base the answer on, or "".
        parent: in a tree, the id of the message that it follows.
        known: in a tree, the ids of the messages that existed before.
        files: the files to send with it.
    """

    prompt: str
    parameters: Mapping[str, Any]
    message_id: str
    response_id: str
    is_retry: bool = False
    web_search_id: str = ""
    parent: str | None = None
    known: frozenset[str] = frozenset()
    files: tuple[File, ...] = ()


class Dialect(Protocol):
    """One kind of server.

    Attributes:
        name: its name.
        capabilities: the optional features of its servers.
        stream_type: the content type of an answer's stream.
        default_model: the model of calls and clients that do not name one; None for the first that
            the server lists.
        has_tree: whether the server keeps all messages in a tree, as soon as they arrive, including
            failed answers. A message then names the one that it follows; two concurrent runs
            overwrite each other's messages and titles; the headers of an answer arrive immediately.
        retries_limit: whether a message may be sent again once the service's rate limit allows it.
    """

    name: str
    capabilities: frozenset[str]
    stream_type: str
    default_model: str | None
    has_tree: bool
    retries_limit: bool

    def accept_terms(
        self, *, model: str | None, share: bool, kept: Mapping[str, Any] | None = None
    ) -> Query[list[str]] | None:
        """Open a session and return the `Set-Cookie` headers; None if no request is needed.

        Args:
            model: the model to choose.
            share: whether conversations may be shared with the authors of the models.
            kept: the result of `kept_settings()`, to send it back.
        """
        ...

    def kept_settings(self) -> Query[dict[str, Any]]:
        """Read the settings of a resumed session that `accept_terms()` would overwrite."""
        ...

    def create(
        self, *, model: str, from_share: str | None = None, preprompt: str | None = None
    ) -> Query[Created]:
        """Create a conversation, or a copy of a shared one."""
        ...

    def message(self, conversation: str, message: Outgoing) -> Request:
        """Send a message; the response is a stream."""
        ...

    def check(self, head: Head, body: bytes, request: Request) -> None:
        """Raise an error if the response to a message reports one."""
        ...

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer, which appends to `text`."""
        ...

    def reattach(self, conversation: str, response_id: str) -> Request | None:
        """Read the stream of an answer again from its beginning; None if that is impossible."""
        ...

    def cannot_reattach(self) -> None:
        """Remember that the server does not support `reattach()`."""
        ...

    def reattached_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of a reattached stream; `text` has already been received."""
        ...

    def find(self, stored: StoredConversation, message: Outgoing) -> StoredAnswer | None:
        """Find the stored answer to a message; None if it is missing."""
        ...

    def stop(self, conversation: str, response_id: str, seen: str) -> Query[None]:
        """Stop the generation in a conversation.

        Args:
            conversation: its id.
            response_id: the id of the answer or its generation.
            seen: the part of the answer that the caller has received.
        """
        ...

    def delete(self, conversation: str) -> Query[None]:
        """Delete a conversation."""
        ...

    def delete_all(self) -> Query[None]:
        """Delete all conversations of the session."""
        ...

    def models(self) -> "Query[tuple[Model, ...]]":
        """Read the models that the server offers, in its order."""
        ...

    def settings(self) -> "Query[Settings]":
        """Read the session's settings."""
        ...

    def conversations(self, page: int) -> "Query[tuple[tuple[ConversationInfo, ...], bool]]":
        """Read a page of this session's conversations, and whether there are more pages."""
        ...

    def is_unknown_model(self, error: H2oError) -> bool:
        """Whether an error may mean that the server does not know the model."""
        ...

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """Read a stored conversation."""
        ...

    def shared(self, share: str) -> Query[StoredConversation]:
        """Read a shared conversation."""
        ...

    def summarize(self, conversation: str) -> Query[str]:
        """Have the model generate a title for a conversation, and return it."""
        ...

    def rename(self, conversation: str, title: str) -> Query[None]:
        """Give a conversation a title."""
        ...

    def share(self, conversation: str) -> Query[str]:
        """Share a conversation in its current state, and return its URL or path."""
        ...

    def share_prefix(self) -> Query[str]:
        """Read the URL prefix for the path of a shared conversation."""
        ...

    def vote(self, conversation: str, message: str, score: int) -> Query[None]:
        """Vote on a message."""
        ...

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """Read the prompt that the model would get."""
        ...

    def web_search(self, conversation: str, prompt: str) -> Request:
        """Search the web; the response is a stream."""
        ...

    def web_search_parser(self) -> WebSearchParser:
        """Make the parser of a web search."""
        ...
