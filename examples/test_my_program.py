"""How to test a program that uses a chat server, without a real server.

The fixture `h2o_server` comes with the extra `testing` (from a clone: `pip install '.[testing]'`).
The program under test creates its client as usual, and the client uses the test's server.

    pytest examples/test_my_program.py
"""

import pytest

from h2o_client import H2oClient, H2oError
from h2o_client.emulator import Emulator


def one_line(text: str) -> str:
    """Summarise a text in one line. In your tests, this is your program."""
    with H2oClient(retries=0) as client:
        try:
            reply = client.chat(f"Sum this up in one line:\n{text}", temperature=0.1)
        except H2oError as error:
            return f"(no summary: {type(error).__name__})"
    return str(reply).splitlines()[0]


def test_it_returns_the_first_line(h2o_server: Emulator) -> None:
    h2o_server.reply(" A fox jumps.\nIt is brown.")
    assert one_line("The quick brown fox…") == "A fox jumps."


def test_it_sends_the_text(h2o_server: Emulator) -> None:
    one_line("The quick brown fox…")
    (message,) = [request for request in h2o_server.requests if request.kind == "message"]
    assert "quick brown fox" in message.json()["inputs"]
    assert message.json()["parameters"]["temperature"] == 0.1


@pytest.mark.parametrize(
    ("status", "says"), [(429, "(no summary: RateLimitError)"), (500, "(no summary: ServerError)")]
)
def test_it_handles_errors(h2o_server: Emulator, status: int, says: str) -> None:
    h2o_server.fail(status=status)
    assert one_line("The quick brown fox…") == says


def test_it_gets_the_complete_answer_after_a_lost_connection(h2o_server: Emulator) -> None:
    h2o_server.reply(" A fox jumps over a lazy dog.")
    h2o_server.cut(after=5)
    assert one_line("The quick brown fox…") == "A fox jumps over a lazy dog."


def test_it_leaves_nothing_on_the_server(h2o_server: Emulator) -> None:
    one_line("The quick brown fox…")
    h2o_server.wait_idle()
    assert h2o_server.conversations == []
