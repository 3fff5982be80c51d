"""The model server: turns an answer or an engine's tokens into HTTP.

It replaces the text-generation-inference server of the recordings, and uses its streaming format:
one ``data:`` line per event, without a space after the colon, and with a `generated_text` that is
null on every event but the last. The service forwards the bytes unchanged, so the client reads
exactly the bytes written here.

A body is an iterator of bytes, one item for each read. It ends, or raises `ConnectionError` if the
model server died.
"""

from __future__ import annotations

import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import anyio

from h2o_client.emulator.engine import (
    Engine,
    EngineLike,
    GenerationError,
    GenerationRequest,
    LiveEngine,
    RawEngine,
    RawResponse,
    Token,
    UpstreamDownError,
    UpstreamError,
)
from h2o_client.emulator.parameters import check
from h2o_client.emulator.prompt import END_OF_TEXT
from h2o_client.emulator.script import Answer, encode_body
from h2o_client.emulator.web import reason_phrase

CORS = (
    ("access-control-allow-origin", "*"),
    ("vary", "origin, access-control-request-method, access-control-request-headers"),
)
ERROR_BODIES: Mapping[int, Mapping[str, str]] = {
    422: {
        "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1530",
        "error_type": "validation",
    },
    424: {
        "error": "Request failed during generation: Server error: boom",
        "error_type": "generation",
    },
    429: {"error": "Model is overloaded", "error_type": "overloaded"},
    503: {"error": "unhealthy", "error_type": "healthcheck"},
}
"""The model server's messages for these statuses."""
# 05_upstream_error_422 and similar


@dataclass(frozen=True, slots=True)
class Upstream(RawResponse):
    """The model server's response, and where in it the client's connection is to be lost."""

    drop_after: int | None = None
    drop_after_bytes: int | None = None


Hold = Callable[[], Awaitable[None]]


