"""The recorder's text-generation-inference server (`replay.Stub`), put behind HTTP."""

from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from model_servers import Asked, Handler
from replay import Stub

from h2o_client.emulator import GenerationRequest
from h2o_client.emulator.upstream import ask


@dataclass
class TgiStub:
    """The recorder's model server: what it does is said by ``[[...]]`` in the last message."""

    stub: Stub = field(default_factory=Stub)

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
            hold = anyio.lowlevel.checkpoint
            upstream = await ask(request, None, self.stub, pace=0.0, hold=hold)
            handler.head(upstream.status, list(upstream.headers))
            chunked = not any(name == "content-length" for name, _ in upstream.headers)
            write = handler.chunk if chunked else handler.wfile.write
            async for piece in upstream.body:
                write(piece.data)
            if chunked:
                handler.chunk(b"")

        with suppress(ConnectionError):
            anyio.run(answer)
