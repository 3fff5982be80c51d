"""Forks, spawned processes, event loops and pickles: clients work there, or raise a clear error."""

import asyncio
import concurrent.futures
import contextlib
import copy
import functools
import gc
import multiprocessing
import os
import pickle
import traceback
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import needs
import pytest
from asked import eventually, no_connection
from backends import endless

from h2o_client import AsyncH2oClient, H2oClient, Retries, Timeouts
from h2o_client.emulator import Emulator, Fault

PATIENCE = 20.0
BACKENDS = ("asyncio", "trio")
Client = H2oClient | AsyncH2oClient

forks = pytest.mark.filterwarnings(
    # Python 3.12 and later warn about forks in a process with threads; the emulator is a thread.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def in_a_fork(work: Callable[[], None]) -> None:
    """Run a function in a forked child; fail if it fails or does not end in time."""
    end_fork(*begin_fork(work))


def begin_fork(work: Callable[[], None]) -> tuple[int, int]:
    """Start a function in a forked child; return the child, and a pipe for its errors."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            warnings.simplefilter("error")
            work()
            gc.collect()  # objects dropped here must not affect those of the parent
            status = 0
        except BaseException:  # noqa: BLE001 -- told to the parent
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(write)
    return child, read


def end_fork(child: int, read: int) -> None:
    """Wait for a child, and fail if it failed."""
    with open(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert (status, said) == (0, "")


def chat(client: H2oClient) -> str:
    return client.chat("Hi").text


# Forks


@needs.posix
@forks
def test_fork_does_not_end_the_parents_chats(server: Emulator) -> None:
    server.reply(endless(" One"), endless(" Two"), " Child")
    with (
        H2oClient(server.url, timeouts=PATIENCE) as client,
        client.stream("Hi") as stream,
        client.conversation() as talk,
        talk.stream("Hi") as other,
    ):
        assert next(stream) == " One"
        assert next(other) == " Two"
        before = server.accepted

        def work() -> None:
            nonlocal stream, other, talk
            with pytest.raises(RuntimeError, match="parent"):
                next(stream)
            stream.close()
            other.stop()
            talk.close()
            assert chat(client) == " Child"
            client.close()
            del stream, other, talk

        in_a_fork(work)
        assert server.accepted > before  # on connections of its own
        assert server.stops == 0
        assert server.generating == 2
        assert len(server.conversations) == 2
        server.release()
        assert list(stream) == [" too", " late"]
        assert other.read().text == " Two too late"
        assert chat(client)
    server.wait_idle()
    assert server.conversations == []
    assert server.stops == 0


@needs.posix
@forks
@pytest.mark.parametrize("how", ["exits", "closes", "drops", "leaves the block"])
def test_idle_child_does_not_affect_the_parent(server: Emulator, how: str) -> None:
    server.reply(endless(" One"))
    client: H2oClient | None = H2oClient(server.url, timeouts=PATIENCE)
    assert client is not None
    with client.stream("Hi") as stream:
        assert next(stream) == " One"
        requests = len(server.requests)

        def work() -> None:
            nonlocal client
            assert client is not None
            if how == "closes":
                client.close()
            elif how == "leaves the block":
                with client:
                    pass
            elif how == "drops":
                client = None

        in_a_fork(work)
        assert len(server.requests) == requests
        server.release()
        assert list(stream) == [" too", " late"]
    client.close()


@needs.posix
@forks
def test_child_shares_the_session(server: Emulator) -> None:
    """The client is shared: what one process creates, the other finds."""
    with H2oClient(server.url, timeouts=PATIENCE) as client:
        client.chat("Hi")

        def work() -> None:
            client.conversation(keep=True).send("Hi")
            client.close()

        in_a_fork(work)
        assert len(client.conversations()) == 1
        assert server.sessions == [client.session]
        client.delete_conversations()


@needs.posix
@forks
def test_child_does_not_delete_the_parents_conversations(server: Emulator) -> None:
    server.fail(500, on="delete")
    client = H2oClient(server.url, timeouts=PATIENCE, retries=0)
    client.chat("Hi")
    assert len(server.conversations) == 1

    def work() -> None:
        client.chat("Hi")
        client.close()

    in_a_fork(work)
    assert len(server.conversations) == 1
    client.close()
    assert server.conversations == []


@needs.posix
@forks
def test_custom_http_client_after_a_fork_is_a_clear_error(server: Emulator) -> None:
    with (
        httpx.Client() as http,
        H2oClient(server.url, http_client=http, timeouts=PATIENCE) as client,
    ):
        client.chat("Hi")

        def work() -> None:
            with pytest.raises(RuntimeError, match=r"forked.*create both"):
                client.chat("Hi")

        in_a_fork(work)
        assert chat(client)


@needs.posix
@forks
@pytest.mark.parametrize("backend", BACKENDS)
def test_async_client_works_after_a_fork(server: Emulator, backend: str) -> None:
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)

    async def ask() -> None:
        assert (await client.chat("Hi")).text

    async def ask_and_close() -> None:
        await ask()
        await client.aclose()

    anyio.run(ask, backend=backend)
    in_a_fork(lambda: anyio.run(ask_and_close, backend=backend))
    anyio.run(ask_and_close, backend=backend)
    assert server.conversations == []


def put_chat(client: H2oClient, answers: Any) -> None:
    with client:
        answers.put(client.chat("Hi").text)


@pytest.mark.slow
@forks
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_client_works_with_multiprocessing(server: Emulator, method: str) -> None:
    server.reply(endless(" One"), " Child")
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    with H2oClient(server.url, timeouts=PATIENCE) as client, client.stream("Hi") as stream:
        assert next(stream) == " One"
        process = context.Process(target=put_chat, args=(client, answers))
        process.start()
        assert answers.get(timeout=PATIENCE) == " Child"
        process.join(PATIENCE)
        assert process.exitcode == 0
        process.close()
        answers.close()
        answers.join_thread()
        assert server.stops == 0
        server.release()
        assert list(stream) == [" too", " late"]
    server.wait_idle()
    assert server.conversations == []
    # A fork continues the session; a new process starts one.
    assert len(server.sessions) == (1 if method == "fork" else 2)


@pytest.mark.slow
def test_client_works_in_a_process_pool(server: Emulator) -> None:
    server.reply(" One", " One")
    spawn = multiprocessing.get_context("spawn")
    with (
        H2oClient(server.url, timeouts=PATIENCE) as client,
        concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool,
    ):
        assert list(pool.map(chat_and_close, [client] * 2)) == [" One", " One"]
    assert server.conversations == []


def chat_and_close(client: H2oClient) -> str:
    with client:
        return client.chat("Hi").text


@needs.posix
@forks
@pytest.mark.parametrize("form", ["chat", "conversation", "models"])
def test_child_does_not_use_the_parents_idle_connection(server: Emulator, form: str) -> None:
    """Two processes on one socket would read each other's answers."""
    with H2oClient(server.url, timeouts=PATIENCE) as client:
        client.chat("Hi")
        assert server.accepted == 1

        def work() -> None:
            if form == "chat":
                client.chat("Hi")
            elif form == "models":
                client.models()
            else:
                with client.conversation() as talk:
                    talk.send("Hi")
            client.close()

        in_a_fork(work)
        assert server.accepted == 2
        client.chat("Hi")
        assert server.accepted == 2  # the parent's connection is untouched


@pytest.mark.slow
@needs.posix
@forks
def test_concurrent_children_get_their_own_answers(server: Emulator) -> None:
    """Each child inherits an idle connection of its parent, and must not use it."""
    go, release = os.pipe()

    def work(name: str) -> None:
        os.close(release)
        os.read(go, 1)  # end of file: all start together
        for _ in range(3):
            assert f" You said: {name}\n" in client.chat(name).text
        client.close()

    with H2oClient(server.url, timeouts=PATIENCE) as client:
        assert " You said: parent\n" in client.chat("parent").text
        assert server.connections == 1  # idle, and kept open
        ends = [begin_fork(functools.partial(work, f"child {number}")) for number in range(4)]
        os.close(release)
        assert " You said: parent\n" in client.chat("parent").text
        for end in ends:
            end_fork(*end)
        os.close(go)
        assert server.accepted == 5
        assert " You said: parent\n" in client.chat("parent").text
        assert server.accepted == 5
    server.wait_idle()
    assert server.conversations == []


# Event loops


@pytest.mark.slow
@pytest.mark.parametrize(
    "backends",
    [("asyncio",) * 3, ("trio",) * 3, ("asyncio", "trio"), ("trio", "asyncio")],
    ids="-".join,
)
def test_async_client_works_on_several_event_loops(
    server: Emulator, backends: tuple[str, ...]
) -> None:
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)

    async def ask() -> None:
        assert (await client.chat("Hi")).text
        async with client.stream("Hi") as stream:
            assert [text async for text in stream]
        async with client.conversation() as talk:
            assert (await talk.send("Hi")).text

    for backend in backends:
        anyio.run(ask, backend=backend)
        gc.collect()
    anyio.run(client.aclose, backend=backends[-1])
    gc.collect()
    server.wait_idle()
    assert server.conversations == []
    assert server.sessions == [client.session]


