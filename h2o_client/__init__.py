"""A client for H2O's chat service and for self-hosted chat-ui servers.

Use `H2oClient` in scripts and threads, `AsyncH2oClient` on asyncio and trio. Names are imported on
first use, so a program loads only the client that it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from h2o_client._version import __version__ as __version__

if TYPE_CHECKING:
    from h2o_client._client._async.client import AsyncH2oClient as AsyncH2oClient
    from h2o_client._client._async.conversation import AsyncConversation as AsyncConversation
    from h2o_client._client._async.stream import AsyncChatStream as AsyncChatStream
    from h2o_client._client._sync.client import H2oClient as H2oClient
    from h2o_client._client._sync.conversation import Conversation as Conversation
    from h2o_client._client._sync.stream import ChatStream as ChatStream
    from h2o_client.batch import AsyncBatch as AsyncBatch
    from h2o_client.batch import Batch as Batch
    from h2o_client.batch import BatchResult as BatchResult
    from h2o_client.errors import ConversationBusyError as ConversationBusyError
    from h2o_client.errors import ForbiddenError as ForbiddenError
    from h2o_client.errors import GenerationError as GenerationError
    from h2o_client.errors import H2oError as H2oError
    from h2o_client.errors import IncompleteStreamError as IncompleteStreamError
    from h2o_client.errors import InvalidRequestError as InvalidRequestError
    from h2o_client.errors import LoginRequiredError as LoginRequiredError
    from h2o_client.errors import ModelUnavailableError as ModelUnavailableError
    from h2o_client.errors import NotFoundError as NotFoundError
    from h2o_client.errors import OverloadedError as OverloadedError
    from h2o_client.errors import PromptTooLargeError as PromptTooLargeError
    from h2o_client.errors import ProtocolError as ProtocolError
    from h2o_client.errors import RateLimitError as RateLimitError
    from h2o_client.errors import RedirectError as RedirectError
    from h2o_client.errors import ServerError as ServerError
    from h2o_client.errors import StatusError as StatusError
    from h2o_client.errors import StreamError as StreamError
    from h2o_client.errors import TermsNotAcceptedError as TermsNotAcceptedError
    from h2o_client.errors import TransportError as TransportError
    from h2o_client.errors import TransportTimeoutError as TransportTimeoutError
    from h2o_client.errors import UnsupportedError as UnsupportedError
    from h2o_client.errors import UnsupportedServerError as UnsupportedServerError
    from h2o_client.options import GenerationOptions as GenerationOptions
    from h2o_client.protocol.prompt import build_prompt as build_prompt
    from h2o_client.protocol.retries import Retries as Retries
    from h2o_client.protocol.retries import Retry as Retry
    from h2o_client.stored import ConversationInfo as ConversationInfo
    from h2o_client.stored import Model as Model
    from h2o_client.stored import PromptExample as PromptExample
    from h2o_client.stored import Settings as Settings
    from h2o_client.stored import SharedConversation as SharedConversation
    from h2o_client.types import DEFAULT_BASE_URL as DEFAULT_BASE_URL
    from h2o_client.types import DEFAULT_MODEL as DEFAULT_MODEL
    from h2o_client.types import Event as Event
    from h2o_client.types import File as File
    from h2o_client.types import Message as Message
    from h2o_client.types import PromptPreview as PromptPreview
    from h2o_client.types import Reply as Reply
    from h2o_client.types import Revision as Revision
    from h2o_client.types import Timeouts as Timeouts
    from h2o_client.types import Token as Token
    from h2o_client.types import WebSearchEntry as WebSearchEntry
    from h2o_client.types import WebSearchSource as WebSearchSource

_WHERE = {
    "AsyncBatch": "batch",
    "AsyncChatStream": "_client._async.stream",
    "AsyncConversation": "_client._async.conversation",
    "AsyncH2oClient": "_client._async.client",
    "Batch": "batch",
    "BatchResult": "batch",
    "ChatStream": "_client._sync.stream",
    "Conversation": "_client._sync.conversation",
    "ConversationBusyError": "errors",
    "ConversationInfo": "stored",
    "DEFAULT_BASE_URL": "types",
    "DEFAULT_MODEL": "types",
    "ForbiddenError": "errors",
    "GenerationError": "errors",
    "GenerationOptions": "options",
    "H2oClient": "_client._sync.client",
    "H2oError": "errors",
    "IncompleteStreamError": "errors",
    "InvalidRequestError": "errors",
    "LoginRequiredError": "errors",
    "Message": "types",
    "Model": "stored",
    "ModelUnavailableError": "errors",
    "NotFoundError": "errors",
    "OverloadedError": "errors",
    "PromptExample": "stored",
    "PromptPreview": "types",
    "PromptTooLargeError": "errors",
    "ProtocolError": "errors",
    "RateLimitError": "errors",
    "RedirectError": "errors",
    "Reply": "types",
    "Retries": "protocol.retries",
    "Retry": "protocol.retries",
    "ServerError": "errors",
    "Settings": "stored",
    "SharedConversation": "stored",
    "StatusError": "errors",
    "StreamError": "errors",
    "TermsNotAcceptedError": "errors",
    "Timeouts": "types",
    "Token": "types",
    "TransportError": "errors",
    "TransportTimeoutError": "errors",
    "WebSearchEntry": "types",
    "WebSearchSource": "types",
    "build_prompt": "protocol.prompt",
    "Event": "types",
    "File": "types",
    "Revision": "types",
    "UnsupportedError": "errors",
    "UnsupportedServerError": "errors",
    # For `%load_ext h2o_client`; not part of the public API.
    "load_ipython_extension": "magics",
    "unload_ipython_extension": "magics",
}

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_MODEL",
    "AsyncBatch",
    "AsyncChatStream",
    "AsyncConversation",
    "AsyncH2oClient",
    "Batch",
    "BatchResult",
    "ChatStream",
    "Conversation",
    "ConversationBusyError",
    "ConversationInfo",
    "Event",
    "File",
    "ForbiddenError",
    "GenerationError",
    "GenerationOptions",
    "H2oClient",
    "H2oError",
    "IncompleteStreamError",
    "InvalidRequestError",
    "LoginRequiredError",
    "Message",
    "Model",
    "ModelUnavailableError",
    "NotFoundError",
    "OverloadedError",
    "PromptExample",
    "PromptPreview",
    "PromptTooLargeError",
    "ProtocolError",
    "RateLimitError",
    "RedirectError",
    "Reply",
    "Retries",
    "Retry",
    "Revision",
    "ServerError",
    "Settings",
    "SharedConversation",
    "StatusError",
    "StreamError",
    "TermsNotAcceptedError",
    "Timeouts",
    "Token",
    "TransportError",
    "TransportTimeoutError",
    "UnsupportedError",
    "UnsupportedServerError",
    "WebSearchEntry",
    "WebSearchSource",
    "__version__",
    "build_prompt",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
