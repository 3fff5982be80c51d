"""A long run with faults: `python -m tests.soak`, from the root of the repository.

    python -m tests.soak [--seconds 60] [--streams N] [--seed 1] [--backend all] [--workers 16]

Workers share one client (threads, or tasks on asyncio or trio) and make chats, streams and
conversations at random, which they read to the end, stop, leave, fail in or are cancelled in.
Meanwhile the emulator drops connections before and during answers, ends answers early, responds
with 502 to 504, aborts generations, is slow, and forgets its sessions. Each prompt has a unique
answer, so that the text received can be compared exactly.

The report at the end:

    streams             answers requested
    tokens              pieces of text received
    whole / recovered   complete answers; of these, those whose connection was lost
    left                answers that the caller stopped, left or was cancelled in
    errors              answers that ended in a typed error, by its name
    faults injected     faults that hit a request
    answers lost        incomplete answers reported as complete    must be 0
    wrong texts         received text that differs from the answer must be 0
    other errors        exceptions that are not ours               must be 0
    conversations left  on the server after the client has closed  must be 0
    generations running on the server after the client has closed  must be 0
    connections open    on the server after the client has closed  must be 0
    memory              resident, after the first tenth of the run and at its end, including
                        the emulator, which runs in a thread of the same process

The exit status is 1 if one of these is not 0. The same seed gives the same calls and faults, apart
from the scheduling of threads and tasks. Delays after telling a server to stop are short here (0.1
and 0.5 s, not 2 and 30), because the emulator notices a stop after 0.02 s.
"""

import argparse
import gc
import importlib
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from h2o_client import AsyncChatStream, AsyncH2oClient, H2oError, Reply, Retries, Timeouts
from h2o_client.emulator import Answer, Emulator, Fault, GenerationRequest
from h2o_client.protocol import turn

if TYPE_CHECKING:
    from backends import Api

BACKENDS = ("sync", "asyncio", "trio")
LIMITS = Timeouts(connect=10, first_token=20, idle=20, cleanup=10, recovery=0.3)
RETRIES = Retries(attempts=4, base=0.002, budget=10)
MUST_BE_ZERO = (
    "answers lost",
    "wrong texts",
    "other errors",
    "conversations left",
    "generations running",
    "connections open",
)


class OwnError(Exception):
    """The error raised by a caller."""