def test_closing_deletes_a_conversation_of_a_second_event_loop(
    server: Emulator,
) -> None:
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)
    asyncio.run(client.models())

    async def begin() -> None:
        talk = client.conversation()
        await talk.send("Hi")
        assert len(await client.conversations()) == 1
        await client.aclose()

    asyncio.run(begin())
    server.wait_idle()
    assert server.conversations == []


@needs.posix
@forks
def test_closing_in_a_fork_deletes_the_childs_conversation(
    server: Emulator,
) -> None:
    client = H2oClient(server.url, timeouts=PATIENCE)
    client.models()

    def child() -> None:
        talk = client.conversation()
        talk.send("Hi")
        assert len(client.conversations()) == 1
        client.close()

    in_a_fork(child)
    server.wait_idle()
    assert server.conversations == []
    client.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_concurrent_event_loops_are_a_clear_error(server: Emulator, backend: str) -> None:
    server.reply(endless(" One"))
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)

    async def here() -> None:
        async with client, client.stream("Hi") as stream:
            assert await anext(stream) == " One"
            with pytest.raises(RuntimeError, match="another event loop"):
                await anyio.to_thread.run_sync(
                    lambda: anyio.run(client.chat, "Hi", backend=backend)
                )
            await stream.stop()
            assert (await client.chat("Hi")).text

    anyio.run(here)
    server.wait_idle()
    assert server.conversations == []


