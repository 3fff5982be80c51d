"""The types that users see, checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import httpx

from h2o_client import (
    AsyncChatStream,
    AsyncH2oClient,
    BatchResult,
    ChatStream,
    File,
    H2oClient,
    H2oError,
    Message,
    RateLimitError,
    RedirectError,
    Reply,
    Retries,
    StatusError,
    Timeouts,
    Token,
    TransportTimeoutError,
)


def construct(headers: dict[str, str]) -> None:
    assert_type(H2oClient(), H2oClient)
    H2oClient("https://host/chat")
    H2oClient(
        None,
        model=None,
        session=None,
        share_conversations=None,
        timeouts=None,
        retries=None,
        proxy=None,
        headers=None,
        http_client=None,
        parameters=None,
    )
    H2oClient(timeouts=30.0, retries=3, headers=headers, http_client=httpx.Client())
    H2oClient(timeouts=Timeouts(first_token=30), retries=Retries(attempts=1))
    AsyncH2oClient(http_client=httpx.AsyncClient(), parameters={"temperature": 0.1})
    H2oClient(http_client=httpx.AsyncClient())  # type: ignore[arg-type]
    H2oClient("https://host", "model")  # type: ignore[call-arg]


def sync(client: H2oClient) -> None:
    assert_type(client.base_url, str)
    assert_type(client.model, str)
    assert_type(client.session, str)
    with client as same:
        assert_type(same, H2oClient)
    reply = client.chat("Hi")
    assert_type(reply, Reply)
    assert_type(reply.text, str)
    assert_type(reply.finish_reason, str | None)
    assert_type(reply.generated_tokens, int)
    client.chat([{"role": "user", "content": "Hi"}])
    client.chat(({"role": "user", "content": "Hi"}, Message(role="user", content="Ho")))
    client.chat([Message(role="user", content="Hi")])
    plain: list[dict[str, str]] = [{"role": "user", "content": "Hi"}]
    client.chat(plain, temperature=0.7, stop=["x"], parameters={"seed": 1})
    client.chat("Hi", files=["a.txt", Path("b.txt"), File("c.txt", b"c")])
    client.chat("Hi", files=[b"c"])  # type: ignore[list-item]
    assert_type(client.dialect, str | None)
    assert_type(client.capabilities, frozenset[str])
    assert_type(reply.revised, bool)
    assert_type(reply.reasoning, str)
    H2oClient(dialect="chat-ui-2025", cookie_name="session")
    H2oClient(dialect="chat-ui")  # type: ignore[arg-type]
    client.chat("Hi", temperature="hot")  # type: ignore[arg-type]
    client.chat(7)  # type: ignore[arg-type]
    with client.stream(plain, max_new_tokens=3) as stream:
        assert_type(stream, ChatStream)
        for text in stream:
            assert_type(text, str)
        for token in stream.events():
            assert_type(token, Token)
            assert_type(token.id, int | None)
        assert_type(stream.text, str)
        assert_type(stream.reply, Reply)
        stream.stop()
        stream.close()
    assert_type(client.stream("Hi").read(), Reply)
    texts: Iterator[str] = client.stream("Hi")
    next(texts)


async def asynchronous(client: AsyncH2oClient) -> None:
    async with client as same:
        assert_type(same, AsyncH2oClient)
    assert_type(await client.chat("Hi", details=True), Reply)
    async with client.stream("Hi") as stream:
        assert_type(stream, AsyncChatStream)
        async for text in stream:
            assert_type(text, str)
        async for token in stream.events():
            assert_type(token, Token)
        assert_type(await stream.read(), Reply)
        assert_type(await stream.display(), Reply)
        assert_type(stream.reply, Reply)
        await stream.stop()
        await stream.aclose()
    texts: AsyncIterator[str] = client.stream("Hi")
    await anext(texts)
    await client.aclose()


def batches(client: H2oClient) -> None:
    with client.batch(["Hi"]) as results:
        for result in results:
            assert_type(result.unwrap(), Reply)
            if result.error is None:
                assert_type(result.reply.text, str)
            else:
                assert_type(result.error, Exception)
                assert_type(result.reply, None)
            if result.reply is not None:
                assert_type(result.reply, Reply)
                assert_type(result.error, None)


async def asynchronous_batches(client: AsyncH2oClient) -> BatchResult:
    async with client.batch(["Hi"]) as results:
        result = await anext(results)
        if result.error is None:
            assert_type(result.reply, Reply)
        return result


def errors(client: H2oClient) -> None:
    try:
        client.chat("Hi")
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except RedirectError as error:
        assert_type(error.location, str)
        assert_type(error.base_url, str | None)
    except StatusError as error:
        assert_type(error.status, int)
        assert_type(error.body, str)
    except TransportTimeoutError as error:
        assert_type(error.limit, str)
        builtin: TimeoutError = error
        assert_type(builtin.errno, int | None)
    except H2oError as error:
        assert_type(error.partial, str)


def values(reply: Reply) -> Any:
    reply.text = "changed"  # type: ignore[misc]
    return str(reply)
