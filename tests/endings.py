"""A program that leaves resources open and exits in many ways: `endings.py URL COUNT NAME…`.

Each trial is a fork that does what a small script would do, and exits like one, through the whole
shutdown of the interpreter. For each trial, the program prints one line of JSON: the exit status,
the output on stderr, and the duration.
"""

import asyncio
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import trio

from h2o_client import AsyncH2oClient, H2oClient, H2oError

Script = Callable[[str], object]

HANGS = 30.0
"""Seconds after which a child that is still running is killed."""

SPAN = 0.15
"""Range of the random delay in seconds before an event: by then, a child is reading its answer."""

KEPT: list[Any] = []
"""What a script keeps in a global variable until it exits."""


class OwnError(Exception):
    """The error raised by a script."""


# Sync


def loop(url: str) -> None:
    for _ in H2oClient(url).stream("Hi"):
        pass


def leave_the_loop(url: str) -> None:
    for _ in H2oClient(url).stream("Hi"):
        break


def raise_in_the_loop(url: str) -> None:
    for _ in H2oClient(url).stream("Hi"):
        raise OwnError


def exit_in_the_loop(url: str) -> None:
    for _ in H2oClient(url).stream("Hi"):
        sys.exit(3)


def return_from_the_loop(url: str) -> str:
    for text in H2oClient(url).stream("Hi"):
        return text
    return ""


def keep_a_stream(url: str) -> None:
    KEPT.append(H2oClient(url).stream("Hi"))
    next(KEPT[0])


def keep_a_conversation(url: str) -> None:
    conversation = H2oClient(url).conversation()
    KEPT.append(conversation)
    next(conversation.stream("Hi"))


def drop_a_conversation(url: str) -> None:
    next(H2oClient(url).conversation().stream("Hi"))


def drop_in_a_cycle(url: str) -> None:
    cycle: list[Any] = [H2oClient(url).stream("Hi")]
    cycle.append(cycle)
    next(cycle[0])


def read_in_a_daemon_thread(url: str) -> None:
    threading.Thread(target=loop, args=(url,), daemon=True).start()
    time.sleep(random.random() * SPAN)


# Async


async def loop_async(url: str) -> None:
    async for _ in AsyncH2oClient(url).stream("Hi"):
        pass


async def leave_the_async_loop(url: str) -> None:
    async for _ in AsyncH2oClient(url).stream("Hi"):
        break


async def raise_in_the_async_loop(url: str) -> None:
    async for _ in AsyncH2oClient(url).stream("Hi"):
        raise OwnError


async def keep_an_async_stream(url: str) -> None:
    KEPT.append(AsyncH2oClient(url).stream("Hi"))
    await anext(KEPT[0])


async def keep_an_async_conversation(url: str) -> None:
    KEPT.append(AsyncH2oClient(url).conversation())
    KEPT.append(KEPT[0].stream("Hi"))
    await anext(KEPT[1])


async def leave_a_generator(url: str) -> None:
    async def texts() -> AsyncIterator[str]:
        async for text in AsyncH2oClient(url).stream("Hi"):
            yield text

    KEPT.append(texts())
    await anext(KEPT[0])


async def leave_a_task(url: str) -> None:
    KEPT.append(asyncio.create_task(loop_async(url)))
    await anyio.sleep(random.random() * SPAN)


async def chat_async(url: str) -> None:
    async with AsyncH2oClient(url) as client:
        await client.chat("Hi")


# Signals


def chat(url: str) -> None:
    with H2oClient(url) as client:
        client.chat("Hi")


def report(begun: float, **facts: Any) -> None:
    """Report how long something took."""
    os.write(2, json.dumps({"took": time.monotonic() - begun, **facts}).encode() + b"\n")


