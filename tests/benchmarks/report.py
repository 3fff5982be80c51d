"""Print the figures as Markdown tables, and draw them."""

import json
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import escape

from .clients import CLIENTS
from .goals import Goal, ratio, round_trips
from .measure import Results

_REFERENCES = (("{}bytes-{}", "x httpx bytes"), ("aiohttp-asyncio", "x old loop"))
_WORLDS = ("sync", "asyncio", "trio")
_COLOURS = {"ours": "#1f77b4", "tree": "#1f77b4", "fast": "#0b4f8a", "": "#b8bec6"}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        shown = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(shown)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(head), line(rule), *(line(row) for row in rows)]


def number(value: float | None) -> str:
    """Return a figure rounded to its significant digits."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def text_report(results: Results, goals: list[Goal]) -> str:
    """Return the complete report."""
    lines = [", ".join(f"{key} {value}" for key, value in results.machine.items())]
    lines += [f"left out: {name}: {why}" for name, why in results.skipped.items()]
    for section in results.sections:
        if section in ("paced", "burst") or section.endswith(" streams"):
            lines += _streams(results, section)
    lines += _long(results) + _chats(results) + _imports(results) + _construction(results)
    lines += ["", "## Goals (informational: one run on one machine)", ""]
    rows = [
        [goal.text, goal.found, "yes" if goal.met else "NO"]
        for goal in goals
        if goal.found is not None
    ]
    lines += table(["goal", "found", "met"], rows)
    if len(rows) < len(goals):
        lines += ["", f"{len(goals) - len(rows)} goals are of what was not measured"]
    return "\n".join(lines)


def _streams(results: Results, section: str) -> list[str]:
    titles = {"paced": "one stream, a token a ms", "burst": "one stream, as fast as it goes"}
    many = section not in titles
    lines = ["", f"## {titles.get(section, section + ' at once')}: CPU µs a token", ""]
    head = ["client", "world", "CPU µs", *(text for _, text in _REFERENCES)]
    if many:
        head += ["p50 ms", "p99 ms", "KB a stream"]
    rows = []
    for name in CLIENTS:
        if name not in results.sections[section]:
            continue
        client = CLIENTS[name]
        row = [client.label, client.world, number(results.median(section, name, "cpu_us"))]
        kind = "tree_" if name.startswith("tree") else ""
        for other, _ in _REFERENCES:
            got = ratio(results, section, name, other.format(kind, client.world))
            row.append(str(got) if got else "-")
        if many:
            memory = results.median(section, name, "memory")
            row += [number(results.median(section, name, key)) for key in ("p50_ms", "p99_ms")]
            row.append(number(None if memory is None else memory / 1024))
        rows.append(row)
    return lines + table(head, rows)


def _long(results: Results) -> list[str]:
    rows = []
    for name, rounds in results.sections.get("long", {}).items():
        last = rounds[-1]
        grown = [(last[key] - last["before"]) / 1e6 for key in ("early", "late")]
        rows.append([f"{name}, stream()", *map(number, grown), number(grown[1] - grown[0])])
    for name, rounds in results.sections.get("chat", {}).items():
        last = rounds[-1]
        rows.append(
            [f"{name}, chat(): {last['text'] / 1e6:.1f} MB of text", "-",
             number(last["growth"] / 1e6), f"peak {number(last['peak'] / 1e6)}"]
        )  # fmt: skip
    head = ["one long answer: memory, MB", "after a tenth", "at its end", "growth between"]
    return ["", *table(head, rows)] if rows else []


def _chats(results: Results) -> list[str]:
    rows = []
    for name, rounds in results.sections.get("chats", {}).items():
        last = rounds[-1]
        keys = ("first_token_s", "first_end_s", "later_token_s", "later_end_s")
        trips = [f"{round_trips(last, key):.1f}" for key in keys]
        counts = [f"{last[key]:.0f}" for key in ("chats", "requests", "connections")]
        rows.append([name, *trips, *counts])
    head = ["whole chats: round trips", "first: token", "end", "later: token", "end", "chats",
            "requests", "connections"]  # fmt: skip
    return ["", *table(head, rows)] if rows else []


def _imports(results: Results) -> list[str]:
    rows = []
    for code in results.sections.get("imports", {}):
        memory = results.median("imports", code, "memory") or 0.0
        got = ratio(results, "imports", code, "import httpx", "ms")
        row = [code, number(results.median("imports", code, "ms")), str(got), number(memory / 1e6)]
        rows.append(row)
    head = ["import", "ms", "x import httpx", "MB"]
    return ["", *table(head, rows)] if rows else []


def _construction(results: Results) -> list[str]:
    rows = [
        [name, *(number(results.median("construction", name, key))
                 for key in ("first_ms", "later_ms"))]
        for name in results.sections.get("construction", {})
    ]  # fmt: skip
    head = ["making a client, ms", "the first", "later ones"]
    return ["", *table(head, rows)] if rows else []


def summary(results: Results) -> list[str]:
    """Return the lines of the manual's summary table: medians of the main figures."""
    many = [section for section in results.sections if section.endswith(" streams")]
    head = ["CPU µs a token (median)"]
    head += [f"paced, {world}" for world in _WORLDS] + [f"burst, {world}" for world in _WORLDS]
    for section in many:
        head += [f"{section}, asyncio", "p99 ms"]
    rows = []
    measured = {name for section in results.sections.values() for name in section}
    labels = [client.label for name, client in CLIENTS.items() if name in measured]
    for label in dict.fromkeys(labels):
        names = {client.world: name for name, client in CLIENTS.items() if client.label == label}

        def median(section: str, world: str, key: str = "cpu_us", names: Any = names) -> str:
            return number(results.median(section, names.get(world, ""), key))

        row = [label]
        row += [median(section, world) for section in ("paced", "burst") for world in _WORLDS]
        for section in many:
            row += [median(section, "asyncio"), median(section, "asyncio", "p99_ms")]
        rows.append(row)
    return table(head, rows)


