"""The soak command works, detects the violations that it reports, and a short run has none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soak

ROOT = Path(__file__).parent.parent


def figures(text: str) -> dict[str, int]:
    """Parse the printed figures."""
    found = re.findall(r"^(\w[\w ]*?) {2,}(\d+)(?: \(.*\))?$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


@pytest.mark.slow
@pytest.mark.parametrize("backend", soak.BACKENDS)
def test_short_run_finds_no_violation(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = soak.main(["--streams", "20", "--workers", "5", "--seed", "3", "--backend", backend])
    text = capsys.readouterr().out
    found = figures(text)
    assert status == 0, text
    assert found["streams"] >= 20
    assert found["streams"] == found["whole"] + found["left"] + found["errors"]
    assert found["tokens"] > 20
    assert found["faults injected"] > 0
    assert [found[name] for name in soak.MUST_BE_ZERO] == [0] * len(soak.MUST_BE_ZERO)
    assert "MB before" in text


def test_check_counts_violations() -> None:
    worker = soak.Worker.__new__(soak.Worker)
    worker.tally = soak.Tally()
    worker.check(" One two", " One two", whole=True)
    worker.check(" One two", " One", whole=False)
    assert not worker.tally.counts
    worker.check(" One two", " One", whole=True)
    worker.check(" One two", " two", whole=False)
    assert worker.tally.counts == {"answers lost": 1, "wrong texts": 1}


def test_violation_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = soak.Tally()
    tally.note("answers lost", "one")
    monkeypatch.setattr(soak, "run", lambda *_, **__: (tally, (1.0, 1.0)))
    assert soak.main(["--backend", "sync"]) == 1
    assert "answers lost: one" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("backends", [("sync",), soak.BACKENDS], ids=len)
def test_soak_command_runs(backends: tuple[str, ...]) -> None:
    which = backends[0] if len(backends) == 1 else "all"
    arguments = ["--streams", "4", "--workers", "2", "--backend", which]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.soak", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    begun = [line.split()[0] for line in done.stdout.splitlines() if "seed" in line]
    assert begun == list(backends)
