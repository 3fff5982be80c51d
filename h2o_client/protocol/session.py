"""The state of one session with the service.

A session is a cookie. The server accepts and echoes any value that a client sends, so the client
chooses one in advance. It builds the `Cookie` header itself: the server marks the cookie `Secure`
even on plain http, where no cookie jar would send it back. Conversations belong to the session, and
so does the acceptance of the terms.

A deployment can rename the cookie. The session is then the cookie that echoes our value, or else
the one marked `HttpOnly` whose value is a UUID. All other cookies are ignored, as the server also
forwards the model server's cookies. Cookies with a `Domain` are ignored too: the service sets its
cookie without one, and a gateway's cookie can apply to a whole company.
"""

# 26_own_cookie: any value is echoed. 21_cookie: `Secure` on plain http.
# 05_upstream_gzip_header: the model server's cookies.

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

from h2o_client.errors import H2oError, ModelUnavailableError, TransportTimeoutError
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Flow, Lock
from h2o_client.protocol.outcomes import is_transient
from h2o_client.protocol.retries import Patience

L = TypeVar("L", bound=Lock)
COOKIE_NAME = "hf-chat"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # RFC 6265's cookie-octet
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_VALUE = 512
_MAX_LEFT_BEHIND = 1000


class Abandoned(Protocol):
    """An operation that the caller interrupted."""

    @property
    def creating(self) -> bool:
        """Whether the request that creates its conversation is in progress."""
        ...

    @property
    def only_deletes(self) -> bool:
        """Whether it only deletes a conversation, whose answers another operation stops."""
        ...

    def abandon(self, deadline: Deadline) -> Flow[None]:
        """Stop the answer and delete the conversation, as necessary. May be run again."""
        ...


class Failure(NamedTuple):
    """A failed attempt to open a session, for the calls that waited for it.

    Attributes:
        error: its error.
        model: the model of the call that made the attempt, or None.
        patience: how often and how long that call could retry.
    """

    error: H2oError
    model: str | None
    patience: Patience

    def applies_to(self, model: str | None, patience: Patience) -> bool:
        """Whether a call with this model and this patience would have failed in the same way."""
        error = self.error
        if isinstance(error, TransportTimeoutError) and error.limit == "total":
            return False  # the time limit of one call
        if isinstance(error, ModelUnavailableError):
            return model == self.model
        more = patience != self.patience and all(map(operator.ge, patience, self.patience))
        return not (more and is_transient(error))


