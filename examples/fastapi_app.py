"""A web service with FastAPI: one client for its lifespan, an answer streamed to each request.

Closing the page stops the answer. `pip install fastapi uvicorn`, run it against the emulator
(`h2o-client serve`), and open http://127.0.0.1:8001/ask?question=Hello! in a browser:

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/fastapi_app.py
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from h2o_client import AsyncChatStream, AsyncH2oClient, H2oError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the client with the application, and close it at the end."""
    async with AsyncH2oClient() as client:
        app.state.client = client
        yield


async def open_stream(question: str, request: Request) -> AsyncIterator[AsyncChatStream]:
    """Keep a stream open until the response has been sent."""
    async with request.app.state.client.stream(question) as stream:
        yield stream


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(stream: Annotated[AsyncChatStream, Depends(open_stream)]) -> StreamingResponse:
    """Stream the answer. An error before the first text becomes a 502 response."""
    try:
        first = await anext(stream, "")
    except H2oError as error:
        raise HTTPException(502, str(error)) from error

    async def texts() -> AsyncIterator[str]:
        yield first
        async for text in stream:
            yield text

    return StreamingResponse(texts(), media_type="text/plain")


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8001)
