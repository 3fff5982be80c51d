"""One measurement in a process of its own: `python -m tests.benchmarks.child '<json>'`.

The argument selects the measurement; the figures are printed to stdout as JSON.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .clients import BODY, CLIENTS, PATH, AsyncOpen, Open, peer
from .server import WARM
from .tape import LongTape, Meter, Tape, cpu, memory
from .wire import CONVERSATION, MODEL, whole_text


def streams(client: str, url: str, count: int, tokens: int, dated: bool) -> dict[str, float]:
    """Read some answers at once, after one warm-up answer."""
    chosen = CLIENTS[client]
    opens: Any = chosen.open
    if chosen.world == "sync":
        return _streams_sync(opens, url, count, tokens, dated=dated)
    import anyio

    async def run() -> dict[str, float]:
        read: Any
        async with opens(url) as read:
            await read(Meter(1, dated=False).tape(WARM))
            meter = _settle(count, dated=dated)
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(read, meter.tape(tokens))
        return meter.figures()

    return anyio.run(run, backend=chosen.world)


def _streams_sync(
    opens: Open, url: str, count: int, tokens: int, *, dated: bool
) -> dict[str, float]:
    with opens(url) as read:
        read(Meter(1, dated=False).tape(WARM))
        meter = _settle(count, dated=dated)
        tapes = [meter.tape(tokens) for _ in range(count)]
        if count == 1:
            read(tapes[0])
        else:
            with ThreadPoolExecutor(count) as threads:
                list(threads.map(read, tapes))
    return meter.figures()


def _settle(count: int, *, dated: bool) -> Meter:
    gc.collect()
    gc.freeze()  # no collection of this run visits objects of the imports
    return Meter(count, dated=dated)


def long(client: str, url: str, tokens: int, chat: bool) -> dict[str, float]:
    """Read one long answer with `stream()` or `chat()`; return the growth of memory."""
    if not chat:
        tape = LongTape(tokens)
        before = memory()
        opens: Any = CLIENTS[client].open
        world = CLIENTS[client].world
        if world == "sync":
            with opens(url) as read:
                read(tape)
        else:
            import anyio

            anyio.run(_read_one, opens, url, tape, backend=world)
        tape.check()
        # `stream.text` has the complete text, to which recovery appends the rest.
        kept = len(whole_text(tokens).encode()) - len(whole_text(tokens // 10).encode())
        return {"before": before, "early": tape.early, "late": tape.late, "text": kept}
    from h2o_client import H2oClient

    with H2oClient(url) as ours:
        expected = whole_text(tokens)
        size = sys.getsizeof(expected)
        ours.chat("Hi")  # warms up
        gc.collect()
        before = memory()
        text = ours.chat("Hi").text
        gc.collect()
        after = memory()
    if text != expected:
        raise AssertionError("the text differs from what was sent")
    return {"text": size, "growth": after - before, "peak": _peak() - before}


def _peak() -> int:
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) * 1024
    except OSError:
        return memory()


async def _read_one(opens: AsyncOpen, url: str, tape: Tape) -> None:
    async with opens(url) as read:
        await read(tape)


def chats(who: str, url: str, chats: int) -> dict[str, float]:
    """Run complete chats one after another; return the times of the first token and of the end."""
    figures: dict[str, float] = {}
    times: list[tuple[float, float]] = []
    if who == "ours-sync":
        from h2o_client import H2oClient

        with H2oClient(url) as client:
            for _ in range(chats):
                begun, first = time.perf_counter(), 0.0
                with client.stream("Hi") as stream:
                    for _ in stream:
                        first = first or time.perf_counter() - begun
                times.append((first, time.perf_counter() - begun))
    else:
        import anyio

        backend = who.partition("-")[2]
        whole = _provider_chats if who.startswith("aiohttp") else _async_chats
        times = anyio.run(whole, url, chats, backend=backend)
    for name, (first, end) in zip(("first", "later"), (times[0], times[-1]), strict=True):
        figures[f"{name}_token_s"] = first
        figures[f"{name}_end_s"] = end
    return figures


async def _async_chats(url: str, chats: int) -> list[tuple[float, float]]:
    from h2o_client import AsyncH2oClient

    times = []
    async with AsyncH2oClient(url) as client:
        for _ in range(chats):
            begun, first = time.perf_counter(), 0.0
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    first = first or time.perf_counter() - begun
            times.append((first, time.perf_counter() - begun))
    return times


async def _provider_chats(url: str, chats: int) -> list[tuple[float, float]]:
    """Do what the old provider did: a new session for each chat, four requests in sequence."""
    aiohttp = peer("aiohttp")
    times = []
    for _ in range(chats):
        begun, first = time.perf_counter(), 0.0
        async with aiohttp.ClientSession(headers={"Referer": f"{url}/"}) as http:
            form = {"ethicsModalAccepted": "true", "activeModel": MODEL}
            async with http.post(f"{url}/settings", data=form) as response:
                await response.read()
            async with http.post(f"{url}/conversation", json={"model": MODEL}) as response:
                await response.json()
            async with http.post(url + PATH, json=BODY) as response:
                async for line in response.content:
                    if line.startswith(b"data:"):
                        json.loads(line[5:])
                        first = first or time.perf_counter() - begun
            async with http.delete(f"{url}/conversation/{CONVERSATION}") as response:
                await response.read()
        times.append((first, time.perf_counter() - begun))
    return times


def construction(which: str, count: int) -> dict[str, float]:
    """Create clients one after another; return the cost of the first and of the others."""
    import anyio
    import httpx

    from h2o_client import AsyncH2oClient, H2oClient

    kinds: dict[str, Callable[[], Any]] = {
        "httpx": httpx.Client,
        "httpx-async": httpx.AsyncClient,
        "ours": H2oClient,
        "ours-async": AsyncH2oClient,
    }
    make = kinds[which]
    made, costs = [], []
    for _ in range(count):
        begun = cpu()
        timed = time.perf_counter()
        made.append(make())
        costs.append((time.perf_counter() - timed, cpu() - begun))
    for client in made:
        if hasattr(client, "close"):
            client.close()
        else:
            anyio.run(client.aclose)
    later = sorted(wall for wall, _ in costs[1:])
    return {"first_ms": costs[0][0] * 1e3, "later_ms": later[len(later) // 2] * 1e3}


WHAT: dict[str, Callable[..., dict[str, float]]] = {
    "streams": streams,
    "long": long,
    "chats": chats,
    "construction": construction,
}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(WHAT[asked.pop("what")](**asked)))
