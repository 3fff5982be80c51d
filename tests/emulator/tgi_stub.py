"""The recorder's text-generation-inference server (`replay.Stub`), over HTTP."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from model_servers import Asked, Handler
from replay import Stub

from h2o_client.emulator import GenerationRequest
from h2o_client.emulator.upstream import ask


@dataclass
class TgiStub:
    """The recorder's model server, controlled by ``[[...]]`` marks in the last message.

    Attributes:
        stub: What it answers.
        standing: One event for each paused answer; setting it resumes the answer.
    """

    stub: Stub = field(default_factory=Stub)
    standing: list[threading.Event] = field(default_factory=list[threading.Event])
    changes: threading.Condition = field(default_factory=threading.Condition)

    def wait_held(self) -> None:
        """Wait until an answer is paused."""
        with self.changes:
            assert self.changes.wait_for(lambda: self.standing, 5)

    def release(self) -> None:
        """Resume the paused answers."""
        with self.changes:
            for event in self.standing:
                event.set()
            self.standing.clear()

    async def hold(self) -> None:
        """Pause."""
        event = threading.Event()
        with self.changes:
            self.standing.append(event)
            self.changes.notify_all()
        assert await anyio.to_thread.run_sync(event.wait, 10)

    def __call__(self, asked: Asked, handler: Handler) -> None:
        if self.stub.down:
            return
        content_type = asked.headers["content-type"]
        body = asked.json()
        prompt = str(body["inputs"])
        last = prompt.removesuffix("<|answer|>").rpartition("<|prompt|>")[2].removesuffix("</s>")
        request = GenerationRequest(
            model="stub",
            prompt=prompt,
            parameters=body.get("parameters") or {},
            messages=(("user", last),),
            stream=body.get("stream") is True,
            content_type=content_type,
            body=body,
        )

        async def answer() -> None:
            upstream = await ask(request, None, self.stub, pace=0.0, hold=self.hold)
            handler.head(upstream.status, list(upstream.headers))
            chunked = not any(name == "content-length" for name, _ in upstream.headers)
            write = handler.chunk if chunked else handler.wfile.write
            async for data in upstream.body:
                write(data)
            if chunked:
                handler.chunk(b"")

        with suppress(ConnectionError):
            anyio.run(answer)
