"""Run the children in turn, round after round, so that other load on the machine affects all alike.

Every figure is kept, by section, name and round: `Results` is written as JSON, and loaded again by
`--load`.
"""

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from .clients import CLIENTS, Client

ROOT = Path(__file__).parents[2]
Figures: TypeAlias = dict[str, float]
Say: TypeAlias = Callable[[str], object]
_PACKAGES = (
    "h2o-chat-client", "httpx", "httpcore", "h11", "anyio", "trio", "aiohttp", "httpx-aiohttp",
    "openai", "huggingface_hub",
)  # fmt: skip
_TIMEOUT = 120.0
_FILES = 8192


@dataclass(frozen=True)
class Size:
    """The extent of the measurements.

    Attributes:
        rounds: how often each client runs with one stream.
        paced_rounds: how often with a paced stream: a process that sleeps between tokens finds
            caches used by others, and takes up to a third more or less. The median of 21 rounds
            is accurate to some 10 %.
        paced: tokens of a paced answer.
        burst: tokens of an answer without pauses.
        many: concurrent streams, seconds between two tokens of one stream, and tokens of each.
        many_rounds: how often those run.
        long: tokens of the long answer.
        delay: seconds before each response when round trips are counted.
        chats: chats in that measurement.
        made: how many clients are created.
        imports: how often each import is measured.
    """

    rounds: int = 5
    paced_rounds: int = 21
    paced: int = 1000
    burst: int = 100_000
    many: tuple[tuple[int, float, int], ...] = ((200, 0.02, 120), (1000, 0.1, 60))
    many_rounds: int = 3
    long: int = 1_000_000
    delay: float = 0.05
    chats: int = 3
    made: int = 20
    imports: int = 11


FULL = Size()
QUICK = Size(2, 3, 800, 20_000, ((200, 0.02, 60), (1000, 0.1, 45)), 1, 100_000, 0.05, 2, 5, 3)
SMOKE = Size(1, 1, 20, 1200, ((3, 0.005, 20),), 1, 3000, 0.01, 2, 2, 1)


@dataclass
class Results:
    """The measurements: section, name, and a set of figures for each round."""

    machine: dict[str, str]
    sections: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, section: str, name: str, figures: Figures) -> None:
        self.sections.setdefault(section, {}).setdefault(name, []).append(figures)

    def values(self, section: str, name: str, key: str) -> list[float]:
        """Return a figure of each round, or nothing if it was not measured."""
        return [figures[key] for figures in self.sections.get(section, {}).get(name, [])]

    def median(self, section: str, name: str, key: str) -> float | None:
        values = self.values(section, name, key)
        return statistics.median(values) if values else None


