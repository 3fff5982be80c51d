"""The tokens that the bench server sends, and the texts expected from them."""

import json

CYCLE = 1000
"""The number of tokens after which the texts repeat."""

_WORDS = (" The", " answer", " is", " not", " in", " the", " wörd", ",", " but", ' "between"')
END = "</s>"
"""The text of the end token, which is not shown."""

TREE_PATH = b"/tree"
"""The base path below which the server speaks chat-ui 2025."""
CONVERSATION = "0123456789abcdef01234567"
MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"


def word(index: int) -> str:
    """Return the text of a token; one in fifty is a line break, one in a hundred an emoji."""
    place = index % CYCLE
    if place % 50 == 49:
        return "\n"
    return " 🙂" if place % 100 == 20 else _WORDS[place % len(_WORDS)]


def whole_text(tokens: int) -> str:
    """Return the text of an answer."""
    cycle = "".join(word(index) for index in range(CYCLE))
    rest = "".join(word(index) for index in range(tokens % CYCLE))
    return cycle * (tokens // CYCLE) + rest


def event(kind: str, text: str | None) -> bytes:
    """Return the event of a token in one kind of protocol; None gives the last event.

    Args:
        kind: "h2o" for this service, "jsonl" for 2025 servers, "tgi" for the model server, "openai"
            for OpenAI's API.
        text: the token's text.
    """
    if kind == "jsonl":
        if text is None:
            return _dumps({"type": "status", "status": "finished"}) + b"\n"
        return _dumps({"type": "stream", "token": text.ljust(16, "\0")}) + b"\n"
    if kind == "openai":
        delta = {} if text is None else {"role": "assistant", "content": text}
        finish = "stop" if text is None else None
        data: dict[str, object] = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": MODEL,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        end = b"data: [DONE]\n\n" if text is None else b""
        return b"data: " + _dumps(data) + b"\n\n" + end
    data = {
        "token": {
            "id": 11 if text is None else 100,
            "text": END if text is None else text,
            "logprob": -0.0500030517578125,
            "special": text is None,
        },
        "generated_text": "…" if text is None else None,
        "details": None,
    }
    if kind == "tgi":
        data = {"index": 1, **data}
    return b"data:" + _dumps(data) + b"\n\n"


def final_answer(text: str) -> bytes:
    """Return the event that completes an answer of a 2025 server, and what follows it."""
    event = _dumps({"type": "finalAnswer", "text": text, "interrupted": False})
    return event + b"\n" + b" " * 4096


def chunk(data: bytes) -> bytes:
    """Return an HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _dumps(data: dict[str, object]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
