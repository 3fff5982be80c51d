"""The part of an answer that has arrived but that the caller has not read yet.

A caller may iterate the texts of an answer, its tokens, or alternate between both. Nearly all
callers want only texts, which are cheaper: tokens are made from the last data on request.
"""

from collections import deque
from collections.abc import Sequence

from h2o_client.protocol.answer import AnswerParser
from h2o_client.types import Token


def is_shown(token: Token) -> bool:
    """Whether the text of a token is part of the answer."""
    return not token.special and token.text != ""


def shown_texts(tokens: Sequence[Token]) -> list[str]:
    """Return the texts of the visible tokens."""
    return [token.text for token in tokens if not token.special and token.text]


class TokenQueue:
    """Texts and tokens of the same events: taking a text takes its token too, and vice versa.

    Attributes:
        texts: the visible texts. A shell adds the texts that it pumped, and takes them from here.
        parser: the parser with the tokens of pumped texts, or None.
    """

    __slots__ = ("_shown", "_tokens", "parser", "texts")

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self.parser: AnswerParser | None = None
        self._tokens: deque[Token] = deque()
        self._shown = 0  # how many of them are visible

    def put(self, tokens: Sequence[Token]) -> None:
        """Add the tokens of an `Emit`; all earlier tokens have been taken."""
        self.texts.extend(self._hold(tokens))

    def token(self) -> Token | None:
        """Take the next token; None if nothing is left."""
        if self.parser is not None and (latest := self.parser.tokens()):
            self._hold(latest)
        while self._shown > len(self.texts):  # these were taken as texts
            self._shown -= is_shown(self._tokens.popleft())
        if not self._tokens:
            return None
        token = self._tokens.popleft()
        if is_shown(token):
            self._shown -= 1
            self.texts.popleft()
        return token

    def _hold(self, tokens: Sequence[Token]) -> list[str]:
        """Keep tokens; return the texts of the visible ones."""
        self._tokens = deque(tokens)
        texts = shown_texts(tokens)
        self._shown = len(texts)
        return texts
