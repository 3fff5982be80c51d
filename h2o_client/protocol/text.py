r"""Text that can always be written as UTF-8.

JSON can contain one half of a surrogate pair, as in `"\ud83d"`. That is not a character, and
printing or storing it fails. All text from the server passes through here: two halves that belong
together become one character, and a lone half becomes U+FFFD.
"""

import json
import re
from typing import NoReturn

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# A pair, a lone half (the group), or any other escape. All escapes must match, so that an escaped
# backslash is not mistaken for the beginning of another escape.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def join_halves(text: str) -> str:
    """Join the halves of surrogate pairs in a text; a lone half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def load_json(text: str) -> object:
    """Read JSON so that all strings in the result can be encoded as UTF-8.

    Raises:
        ValueError: it is not JSON. `NaN` and `Infinity` are rejected, although Python accepts them.
        RecursionError: it is nested too deeply.
    """
    if _HALF.search(text):
        text = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)
    return json.loads(text, parse_constant=_reject_constant)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)
