"""A chat-ui server as an engine, for `h2o-client serve --api openai --upstream URL`.

Each request gets its own conversation, which is deleted when it is answered or when the client
disconnects. The answer is complete or an error, as everywhere in this package.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from h2o_client import (
    AsyncH2oClient,
    H2oClient,
    H2oError,
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    PromptTooLargeError,
    RateLimitError,
    StatusError,
    TransportTimeoutError,
    UnsupportedError,
)
from h2o_client.emulator import (
    EngineError,
    GenerationError,
    GenerationRequest,
    LiveEngine,
    Token,
    UpstreamError,
)
from h2o_client.plugins import check_revised

STATUSES: Mapping[type[H2oError], int] = {
    RateLimitError: 429,
    OverloadedError: 503,
    InvalidRequestError: 400,
    UnsupportedError: 400,
    PromptTooLargeError: 413,
    ModelUnavailableError: 404,
    TransportTimeoutError: 504,
}
"""The bridge's status for each error; 502 for all others, which its own client did not cause."""


DEFAULTS: Mapping[str, object] = {"do_sample": True, "temperature": 1, "top_p": 1}
"""OpenAI's defaults. Programs that send them expect the same as if they had sent nothing."""


class ChatUiEngine(LiveEngine):
    """A chat-ui server, reached through this package's client.

    Args:
        url: Its base URL; None for the configured one, as in `H2oClient()`.
        **options: More arguments of `AsyncH2oClient`.
    """

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._url = url
        self._options = options
        self._client: AsyncH2oClient | None = None

    async def start(self, say: Callable[[str], None]) -> None:  # noqa: ARG002 -- nothing to report
        """Make the client, and detect which kind of server it is."""
        self._client = AsyncH2oClient(self._url, **self._options)
        try:
            await self._client.models()
        except H2oError as error:
            raise EngineError(str(error)) from error

    async def aclose(self) -> None:
        """Close the client: running answers are stopped, and their conversations deleted."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def template(self) -> str | None:
        """Return a placeholder, as the server applies its own template."""
        return "(messages; the server applies its own template)"

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the answer's texts, and finally the reason why it ended."""
        client = self._client
        assert client is not None, "the engine was not started"  # noqa: S101 -- our mistake
        parameters = request.parameters
        if "parameters" not in client.capabilities:
            parameters = {
                name: value for name, value in parameters.items() if not _spared(name, value)
            }
        begun = False
        try:
            async with client.stream(
                request.chat, model=request.model, parameters=parameters
            ) as stream:
                async for text in stream:
                    begun = True
                    yield Token(text)
            reply = stream.reply
            check_revised(reply)
        except (H2oError, ValueError) as error:
            raise _failure(error, begun=begun) from error
        match reply.finish_reason:
            case "length" | "stop_sequence" as reason:
                yield Token("", reason, generated=reply.generated_tokens)
            case _:
                yield Token("", "eos_token", special=True, generated=reply.generated_tokens)


def upstream(url: str | None = None, **options: Any) -> dict[str, ChatUiEngine]:
    """Return an engine for each model of a chat-ui server, for `Emulator(models=…)`.

    Args:
        url: The server's base URL; None for the configured one, as in `H2oClient()`.
        **options: More arguments of `H2oClient`.

    Raises:
        H2oError: The server's models could not be listed.
        ValueError: The URL, or another argument, is not valid.
    """
    with H2oClient(url, **{"retries": 0, **options}) as client:  # report a missing server at once
        names = [model.name for model in client.models()]
    engine = ChatUiEngine(url, **options)
    return dict.fromkeys(names, engine)


def _spared(name: str, value: object) -> bool:
    """Whether a parameter can be left out for a server that takes none.

    The face for OpenAI's API sets `details` itself, and cuts the answer at a text of `stop` itself.
    """
    return name in {"details", "stop"} or (name in DEFAULTS and value == DEFAULTS[name])


def _failure(error: Exception, *, begun: bool) -> UpstreamError | GenerationError:
    if isinstance(error, ValueError):  # such as a blank prompt
        return UpstreamError(400, _body(error))
    if begun:
        overloaded = isinstance(error, OverloadedError)
        return GenerationError(str(error), "overloaded" if overloaded else "incomplete_generation")
    found = (status for kind, status in STATUSES.items() if isinstance(error, kind))
    wait = error.retry_after if isinstance(error, StatusError) else None
    if isinstance(error, RateLimitError):
        wait = wait or error.WINDOW
    headers = [] if wait is None else [("retry-after", f"{wait:.0f}")]
    return UpstreamError(next(found, 502), _body(error), headers=headers)


def _body(error: Exception) -> dict[str, str]:
    return {"error": str(error), "error_type": "upstream"}
