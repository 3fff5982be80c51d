"""Converts a history to messages for chat models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2o_client.emulator.engine import GenerationRequest


def chat_messages(request: GenerationRequest) -> list[dict[str, Any]]:
    """The request's history, limited to the last turns that fit into `truncate` words.

    The result of a web search is put before the last question, because some chat templates do not
    support system messages.
    """
    if request.chat:
        return [dict(message) for message in request.chat]
    turns = [{"role": sender, "content": text} for sender, text in request.messages]
    if turns and request.context:
        last = turns[-1]
        turns[-1] = {**last, "content": f"{request.context}\n\n{last['content']}"}
    limit = request.parameters.get("truncate")
    if isinstance(limit, int) and limit > 0:
        while len(turns) > 2 and _words(turns) > limit:
            turns = without_oldest(turns)
    return turns


def without_system(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history with the system message merged into the first question.

    Some templates do not support system messages.
    """
    if len(turns) < 2 or turns[0]["role"] != "system":
        return [*turns]
    system, first, *rest = turns
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def without_oldest(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history without its first question and answer."""
    rest = [*turns[1:]]
    while len(rest) > 1 and rest[0]["role"] != "user":
        rest.pop(0)
    return rest


def _words(turns: Sequence[dict[str, Any]]) -> int:
    return sum(turn["content"].count(" ") + 1 for turn in turns)