def machine() -> dict[str, str]:
    """Describe the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).split(": ", 1)[1]
    found = {
        "cpu": f"{os.cpu_count()} cores, {model}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


class Bench:
    """Runs children against a bench server.

    Args:
        size: the extent of the measurements.
        only: parts of the names of sections and clients to run; all if empty.
        say: called with progress messages.
    """

    def __init__(self, size: Size, only: list[str], say: Say) -> None:
        self._size = size
        self._only = only
        self._say = say
        self._url = ""
        self.results = Results(machine())
        for name, client in CLIENTS.items():
            if missing := client.missing():
                self.results.skipped[name] = f"not installed: {', '.join(missing)}"
        names = [name for name in CLIENTS if any(part in name for part in only)]
        self._clients = {
            name: client
            for name, client in CLIENTS.items()
            if name not in self.results.skipped and (name in names or not names)
        }

    def run(self) -> Results:
        """Run all measurements."""
        for name, reason in self.results.skipped.items():
            self._say(f"left out: {name} ({reason})")
        sections: dict[str, Callable[[], None]] = {
            "paced": self._paced,
            "burst": self._burst,
            **{f"{many[0]} streams": lambda many=many: self._many(*many)  # type: ignore[misc]
               for many in self._size.many},
            "long": self._long,
            "chats": self._chats,
            "imports": self._imports,
            "construction": self._construction,
        }  # fmt: skip
        chosen = [name for name in sections if any(part in name for part in self._only)]
        allow_files()
        with serve() as self._url:
            for name in chosen or sections:
                self._say(f"{name} …")
                sections[name]()
        return self.results

    def _paced(self) -> None:
        size = self._size
        self._each("paced", size.paced_rounds, self._clients, size.paced, 0.001)

    def _burst(self) -> None:
        size = self._size
        self._each("burst", size.rounds, self._clients, size.burst, 0.0)

    def _many(self, count: int, interval: float, tokens: int) -> None:
        clients = {
            name: client
            for name, client in self._clients.items()
            if client.dated and client.many and client.world != "sync"
        }
        self._each(
            f"{count} streams", self._size.many_rounds, clients, tokens, interval, count=count
        )

    def _each(
        self,
        section: str,
        rounds: int,
        clients: dict[str, Client],
        tokens: int,
        interval: float,
        count: int = 1,
    ) -> None:
        for turn in range(rounds):
            # Clients of one world are compared, so they run close together, in a different order
            # each time.
            worlds = [
                [name for name in clients if clients[name].world == world]
                for world in ("sync", "asyncio", "trio")
            ]
            for name in [name for names in worlds for name in _turned(names, turn)]:
                fewer = tokens if interval else max(100, tokens // clients[name].slow)
                self._plan(tokens=fewer, interval=interval, dated=count > 1, warm=1, gather=count)
                self._child(
                    section, name, what="streams", client=name, count=count, tokens=fewer,
                    dated=count > 1,
                )  # fmt: skip

    def _long(self) -> None:
        tokens = self._size.long
        names = ["ours-sync", "ours-asyncio", "ours-trio", "tree-sync", "fast-asyncio"]
        for name in (*names, "aiohttp-asyncio"):
            if name in self._clients:
                self._plan(tokens=tokens)
                self._child("long", name, what="long", client=name, tokens=tokens, chat=False)
        self._plan(tokens=tokens, warm=1)
        self._child("chat", "ours-sync", what="long", client="ours-sync", tokens=tokens, chat=True)

    def _chats(self) -> None:
        size = self._size
        for name in ("ours-sync", "ours-asyncio", "ours-trio", "aiohttp-asyncio"):
            if name in self._clients:
                self._plan(tokens=20, delay=size.delay)
                counts = self._child("chats", name, what="chats", who=name, chats=size.chats)
                last = self.results.sections["chats"][name][-1]
                last["requests"] = counts.get("requests", 0)
                last["connections"] = counts.get("connections", 0) - 1  # one is ours: /bench
                last["chats"] = size.chats
                last["delay"] = size.delay

    def _imports(self) -> None:
        for _ in range(self._size.imports):
            for code in IMPORTS:
                output = _run([sys.executable, "-c", _IMPORT, code])
                self.results.add("imports", code, json.loads(output))

    def _construction(self) -> None:
        for _ in range(self._size.many_rounds):
            for name in ("httpx", "ours", "httpx-async", "ours-async"):
                self._child(
                    "construction", name, False, what="construction", which=name,
                    count=self._size.made,
                )  # fmt: skip

    def _plan(self, **plan: Any) -> dict[str, int]:
        """Set the server's plan; return what it has counted so far."""
        data = json.dumps(plan).encode() if plan else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/bench", data, timeout=_TIMEOUT) as response:
            counts: dict[str, int] = json.loads(response.read())
        return counts

    def _child(
        self, section: str, name: str, with_server: bool = True, /, **asked: Any
    ) -> dict[str, int]:
        if with_server:
            asked["url"] = self._url
        output = _run([sys.executable, "-m", f"{__package__}.child", json.dumps(asked)])
        figures: Figures = json.loads(output)
        self.results.add(section, name, figures)
        shown = ", ".join(f"{key} {value:.6g}" for key, value in figures.items())
        self._say(f"    {name}: {shown}")
        return self._plan() if with_server else {}


def _turned(names: list[str], turn: int) -> list[str]:
    """Return the order of a round: each name is first once, and every second round is reversed."""
    start = turn % max(1, len(names))
    names = names[start:] + names[:start]
    return names[:: -1 if turn % 2 else 1]


IMPORTS = (
    "import httpx",
    "import h2o_client",
    "from h2o_client import H2oClient",
    "from h2o_client import AsyncH2oClient",
    "import httpx; httpx.Client()",
    "from h2o_client import H2oClient; H2oClient()",
)
"""The statements that are measured."""

_IMPORT = """
import json, resource, sys, time
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
def memory():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
code = compile(sys.argv[1], "import", "exec")
before = memory(), cpu(), time.perf_counter()
exec(code)
after = memory(), cpu(), time.perf_counter()
print(json.dumps({
    "ms": (after[2] - before[2]) * 1e3,
    "cpu_ms": (after[1] - before[1]) * 1e3,
    "memory": after[0] - before[0],
}))
"""


def _environment() -> dict[str, str]:
    """Return an environment without server and proxy settings, and without writing bytecode."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("H2O_CHAT_")
        and not name.lower().endswith("_proxy")
        and name != "PYTHONDONTWRITEBYTECODE"
    }


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=_TIMEOUT,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[-1]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run a bench server in a separate process; yield its URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.server"],
        cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def allow_files() -> None:
    """Allow this process and its children a thousand open connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