class Session:
    """The session of one client, shared by all its calls.

    Args:
        text: a session to resume, from `export()`; its terms count as accepted until the server
            says otherwise.
        new: the value for a new session, if `text` is None.
        name: the cookie's name if a deployment renamed it; None for the name in `text`, or the
            usual one.

    Attributes:
        name: the cookie's name.
        value: the cookie's value.
        accepted: whether the session has accepted the terms, as far as is known.
        confirmed: whether name and value are certain: the caller named the cookie, or the server
            has answered a request that sets it.
        openings: how many attempts to open it have ended, successfully or not.
        failure: the failure of the last attempt, if any.
        shared: whether other clients may use it too.
        has_settings: whether it may have settings from other clients.
        known: the conversations that were created or resumed in it and not deleted.
        has_orphans: whether a conversation may have been created whose id was lost.
        creating: callbacks for the ids of conversations that are being created.
    """

    def __init__(self, text: str | None, new: str, name: str | None = None) -> None:
        self.name, self.value = name or COOKIE_NAME, new
        if text is not None:
            self.name, self.value = parse_session(text, name)
        self.accepted = text is not None
        self.confirmed = text is not None or name is not None
        self.openings = 0
        self.failure: Failure | None = None
        self.shared = self.has_settings = text is not None
        self.known: set[str] = set()
        self.has_orphans = False
        self.creating: set[Callable[[str], None]] = set()
        self._unfinished: dict[Abandoned, bool] = {}  # whether each was abandoned
        self._turns: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Session accepted={self.accepted}>"

    def export(self) -> str:
        """Return the session as text: the cookie's value, with its name if that was changed."""
        self.shared = True
        plain = self.name == COOKIE_NAME and "=" not in self.value
        return self.value if plain else self.cookie

    @property
    def cookie(self) -> str:
        """The value of the `Cookie` header."""
        return f"{self.name}={self.value}"

    def begin(self, operation: Abandoned) -> None:
        """Record that the server must be notified if the operation is interrupted."""
        self._unfinished.setdefault(operation, False)

    def end(self, operation: Abandoned) -> None:
        """Record that the server no longer needs to be notified."""
        self._unfinished.pop(operation, None)

    def drop(self, operation: Abandoned) -> None:
        """Keep an abandoned operation for the next clean-up."""
        self._unfinished[operation] = True
        if len(self._unfinished) > _MAX_LEFT_BEHIND and len(dropped := self.dropped()) > (
            _MAX_LEFT_BEHIND
        ):
            self.end(dropped[0])

    def drop_all(self) -> None:
        """Keep all unfinished operations, which are abandoned now, for the next clean-up."""
        for operation in list(self._unfinished):
            self.drop(operation)

    def dropped(self) -> list[Abandoned]:
        """Return the abandoned operations, starting with those that stop an answer.

        The answer cannot be stopped once its conversation is deleted.
        """
        dropped = [each for each in list(self._unfinished) if self._unfinished.get(each)]
        return sorted(dropped, key=lambda each: each.only_deletes)

    @property
    def is_answering(self) -> bool:
        """Whether an operation that gets an answer is running."""
        unfinished = list(self._unfinished.items())
        return any(not (abandoned or each.only_deletes) for each, abandoned in unfinished)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left to notify the server of."""
        return not (self._unfinished or self.has_orphans)

    def deleted(self, conversation: str) -> None:
        """Record that a conversation was deleted."""
        self.known.discard(conversation)
        self._turns.pop(conversation, None)

    def turns_of(self, conversation: str, mine: L) -> L:
        """Return the turns of a conversation, shared by all objects that resume it.

        Args:
            conversation: its id.
            mine: the object to use if the session does not have one yet.
        """
        self.known.add(conversation)
        turns: L = self._turns.setdefault(conversation, mine)
        return turns

    def opened(self, set_cookies: Iterable[str] | None) -> None:
        """Record that the terms were accepted.

        Args:
            set_cookies: the `Set-Cookie` headers of the response; None if no request was needed.
        """
        if set_cookies is not None:
            self.adopt(set_cookies)
        self.failure = None
        self.accepted = True
        self.openings += 1

    def lost(self, openings: int) -> None:
        """Record that the server did not know the session after this many openings."""
        if self.openings == openings:
            self.accepted = self.has_settings = False

    def leave_to_parent(self) -> None:
        """Forget all clean-ups: after a fork they belong to the parent."""
        self._unfinished.clear()
        self._turns.clear()
        self.shared = True

    def adopt(self, set_cookies: Iterable[str]) -> None:
        """Find the session's cookie in the `Set-Cookie` headers of a response to a POST."""
        self.confirmed = True
        uuid: tuple[str, str] | None = None
        for header in set_cookies:
            pair, *attributes = header.split(";")
            name, _, value = (part.strip() for part in pair.partition("="))
            if value == self.value and _NAME.fullmatch(name):
                self.name = name
                return
            names = {attribute.partition("=")[0].strip().lower() for attribute in attributes}
            ours = "httponly" in names and "domain" not in names
            if ours and _UUID.fullmatch(value) and _NAME.fullmatch(name):
                uuid = (name, value)
        if uuid is not None:
            self.name, self.value = uuid


def parse_session(
    text: str, cookie_name: str | None = None, named_by: str = "session"
) -> tuple[str, str]:
    """Return the cookie's name and value of a session given as text.

    Args:
        text: the cookie's value, or the text from `Session.export()`.
        cookie_name: the cookie's name, if known separately.
        named_by: the argument or variable that it comes from.

    Raises:
        TypeError: the session is not a string.
        ValueError: it is not valid in a cookie. The error does not quote it.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"session must be a string, such as client.session, not {type(text).__name__}"
        )
    name, separator, value = text.partition("=")
    if not separator or (cookie_name is not None and name != cookie_name):
        name, value = cookie_name or COOKIE_NAME, text
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(value) > _MAX_VALUE:
        raise ValueError(
            f"{named_by} is not valid: pass the value of client.session, or of the session's cookie"
        )
    return name, value


def check_cookie_name(name: object) -> str:
    """Return the name of a cookie if it is valid.

    Raises:
        TypeError: the name is not a string.
        ValueError: it is not a valid name for a cookie.
    """
    if not isinstance(name, str):
        raise TypeError(f"cookie_name must be a string, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError("cookie_name is not a valid cookie name, such as hf-chat")
    return name
