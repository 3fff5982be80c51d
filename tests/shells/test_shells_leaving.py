"""However a stream is left, the server is told, and nothing is left on it."""

import contextlib
import gc
import random
import sys
import threading
import time
import warnings
import weakref
from functools import partial

import anyio
import pytest
from asked import eventually, kinds, no_connection, requested
from backends import PATIENCE, Api, Background, endless, only

from h2o_client import (
    AsyncChatStream,
    AsyncH2oClient,
    ChatStream,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    Reply,
    StatusError,
    Timeouts,
)
from h2o_client.emulator import Answer, Emulator, Fault
from h2o_client.protocol.effects import Lock


async def texts(stream: AsyncChatStream) -> list[str]:
    return [text async for text in stream]


class OwnError(Exception):
    """The error raised by a caller."""


# In the reading thread or task


@pytest.mark.parametrize("read", [1, 2])
async def test_break_stops_the_answer(api: Api, server: Emulator, read: int) -> None:
    server.reply(endless(" One", " two"))
    async with api.client() as client:
        got = 0
        async with client.stream("Hi") as stream:
            async for _ in stream:
                got += 1
                if got == read:
                    break
        await api.settled()
        assert kinds(server)[-2:] == ["stop", "delete"]
        assert server.stops == 1


async def test_close_is_idempotent_at_any_time(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Whole")
    async with api.client() as client:
        unread = client.stream("Hi")
        await unread.aclose()
        await unread.aclose()
        assert server.requests == []
        stream = client.stream("Hi")
        await anext(stream)
        await stream.aclose()
        await api.settled()
        await stream.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await anext(stream)
        whole = client.stream("Hi")
        assert await texts(whole) == [" Whole"]
        await whole.aclose()
        assert whole.reply.text == " Whole"
        assert await texts(whole) == []
    await client.aclose()
    assert kinds(server).count("delete") == 2


async def test_closing_the_client_closes_all_its_streams(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), endless(" One"))
    client = api.client()
    streams = [client.stream("Hi") for _ in range(2)]
    for stream in streams:
        await anext(stream)
    await client.aclose()
    await api.settled()
    await api.wait(lambda: no_connection(server))
    for stream in streams:
        with pytest.raises(RuntimeError, match="closed"):
            await anext(stream)
    with pytest.raises(RuntimeError, match="client is closed"):
        await client.chat("Hi")
    assert "closed" in repr(client)
    await client.aclose()


# From another thread or task


async def arrived(api: Api, stream: AsyncChatStream, text: str) -> None:
    """Wait until the concurrent reader has the text."""
    await api.wait(lambda: eventually(lambda: stream.text == text))


async def test_close_wakes_a_reader_in_another_thread(api: Api, server: Emulator) -> None:
    """The server does not end the answer: the reader is woken all the same."""
    server.reply(endless(" One", " two"))
    server.fault("stop", *[Fault(500)] * 9)
    begun = time.monotonic()
    async with api.client() as client:
        stream = client.stream("Hi")
        assert await anext(stream) == " One"
        async with api.in_background(stream.read) as done:
            await api.wait(lambda: time.sleep(0.05))  # until it waits for the third token
            await stream.aclose()
        with pytest.raises(IncompleteStreamError):
            done.result()
    assert time.monotonic() - begun < PATIENCE / 2


