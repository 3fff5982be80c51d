"""Code shared by the plugins for other packages."""

import os
import re

from h2o_client import DEFAULT_BASE_URL, GenerationError, Reply

REVISED = "revised"
"""The `error_type` of an answer that the server restarted; model servers do not use it."""


def check_revised(reply: Reply) -> None:
    """Raise if texts already given to the caller are not part of the final answer.

    If the model fails midway, a 2025 server restarts the answer, and `Reply.text` then differs from
    the streamed text.

    Raises:
        GenerationError: the texts differ; `partial` is the final answer.
    """
    if reply.revised:
        raise GenerationError(
            "the server restarted the answer, and the final text differs from the streamed text "
            "(`partial` has the final text)",
            partial=reply.text,
            error_type=REVISED,
        )


def server_url(base_url: str | None = None) -> str:
    """Return the base URL of the configured server, without user and password.

    Args:
        base_url: the URL; None for the configured one, as in `H2oClient()`.
    """
    url = base_url or os.environ.get("H2O_CHAT_URL") or DEFAULT_BASE_URL
    return re.sub(r"(?<=//)[^/?#]*@", "", url).rstrip("/")
