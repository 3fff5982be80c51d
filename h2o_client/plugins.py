"""What the plugins for other packages share."""

import os
import re

from h2o_client import DEFAULT_BASE_URL, GenerationError, Reply

REVISED = "revised"
"""The `error_type` of an answer that was begun again; no model server has it."""


def check_revised(reply: Reply) -> None:
    """Raise if texts that the caller already has are not part of the final answer.

    A server of 2025 asks its model once more where the model broke off, and `Reply.text` is then
    another text than the one that was streamed.

    Raises:
        GenerationError: some are not; `partial` is the whole answer.
    """
    if reply.revised:
        raise GenerationError(
            "the server began the answer again, and texts that were given are not in it: the "
            "whole answer is in the error's `partial`",
            partial=reply.text,
            error_type=REVISED,
        )


def server_url(base_url: str | None = None) -> str:
    """Return the base URL of the configured server, without user and password.

    Args:
        base_url: the URL; None for the configured one, as `H2oClient()` takes it.
    """
    url = base_url or os.environ.get("H2O_CHAT_URL") or DEFAULT_BASE_URL
    return re.sub(r"(?<=//)[^/?#]*@", "", url).rstrip("/")
