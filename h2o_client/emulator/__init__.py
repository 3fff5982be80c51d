"""A local server of the chat protocol that behaves like the real servers.

It is for tests and experiments: it has the real server's sessions, statuses, streams and quirks, a
model with a few scripted sentences, and can simulate every failure. It does not share code with the
client, so that a mistake in one cannot hide in the other.

    with Emulator() as server:
        server.reply(" Hello!")
        server.cut(after=3)
        ...                       # talk to server.url
        server.wait_idle()
"""

from h2o_client.emulator.engine import (
    Engine,
    EngineError,
    EngineLike,
    GenerationError,
    GenerationRequest,
    LiveEngine,
    RawEngine,
    RawResponse,
    RoteEngine,
    Token,
    UpstreamDownError,
    UpstreamError,
)
from h2o_client.emulator.script import Answer, Fault, WebSearch
from h2o_client.emulator.server import Emulator
from h2o_client.emulator.service import Intervals
from h2o_client.emulator.store import DEFAULT_MODELS, Conversation, Message, Model
from h2o_client.emulator.web import Request

__all__ = [
    "DEFAULT_MODELS",
    "Answer",
    "Conversation",
    "Emulator",
    "Engine",
    "EngineError",
    "EngineLike",
    "Fault",
    "GenerationError",
    "GenerationRequest",
    "Intervals",
    "LiveEngine",
    "Message",
    "Model",
    "RawEngine",
    "RawResponse",
    "Request",
    "RoteEngine",
    "Token",
    "UpstreamDownError",
    "UpstreamError",
    "WebSearch",
]