async def ask(
    request: GenerationRequest,
    answer: Answer | None,
    engine: EngineLike,
    *,
    pace: float,
    hold: Hold,
) -> Upstream:
    """Ask the model server.

    Raises:
        UpstreamDownError: It cannot be reached.
    """
    if answer is None and isinstance(engine, RawEngine):
        response = await engine.respond(request)
        return Upstream(response.status, response.headers, response.body)
    if request.content_type.partition(";")[0].strip() != "application/json":
        # The service forwards the client's content type, and the model server rejects it [08].
        text = "Expected request with `Content-Type: application/json`"
        return _plain(415, text.encode(), "text/plain; charset=utf-8")
    try:
        check(request.body)
    except UpstreamError as error:
        return _refused(error)
    tokens: AsyncIterator[Token | str] | None = None
    if answer is None:
        assert not isinstance(engine, RawEngine)  # noqa: S101 -- answered above
        made = engine.generate(request) if isinstance(engine, Engine) else engine(request)
        if isinstance(made, Answer | str):
            answer = Answer.of(made)
        else:
            tokens = made
            pace = 0.0 if isinstance(engine, LiveEngine) else pace
    if answer is None:
        answer = Answer()
    elif answer.ending == "down":
        await anyio.sleep(answer.first)
        raise UpstreamDownError("no model server")
    elif answer.status != HTTPStatus.OK or answer.body is not None:
        await anyio.sleep(answer.first)
        body = answer.body
        if body is None:
            body = ERROR_BODIES.get(answer.status, {"error": reason_phrase(answer.status)})
        return _plain(answer.status, *encode_body(body, answer.content_type), answer.headers)
    # The recorded stub reported 42; a real model reports its own seed, or none.
    seed = 42 if tokens is None or not isinstance(engine, LiveEngine) else None
    writer = _Writer(request, answer, answer.pace if answer.pace is not None else pace, hold, seed)
    try:
        if not request.stream:
            return await writer.whole(tokens)
        source = writer.raw() if answer.raw is not None else writer.events(tokens)
        headers = (
            *CORS,
            ("cache-control", "no-cache"),
            ("content-type", answer.content_type or "text/event-stream"),
            ("x-accel-buffering", "no"),
            ("x-compute-characters", str(len(request.prompt))),
            ("x-compute-type", "gpu+optimized"),
            *answer.headers,
        )
        stream = _chunks(await _primed(source), answer)
        return Upstream(200, headers, stream, answer.drop_after, answer.drop_after_bytes)
    except UpstreamError as error:
        return _refused(error)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one answer as events."""

    request: GenerationRequest
    answer: Answer
    pace: float
    hold: Hold
    seed: int | None

    async def events(self, tokens: AsyncIterator[Token | str] | None) -> AsyncGenerator[bytes]:
        """The events, each at its time."""
        answer = self.answer
        said: list[str] = []
        number = 0
        async with aclosing(self._timed(tokens)) as timed:
            try:
                async for token, last in timed:
                    said += [] if token.special else [token.text]
                    for _ in range(answer.comments.count(number)):
                        yield b":\n\n"
                    finish: str | None = token.finish
                    if finish is None and last and answer.ending == "length":
                        finish = "length"
                    if finish is not None:
                        # The recorded stub skips one number before such a token.
                        details = self._details(finish, token.generated or number + 1, token.seed)
                        yield self._event(number + 1, token, self._final(said), details)
                        return
                    yield self._event(number, token)
                    number += 1
            except GenerationError as error:
                yield _line({"error": error.error, "error_type": error.error_type})
                return
        match answer.ending:
            case "cut":
                raise ConnectionError("model server died")
            case "midline":
                yield b'data:{"token":{"id":7,"text":" hal'
                raise ConnectionError("model server died")
            case "error":
                yield _line({"error": answer.error, "error_type": answer.error_type})
            case "clean":
                return
            case _:
                details = self._details("eos_token", len(said) + 1)
                yield self._event(None, Token(END_OF_TEXT), self._final(said), details)

    async def raw(self) -> AsyncGenerator[bytes]:
        """The scripted bytes."""
        await anyio.sleep(self.answer.first)
        yield self.answer.raw or b""
        if self.answer.ending == "cut":
            raise ConnectionError("model server died")

    async def whole(self, tokens: AsyncIterator[Token | str] | None) -> Upstream:
        """The answer as one JSON body, for a request without ``stream: true``."""
        # 08
        async with aclosing(self._timed(tokens)) as timed:
            try:
                said = [token.text async for token, _ in timed if not token.special]
            except GenerationError as error:
                status = 422 if error.error_type == "validation" else 424
                body = {"error": error.error, "error_type": error.error_type}
                return _plain(status, *encode_body(body, None))
        text = json.dumps(
            [{"generated_text": self._final(said)}], ensure_ascii=False, separators=(",", ":")
        )
        characters = str(len(self.request.prompt))
        extra = (
            ("x-compute-characters", characters),
            ("x-compute-time", "42"),
            ("x-compute-type", "gpu+optimized"),
            ("x-inference-time", "42"),
            ("x-queue-time", "0"),
            ("x-time-per-token", "2"),
            ("x-total-time", "42"),
            ("x-validation-time", "0"),
        )
        return _plain(200, text.encode(), "application/json", extra)

    async def _timed(
        self, tokens: AsyncIterator[Token | str] | None
    ) -> AsyncGenerator[tuple[Token, bool]]:
        """Each token at its time, and whether it is the last of a scripted answer."""
        answer = self.answer
        await anyio.sleep(answer.first)
        words = answer.words()
        source = _walk(words) if tokens is None else tokens
        number = 0
        try:
            async for token in source:
                if number == answer.hold_after:
                    await self.hold()
                elif number and self.pace:
                    await anyio.sleep(self.pace)
                number += 1
                last = tokens is None and number == len(words)
                yield (token if isinstance(token, Token) else Token(token)), last
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()  # so that a stop reaches the engine at once
        if number == answer.hold_after:
            await self.hold()
        elif number and self.pace:
            await anyio.sleep(self.pace)

    def _final(self, said: list[str]) -> str:
        answer = self.answer
        text = "".join(said) if answer.generated_text is None else answer.generated_text
        if answer.ending == "eos_in_text":
            text += END_OF_TEXT
        return self.request.prompt + text if self._asked("return_full_text") else text

    def _asked(self, parameter: str) -> bool:
        return bool(self.request.parameters.get(parameter))

    def _details(self, finish: str, tokens: int, seed: int | None = None) -> dict[str, Any] | None:
        if not self._asked("details") and self.answer.finish_reason is None:
            return None
        reason = self.answer.finish_reason or finish
        return {
            "finish_reason": reason,
            "generated_tokens": tokens,
            "seed": self.seed if seed is None else seed,
        }

    @staticmethod
    def _event(
        number: int | None,
        said: Token,
        generated_text: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> bytes:
        """One event; `number` None is the end token."""
        special = number is None or said.special
        position = 0 if number is None else number
        invented = -0.0317 if special else -round(0.05 + 0.0731 * (position % 13), 4)
        token = {
            "id": said.id if said.id is not None else 11 if special else 100 + position,
            "text": said.text,
            "logprob": said.logprob if said.id is not None else invented,
            "special": special,
        }
        return _line({"token": token, "generated_text": generated_text, "details": details})


async def _walk(words: tuple[str, ...]) -> AsyncIterator[Token | str]:
    for word in words:
        yield word


async def _primed(source: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same body, after its first part was read: before it, an engine may raise an error."""
    first: bytes | ConnectionError | None
    try:
        first = await anext(source, None)
    except UpstreamDownError:
        raise
    except ConnectionError as error:
        first = error

    async def rest() -> AsyncGenerator[bytes]:
        if isinstance(first, ConnectionError):
            raise first
        async with aclosing(source):
            if first is not None:
                yield first
            async for event in source:
                yield event

    return rest()


async def _chunks(source: AsyncGenerator[bytes], answer: Answer) -> AsyncGenerator[bytes]:
    """Join events, or split them anywhere."""
    waiting: list[bytes] = []
    died: ConnectionError | None = None
    async with aclosing(source):
        try:
            async for event in source:
                waiting.append(event)
                if len(waiting) >= answer.join:
                    for part in _cut(b"".join(waiting), answer.split):
                        yield part
                    waiting = []
        except ConnectionError as error:
            died = error
    if waiting:
        for part in _cut(b"".join(waiting), answer.split):
            yield part
    if died is not None:
        raise died


def _cut(data: bytes, size: int | None) -> Iterator[bytes]:
    size = size or max(len(data), 1)
    for start in range(0, max(len(data), 1), size):  # an empty part starts the response, too
        yield data[start : start + size]


def _line(event: Mapping[str, Any]) -> bytes:
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    # An unpaired surrogate is written as an escape.
    return f"data:{text}\n\n".encode(errors="backslashreplace")


def _refused(error: UpstreamError) -> Upstream:
    return _plain(error.status, *encode_body(error.body, error.content_type), error.headers)


def _plain(
    status: int, body: bytes, content_type: str, extra: Iterable[tuple[str, str]] = ()
) -> Upstream:
    headers = (
        *CORS,
        ("content-length", str(len(body))),
        ("content-type", content_type),
        *extra,
    )

    async def once() -> AsyncGenerator[bytes]:
        yield body

    return Upstream(status, headers, once())