@needs.posix
@forks
def test_parent_does_not_delete_the_childs_conversation(server: Emulator) -> None:
    """Not even while looking for a conversation whose id was lost in transit."""
    server.fault("create", Fault(disconnect=True, processed=True))
    with H2oClient(server.url, timeouts=PATIENCE, retries=Retries(base=0.001)) as client:
        client.chat("Hi")
        child, read = begin_fork(lambda: client.conversation(keep=True).rename("The child's"))
        end_fork(child, read)
    server.wait_idle()
    assert "The child's" in [conversation.title for conversation in server.conversations]


def test_client_works_across_calls_of_asyncio_run(server: Emulator) -> None:
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)
    texts = [asyncio.run(client.chat("Hi")).text for _ in range(3)]
    assert len(set(texts)) == 1
    asyncio.run(client.aclose())


FORMS: dict[str, Callable[[AsyncH2oClient], Awaitable[object]]] = {
    "chat": lambda client: client.chat("Hi"),
    "models": lambda client: client.models(),
}


async def read_half(client: AsyncH2oClient) -> None:
    """Leave a stream, which closes its connection."""
    async with client.stream("Hi") as stream:
        await anext(stream)


FORMS["stream"] = read_half


@pytest.mark.slow
@needs.posix
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backends", ["asyncio", "trio", "both"])
def test_ten_event_loops_leave_nothing_open(server: Emulator, form: str, backends: str) -> None:
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)
    cycle = BACKENDS if backends == "both" else (backends,)

    async def use() -> None:
        await FORMS[form](client)

    def run(times: int) -> None:
        for number in range(times):
            anyio.run(use, backend=cycle[number % len(cycle)])
        no_connection(server)

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    gc.collect()
    gc.disable()  # nothing may depend on the garbage collector
    try:
        run(2)  # what a backend opens only once is not a leak
        before = descriptors()
        run(10)
        eventually(lambda: descriptors() <= before)  # the server, in this process, closes its own
    finally:
        gc.enable()
    gc.collect()  # raises any pending ResourceWarning
    anyio.run(client.aclose, backend="asyncio")
    assert server.conversations == []
    assert server.sessions == ([client.session] if form != "models" else [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_stream_abandoned_by_another_event_loop_is_stopped_at_close(
    server: Emulator, backend: str
) -> None:
    """It cannot be stopped then; the client still works, and stops it when it closes."""
    server.reply(endless(" One"))
    client = AsyncH2oClient(server.url, timeouts=PATIENCE)

    async def leave() -> None:
        stream = client.stream("Hi")
        assert await anext(stream) == " One"
        await stream.aclose()

    async def ask() -> None:
        assert (await client.chat("Hi")).text

    anyio.run(leave, backend=backend)
    anyio.run(ask, backend=backend)
    anyio.run(client.aclose, backend=backend)
    server.wait_idle()
    assert server.conversations == []
    assert server.stops == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_custom_http_client_on_a_second_event_loop_is_a_clear_error(
    server: Emulator, backend: str
) -> None:
    http = httpx.AsyncClient()
    client = AsyncH2oClient(server.url, http_client=http, timeouts=PATIENCE)

    async def first() -> None:
        assert (await client.chat("Hi")).text
        await http.aclose()

    async def second() -> None:
        with pytest.raises(RuntimeError, match=r"another event loop.*create both"):
            await client.chat("Hi")

    anyio.run(first, backend=backend)
    anyio.run(second, backend=backend)


# Pickles and copies


@pytest.fixture(params=[H2oClient, AsyncH2oClient])
def kind(request: pytest.FixtureRequest) -> Any:
    """The client class; a client that never sent anything may be dropped unclosed."""
    return request.param


def pickled(client: Any) -> Any:
    return pickle.loads(pickle.dumps(client))


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_pickle_and_copy_keep_the_configuration(kind: Any, again: Callable[[Any], Any]) -> None:
    arguments: dict[str, Any] = {
        "base_url": "http://ann:hunter2@127.0.0.1:9/chat",
        "model": "some/model",
        "timeouts": Timeouts(idle=7),
        "retries": Retries(attempts=1),
        "headers": {"X-Own": "1"},
        "parameters": {"temperature": 0.1},
        "recover": False,
        "share_conversations": False,
    }
    client = kind(**arguments)
    twin = again(client)
    assert type(twin) is kind
    assert twin is not client
    assert (twin.base_url, twin.model) == (client.base_url, client.model)
    assert twin._arguments == client._arguments
    assert twin._http is not client._http
    # An automatically chosen session is not shared.
    assert twin.session != client.session


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_pickle_and_copy_keep_an_explicit_session(kind: Any, again: Callable[[Any], Any]) -> None:
    client = kind("http://127.0.0.1:9", session="11111111-2222-4333-8444-555555555555")
    assert again(client).session == client.session


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_client_with_custom_http_client_cannot_be_pickled_or_copied(
    kind: Any, again: Callable[[Any], Any]
) -> None:
    http: Any = httpx.Client() if kind is H2oClient else httpx.AsyncClient()
    client = kind("http://127.0.0.1:9", http_client=http)
    with pytest.raises(TypeError, match="your own http_client cannot be pickled or copied"):
        again(client)


def test_pickled_client_contains_no_session_or_messages(server: Emulator) -> None:
    with H2oClient(server.url, timeouts=PATIENCE) as client:
        client.chat("my darkest confession")
        data = pickle.dumps(client)
        assert client.session.encode() not in data
        assert b"confession" not in data
        with pickle.loads(data) as twin:
            assert twin.chat("Hi").text
    assert len(server.sessions) == 2
    assert server.conversations == []


def test_unpickled_client_is_open(server: Emulator) -> None:
    with H2oClient(server.url, timeouts=PATIENCE) as client:
        pass
    with contextlib.closing(pickled(client)) as twin:
        assert twin.chat("Hi").text
