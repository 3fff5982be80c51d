"""Record a client's tokens, and measure meanwhile.

Figures cover the time when every stream of the run has started and none has ended: CPU time and
tokens are counted over that period, so that they do not include requests, connections and imports.
With many streams, each must first have a third of its tokens: opening a thousand streams takes
longer than a token's interval, and the backlog says nothing about streaming.
"""

import gc
import itertools
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator

from .wire import CYCLE, whole_text, word


def cpu() -> float:
    """Return the CPU seconds used by this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory() -> int:
    """Return the resident memory of this process in bytes; outside Linux, its maximum."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024)


class Meter:
    """Measures a run of several streams.

    Args:
        streams: the number of streams.
        dated: whether each token's text is its due time.
    """

    def __init__(self, streams: int, *, dated: bool) -> None:
        self._waited = streams
        self._dated = dated
        self._before = memory()
        self._streams = streams
        self._tapes: list[Tape] = []
        self._begun: tuple[float, float, int] | None = None
        self._ended: tuple[float, float, int] | None = None
        self._since = 0.0
        self.memory = 0

    def tape(self, tokens: int) -> "Tape":
        """Return the tape of one stream."""
        first = 1 if self._streams == 1 else max(1, tokens // 3)
        tape = (DatedTape if self._dated else Tape)(self, tokens, first)
        self._tapes.append(tape)
        return tape

    def _now(self) -> tuple[float, float, int]:
        taken = sum(tape.taken for tape in self._tapes)
        return cpu(), time.monotonic(), taken

    def begin(self) -> None:
        """Note that a stream has received its first counted token."""
        self._waited -= 1
        if self._waited == 0:
            self.memory = (memory() - self._before) // self._streams
            self._begun = self._now()

    def end(self) -> None:
        """Note that a stream has received its last token."""
        if self._ended is None:
            self._ended = self._now()

    def figures(self) -> dict[str, float]:
        """Return the figures, after comparing every text with what was sent."""
        for tape in self._tapes:
            tape.check()
        if self._begun is None or self._ended is None:
            raise RuntimeError("a stream ended before all had started: use more tokens")
        tokens = self._ended[2] - self._begun[2]
        figures = {
            "tokens": tokens,
            "cpu_us": (self._ended[0] - self._begun[0]) / tokens * 1e6,
            "wall_us": (self._ended[1] - self._begun[1]) / tokens * 1e6,
            "memory": self.memory,
        }
        if self._dated:
            since, until = self._begun[1], self._ended[1]
            delays = sorted(
                itertools.chain.from_iterable(tape.delays(since, until) for tape in self._tapes)
            )
            figures["p50_ms"] = delays[len(delays) // 2] * 1e3
            figures["p99_ms"] = delays[len(delays) * 99 // 100] * 1e3
            figures["fewest"] = min(tape.count(since, until) for tape in self._tapes)
            figures["most"] = max(tape.count(since, until) for tape in self._tapes)
        return figures


def shown_texts(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the texts of an answer's lines, in the simplest way."""
    for line in lines:
        if line.startswith(b'{"type":"stream"'):
            yield json.loads(line)["token"].rstrip("\0")
        elif line.startswith(b"data:"):
            token = json.loads(line[5:])["token"]
            if not token["special"]:
                yield token["text"]


class Tape:
    """Records the texts of one stream.

    Args:
        meter: notified of the first and the last token.
        tokens: the number of tokens expected.
        first: the index of the first counted token.
    """

    def __init__(self, meter: Meter, tokens: int, first: int = 1) -> None:
        self._meter = meter
        self._last = tokens
        self._marks = {first, tokens}  # checked together, as every client pays for it
        self._first = first
        self.texts: list[str] = []
        self.chunks: list[bytes] = []

    def add(self, text: str) -> None:
        """Record a token's text."""
        texts = self.texts
        texts.append(text)
        if len(texts) in self._marks:
            self._mark(len(texts))

    def add_bytes(self, data: bytes) -> None:
        """Record bytes without parsing them; each call counts as a token."""
        chunks = self.chunks
        chunks.append(data)
        if len(chunks) in self._marks:
            self._mark(len(chunks))

    def _mark(self, count: int) -> None:
        if count == self._first:
            self._meter.begin()
        if count == self._last:
            self._meter.end()

    def end_bytes(self) -> None:
        """Note the end of the bytes, if still needed, and parse them."""
        self._meter.end()
        self.texts.extend(shown_texts(b"".join(self.chunks).split(b"\n")))

    @property
    def taken(self) -> int:
        """The number of tokens received."""
        return min(len(self.chunks) or len(self.texts), self._last)

    def check(self) -> None:
        """Compare the recorded texts with what was sent."""
        if "".join(self.texts) != whole_text(self._last) or len(self.texts) != self._last:
            raise AssertionError("the text differs from what was sent")

    def delays(self, since: float, until: float) -> list[float]:
        """Return the delay in seconds of each token in a period."""
        raise NotImplementedError

    def count(self, since: float, until: float) -> int:
        """Return the number of tokens in a period."""
        raise NotImplementedError


class DatedTape(Tape):
    """Records the time of each token, and compares it with its due time."""

    def __init__(self, meter: Meter, tokens: int, first: int = 1) -> None:
        super().__init__(meter, tokens, first)
        self.times: list[float] = []

    def add(self, text: str) -> None:
        self.times.append(time.monotonic())
        super().add(text)

    def check(self) -> None:
        dues = [int(text) for text in self.texts]
        steps = {after - before for before, after in itertools.pairwise(dues)}
        if len(dues) != self._last or (steps and max(steps) - min(steps) > 2):
            raise AssertionError("the text differs from what was sent")

    def delays(self, since: float, until: float) -> list[float]:
        return [
            came - int(text) / 1e6
            for came, text in zip(self.times, self.texts, strict=True)
            if since <= came <= until
        ]

    def count(self, since: float, until: float) -> int:
        return sum(since <= came <= until for came in self.times)


class LongTape(Tape):
    """Stores nothing: compares each token on arrival, and watches the memory.

    Attributes:
        early: the memory after a tenth of the tokens.
        late: the memory after the last token.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(Meter(1, dated=False), tokens)
        self._words = itertools.cycle([word(index) for index in range(CYCLE)])
        self._count = 0
        self.early = self.late = 0

    def add(self, text: str) -> None:
        self._count += 1
        if text != next(self._words):
            raise AssertionError("the text differs from what was sent")
        if self._count == max(1, self._last // 10):
            gc.collect()
            self.early = memory()
        if self._count == self._last:
            gc.collect()
            self.late = memory()

    def check(self) -> None:
        if self._count != self._last:
            raise AssertionError("the text differs from what was sent")