def as_json(results: Results, goals: list[Goal]) -> str:
    """Return the run as JSON."""
    data = {**asdict(results), "goals": [asdict(goal) for goal in goals]}
    return json.dumps(data, indent=1, ensure_ascii=False)


def from_json(text: str) -> Results:
    """Load a run."""
    data = json.loads(text)
    return Results(data["machine"], data["sections"], data["skipped"])


# --- the chart

_LEFT, _WIDTH, _BAR, _STEP, _VALUE = 250, 760, 14, 20, 60


def svg(results: Results) -> str:
    """Return a chart of the CPU time per token: a panel for each section, a bar for each client."""
    parts: list[str] = []
    top = 60
    for section in results.sections:
        if section in ("paced", "burst") or section.endswith(" streams"):
            top = _panel(results, section, top, parts)
    machine = results.machine
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("httpx", "aiohttp", "openai", "huggingface_hub")
        if name in machine
    )
    size = f'viewBox="0 0 {_WIDTH} {top + 12}" width="{_WIDTH}" height="{top + 12}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{top + 12}" fill="#ffffff"/>',
        _text(16, 24, "CPU µs per token (user + system); shorter is better", "start", 16),
        _text(16, 42, f"{machine['cpu']}; {machine['python']}; {versions}", "start", 11, "#555555"),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _panel(results: Results, section: str, top: int, parts: list[str]) -> int:
    titles = {
        "paced": "One stream, a token a millisecond",
        "burst": "One stream, as fast as it goes",
    }
    shown = [name for name in CLIENTS if name in results.sections[section]]
    values = {name: results.median(section, name, "cpu_us") or 0.0 for name in shown}
    if not values:
        return top
    # Bars that exceed the chart are cut, with their value: the small ones matter.
    scale = (_WIDTH - _LEFT - _VALUE) / min(max(values.values()), 12 * min(values.values()))
    title = titles.get(section, f"{section} at once")
    parts.append(_text(16, top + 14, title, "start", 13, "#111111", bold=True))
    top += 24
    for world in _WORLDS:
        for name in shown:
            client = CLIENTS[name]
            if client.world != world:
                continue
            colour = _COLOURS.get(name.partition("-")[0], _COLOURS[""])
            width = min(values[name] * scale, _WIDTH - _LEFT - _VALUE)
            cut = " »" if values[name] * scale > width + 1 else ""
            label = f"{client.label.replace(' (the limit)', '')} · {world}"
            parts.append(_text(_LEFT - 8, top + 11, label, "end"))
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" '
                f'fill="{colour}"/>'
            )
            value = f"{number(values[name])}{cut}"
            parts.append(_text(_LEFT + width + 5, top + 11, value, "start"))
            top += _STEP
        top += 6
    return top + 10


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str,
    size: int = 12,
    colour: str = "#222222",
    *,
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}"{weight}>{escape(text)}</text>'
    )
