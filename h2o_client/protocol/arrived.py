"""What has come of an answer and was not given out yet.

A caller may iterate the texts of an answer, its tokens, or both by turns. Nearly all want texts
only, which are cheaper: tokens are made of what came last when they are asked for.
"""

from collections import deque
from collections.abc import Sequence

from h2o_client.protocol.effects import Emit, Reader
from h2o_client.types import Token


def is_shown(token: Token) -> bool:
    """Whether the text of a token is a part of the answer's."""
    return not token.special and token.text != ""


def shown_texts(tokens: Sequence[Token]) -> list[str]:
    """Return the texts of those tokens that are shown."""
    return [token.text for token in tokens if is_shown(token)]


class Arrived:
    """Texts and tokens of the same few events; who takes one of them takes both.

    Attributes:
        texts: the texts that are shown. A shell adds those that it has read on by itself, and
            takes them from here.
    """

    __slots__ = ("_reader", "_tokens", "_untaken", "texts")

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self._tokens: deque[Token] = deque()
        self._untaken = 0  # how many of them are shown
        self._reader: Reader | None = None

    def put(self, emit: Emit) -> None:
        """Add what a flow emits; what came before has been taken."""
        texts = shown_texts(emit.tokens)
        self._hold(emit.tokens, len(texts))
        self.texts.extend(texts)
        self._reader = emit.reader

    def token(self) -> Token | None:
        """Take the next token; None: there is none."""
        if self._reader is not None and (latest := self._reader.tokens()):
            self._hold(latest, len(shown_texts(latest)))
        while self._untaken > len(self.texts):  # these were taken as texts
            self._untaken -= is_shown(self._tokens.popleft())
        if not self._tokens:
            return None
        token = self._tokens.popleft()
        if is_shown(token):
            self._untaken -= 1
            self.texts.popleft()
        return token

    def _hold(self, tokens: Sequence[Token], shown: int) -> None:
        self._tokens = deque(tokens)
        self._untaken = shown
