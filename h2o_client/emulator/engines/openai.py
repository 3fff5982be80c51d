"""Any OpenAI-compatible chat server: vLLM, llama.cpp, Ollama, h2oGPT.

The history is sent as messages, because such a server has its own template, and the deltas of its
stream become tokens as they arrive. Three differences from text-generation-inference are handled
here:

- The `finish_reason` arrives after the last delta, which has been forwarded already, so an
  additional last token, the end token or one without text, carries the reason. An answer that a
  content filter or the server itself broke off is incomplete: it ends with an error event.
- Parameters that OpenAI's own API does not have (`repetition_penalty`, `top_k`, …) are sent,
  because the servers named above support them. If a server rejects one, the request is sent again
  without it; if the server does not know it, it is never sent again. Values are checked first, so
  that a client's invalid value is not mistaken for an unknown parameter.
- Errors become the statuses and error types of text-generation-inference. A rejected key concerns
  the operator, not the client, so it does not become a 401.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from h2o_client.emulator.engine import (
    EngineError,
    FinishReason,
    GenerationError,
    GenerationRequest,
    Token,
    UpstreamError,
)
from h2o_client.emulator.engines.http import HttpEngine, Opened
from h2o_client.emulator.engines.turns import chat_messages
from h2o_client.emulator.parameters import Options
from h2o_client.emulator.prompt import END_OF_TEXT

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key."""

STANDARD = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_new_tokens": "max_tokens",
    "stop": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
EXTENSIONS = {
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),  # vLLM, llama.cpp
    "top_k": ("top_k",),
    "typical_p": ("typical_p",),
}
USAGE = "stream_options"
"""Requests the number of tokens; sent only with `details`, as some servers do not support it."""

UNKNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported|not (be )?(supported|permitted|allowed|known)"
    r"|does ?n[o']t support|forbidden|additional propert|extra ",
    re.IGNORECASE,
)
"""The phrases with which servers reject an unknown parameter, whatever its value."""

REASONS: Mapping[str, FinishReason] = {"length": "length", "max_tokens": "length"}
BROKEN_OFF = {"abort", "cancelled", "content_filter", "error"}
"""Finish reasons of incomplete answers; all others count as the end token."""

MAX_LINE = 1024 * 1024

logger = logging.getLogger(__name__)