@dataclass
class Tally:
    """The counts of a run."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        self.counts += other.counts
        self.errors += other.errors
        self.examples += other.examples[:3]

    def note(self, what: str, example: str) -> None:
        """Count a violation."""
        self.counts[what] += 1
        self.examples.append(f"{what}: {example}")


class Model:
    """Sends the planned answer to each prompt; on later requests, without a fault."""

    def __init__(self) -> None:
        self._plans: dict[str, list[Answer]] = {}
        self.faults = 0

    def plan(self, prompt: str, answer: Answer, text: Sequence[str]) -> None:
        """Plan an answer, and the text for later requests."""
        self._plans[prompt] = [Answer(tokens=text), answer]

    def forget(self, prompt: str) -> None:
        """Forget a prompt that will not be asked again."""
        self._plans.pop(prompt, None)

    def __call__(self, request: GenerationRequest) -> Answer:
        """Answer a request."""
        plans = self._plans.get(request.messages[-1][1], [Answer(" gone")])
        if len(plans) == 1:
            return plans[0]
        answer = plans.pop()
        self.faults += answer.ending != "eos" or answer.drop_after is not None
        return answer


@dataclass
class Budget:
    """How long the run continues."""

    until: float
    streams: int | None

    def take(self) -> bool:
        """Take one stream from the budget; return False if it is used up."""
        if self.streams is not None:
            self.streams -= 1  # concurrent threads may take one too many
            return self.streams >= 0
        return time.monotonic() < self.until


class Worker:
    """Makes one call after another."""

    def __init__(
        self, api: "Api", client: AsyncH2oClient, model: Model, seed: str, budget: Budget
    ) -> None:
        self.api = api
        self.client = client
        self.model = model
        self.name = seed
        self.random = random.Random(seed)
        self.budget = budget
        self.tally = Tally()
        self.number = 0

    async def work(self) -> None:
        """Work until the budget is used up."""
        while self.budget.take():
            await self.inject()
            length = self.random.choice((0, 0, 1, 3))
            if length == 0:
                await self.call(self.client.stream, self.client.chat)
                continue
            async with self.client.conversation() as conversation:
                for _ in range(length):
                    await self.call(conversation.stream, conversation.send)

    async def inject(self) -> None:
        """Inject a fault into some next request, of any worker."""
        draw = self.random.random()
        if draw < 0.01:
            self.tally.counts["faults injected"] += 1
            await self.api.wait(self.api.server.forget_sessions)
        elif draw < 0.25:
            on = self.random.choice(("create", "message", "data", "stop", "delete"))
            fault = self.random.choice(
                (
                    Fault(503),
                    Fault(502),
                    Fault(504),
                    Fault(disconnect=True),
                    Fault(delay=0.01),
                    # The client could not delete a conversation whose creation it never learned of.
                    Fault(disconnect=True, processed=on != "create"),
                )
            )
            self.tally.counts["faults injected"] += 1
            await self.api.wait(lambda: self.api.server.fault(on, fault))

    async def call(
        self,
        stream: Callable[[str], AsyncChatStream],
        chat: Callable[[str], Awaitable[Reply]],
    ) -> None:
        """Make one request in a random way, and check the outcome."""
        self.number += 1
        prompt = f"{self.name} {self.number}"
        words = [f" {prompt}:{index}" for index in range(self.random.randint(1, 30))]
        self.model.plan(prompt, self.answer(words), words)
        seen: list[str] = []
        outcome = "whole"
        try:
            if self.random.random() < 0.3:
                reply = await chat(prompt)
                seen.append(reply.text)
                self.tally.counts["recovered"] += reply.recovered
            else:
                outcome = await self.read(stream(prompt), seen)
        except OwnError:
            outcome = "left"
        except H2oError as error:
            outcome = "error"
            self.tally.errors[type(error).__name__] += 1
            self.check("".join(words), error.partial, whole=False)
        except Exception as error:  # noqa: BLE001 -- counted, and fails the run
            outcome = "other"
            self.tally.note("other errors", repr(error))
        finally:
            self.model.forget(prompt)
        self.tally.counts["streams"] += 1
        self.tally.counts["tokens"] += len(seen)
        self.tally.counts[outcome] += 1
        self.check("".join(words), "".join(seen), whole=outcome == "whole")

    async def read(self, stream: AsyncChatStream, seen: list[str]) -> str:
        """Read a stream, possibly not to its end; return its outcome."""
        way = self.random.choice(("read", "read", "read", "stop", "break", "raise", "cancel"))
        after = self.random.randint(1, 10)
        seconds = self.random.uniform(0, 0.03)
        if way == "cancel" and self.api.backend != "sync":
            with anyio.move_on_after(seconds):
                async with stream:
                    async for text in stream:
                        seen.append(text)  # noqa: PERF401 -- what came before a cancellation counts
                self.tally.counts["recovered"] += stream.reply.recovered
                return "whole"
            return "left"
        async with stream:
            async for text in stream:
                seen.append(text)
                if len(seen) < after or way in ("read", "cancel"):
                    continue
                if way == "break":
                    return "left"
                if way == "raise":
                    raise OwnError
                await stream.stop()  # drops text that was received but not yet returned
                return "left"
        self.tally.counts["recovered"] += stream.reply.recovered
        return "whole"

    def answer(self, words: Sequence[str]) -> Answer:
        """Plan how the model server sends these words."""
        pace = self.random.choice((0.0, 0.0, 0.001, 0.003))
        form: dict[str, Any] = {"tokens": words, "pace": pace}
        form["join"] = self.random.choice((1, 1, 4))
        form["split"] = self.random.choice((None, None, 7, 61))
        draw = self.random.random()
        if draw < 0.2:
            form["drop_after"] = self.random.randint(0, len(words))
        elif draw < 0.3:
            form["ending"] = self.random.choice(("cut", "clean", "midline", "error"))
        elif draw < 0.35:
            form["tokens"] = ()
            form["ending"] = "error"
            form["error_type"] = "overloaded"
        return Answer(**form)

    def check(self, said: str, seen: str, *, whole: bool) -> None:
        """Check the received text against the answer."""
        if not said.startswith(seen):
            self.tally.note("wrong texts", f"{seen!r} of {said!r}")
        elif whole and seen != said:
            self.tally.note("answers lost", f"{seen!r} of {said!r}")


def memory() -> float:
    """Return the resident memory in MB."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    import resource  # not available on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run(
    backend: str, *, seconds: float, streams: int | None, seed: int, workers: int
) -> tuple[Tally, tuple[float, float]]:
    """Run one backend; return the counts, and the memory before and after."""
    sys.path.insert(0, str(Path(__file__).parent))
    backends = importlib.import_module("backends")
    model, total = Model(), Tally()
    with Emulator(engine=model, max_requests=100, max_conversations=100_000) as server:
        api: Api = backends.new_api(backend, server)
        figures: list[float] = []

        async def scenario() -> None:
            for share in (0.1, 0.9):
                count = None if streams is None else max(1, int(streams * share))
                budget = Budget(time.monotonic() + seconds * share, count)
                client = api.client(timeouts=LIMITS, retries=RETRIES)
                crew = [
                    Worker(api, client, model, f"{backend}-{seed}-{share}-{index}", budget)
                    for index in range(workers)
                ]
                async with client:
                    await api.concurrently([worker.work for worker in crew])
                    await api.wait(server.clear)  # the last clean-up runs without faults
                for worker in crew:
                    total.add(worker.tally)
                figures.append(memory())

        if backend == "sync":
            backends.at_once(scenario())
        else:
            anyio.run(scenario, backend=backend)
        server.wait_idle(30)
        until = time.monotonic() + 5
        while server.connections and time.monotonic() < until:
            time.sleep(0.01)
        total.counts["faults injected"] += model.faults
        total.counts["conversations left"] = len(server.conversations)
        total.counts["generations running"] = server.generating
        total.counts["connections open"] = server.connections
    return total, (figures[0], figures[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="A long run with faults."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each backend (60)")
    parser.add_argument("--streams", type=int, help="of each backend, instead of --seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=16, help="threads or tasks (16)")
    parser.add_argument("--backend", choices=(*BACKENDS, "all"), default="all")
    options = parser.parse_args(arguments)
    # The log of retried clean-ups is expected here.
    logger = logging.getLogger("h2o_client")
    level = logger.level
    logger.setLevel(logging.ERROR)
    pauses = turn._STOPPING, turn._STORED_RUNNING
    turn._STOPPING, turn._STORED_RUNNING = 0.1, 0.5
    failed = False
    try:
        for backend in BACKENDS if options.backend == "all" else (options.backend,):
            begun = time.monotonic()
            tally, (before, after) = run(
                backend,
                seconds=options.seconds,
                streams=options.streams,
                seed=options.seed,
                workers=options.workers,
            )
            counts = tally.counts
            print_line(backend, f"seed {options.seed}, {time.monotonic() - begun:.1f} s")
            for name in ("streams", "tokens", "whole", "recovered", "left"):
                print_line(name, counts[name])
            of = ", ".join(f"{name} {count}" for name, count in sorted(tally.errors.items()))
            print_line("errors", f"{counts['error']}" + (f" ({of})" if of else ""))
            print_line("faults injected", counts["faults injected"])
            for name in MUST_BE_ZERO:
                print_line(name, counts[name])
                failed = failed or counts[name] != 0
            print_line("memory", f"{before:.1f} MB before, {after:.1f} MB after")
            for example in tally.examples[:10]:
                print_line("", example)
    finally:
        turn._STOPPING, turn._STORED_RUNNING = pauses
        logger.setLevel(level)
    return int(failed)


def print_line(name: str, value: object) -> None:
    """Print one figure."""
    sys.stdout.write(f"{name:<20} {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