def close_in_a_handler(url: str, what: str, *, leave: bool) -> None:
    client = H2oClient(url)
    stream = client.stream("Hi")

    def close(*_: object) -> None:
        begun = time.monotonic()
        (client if what == "client" else stream).close()
        report(begun)
        if leave:
            sys.exit(3)

    signal.signal(signal.SIGTERM, close)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        for _ in stream:
            pass
    except (H2oError, RuntimeError):  # closed while it was being read, or between two tokens
        return
    raise AssertionError("the stream was not closed")


SYNC: dict[str, Script] = {
    "ctrl-c": loop,
    "break": leave_the_loop,
    "exception": raise_in_the_loop,
    "sys.exit": exit_in_the_loop,
    "return": return_from_the_loop,
    "end of the script": keep_a_stream,
    "kept conversation": keep_a_conversation,
    "dropped conversation": drop_a_conversation,
    "cycle": drop_in_a_cycle,
    "daemon thread": read_in_a_daemon_thread,
    "two ctrl-c": chat,
    "client.close() in a handler": lambda url: close_in_a_handler(url, "client", leave=False),
    "stream.close() in a handler": lambda url: close_in_a_handler(url, "stream", leave=False),
    "client.close() and sys.exit() in a handler": lambda url: close_in_a_handler(
        url, "client", leave=True
    ),
    "stream.close() and sys.exit() in a handler": lambda url: close_in_a_handler(
        url, "stream", leave=True
    ),
}

ASYNC: dict[str, Callable[[str], Any]] = {
    "ctrl-c": loop_async,
    "ctrl-c in chat()": chat_async,
    "break": leave_the_async_loop,
    "exception": raise_in_the_async_loop,
    "end of the loop": keep_an_async_stream,
    "kept conversation": keep_an_async_conversation,
    "generator": leave_a_generator,
    "task": leave_a_task,
}


def play(name: str, url: str, begin: Callable[[], None]) -> object:
    """Run an ending, such as "break on trio"; report an interruption of our own code."""
    name, _, backend = name.partition(" on ")

    async def play_async() -> object:
        begin()
        return await ASYNC[name](url)

    if backend == "asyncio":
        return asyncio.run(play_async())
    if backend == "trio":
        return trio.run(play_async)
    begin()
    return SYNC[name](url)


def signals_of(name: str, moments: random.Random) -> list[tuple[float, int]]:
    """Return the signals for a child, each with its delay in seconds."""
    moment = moments.random() * SPAN
    if name.startswith("two ctrl-c"):
        return [(moment, signal.SIGINT), (moments.random() * 0.005, signal.SIGINT)]
    if name.startswith("ctrl-c"):
        return [(moment, signal.SIGINT)]
    return [(moment, signal.SIGTERM)] if "handler" in name else []


def watch(child: int, signals: list[tuple[float, int]]) -> int:
    """Send the signals to a child; return its exit status, or -SIGKILL if it hung."""
    for delay, number in signals:
        time.sleep(delay)
        os.kill(child, number)
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def warm_up(url: str) -> None:
    """Import and create once what would cost each child most of its time."""
    chat(url)
    asyncio.run(chat_async(url))
    trio.run(chat_async, url)


def main(url: str, count: str, *names: str) -> object:
    warm_up(url)
    moments = random.Random(0)
    for name in names * int(count):
        with tempfile.TemporaryFile() as errors:
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(errors.fileno(), 2)
                random.seed(moments.random())
                if "handler" in name:  # no signal before the handler is installed
                    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                faulthandler.dump_traceback_later(HANGS - 5)
                os.close(read)
                return play(name, url, partial(os.close, write))
            os.close(write)
            os.read(read, 1)
            os.close(read)
            begun = time.monotonic()
            status = watch(child, signals_of(name, moments))
            seconds = time.monotonic() - begun
            errors.seek(0)
            text = errors.read().decode()
            trial = {"name": name, "status": status, "seconds": seconds, "errors": text}
            sys.stdout.write(json.dumps(trial) + "\n")
            sys.stdout.flush()  # keep the next child from inheriting the buffered output
            moments.random()
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
