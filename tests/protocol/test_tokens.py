"""Received text can be read as texts and as tokens alternately, without loss or repetition."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from h2o_client.protocol.chat_ui_2023.answer import AnswerParser
from h2o_client.protocol.tokens import TokenQueue, is_shown
from h2o_client.types import Token

SHOWN, EMPTY, SPECIAL = "shown", "empty", "special"


def token_of(number: int, kind: str) -> Token:
    return Token(number, "" if kind is EMPTY else f" {number}", -0.5, kind is SPECIAL)


def event(token: Token) -> bytes:
    value = {"token": token._asdict(), "generated_text": None, "details": None}
    return b"data:" + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class Shell:
    """Takes what has arrived, and reads a chunk when nothing is left."""

    def __init__(self, chunks: list[bytes], *, pumps: bool) -> None:
        self._chunks = iter(chunks)
        self._parser = AnswerParser()
        self._pumps = pumps
        self._begun = False
        self._queue = TokenQueue()

    def text(self) -> str | None:
        while not self._queue.texts:
            if not self._read():
                return None
        return self._queue.texts.popleft()

    def token(self) -> Token | None:
        while (token := self._queue.token()) is None:
            if not self._read():
                return None
        return token

    def _read(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._queue = TokenQueue()
            return False
        texts = self._parser.read_on(chunk)
        if self._begun and self._pumps and texts:
            self._queue.texts.extend(texts)
        else:
            self._queue.put(self._parser.tokens())
            self._queue.parser = self._parser
        self._begun = True
        return True


@pytest.mark.slow
@given(
    st.lists(st.sampled_from([SHOWN, SHOWN, EMPTY, SPECIAL]), min_size=1, max_size=12),
    st.lists(st.integers(1, 4), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=13, max_size=13),
    st.booleans(),
)
@example([SHOWN] * 6, [1, 2, 3] * 4, [True, True, False, True, False, False] * 3, True)
@example([SHOWN, SPECIAL, SHOWN, EMPTY, SPECIAL, SHOWN], [5] * 12, [True, False] * 7, False)
def test_texts_and_tokens_can_be_read_alternately(
    kinds: list[str], sizes: list[int], as_text: list[bool], pumps: bool
) -> None:
    tokens = [token_of(number, kind) for number, kind in enumerate(kinds)]
    events = iter([event(token) for token in tokens])
    chunks = [b"".join(itertools.islice(events, size)) for size in sizes]
    shell = Shell([chunk for chunk in chunks if chunk], pumps=pumps)
    left = iter(tokens)
    for takes_text in as_text:
        if takes_text:
            assert shell.text() == next((token.text for token in left if is_shown(token)), None)
        else:
            assert shell.token() == next(left, None)


def test_special_and_empty_tokens_are_not_shown() -> None:
    assert is_shown(Token(1, " "))
    assert not is_shown(Token(1, ""))
    assert not is_shown(Token(1, "</s>", special=True))
