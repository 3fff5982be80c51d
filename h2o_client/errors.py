"""What can go wrong, as one tree.

::

    H2oError                        .partial: what had arrived of the answer, else ""
    ├── TransportError              .sent: whether the request may have reached the server
    │   └── TransportTimeoutError   also a builtin TimeoutError; .limit: the limit that was exceeded
    ├── StatusError                 .status, .message, .body
    │   ├── RedirectError           3xx; .location, .base_url to use instead
    │   ├── LoginRequiredError      401
    │   ├── ForbiddenError          403
    │   ├── NotFoundError           404
    │   ├── TermsNotAcceptedError   405 with the text of the welcome modal
    │   ├── ModelUnavailableError   410
    │   ├── PromptTooLargeError     413
    │   ├── InvalidRequestError     422, and the model server's `validation`, in an answer too
    │   ├── RateLimitError          429
    │   ├── OverloadedError         503, and the model server's `overloaded`, in an answer too
    │   └── ServerError             the other 5xx
    ├── ConversationBusyError       the last message of this conversation is still being answered
    ├── UnsupportedError            this kind of server cannot do that; nothing was sent
    └── StreamError
        ├── IncompleteStreamError   the answer ended before its final event
        ├── GenerationError         the model server failed, by 424 too; .error_type
        └── ProtocolError           what came is not this protocol
            └── UnsupportedServerError  another site, or a version that is not supported

Wrong arguments are not part of it: they are `ValueError` and `TypeError`, raised before anything
is sent. No error holds an object of the HTTP library, a session id, a password, a token or the
prompt. One cause has one class, whether the model server reports it with a status or inside the
stream of an answer, where the status is 200. All of them pickle and copy whole: every argument but
the text has a default, so that `Exception.__reduce__` can build the error from its text and then
restore its attributes.
"""

from typing import ClassVar


class H2oError(Exception):
    """Base of all errors of this package.

    Attributes:
        partial: the text of the answer that had arrived when it broke off, else "".
    """

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class TransportError(H2oError):
    """The server could not be reached, or the connection to it broke.

    Attributes:
        sent: False when the request cannot have reached the server (no connection was made).
        transient: False when trying again cannot help: the host name is unknown, the certificate
            is rejected.
    """

    def __init__(
        self, message: str, *, partial: str = "", sent: bool = True, transient: bool = True
    ) -> None:
        super().__init__(message, partial=partial)
        self.sent = sent
        self.transient = transient


class TransportTimeoutError(TransportError, TimeoutError):
    """A time limit was exceeded; see `Timeouts`.

    Attributes:
        limit: "connect", "first_token", "idle", "total" or "cleanup".
    """

    def __init__(
        self, message: str, *, partial: str = "", sent: bool = True, limit: str = "idle"
    ) -> None:
        super().__init__(message, partial=partial, sent=sent)
        self.limit = limit

    @classmethod
    def exceeded(cls, limit: str, seconds: float | None) -> "TransportTimeoutError":
        """Make the error of a limit that was exceeded.

        Args:
            limit: its name.
            seconds: how long was waited, where that says something.
        """
        time = f"within {seconds:g} seconds" if seconds is not None else "in time"
        words = {
            "connect": f"no connection was made {time}: is the server running and reachable?",
            "first_token": f"the answer did not begin {time}",
            "idle": f"nothing more came {time}",
            "total": "the call did not finish in time",
            "cleanup": f"the clean-up did not finish {time}",
        }[limit]
        return cls(f"{words} (Timeouts.{limit})", sent=limit != "connect", limit=limit)


class StatusError(H2oError):
    """The server answered with an error status.

    Attributes:
        status: the HTTP status. Where the service answers 200 and puts the error in the body, it
            is the one that stands there, else 200.
        message: the server's own words.
        body: the beginning of the body as text.
        retry_after: seconds to wait before the next try, if the server said so, else None.
    """

    def __init__(
        self,
        text: str,
        *,
        partial: str = "",
        status: int = 0,
        message: str = "",
        body: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text, partial=partial)
        self.status = status
        self.message = message
        self.body = body
        self.retry_after = retry_after


class RedirectError(StatusError):
    """The server sent the request elsewhere; redirects are not followed.

    Attributes:
        location: where to, as the server wrote it.
        base_url: the base URL to use instead, or None if it cannot be told from the location.
    """

    def __init__(
        self,
        text: str,
        *,
        partial: str = "",
        status: int = 0,
        message: str = "",
        body: str = "",
        location: str = "",
        base_url: str | None = None,
    ) -> None:
        super().__init__(text, partial=partial, status=status, message=message, body=body)
        self.location = location
        self.base_url = base_url


class LoginRequiredError(StatusError):
    """401, or a redirect to a login page: this server wants a login or a token."""


class ForbiddenError(StatusError):
    """403: the referer is missing or of another origin, or this is somebody else's."""


class NotFoundError(StatusError):
    """404: there is no such conversation or message, or it belongs to another session."""


class TermsNotAcceptedError(StatusError):
    """405 with the welcome modal's text: the terms were not accepted in this session."""


class ModelUnavailableError(StatusError):
    """410: the server no longer serves this model."""


class PromptTooLargeError(StatusError):
    """413: the request is larger than the server takes (524,288 bytes, as measured)."""


class InvalidRequestError(StatusError):
    """422, or the model server's `validation`: it rejected the prompt or a parameter."""


class RateLimitError(StatusError):
    """429: too many messages.

    Attributes:
        WINDOW: seconds after which the own limit of a service of 2023 is free again. The service
            does not say so itself: `retry_after` is None then. On servers of 2025 each rejected
            message begins the wait anew, and `retry_after` is how long to send none.
    """

    WINDOW: ClassVar[float] = 120.0  # 06_rate_limit


class OverloadedError(StatusError):
    """503, or the model server's `overloaded`: it has no room for now.

    Inside an answer it can come after some text, which is in `partial`.
    """


class ServerError(StatusError):
    """5xx: the server failed. Its `Internal Error` often means a bad request; see the text."""


class ConversationBusyError(H2oError):
    """A conversation takes one message at a time: of two at once the server would lose one.

    Its last message is still being answered, here or by the server: a generation that was left, or
    that could not be stopped, runs on, and what it stores at its end would overwrite a newer turn.
    Or the server has not stored the last answer. Nothing was sent.
    """


class UnsupportedError(H2oError):
    """This kind of server cannot do what was asked for; the text says what to use instead.

    Nothing of it was sent. `client.capabilities` lists what the server can do.
    """


class StreamError(H2oError):
    """The answer did not come whole."""


class IncompleteStreamError(StreamError):
    """The answer ended before its final event; `partial` is what had arrived."""


class GenerationError(StreamError):
    """The model server failed: it said so inside the answer, or with the status 424.

    Attributes:
        error_type: its kind, as the model server names it: "generation",
            "incomplete_generation", or another one; "" if it named none.
    """

    def __init__(self, message: str, *, partial: str = "", error_type: str = "") -> None:
        super().__init__(message, partial=partial)
        self.error_type = error_type


class ProtocolError(StreamError):
    """What came is not what this protocol says; the text shows its beginning."""


class UnsupportedServerError(ProtocolError):
    """This is not a server that the client can speak to: another site, or a version between.

    Attributes:
        version: the versions of chat-ui that it may be of; "" for another site.
    """

    def __init__(self, message: str, *, partial: str = "", version: str = "") -> None:
        super().__init__(message, partial=partial)
        self.version = version