async def test_concurrent_reader_is_rejected(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    async with api.client() as client:
        stream = client.stream("Hi")
        async with api.in_background(lambda: texts(stream)) as reader:
            await api.held()
            await arrived(api, stream, " One")
            with pytest.raises(RuntimeError, match="another thread or task") as caught:
                await anext(stream)
            assert caught.value.__context__ is None
            await api.wait(server.release)
        assert reader.result() == [" One", " too", " late"]
        assert stream.reply.finish_reason == "eos_token"


@only("sync")
async def test_reader_waits_for_a_close_in_progress(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, wait = Lock.acquire, ChatStream._wait_for_end
    waits = threading.Event()
    errors: list[BaseException] = []
    readers: list[threading.Thread] = []

    def read() -> None:
        try:
            next(stream)
        except (H2oError, RuntimeError) as error:
            errors.append(error)

    def take_and_be_late(lock: Lock) -> bool:
        mine = take(lock)
        if mine and lock is stream._steps and not readers:
            readers.append(threading.Thread(target=read))
            readers[0].start()
            assert waits.wait(PATIENCE)
            readers[0].join(0.02)  # it would get a busy error immediately, if at all
        return mine

    def note_and_wait(stream: ChatStream) -> bool:
        waits.set()
        return wait(stream)

    server.reply(endless(" One"))
    with H2oClient(server.url) as client:
        stream = client.stream("Hi")
        assert next(stream) == " One"
        monkeypatch.setattr(Lock, "acquire", take_and_be_late)
        monkeypatch.setattr(ChatStream, "_wait_for_end", note_and_wait)
        stream.close()
        readers[0].join(PATIENCE)
    assert [type(error) for error in errors] == [IncompleteStreamError]
    await api.settled()


@pytest.mark.parametrize("on", ["settings", "create"])
@pytest.mark.parametrize("way", ["stop", "aclose"])
async def test_stream_ended_before_its_message_sends_none(
    api: Api, server: Emulator, way: str, on: str
) -> None:
    server.fault(on, Fault(delay=0.5))
    server.reply(endless(held=0))  # should the stream end too late
    async with api.client() as client:
        stream = client.stream("Hi")
        async with api.in_background(stream.read) as reader:
            await api.wait(lambda: requested(server, on))
            await getattr(stream, way)()
        if way == "stop":
            check_stopped(reader.result(), "")
        else:
            assert type(reader.error) is IncompleteStreamError
        await stream.aclose()
        await api.settled()
        assert "message" not in kinds(server)
        assert kinds(server).count("delete") == (on == "create")


@only("sync")
async def test_second_reader_after_an_unnoticed_stop_is_rejected(
    api: Api, server: Emulator
) -> None:
    """Nothing wakes a sync reader that waits for the head of a response."""
    server.fault("create", Fault(delay=0.1))
    async with api.client() as client, client.stream("Hi") as stream:
        async with api.in_background(stream.read) as reader:
            await api.wait(lambda: requested(server, "create"))
            await stream.stop()
            begun = time.monotonic()
            with pytest.raises(RuntimeError, match="another thread or task"):
                await stream.read()
            assert time.monotonic() - begun < PATIENCE / 4
        check_stopped(reader.result(), "")
        await api.settled()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["texts", "tokens", "read"])
@pytest.mark.parametrize("way", ["stop", "aclose"])
async def test_stream_can_be_ended_by_another_thread_at_any_moment(
    api: Api, server: Emulator, way: str, form: str
) -> None:
    moments = random.Random(f"{way} {form}")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        async with api.client() as client:
            for _ in range(10):
                join = moments.choice([1, 1, 3])
                server.reply(Answer(tokens=[" a", " b"] * 40, pace=0.0002, join=join))
                stream = client.stream("Hi")
                got: list[str] = []
                async with api.in_background(partial(note_texts, stream, form, got)) as reader:
                    await api.wait(lambda: time.sleep(moments.random() * 0.015))
                    await getattr(stream, way)()
                check_ended(stream, reader, got)
                await stream.aclose()
        await api.settled()
    finally:
        sys.setswitchinterval(interval)


async def note_texts(stream: AsyncChatStream, form: str, got: list[str]) -> None:
    """Read a stream, and record its texts."""
    if form == "texts":
        async for text in stream:
            got.append(text)  # noqa: PERF401 -- what came before an error counts
    elif form == "tokens":
        async for token in stream.events():
            if not token.special:
                got.append(token.text)  # noqa: PERF401
    else:
        got.append((await stream.read()).text)


def check_ended(stream: AsyncChatStream, reader: Background[None], got: list[str]) -> None:
    """Check that a reader received the text in order, and the right ending."""
    text = "".join(got)
    whole = " a b" * 40
    assert whole.startswith(stream.text)
    assert stream.text.startswith(text)
    if reader.error is None:
        assert stream.reply.text == stream.text
        assert stream.reply.finish_reason in ("eos_token", "stopped")
        assert stream.reply.finish_reason == "stopped" or stream.text == whole
    elif isinstance(reader.error, IncompleteStreamError):
        assert reader.error.partial == stream.text
    else:  # closed before the reader started, or between two of its reads
        assert type(reader.error) is RuntimeError
        assert str(reader.error) == "the stream is closed"


# Stopping


async def test_stop_in_the_loop_ends_the_stream(api: Api, server: Emulator) -> None:
    server.reply(endless(" One", " two"))
    async with api.client() as client, client.stream("Hi") as stream:
        got = []
        async for text in stream:
            got.append(text)
            if text == " two":
                await stream.stop()
        assert got == [" One", " two"]
        check_stopped(stream.reply, " One two")
        await api.settled()
        await stream.stop()
    assert server.stops == 1
    assert kinds(server)[-2:] == ["stop", "delete"]


def check_stopped(reply: Reply, text: str) -> None:
    assert (reply.finish_reason, reply.text) == ("stopped", text)


async def test_stop_from_another_thread_does_not_need_the_server(
    api: Api, server: Emulator
) -> None:
    """Even if it rejects the request and the answer continues silently, the stream ends at once."""
    server.reply(endless(" One"))
    server.fault("stop", *[Fault(500)] * 9)
    begun = time.monotonic()
    async with api.client() as client, client.stream("Hi") as stream:
        await anext(stream)
        async with api.in_background(stream.read) as done:
            await api.wait(lambda: time.sleep(0.02))  # until it reads
            await stream.stop()
        assert done.result().finish_reason == "stopped"
    assert time.monotonic() - begun < PATIENCE / 2


async def test_stop_before_any_request_sends_nothing(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.stream("Hi") as stream:
        await stream.stop()
        check_stopped(stream.reply, "")
        assert await texts(stream) == []
    assert server.requests == []
    await api.settled()


async def test_stop_after_the_end_does_nothing(api: Api, server: Emulator) -> None:
    async with api.client() as client, client.stream("Hi") as stream:
        reply = await stream.read()
        await stream.stop()
        assert stream.reply == reply
        assert reply.finish_reason == "eos_token"
    assert "stop" not in kinds(server)


# Failing clean-up


@pytest.mark.parametrize("on", ["stop", "delete"])
async def test_failed_clean_up_does_not_replace_the_callers_exception(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture, on: str
) -> None:
    server.reply(endless(" One"))
    server.fault(on, Fault(500))
    async with api.client() as client:
        with pytest.raises(OwnError):  # noqa: PT012 -- the caller leaves the block by it
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    raise OwnError
        assert "retries when it closes" in caplog.text
    await api.settled()
    assert kinds(server).count(on) == 2


async def test_failed_clean_up_does_not_replace_the_error(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault("message", Fault(422))
    server.fault("delete", Fault(disconnect=True), Fault(500))
    async with api.client() as client:
        with pytest.raises(StatusError) as caught:
            await client.chat("Hi")
        assert caught.value.status == 422
    assert caplog.text.count("could not be cleaned up") == 1
    await api.settled()


@pytest.mark.slow
@pytest.mark.parametrize("conversation", [False, True])
@pytest.mark.parametrize("how", ["read", "stopped"])
@pytest.mark.parametrize("on", ["stop", "delete"])
async def test_finished_answer_does_not_wait_for_a_hanging_server(
    api: Api, server: Emulator, caplog: pytest.LogCaptureFixture, on: str, how: str,
    conversation: bool,
) -> None:  # fmt: skip
    """`idle` and `first_token` apply to the answer; what follows has the time limit of a clean-
    up."""
    server.reply(endless(" One") if how == "stopped" else " One")
    server.fault(on, *[Fault(hang=True)] * 3)
    begun = time.monotonic()
    async with (
        api.client(timeouts=Timeouts(cleanup=1)) as client,
        client.conversation() as talk,
        (talk if conversation else client).stream("Hi") as stream,
    ):
        assert await anext(stream) == " One"
        if how == "stopped":
            await stream.stop()
        reply = await stream.read()
        assert reply.text == " One"
        assert reply.finish_reason == ("stopped" if how == "stopped" else "eos_token")
    assert time.monotonic() - begun < PATIENCE / 2
    hung = on == "delete" or how == "stopped"
    assert ("could not be" in caplog.text) == hung


@pytest.mark.slow
async def test_clean_up_of_an_unreachable_server_is_logged(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with Emulator() as other:
        other.reply(endless(" One"))
        client = api.client(other.url, timeouts=Timeouts(cleanup=0.5))
        stream = client.stream("Hi")
        await anext(stream)
    await stream.aclose()
    await client.aclose()
    assert "could not be cleaned up" in caplog.text


# Dropped streams


async def begin_and_drop(client: AsyncH2oClient) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = client.stream("Hi")
        assert await anext(stream) == " One"
        del stream
        gc.collect()
    found = [str(item.message) for item in caught if item.category is ResourceWarning]
    assert len(found) == 1, found
    assert "was not closed" in found[0]
    assert not any(item.category is not ResourceWarning for item in caught)


async def test_dropped_stream_is_freed_without_the_garbage_collector(
    api: Api, server: Emulator
) -> None:
    """Otherwise, it would be collected together with its source, in any order."""
    server.reply(endless(" One"))
    async with api.client() as client:
        gc.collect()
        gc.disable()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stream = client.stream("Hi")
                assert await anext(stream) == " One"
                dropped = weakref.ref(stream)
                del stream
                assert dropped() is None
        finally:
            gc.enable()
        await api.settled()


async def test_dropped_stream_is_cleaned_up(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"), " Two")
    async with api.client() as client:
        await begin_and_drop(client)
        await api.wait(lambda: eventually(lambda: not server.conversations))
        assert (await client.chat("Hi")).text == " Two"
        await api.settled()


async def test_close_waits_for_the_clean_up_of_a_dropped_stream(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    server.fault("stop", Fault(delay=0.05))
    async with api.client() as client:
        await begin_and_drop(client)
    assert await api.wait(lambda: server.conversations) == []
    await api.settled()


async def test_stream_keeps_its_conversation_alive(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        conversation = client.conversation()
        await conversation.send("Hi")
        stream = conversation.stream("Hi")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del conversation
            gc.collect()
            assert await texts(stream)
        assert len(await api.wait(lambda: server.conversations)) == 1
        await client.aclose()
    await api.settled()


async def test_unstarted_stream_may_be_dropped(api: Api, server: Emulator) -> None:
    async with api.client() as client:
        client.stream("Hi")
        gc.collect()
    assert server.requests == []


async def test_finished_stream_may_be_dropped(api: Api) -> None:
    async with api.client() as client:
        async for _ in client.stream("Hi"):
            pass
        gc.collect()
    await api.settled()


def test_sync_client_may_be_dropped(server: Emulator) -> None:
    client = H2oClient(server.url)
    client.chat("Hi")
    del client
    gc.collect()
    no_connection(server)


@only("asyncio", "trio")
async def test_dropping_an_async_client_warns(api: Api) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = api.client()
        await client.chat("Hi")
        http = (
            client._http
        )  # its sockets would warn, too; this test checks the client's own warning
        del client
        gc.collect()
    assert http is not None
    await http.aclose()
    assert any("AsyncH2oClient" in str(item.message) for item in caught)


# Ctrl-C


@only("sync")
async def test_ctrl_c_at_the_start_of_creation_deletes_the_conversation(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fault("create", Fault(delay=0.1))
    start = threading.Thread.start

    def start_and_press(self: threading.Thread) -> None:
        start(self)
        if self.name == "h2o_client-finish":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_press)
    async with api.client() as client:
        with pytest.raises(KeyboardInterrupt):
            await client.chat("Hi")
        await api.settled()
    assert kinds(server) == ["settings", "create", "delete"]


# Cancellation


@pytest.mark.parametrize("on", ["settings", "create"])
@only("asyncio", "trio")
async def test_cancellation_before_the_message_leaves_nothing(
    api: Api, server: Emulator, on: str
) -> None:
    server.fault(on, Fault(delay=0.05))
    async with api.client() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.chat, "Hi")
                await api.wait(lambda: requested(server, on))
                scope.cancel()
        assert scope.cancelled_caught
        await api.settled()
        assert kinds(server).count("delete") == (on == "create")
        assert "message" not in kinds(server)


@only("asyncio", "trio")
async def test_cancellation_while_creation_hangs_is_limited(api: Api, server: Emulator) -> None:
    server.fault("create", Fault(hang=True))
    async with api.client(timeouts=Timeouts(cleanup=0.05)) as client:
        begun = time.monotonic()
        with anyio.move_on_after(0.05):
            await client.chat("Hi")
        assert time.monotonic() - begun < PATIENCE / 2
        await api.settled()


@only("asyncio", "trio")
async def test_cancellation_in_a_with_block_stops_the_answer(api: Api, server: Emulator) -> None:
    server.reply(endless(" One"))
    with anyio.CancelScope() as scope:
        async with api.client() as client, client.stream("Hi") as stream:
            async for _ in stream:
                scope.cancel()
                await anyio.sleep(1)
    assert scope.cancelled_caught
    await api.settled()


@only("asyncio", "trio")
async def test_cancelling_the_reader_during_a_close_leaves_nothing(
    api: Api, server: Emulator
) -> None:
    server.reply(endless(" One"))
    server.fault("stop", Fault(delay=0.05))
    async with api.client() as client:
        stream = client.stream("Hi")

        async def read() -> None:
            # The close may arrive before the cancellation, and is an error for the reader.
            with contextlib.suppress(IncompleteStreamError):
                await texts(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await api.held()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await stream.aclose()
        await api.settled()
