"""The goals for the figures, as ratios within one run."""

import statistics
from dataclasses import dataclass

from .measure import Figures, Results

_CPU = "cpu_us"


@dataclass(frozen=True)
class Ratio:
    """A ratio and its spread over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


@dataclass(frozen=True)
class Goal:
    """A goal and the result of this run.

    Attributes:
        text: the goal.
        found: the measured value as text, or None if it was not measured.
        met: whether the goal was met.
    """

    text: str
    found: str | None = None
    met: bool = False


def ratio(
    results: Results, section: str, name: str, other: str, key: str = _CPU, other_section: str = ""
) -> Ratio | None:
    """Return the ratio of two clients that ran in the same rounds."""
    ours = results.values(section, name, key)
    theirs = results.values(other_section or section, other, key)
    if other_section and theirs:  # different rounds
        theirs = [statistics.median(theirs)] * len(ours)
    ratios = [one / two for one, two in zip(ours, theirs, strict=False) if two]
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def goals(results: Results) -> list[Goal]:
    """Return all goals."""
    found: list[Goal] = []

    def at_most(
        limit: float,
        section: str,
        name: str,
        other: str,
        key: str = _CPU,
        *,
        what: str = "",
        beside: str = "",
        other_section: str = "",
    ) -> None:
        text = f"{section}: {name} ≤ {limit} x {other}{what}"
        got = ratio(results, section, name, other, key, other_section)
        found.append(Goal(text, f"{got}{beside}", got.median <= limit) if got else Goal(text))

    for world, limit in (("sync", 1.05), ("trio", 1.15), ("asyncio", 1.3)):
        # Parsing the bytes at all has a cost.
        unchecked = ratio(results, "paced", f"least-{world}", f"bytes-{world}")
        beside = f"; without any check {unchecked}" if unchecked else ""
        at_most(limit, "paced", f"ours-{world}", f"bytes-{world}", beside=beside)
        at_most(limit, "paced", f"tree-{world}", f"tree_bytes-{world}")
    for world in ("sync", "trio", "asyncio"):
        at_most(1.3, "burst", f"ours-{world}", f"bytes-{world}")
        at_most(1.3, "burst", f"tree-{world}", f"tree_bytes-{world}")
    for world in ("sync", "asyncio"):
        at_most(0.6, "paced", f"ours-{world}", f"openai-{world}")
        at_most(0.1, "burst", f"ours-{world}", f"openai-{world}")
    old = "aiohttp-asyncio"
    at_most(1.1, "paced", "fast-asyncio", old)
    at_most(0.6, "burst", "fast-asyncio", old)
    many = [name for name in results.sections if name.endswith(" streams")]
    for section in many:
        at_most(1.2, section, "fast-asyncio", old)
        at_most(2.0, section, "fast-asyncio", old, "p99_ms", what=" (p99 delay)")
        for name in ("ours-asyncio", "tree-asyncio", "fast-asyncio"):
            at_most(1.0, section, name, name, other_section="paced", what=" (one stream)")
            found.append(_starved(results, section, name))
    for name in ("ours-sync", "ours-asyncio", "ours-trio"):
        found += _round_trips(results, name)
    for name in ("ours-sync", "ours-asyncio", "ours-trio", "tree-sync", "fast-asyncio"):
        found.append(_flat(results, name))
    found.append(_chat(results))
    imports = ("import h2o_client", "from h2o_client import H2oClient")
    for name in (*imports, "from h2o_client import AsyncH2oClient"):
        at_most(1.25, "imports", name, "import httpx", "ms")
        at_most(1.25, "imports", name, "import httpx", "memory", what=" (memory)")
    for ours, theirs in (("ours", "httpx"), ("ours-async", "httpx-async")):
        at_most(1.2, "construction", ours, theirs, "first_ms", what=" (the first)")
        at_most(1.2, "construction", ours, theirs, "later_ms", what=" (later ones)")
    return found


def _last(results: Results, section: str, name: str) -> Figures | None:
    rounds = results.sections.get(section, {}).get(name)
    return rounds[-1] if rounds else None


def _starved(results: Results, section: str, name: str) -> Goal:
    text = f"{section}: {name}, no stream starved (fewest tokens of a stream ≥ 0.8 x most)"
    got = _last(results, section, name)
    if got is None:
        return Goal(text)
    return Goal(
        text, f"{got['fewest']:.0f} to {got['most']:.0f}", got["fewest"] >= 0.8 * got["most"]
    )


def _round_trips(results: Results, name: str) -> list[Goal]:
    texts = (
        f"chats: {name}, first token of the first chat after 3 round trips",
        f"chats: {name}, of later ones after 2",
        f"chats: {name}, no request too many (1 + 3 a chat), one connection",
    )
    got = _last(results, "chats", name)
    if got is None:
        return [Goal(text) for text in texts]
    first, later = (round_trips(got, key) for key in ("first_token_s", "later_token_s"))
    wanted = 1 + 3 * got["chats"]
    return [
        Goal(texts[0], f"{first:.1f}", first < 3.9),
        Goal(texts[1], f"{later:.1f}", later < 2.9),
        Goal(
            texts[2],
            f"{got['requests']:.0f} requests, {got['connections']:.0f} connections",
            got["requests"] <= wanted and got["connections"] <= 1,
        ),
    ]


def round_trips(figures: Figures, key: str) -> float:
    """Return a time as a multiple of the delay before each response."""
    return figures[key] / figures["delay"]


def _flat(results: Results, name: str) -> Goal:
    text = f"long: {name}, memory flat with stream(): ≤ 1 MB beside its text, after a tenth"
    got = _last(results, "long", name)
    if got is None:
        return Goal(text)
    growth = (got["late"] - got["early"]) / 1e6
    kept = got["text"] / 1e6
    return Goal(text, f"{growth:.1f} MB, {kept:.1f} MB of text", growth - kept <= 1.0)


def _chat(results: Results) -> Goal:
    text = "long: chat() grows by no more than twice the text"
    got = _last(results, "chat", "ours-sync")
    if got is None:
        return Goal(text)
    times = got["peak"] / got["text"]
    return Goal(text, f"{times:.1f} x ({got['text'] / 1e6:.1f} MB of text)", times <= 2.0)
