"""The prompt that the service builds, and the text that it stores.

The service keeps the history and renders it with the model's template; only the last words of the
prompt are kept, where words are separated by single spaces. The model's answer is stored without
its end token and without trailing white space, as JavaScript defines it.
"""
# 07_two_turns_and_retry, 05_upstream_newlines

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from h2o_client.emulator.store import Message, Model

JS_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""The characters that JavaScript's trim removes. Python also removes U+001C to U+001F, U+0085."""

USER, ASSISTANT, SEPARATOR = "<|prompt|>", "<|answer|>", "</s>"
END_OF_TEXT = "<|endoftext|>"
SUMMARIZE = "Please summarize the following message as a single sentence of less than 5 words:\n"
ENTITLE = "User message: "
"""The beginning of the message with which a 2025 server asks for a title."""


def template(version: str = "0.4") -> str:
    """The service's template, with names as placeholders."""
    separator = SEPARATOR if version < "0.6" else ""
    return f"{USER}{{question}}{separator}{ASSISTANT}{{answer}}{separator}"


def build_prompt(
    messages: Iterable[Message], model: Model, *, version: str = "0.4", context: str = ""
) -> str:
    """Render a history with the model's template, truncated to its last words.

    On 0.6, the same configuration does not add a separator after a message.
    """
    # 0.6: 01, 06
    separator = SEPARATOR if version < "0.6" else ""
    parts: list[str] = []
    for message in messages:
        parts += (USER if message.sender == "user" else ASSISTANT, message.content)
        if separator and not message.content.endswith(separator):
            parts.append(separator)
    parts.append(ASSISTANT)
    words = "".join(parts).split(" ")
    return context + " ".join(words[-model.truncate :])


def generated_text(body: str) -> str | None:
    """The answer that the service stores from a complete stream, or None.

    It reads only the last event: if that is an error or lacks a text, the turn is not stored.
    """
    # Newer model servers put a space after the colon.
    start = max(body.rfind('\ndata:{"'), body.rfind('\ndata: {"'))
    if start < 0:
        start = body.find("data")
    last = body[max(start, 0) :].strip(JS_SPACE)[len("data:") :].partition("\n")[0]
    try:
        event: object = json.loads(last)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    fields = cast("dict[str, Any]", event)
    text = fields.get("generated_text")
    return text if isinstance(text, str) and not fields.get("error") else None


def stored_text(text: str, prompt: str, stops: Iterable[str] = ()) -> str:
    """The stored form of an answer, without the prompt before it and the end token after it."""
    text = text.removeprefix(prompt).removeprefix("<|startoftext|>")
    text = text.removesuffix(SEPARATOR).rstrip(JS_SPACE)
    for stop in (*stops, END_OF_TEXT):
        if stop and text.endswith(stop):
            text = text.removesuffix(stop).rstrip(JS_SPACE)
    return well_formed(text)


def well_formed(text: str) -> str:
    """A text as the database stores it, in UTF-8: an unpaired surrogate becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def units(text: str) -> int:
    """A text's length in UTF-16 units, as in JavaScript."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
