"""The exceptions of this package, as one tree.

    H2oError                        .partial: the part of the answer that had arrived, or ""
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
    │   ├── InvalidRequestError     422, or the model server's `validation`, also within an answer
    │   ├── RateLimitError          429
    │   ├── OverloadedError         503, or the model server's `overloaded`, also within an answer
    │   └── ServerError             the other 5xx
    ├── ConversationBusyError       the last message of this conversation is still being answered
    ├── UnsupportedError            this kind of server cannot do that; nothing was sent
    └── StreamError
        ├── IncompleteStreamError   the answer ended before its final event
        ├── GenerationError         the model server failed, also status 424; .error_type
        └── ProtocolError           the server's data does not follow this protocol
            └── UnsupportedServerError  another site, or a version that is not supported

Invalid arguments raise the builtin `ValueError` and `TypeError` instead, before anything is sent.
No error contains an object of the HTTP library, a session id, a password, a token or the prompt.
Each cause has one class, whether the model server reports it with a status or inside the stream of
an answer, where the status is 200. All errors can be pickled and copied: every argument except the
text has a default, so `Exception.__reduce__` can build the error from its text and then restore its
attributes.
"""

from typing import ClassVar


class H2oError(Exception):
    """Base of all errors of this package.

    Attributes:
        partial: the text of the answer that had arrived before the error, or "".
    """

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class TransportError(H2oError):
    """The server could not be reached, or the connection to it was lost.

    Attributes:
        sent: False if the request cannot have reached the server because no connection was made.
        transient: False if trying again cannot help, for example with an unknown host name or a
            rejected certificate.
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
    def exceeded(
        cls, limit: str, seconds: float | None, *, begun: bool = False
    ) -> "TransportTimeoutError":
        """Make the error for a limit that was exceeded.

        Args:
            limit: its name.
            seconds: how long the client waited; None to leave it out of the text.
            begun: whether part of the answer had arrived.
        """
        time = "in time"
        if seconds is not None:
            time = f"within {seconds:g} second{'' if seconds == 1 else 's'}"
        words = {
            "connect": f"no connection was made {time}: is the server running and reachable?",
            "first_token": f"the answer did not begin {time}",
            "idle": f"{'nothing more arrived' if begun else 'the server did not answer'} {time}",
            "total": "the call did not finish in time",
            "cleanup": f"the clean-up did not finish {time}",
        }[limit]
        return cls(f"{words} (Timeouts.{limit})", sent=limit != "connect", limit=limit)


class StatusError(H2oError):
    """The server answered with an error status.

    Attributes:
        status: the HTTP status. If the service answers 200 with an error in the body, the status
            given in the body, or else 200.
        message: the server's error message.
        body: the beginning of the response body, as text.
        retry_after: seconds to wait before the next attempt, if the server says so.
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
    """The server answered with a redirect, which the client does not follow.

    Attributes:
        location: the target, as the server wrote it.
        base_url: the base URL to use instead, or None if the location does not reveal it.
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
    """401, or a redirect to a login page: this server requires a login or a token."""


class ForbiddenError(StatusError):
    """403: access denied, or the `Referer` header is missing or names another origin."""


class NotFoundError(StatusError):
    """404: the conversation or message does not exist, or belongs to another session."""


class TermsNotAcceptedError(StatusError):
    """405 with the welcome modal's text: this session has not accepted the terms."""


class ModelUnavailableError(StatusError):
    """410: the server no longer serves this model."""


class PromptTooLargeError(StatusError):
    """413: the request is larger than the server accepts (524,288 bytes, as measured)."""


class InvalidRequestError(StatusError):
    """422, or the model server's `validation`: it rejected the prompt or a parameter."""


class RateLimitError(StatusError):
    """429: too many messages.

    Attributes:
        WINDOW: seconds until the rate limit of a 2023 server resets. Such a server does not report
            this, so `retry_after` is None there. On 2025 servers each rejected message restarts
            the wait; do not send any message for `retry_after` seconds.
    """

    WINDOW: ClassVar[float] = 120.0  # 06_rate_limit


class OverloadedError(StatusError):
    """503, or the model server's `overloaded`: it is too busy at the moment.

    This can also happen midway through an answer; `partial` is then the text that had arrived.
    """


class ServerError(StatusError):
    """5xx: the server failed. `Internal Error` often means a bad request; see the error's text."""


class ConversationBusyError(H2oError):
    """The last message is still being answered; a conversation takes one message at a time.

    Nothing was sent, because the server would lose one of the two messages: a generation runs on
    even after its reader disconnects, and at its end it stores its result and overwrites any newer
    turn. The error is also raised while the server has not yet stored the last answer.
    """


class UnsupportedError(H2oError):
    """This kind of server does not support the operation; the text says what to use instead.

    Nothing was sent. `client.capabilities` lists what the server can do.
    """


class StreamError(H2oError):
    """The answer did not arrive completely."""


class IncompleteStreamError(StreamError):
    """The answer ended before its final event; `partial` is the text that had arrived."""


class GenerationError(StreamError):
    """The model server failed, and reported it inside the answer or with the status 424.

    Attributes:
        error_type: the model server's name for the kind of error, such as "generation" or
            "incomplete_generation"; "" if it did not give one.
    """

    def __init__(self, message: str, *, partial: str = "", error_type: str = "") -> None:
        super().__init__(message, partial=partial)
        self.error_type = error_type


class ProtocolError(StreamError):
    """The server's data does not follow this protocol; the error's text shows its beginning."""


class UnsupportedServerError(ProtocolError):
    """The client does not support this server: it is another site, or an unsupported version.

    Attributes:
        version: the versions of chat-ui that the server may have; "" for another site.
    """

    def __init__(self, message: str, *, partial: str = "", version: str = "") -> None:
        super().__init__(message, partial=partial)
        self.version = version
