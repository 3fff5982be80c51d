"""Arbitrary input for each parser and flow, and tests of the fuzzing command.

The invariants are the targets of `tests/fuzz.py`. Here, Hypothesis generates their input and
shrinks failures; `python -m tests.fuzz` runs the same targets with a coverage-guided fuzzer.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from fuzz import TARGETS, Tape, main, mutate, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h2o_client.errors import ServerError
from h2o_client.protocol.chat_ui_2023 import replies
from h2o_client.protocol.chat_ui_2023 import stored as data
from h2o_client.protocol.chat_ui_2023.answer import AnswerParser
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.replies import MAX_BODY, unexpected

LONG = settings(
    max_examples=20_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
ROOT = Path(__file__).parents[2]


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Return arbitrary bytes, and mutated recordings."""
    known = [seed for seed in seeds(name) if len(seed) < 1500] or seeds(name)
    mutated = st.builds(
        lambda draw, seed: mutate(random.Random(draw), seed, known),
        st.integers(0, 2**32),
        st.sampled_from(known),
    )
    return st.binary(max_size=200) | mutated


@pytest.mark.parametrize("name", TARGETS)
def test_invariants_hold_for_any_input(name: str) -> None:
    @given(inputs(name))
    def check(content: bytes) -> None:
        TARGETS[name](content)

    check()


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_invariants_hold_for_many_more_inputs(name: str) -> None:
    @LONG
    @given(inputs(name))
    def check(content: bytes) -> None:
        TARGETS[name](content)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_targets_accept_the_recordings(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


# Beyond the fuzzer, which has no clock and small inputs.


def test_error_of_a_long_answer_uses_little_memory() -> None:
    long = "x" * 1_000_000
    request = Request("POST", "https://host/settings", (), None, "settings")
    body = json.dumps({"type": "error", "status": 10**4000, "error": {"message": long}}).encode()
    with pytest.raises(ServerError) as caught:
        replies.read_settings(Head(200, ()), body, request)
    assert caught.value.status == 500
    assert len(caught.value.body) == len(caught.value.message) == MAX_BODY
    assert len(str(caught.value)) < fuzz.LONGEST_TEXT

    page = {"type": "data", "nodes": [{"type": "error", "error": {"message": long}}]}
    with pytest.raises(ServerError) as caught:
        data.read_conversation(json.dumps(page).encode())
    assert len(caught.value.body) == len(caught.value.message) == 1000

    error = unexpected(Head(200, (("content-type", long),)), b"", "the answer")
    assert len(str(error)) < fuzz.LONGEST_TEXT


# Command.


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_cut_pieces_join_to_the_input(head: bytes, content: bytes) -> None:
    assert b"".join(Tape(head).cuts(content)) == content


@pytest.mark.slow
def test_target_detects_a_broken_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AnswerParser.read_on
    monkeypatch.setattr(AnswerParser, "read_on", lambda self, data: whole(self, data.strip()))
    tally = fuzz.Tally("answer", tmp_path)
    fuzz.run_blind("answer", tally, seconds=60, runs=2000, seed=0)
    assert tally.crashes


@pytest.mark.slow
def test_command_works_without_atheris(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--runs", "30", "--crashes", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = done.stdout.splitlines()
    assert rows[0] == "blind, seed 0"
    assert [row.split()[0] for row in rows[1:]] == [*TARGETS, "all"]
    assert rows[-1].split() == ["all", f"{30 * len(TARGETS)}", "executions,", "0", "crashes"]
    assert list(tmp_path.iterdir()) == []


def test_command_saves_crashing_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fragile(content: bytes) -> None:
        assert b"\xff" not in content

    monkeypatch.setitem(fuzz.TARGETS, "address", fragile)
    arguments = ["address", "--blind", "--crashes", str(tmp_path)]
    assert main([*arguments, "--runs", "3000", "--seed", "5"]) == 1
    (found,) = tmp_path.iterdir()
    assert str(found) in capsys.readouterr().out
    assert b"\xff" in found.read_bytes()
    with pytest.raises(AssertionError):
        main([*arguments, "--replay", str(found)])
    found.write_bytes(b"harmless")
    assert main([*arguments, "--replay", str(found)]) == 0


def test_same_seed_repeats_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setitem(fuzz.TARGETS, "lines", seen.append)
    for seed in ("1", "1", "2"):
        main(["lines", "--runs", "200", "--seed", seed])
    assert len(seen) == 600
    assert seen[:200] == seen[200:400]
    assert seen[:200] != seen[400:]