class OpenAIEngine(HttpEngine):
    """An OpenAI-compatible chat server.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8000/v1``; the default path is ``/v1``.
        model: The model's name on the server; None for the first that it lists.
        key: The key; None for the environment's `OPENAI_API_KEY`, if set.
    """

    def __init__(self, url: str, model: str | None = None, *, key: str | None = None) -> None:
        super().__init__(url)
        base = self.url.rstrip("/").removesuffix("/chat/completions")
        if not base.partition("://")[2].partition("/")[2]:
            base += "/v1"
        self.base = base
        self.model = model
        self._key = key if key is not None else os.environ.get(KEY, "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineError(f"the key in {KEY} has characters that are not allowed in a header")
        self._listed: str | None = None
        self._spared: set[str] = set()

    def template(self) -> str | None:
        """A note that the server uses its own template."""
        return f"(messages; the template is that of {self.base})"

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the deltas of the answer."""
        opened = await self._ask(request)
        seed: int | None = request.parameters.get("seed")  # the server does not report its own
        if opened.header("content-type").lower().startswith("text/event-stream"):
            answer = self._streamed(opened, seed, newer=bool(request.chat))
        else:
            answer = self._whole(opened, seed)
        async with aclosing(answer):
            async for token in answer:
                yield token

    async def _ask(self, request: GenerationRequest) -> Opened:
        options = Options.of(request.parameters)
        model = self.model or self._listed or await self._first_model()
        payload = {"model": model, "messages": chat_messages(request), "stream": True}
        if request.parameters or not request.chat:  # a 2025 server sends no parameters
            payload |= _standard(request.parameters, options)
        more = {
            name: value
            for name, value in _extensions(request.parameters).items()
            if name not in self._spared
        }
        while True:
            opened = await self._post(payload | more)
            if opened.status == 200:
                return opened
            text = await opened.excerpt()
            refused = {name for name in more if name in text}
            if opened.status not in {400, 422} or not refused:
                self._note(opened.status)
                raise _refusal(opened, text)
            for name in refused:
                del more[name]
            if UNKNOWN.search(text):
                self._spared |= refused

    def _note(self, status: int) -> None:
        """Act on the status of a rejection: forget the model's name, or log a warning."""
        if status == 404:
            self._listed = None  # the server may have another model by now
        if status in {401, 403}:
            logger.warning("the model server at %s rejected the key in %s", self.base, KEY)

    async def _post(self, payload: Mapping[str, Any]) -> Opened:
        content = json.dumps(payload).encode()
        headers = {"content-type": "application/json", **self._authorization()}
        return await self.send("POST", f"{self.base}/chat/completions", content, headers)

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    async def _first_model(self) -> str:
        opened = await self.send("GET", f"{self.base}/models", headers=self._authorization())
        if opened.status != 200:
            self._note(opened.status)
            raise _refusal(opened, await opened.excerpt())
        try:
            self._listed = str(json.loads(await opened.read())["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise UpstreamError(424, _error("the model server lists no models")) from None
        return self._listed

    async def _streamed(
        self, opened: Opened, seed: int | None, *, newer: bool
    ) -> AsyncGenerator[Token]:
        """Read the events to the end; an unterminated stream has broken off.

        A 2025 server inserts reasoning that arrives separately into the text, between tags that are
        joined to the first token of each part; and it treats an answer without a finish reason as
        incomplete.
        """
        # 07_upstream_reasoning, 07_upstream_no_finish
        number = generated = 0
        thinks = False
        reason = event = ""
        async with aclosing(_events(opened.body)) as events:
            async for event in events:
                if event == "[DONE]":
                    break
                fields = _parsed(event)
                if _at(fields, "error") or _at(fields, "object") == "error":
                    raise GenerationError(*_event_error(_at(fields, "error") or fields))
                generated = _used(fields) or generated
                delta = _at(fields, "choices", 0, "delta")
                text = _string(_at(delta, "content"))
                thought = _string(_at(delta, "reasoning_content") or _at(delta, "reasoning"))
                if newer and thought:
                    text, thinks = thought if thinks else f"<think>{thought}", True
                elif thinks and text:
                    text, thinks = f"</think>{text}", False
                if text:
                    yield Token(text, id=number)
                    number += 1
                reason = _reason(fields) or reason
        if not reason and newer:
            raise GenerationError("the answer has no finish reason", "incomplete_generation")
        if not reason and event != "[DONE]":
            raise ConnectionError("the model server's stream ended early")
        yield _last(reason, number, generated, seed)

    async def _whole(self, opened: Opened, seed: int | None) -> AsyncGenerator[Token]:
        """Read the answer of a server that does not stream."""
        fields = _parsed((await opened.read()).decode(errors="replace"))
        error = _at(fields, "error")
        if error or not _at(fields, "choices", 0):
            text = _event_error(error)[0] if error else ""
            raise UpstreamError(424, _error(text or "the model server's answer is not a stream"))
        text = _string(_at(fields, "choices", 0, "message", "content"))
        if text:
            yield Token(text, id=0)
        yield _last(_reason(fields), 1 if text else 0, _used(fields), seed)


def _last(reason: str, number: int, generated: int, seed: int | None) -> Token:
    """The last token, which does not have visible text.

    Raises:
        GenerationError: The answer is incomplete.
    """
    if reason in BROKEN_OFF:
        text = f"the model server broke off the answer: {reason}"
        raise GenerationError(text, "incomplete_generation")
    finish = REASONS.get(reason, "stop_sequence" if reason == "stop_sequence" else "eos_token")
    if finish == "eos_token":
        count = generated or number + 1
        return Token(END_OF_TEXT, finish, number, special=True, seed=seed, generated=count)
    return Token("", finish, number, seed=seed, generated=generated or number)


def _standard(parameters: Mapping[str, Any], options: Options) -> dict[str, Any]:
    payload = {theirs: parameters[ours] for ours, theirs in STANDARD.items() if ours in parameters}
    if not options.do_sample:
        payload["temperature"] = 0.0
    return {name: value for name, value in payload.items() if value is not None and value != []}


def _extensions(parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in parameters.items() if value is not None}
    found = {
        theirs: given[ours]
        for ours, names in EXTENSIONS.items()
        if ours in given
        for theirs in names
    }
    return {**found, USAGE: {"include_usage": True}} if given.get("details") else found


async def _events(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """The contents of ``data:`` lines; only a line feed ends a line, no other Unicode break."""
    rest = b""
    async with aclosing(body):
        async for data in body:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_LINE:
                raise ConnectionError("a line is too long")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[len(b"data:") :].decode(errors="replace").strip(" \r")
    if rest.startswith(b"data:"):
        yield rest[len(b"data:") :].decode(errors="replace").strip(" \r")


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _at(value: Any, *path: str | int) -> Any:
    """The value at a path in JSON, or None."""
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return None
    return value


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _used(fields: object) -> int:
    """The number of generated tokens; 0 if the server does not report it."""
    known = _at(fields, "usage", "completion_tokens")
    return known if isinstance(known, int) else 0


def _reason(fields: object) -> str:
    """Why an answer ended; empty while it continues."""
    choice = _at(fields, "choices", 0)
    reason = _string(_at(choice, "finish_reason"))
    named = reason == "stop" and isinstance(_at(choice, "stop_reason"), str)
    return "stop_sequence" if named else reason  # vLLM reports the stop sequence


def _error(text: str, error_type: str = "generation") -> dict[str, str]:
    return {"error": text, "error_type": error_type}


def _refusal(opened: Opened, text: str) -> UpstreamError:
    """The error of text-generation-inference that corresponds to a server's rejection."""
    message = _message(text) or f"the model server answered {opened.status}"
    status, error_type = _terms(opened.status)
    if opened.status in {401, 403}:  # the server's text may contain a part of the key
        message = f"the model server rejected the emulator's key ({opened.status})"
    headers: Sequence[tuple[str, str]] = ()
    if opened.header("retry-after") and status in {429, 503}:
        headers = (("retry-after", opened.header("retry-after")),)
    return UpstreamError(status, _error(message, error_type), headers=headers)


def _terms(status: int) -> tuple[int, str]:
    if status in {400, 413, 422}:
        return 422, "validation"
    if status == 429:
        return 429, "overloaded"
    if status in {502, 503, 504, 529}:
        return 503, "healthcheck"
    return 424, "generation"


def _message(text: str) -> str:
    fields = _parsed(text)
    return _event_error(_at(fields, "error") or fields)[0] if isinstance(fields, dict) else ""


def _event_error(error: object) -> tuple[str, str]:
    """The text and type of an error in JSON."""
    if isinstance(error, str):
        return error, "generation"
    message = _at(error, "message") or _at(error, "detail")
    if not isinstance(message, str):
        message = "" if message is None else json.dumps(message)
    code = _at(error, "code")
    kind = _terms(code)[1] if isinstance(code, int) else "generation"
    return message, "overloaded" if kind == "healthcheck" else kind
