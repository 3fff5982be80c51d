"""The emulator's store: sessions, conversations, shares, searches, records.

All collections are bounded, and the least recently used items are removed first. As in the real
server's database, a sweep removes expired records, so a record lives until the first sweep after
its lifetime. This is why a rate limit of one minute is over only after two.

Messages are never changed in place: to store an answer, the whole list is replaced, and the last
generation to finish overwrites the others.
"""
# 06_rate_limit, 07c_parallel_messages

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

V = TypeVar("V")
Event = Mapping[str, Any]
"""An event of a run on a 2025 server."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is offered.

    Attributes:
        name: Its id and name.
        display_name: Its name to show to users.
        description: A description of one line.
        truncate: The number of words of the prompt to keep.
        parameters: Its default parameters; the service reports them, but does not use them.
        preprompt: Its system message on 2025 servers.
        multimodal: Whether it accepts images on 2025 servers.
    """

    name: str
    display_name: str = ""
    description: str = ""
    truncate: int = 2048
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {
            "temperature": 0.4,
            "truncate": 2048,
            "max_new_tokens": 1024,
            "do_sample": True,
            "repetition_penalty": 1.2,
        }
    )
    preprompt: str = ""
    multimodal: bool = False


DEFAULT_MODELS = (
    Model(
        "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1", "h2ogpt falcon 40b v1", "h2oGPT Falcon 40B"
    ),
    Model("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3", "h2ogpt falcon 7b v3", "h2oGPT Falcon 7B"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One stored message; times are those of the emulator's clock.

    Attributes:
        id: The id that the client chose, or a generated one.
        sender: ``user`` or ``assistant``.
        content: Its text.
        created: None on a message that was sent again.
        updated: When it was stored.
        web_search_id: As sent by the client; None if it did not send one.
        score: The vote; 0 without a vote.
        ancestors: On 2025 servers, the ids from the root down to the parent.
        children: The ids of the messages under it, the oldest first.
        files: The files of a question, each with type, value, mime and name.
        updates: The events of the run that stored it, or None.
        generation_id: The run's id.
        interrupted: Whether it was stopped; None if it has not ended normally.
        materialized: The number of the run's last event whose text is stored.
    """

    # 07; 2025: 11_history, 17_files

    id: str
    sender: str
    content: str
    created: float | None
    updated: float
    web_search_id: str | None = None
    score: int = 0
    ancestors: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    updates: tuple[Event, ...] | None = None
    generation_id: str | None = None
    interrupted: bool | None = None
    materialized: int | None = None


@dataclass(slots=True)
class Conversation:
    """A conversation; `from_share` is the id of the share that it was copied from."""

    id: str
    session: str
    title: str
    model: str
    messages: tuple[Message, ...] = ()
    created: float = 0.0
    updated: float = 0.0
    from_share: str = ""


@dataclass(slots=True)
class Settings:
    """The settings of one session."""

    share: bool
    active_model: str
    accepted_at: float | None = None
    custom_prompts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Share:
    """A shared conversation: a copy that outlives it."""

    # 10_share

    id: str
    title: str
    model: str
    messages: tuple[Message, ...]
    updated: float = 0.0


@dataclass(frozen=True, slots=True)
class Search:
    """A web search and its result."""

    id: str
    conversation: str
    entries: tuple[Mapping[str, Any], ...]
    summary: str = ""


@dataclass(slots=True)
class Journal:
    """A run's events, for clients that reattach; consecutive tokens are joined.

    Attributes:
        conversation: The id of its conversation.
        events: The events; they are numbered from 1.
        status: How the run ended; empty while it continues.
    """

    conversation: str
    events: list[Event] = field(default_factory=list[Event])
    status: str = ""
    _tokens: list[str] = field(default_factory=list[str])

    def add(self, event: Event) -> None:
        """Add an event."""
        if event["type"] == "stream":
            self._tokens.append(event["token"])
        else:
            self.flush()
            self.events.append(event)

    def flush(self) -> None:
        """Join the tokens since the last call into one event."""
        if self._tokens:
            self.events.append({"type": "stream", "token": "".join(self._tokens)})
            self._tokens.clear()


@dataclass(slots=True)
class StopRecord:
    """The record of a stop, which later stops update until it expires.

    Attributes:
        order: When it was created, as a position in the order of events.
        updated: When it was last updated, on the emulator's clock.
        seen: Whether the service has seen it since.
    """

    # 11b

    order: int
    updated: float
    seen: bool = False


class Bounded(OrderedDict[str, V]):
    """A mapping of limited size that forgets the least recently used items."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def use(self, key: str) -> V | None:
        """Return a value and mark it as recently used."""
        if key not in self:
            return None
        self.move_to_end(key)
        return self[key]

    def put(self, key: str, value: V) -> None:
        """Add a value, and forget another one if necessary."""
        self[key] = value
        self.move_to_end(key)
        while len(self) > self.limit:
            self.popitem(last=False)


class Store:
    """The data of one emulator."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_sessions: int,
        max_conversations: int,
        max_messages: int,
        max_stored: int,
        rate_window: float,
        stop_lifetime: float,
        sweep: float,
    ) -> None:
        self.clock = clock
        self.started = clock()
        self.max_messages = max_messages
        self.max_stored = max_stored
        self._stored: dict[str, int] = {}
        self.rate_window = rate_window
        self.stop_lifetime = stop_lifetime
        self.sweep = sweep
        self.sessions: Bounded[Settings] = Bounded(max_sessions)
        self.conversations: Bounded[Conversation] = Bounded(max_conversations)
        self.shares: Bounded[Share] = Bounded(max_conversations)
        self.searches: Bounded[Search] = Bounded(max_conversations)
        self.journals: Bounded[Journal] = Bounded(max_conversations)
        self._files: OrderedDict[tuple[str, str], tuple[bytes, str]] = OrderedDict()
        self._events: deque[tuple[str, str, float]] = deque(maxlen=10_000)
        self._stops: Bounded[StopRecord] = Bounded(max_conversations)
        self._order = itertools.count(1)
        self._ids = itertools.count(secrets.randbits(24))
        self._machine = secrets.token_hex(5)

    def new_id(self) -> str:
        """24 hex digits: seconds, a machine's five bytes, a counter."""
        number = next(self._ids) & 0xFFFFFF
        return f"{int(self.clock()) & 0xFFFFFFFF:08x}{self._machine}{number:06x}"

    def next_order(self) -> int:
        """A number greater than all earlier ones, even if the clock does not advance."""
        return next(self._order)

    def of_session(self, session: str) -> list[Conversation]:
        """A session's conversations, the most recently changed one first."""
        mine = [item for item in self.conversations.values() if item.session == session]
        return sorted(mine, key=lambda item: item.updated, reverse=True)

    def create(
        self, session: str, model: str, title: str | None = None, messages: tuple[Message, ...] = ()
    ) -> Conversation:
        """Create a conversation; the default title is numbered."""
        # 03
        now = self.clock()
        title = title or f"Untitled {len(self.of_session(session)) + 1}"
        made = Conversation(self.new_id(), session, title, model, messages, now, now)
        self.conversations.put(made.id, made)
        return made

    def save(
        self, conversation: str, messages: tuple[Message, ...], title: str | None = None
    ) -> bool:
        """Replace a conversation's messages, unless it was deleted."""
        # 15; 2025: 05_delete
        found = self.conversations.use(conversation)
        if found is None:
            return False
        found.messages = messages
        found.title = found.title if title is None else title
        found.updated = self.clock()
        self._forget_beyond(found)
        return True

    def bounded(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The last messages, up to a conversation's limit: a quarter of `max_stored`."""
        messages = messages[-self.max_messages :]
        left = self.max_stored // 4
        for index in range(len(messages) - 1, -1, -1):
            left -= len(messages[index].content)
            if left < 0:
                return messages[index + 1 :]
        return messages

    def _forget_beyond(self, changed: Conversation) -> None:
        """Forget the least recently used conversations until the text is within `max_stored`."""
        self._stored[changed.id] = sum(len(message.content) for message in changed.messages)
        self._stored = {
            key: size for key, size in self._stored.items() if key in self.conversations
        }
        while sum(self._stored.values()) > self.max_stored:
            oldest = next(key for key in self.conversations if key in self._stored)
            del self.conversations[oldest], self._stored[oldest]

    def add_file(self, conversation: str, name: str, data: bytes, mime: str) -> None:
        """Store a file; beyond `max_stored` bytes, the oldest files are forgotten."""
        self._files[conversation, name] = data, mime
        while sum(len(data) for data, _ in self._files.values()) > self.max_stored:
            self._files.popitem(last=False)

    def file(self, conversation: str, name: str) -> tuple[bytes, str] | None:
        """A file's content and its type."""
        return self._files.get((conversation, name))

    def vote(self, conversation: Conversation, message: str, score: int) -> bool:
        """Set a message's score; 0 removes it."""
        for index, item in enumerate(conversation.messages):
            if item.id == message:
                voted = replace(item, score=score)
                before, after = conversation.messages[:index], conversation.messages[index + 1 :]
                conversation.messages = (*before, voted, *after)
                return True
        return False

    def share(self, conversation: Conversation) -> Share:
        """Share a conversation; return the same share until its messages change."""
        for known in self.shares.values():
            same = known.title == conversation.title and known.model == conversation.model
            if same and known.messages == conversation.messages:
                return known
        name = secrets.token_urlsafe(6)[:7]
        title, model, messages = conversation.title, conversation.model, conversation.messages
        made = Share(name, title, model, messages, self.clock())
        self.shares.put(name, made)
        return made

    def record_event(self, session: str, address: str) -> None:
        """Count one message."""
        self._events.append((session, address, self.clock()))

    def count_events(self, session: str, address: str | None = None) -> int:
        """Count the messages within the window: a session's, or if more, those of an address."""
        swept = self._last_sweep()
        while self._events and self._events[0][2] + self.rate_window <= swept:
            self._events.popleft()
        owners = sum(owner == session for owner, _, _ in self._events)
        return max(owners, sum(where == address for _, where, _ in self._events))

    def record_stop(self, conversation: str) -> StopRecord:
        """Record a stop; an existing record keeps its time of creation."""
        record = self.stop_record(conversation)
        if record is None:
            record = StopRecord(self.next_order(), self.clock())
            self._stops.put(conversation, record)
        record.updated = self.clock()
        return record

    def stop_record(self, conversation: str) -> StopRecord | None:
        """The record of a stop, until it expires."""
        record = self._stops.get(conversation)
        if record is not None and record.updated + self.stop_lifetime <= self._last_sweep():
            del self._stops[conversation]
            return None
        return record

    def _last_sweep(self) -> float:
        now = self.clock()
        if self.sweep <= 0:
            return now
        return self.started + (now - self.started) // self.sweep * self.sweep
