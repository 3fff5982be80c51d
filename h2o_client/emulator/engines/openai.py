"""Any OpenAI-compatible chat server: vLLM, llama.cpp, Ollama, h2oGPT.

The history goes as messages, for such a server has a template of its own, and
the deltas of its stream become tokens as they arrive.  Three things differ from
text-generation-inference and are bridged here:

- Its `finish_reason` comes after the last delta, when that has long been passed on:
  where an answer did not come to its end token, a last token without text carries
  the reason.
- Parameters that OpenAI does not know (`repetition_penalty`, `top_k`, …) are sent,
  since the servers named above take them; a server that refuses them is asked again
  without them, and from then on spared them.
- Its errors become the statuses and error types of text-generation-inference.  A
  refused key is the operator's business, not the client's: no 401.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

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

KEY = "OPENAI_API_KEY"
"""The environment's variable with the key."""

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
REASONS: Mapping[str, FinishReason] = {"length": "length", "stop": "eos_token"}
MAX_LINE = 1024 * 1024
MAX_ERROR = 64 * 1024


class OpenAIEngine(HttpEngine):
    """An OpenAI-compatible chat server.

    Args:
        url: Its base, such as ``http://127.0.0.1:8000/v1``; without a path, ``/v1`` is meant.
        model: The model's name there; None takes the first that it lists.
        key: The key; None takes the one of the environment's `OPENAI_API_KEY`, if there is one.
    """

    def __init__(self, url: str, model: str | None = None, *, key: str | None = None) -> None:
        super().__init__(url)
        base = url.rstrip("/").removesuffix("/chat/completions")
        if not base.partition("://")[2].partition("/")[2]:
            base += "/v1"
        self.base = base
        self.model = model
        self._key = key if key is not None else os.environ.get(KEY, "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineError(f"the key in {KEY} has characters that no header can have")
        self._plain = False

    def template(self) -> str | None:
        """The server has its own."""
        return f"(messages; the template is that of {self.base})"

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Token]:
        """Yield the deltas of the answer."""
        opened = await self._ask(request)
        if opened.header("content-type").partition(";")[0].strip() == "text/event-stream":
            answer = self._streamed(opened)
        else:
            answer = self._whole(opened)
        async with aclosing(answer):
            async for token in answer:
                yield token

    async def _ask(self, request: GenerationRequest) -> Opened:
        model = self.model or await self._first_model()
        payload = {"model": model, "messages": chat_messages(request), "stream": True}
        payload |= _standard(request.parameters)
        extensions = _extensions(request.parameters)
        plain = self._plain or not extensions
        opened = await self._post(payload if plain else payload | extensions)
        if opened.status in {400, 422} and not plain:
            text = (await opened.read(MAX_ERROR)).decode(errors="replace")
            if not any(name in text for name in extensions):
                raise _refusal(opened, text)
            self._plain = True
            opened = await self._post(payload)
        if opened.status != 200:
            raise _refusal(opened, (await opened.read(MAX_ERROR)).decode(errors="replace"))
        return opened

    async def _post(self, payload: Mapping[str, Any]) -> Opened:
        content = json.dumps(payload).encode()
        headers = {"content-type": "application/json", **self._authorization()}
        return await self.send("POST", f"{self.base}/chat/completions", content, headers)

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    async def _first_model(self) -> str:
        opened = await self.send("GET", f"{self.base}/models", headers=self._authorization())
        text = (await opened.read(MAX_LINE)).decode(errors="replace")
        if opened.status != 200:
            raise _refusal(opened, text)
        try:
            self.model = str(json.loads(text)["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise UpstreamError(424, _error("the model server lists no model")) from None
        return self.model

    async def _streamed(self, opened: Opened) -> AsyncGenerator[Token]:
        """Read the events up to the end; a stream without one has broken off."""
        number = generated = 0
        reason: FinishReason | None = None
        ended = False
        async with aclosing(_events(opened.body)) as events:
            async for event in events:
                if event == "[DONE]":
                    ended = True
                    break
                fields = _object(event)
                if fields.get("error"):
                    raise GenerationError(*_event_error(fields["error"]))
                usage = fields.get("usage")
                if isinstance(usage, dict):
                    known: object = cast("dict[str, Any]", usage).get("completion_tokens")
                    generated = known if isinstance(known, int) else generated
                choice = _choice(fields)
                text = _text(choice.get("delta"))
                if text:
                    yield Token(text, id=number)
                    number += 1
                reason = _reason(choice) or reason
        if reason is None and not ended:
            raise ConnectionError("the model server's stream has no end")
        if reason in {"length", "stop_sequence"}:
            yield Token("", reason, id=number, generated=generated or number)

    async def _whole(self, opened: Opened) -> AsyncGenerator[Token]:
        """Read the answer of a server that does not stream, if it is one."""
        data = await opened.read(16 * MAX_LINE)
        fields = _object(data.decode(errors="replace"))
        choice = _choice(fields)
        if fields.get("error") or not choice:
            text = _event_error(fields["error"])[0] if fields.get("error") else ""
            raise UpstreamError(424, _error(text or "the model server's answer is no stream"))
        text = _text(choice.get("message"))
        yield Token(text, "length" if _reason(choice) == "length" else None, id=0)


def _standard(parameters: Mapping[str, Any]) -> dict[str, Any]:
    payload = {theirs: parameters[ours] for ours, theirs in STANDARD.items() if ours in parameters}
    if parameters.get("do_sample") is False:
        payload["temperature"] = 0.0
    return {name: value for name, value in payload.items() if value is not None and value != []}


def _extensions(parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in parameters.items() if value is not None}
    return {
        theirs: given[ours]
        for ours, names in EXTENSIONS.items()
        if ours in given
        for theirs in names
    }


async def _events(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """The ``data:`` lines; of all that Unicode has, only a line feed ends one."""
    rest = b""
    async with aclosing(body):
        async for data in body:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_LINE:
                raise ConnectionError("too long a line")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[len(b"data:") :].decode(errors="replace").strip(" \r")
    if rest.startswith(b"data:"):
        yield rest[len(b"data:") :].decode(errors="replace").strip(" \r")


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    choices: object = fields.get("choices")
    if not isinstance(choices, list) or not choices:
        return {}
    first: object = cast("list[object]", choices)[0]
    return cast("dict[str, Any]", first) if isinstance(first, dict) else {}


def _text(part: object) -> str:
    text: object = cast("dict[str, Any]", part).get("content") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def _reason(choice: Mapping[str, Any]) -> FinishReason | None:
    reason: object = choice.get("finish_reason")
    if not isinstance(reason, str):
        return None
    if reason == "stop" and isinstance(choice.get("stop_reason"), str):
        return "stop_sequence"  # vLLM tells which one
    return REASONS.get(reason, "eos_token")


def _error(text: str, error_type: str = "generation") -> dict[str, str]:
    return {"error": text, "error_type": error_type}


def _refusal(opened: Opened, text: str) -> UpstreamError:
    """What a status of theirs is in terms of text-generation-inference."""
    message = _message(text) or f"the model server answered {opened.status}"
    status, error_type = _terms(opened.status)
    if opened.status in {401, 403}:  # its text may have a part of the key
        message = f"the model server refused the emulator's key ({opened.status})"
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
    fields = _object(text)
    return _event_error(fields.get("error") or fields)[0] if fields else ""


def _event_error(error: object) -> tuple[str, str]:
    """The text and the type of an error that came as JSON."""
    if isinstance(error, str):
        return error, "generation"
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    message: object = fields.get("message") or fields.get("detail")
    if not isinstance(message, str):
        message = "" if message is None else json.dumps(message)
    code: object = fields.get("code")
    kind = _terms(code)[1] if isinstance(code, int) else "generation"
    return message, "overloaded" if kind == "healthcheck" else kind
