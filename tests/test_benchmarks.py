"""The benchmarks run with tiny counts and without thresholds. Uninstalled peers are skipped."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks.report import from_json, summary, svg

ROOT = Path(__file__).parents[1]


def test_server_exits_with_its_parent() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as server:
        try:
            assert server.stdin
            assert server.stdout
            assert int(server.stdout.readline()) > 0
            server.stdin.close()
            assert server.wait(60) == 0
        finally:
            server.kill()


@pytest.mark.slow
def test_benchmark_runs_one_section_with_two_clients() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--smoke"]
    done = subprocess.run(
        [*command, "--only", "burst", "limit-sync", "ours-sync"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| h2o_client" in done.stdout


@pytest.mark.long
def test_smoke_run_measures_every_installed_client(tmp_path: Path) -> None:
    written, chart = tmp_path / "run.json", tmp_path / "run.svg"
    command = [sys.executable, "-m", "tests.benchmarks", "--smoke"]
    # The other sections cover the same code, and each starts a process.
    command += [
        "--only",
        "ours",
        "tree-",
        "fast",
        "limit",
        "bytes-sync",
        "aiohttp",
        "openai",
        "hub-sync",
    ]
    done = subprocess.run(
        [*command, "--json", str(written), "--svg", str(chart)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(written.read_text("utf-8"))
    # Every installed client was measured, and received the exact text.
    for section in ("paced", "burst"):
        assert {"limit-sync", "bytes-sync", "ours-sync", "ours-asyncio", "tree-sync"} <= set(
            results["sections"][section]
        )
    assert set(results["sections"]) == {
        "paced", "burst", "3 streams", "long", "chat", "chats", "imports", "construction",
    }  # fmt: skip
    for name, reason in results["skipped"].items():
        assert f"left out: {name}: {reason}" in done.stdout
    for name in ("ours-sync", "ours-asyncio", "ours-trio"):
        chats = results["sections"]["chats"][name][0]
        assert chats["requests"] == 1 + 3 * chats["chats"]
        assert chats["connections"] == 1
    assert "| h2o_client" in done.stdout
    assert str(ROOT) not in done.stdout + written.read_text("utf-8")
    bars = ET.parse(chart).iter("{http://www.w3.org/2000/svg}rect")
    assert len(list(bars)) > len(results["sections"]["paced"])


def test_manual_shows_the_stored_figures() -> None:
    results = from_json((ROOT / "tests/benchmarks/figures.json").read_text("utf-8"))
    page = (ROOT / "docs/manual/speed.md").read_text("utf-8")
    assert "\n".join(summary(results)) in page
    assert results.machine["cpu"] in page
    assert (ROOT / "docs/manual/figures.svg").read_text("utf-8") == svg(results)
