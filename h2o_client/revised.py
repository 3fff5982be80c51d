"""Answers that the server began again, for interfaces that cannot take a text back.

A server of 2025 asks its model once more where the model broke off, and `Reply.text` is then
another text than the one that was streamed.
"""

from h2o_client import GenerationError, Reply

REVISED = "revised"
"""The `error_type` of the error; no model server has it."""


def check_revised(reply: Reply) -> None:
    """Raise if texts were given that are not in the answer.

    Raises:
        GenerationError: they are not; `partial` is the whole answer.
    """
    if reply.revised:
        raise GenerationError(
            "the server began the answer again, and texts that were given are not in it: the "
            "whole answer is in the error's `partial`",
            partial=reply.text,
            error_type=REVISED,
        )
