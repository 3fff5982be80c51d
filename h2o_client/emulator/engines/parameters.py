"""Generation parameters, checked as text-generation-inference checks them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.engine import UpstreamError

DEFAULT_NEW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """Generation parameters; what changes nothing stands for what was not given.

    Attributes:
        temperature: 1 changes nothing.
        top_k: 0 changes nothing.
        top_p: 1 changes nothing.
        typical_p: 1 changes nothing.
        repetition_penalty: 1 changes nothing.
        do_sample: Whether tokens are drawn. Where it was not said, they are if a parameter was
            given that only matters then.
        max_new_tokens: Tokens at most.
        truncate: Tokens of the prompt that are kept; 0 keeps all.
        seed: What the random numbers come from; None for new ones.
        stop: Texts that end the answer.
    """

    temperature: float
    top_k: int
    top_p: float
    typical_p: float
    repetition_penalty: float
    do_sample: bool
    max_new_tokens: int
    truncate: int
    seed: int | None
    stop: tuple[str, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Options:
        """Read them; null is as good as missing.

        Raises:
            UpstreamError: One is not what it has to be.
        """
        stop: object = parameters.get("stop") or []
        if not isinstance(stop, list) or not all(
            isinstance(item, str) for item in cast("list[object]", stop)
        ):
            raise invalid("`stop` must be a list of texts")
        sample: object = parameters.get("do_sample")
        if sample is not None and not isinstance(sample, bool):
            raise invalid("`do_sample` must be true or false")
        temperature = _number(parameters, "temperature", 1.0, most=float("inf"))
        top_k = _whole(parameters, "top_k", 0)
        top_p = _number(parameters, "top_p", 1.0)
        typical_p = _number(parameters, "typical_p", 1.0)
        if sample is None:
            sample = (temperature, top_k, top_p, typical_p) != (1, 0, 1, 1)
        seed: object = parameters.get("seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise invalid("`seed` must be a whole number")
        if isinstance(seed, int) and not 0 <= seed < 2**64:
            raise invalid("`seed` must be from 0 to 2^64 - 1")
        return cls(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            typical_p=typical_p,
            repetition_penalty=_number(parameters, "repetition_penalty", 1.0, most=float("inf")),
            do_sample=sample,
            max_new_tokens=_whole(parameters, "max_new_tokens", DEFAULT_NEW_TOKENS),
            truncate=_whole(parameters, "truncate", 0),
            seed=seed,
            stop=tuple(item for item in cast("list[str]", stop) if item),
        )


def invalid(text: str) -> UpstreamError:
    """A request that a model server refuses."""
    body = {"error": f"Input validation error: {text}", "error_type": "validation"}
    return UpstreamError(422, body)


def _number(parameters: Mapping[str, Any], name: str, default: float, most: float = 1) -> float:
    """A number above zero, and not over `most`."""
    value: object = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"`{name}` must be a number")
    if not value > 0:
        raise invalid(f"`{name}` must be strictly positive")
    if value > most:
        raise invalid(f"`{name}` must not be over {most}")
    if value > sys.float_info.max:  # such as 1e999
        raise invalid(f"`{name}` must be less")
    return float(value)


def _whole(parameters: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number above zero."""
    value: object = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"`{name}` must be a whole number")
    if value <= 0:
        raise invalid(f"`{name}` must be strictly positive")
    return value
