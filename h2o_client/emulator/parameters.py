"""Reads generation parameters, and checks them like text-generation-inference.

`upstream.ask` runs the check once, for every engine. A value of the wrong type is rejected with the
message of that server's JSON reader, as plain text, without the column. A value out of range is
rejected in JSON.
"""

# Wrong types: 05_upstream_error_422_text. Out of range: the form is that of
# 05_upstream_error_422, the messages are in the source of text-generation-inference 0.9
# (router/src/validation.rs). Unknown names are accepted: 08_parameters_upstream.

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.engine import UpstreamError

DEFAULT_NEW_TOKENS = 1024
MAX_STOPS = 4

_NULLABLE = {
    "temperature": "f32",
    "repetition_penalty": "f32",
    "top_p": "f32",
    "typical_p": "f32",
    "top_k": "i32",
    "max_new_tokens": "u32",
    "truncate": "usize",
    "seed": "u64",
    "return_full_text": "a boolean",
}
_TYPES = _NULLABLE | {
    "do_sample": "a boolean",
    "details": "a boolean",
    "watermark": "a boolean",
    "stop": "a sequence",
}
_WHOLE = {
    "i32": range(-(2**31), 2**31),
    "u32": range(2**32),
    "u64": range(2**64),
    "usize": range(2**64),
}
_PYTHON: Mapping[str, type] = {
    "a boolean": bool,
    "a string": str,
    "a sequence": list,
    "struct GenerateParameters": dict,
}


@dataclass(frozen=True, slots=True)
class Options:
    """Generation parameters; a neutral value means that the parameter was not given.

    Attributes:
        temperature: 1 is neutral.
        top_k: 0 is neutral.
        top_p: 1 is neutral.
        typical_p: 1 is neutral.
        repetition_penalty: 1 is neutral.
        do_sample: Whether tokens are sampled. A parameter that matters only for sampling implies
            it.
        max_new_tokens: The maximum number of tokens.
        truncate: The number of tokens of the prompt to keep; 0 keeps all.
        seed: The seed of the random numbers; None chooses a new one.
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
        """Read parameters that `check` accepted."""
        given = {name: value for name, value in parameters.items() if value is not None}
        sampling = {"temperature": 1, "top_k": 0, "top_p": 1, "typical_p": 1}
        changed = any(given.get(name, same) != same for name, same in sampling.items())
        return cls(
            temperature=float(given.get("temperature", 1)),
            top_k=given.get("top_k", 0),
            top_p=float(given.get("top_p", 1)),
            typical_p=float(given.get("typical_p", 1)),
            repetition_penalty=float(given.get("repetition_penalty", 1)),
            do_sample=given.get("do_sample", changed),
            max_new_tokens=given.get("max_new_tokens", DEFAULT_NEW_TOKENS),
            truncate=given.get("truncate", 0),
            seed=given.get("seed"),
            stop=tuple(text for text in given.get("stop", ()) if text),
        )


def check(body: Mapping[str, Any]) -> None:
    """Check a request to a model server.

    Raises:
        UpstreamError: The model server rejects it, with status 422.
    """
    _check_type("stream", body.get("stream", False), "a boolean")
    parameters: Any = body.get("parameters", {})
    _check_type("parameters", parameters, "struct GenerateParameters")
    for name, value in parameters.items():
        if name in _TYPES and not (value is None and name in _NULLABLE):
            _check_type(f"parameters.{name}", value, _TYPES[name])
            _check_range(name, value)


def _check_type(name: str, value: object, expected: str) -> None:
    if expected == "f32":
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif expected in _WHOLE:
        good = type(value) is int and value in _WHOLE[expected]
    else:
        good = isinstance(value, _PYTHON[expected])
    if not good:
        kind = "value" if type(value) is int and expected in _WHOLE else "type"
        text = f"{name}: invalid {kind}: {_described(value)}, expected {expected}"
        raise UpstreamError(
            422, f"Failed to deserialize the JSON body into the target type: {text}"
        )
    if isinstance(value, list):
        for item in cast("list[object]", value):
            _check_type(name, item, "a string")


def _described(value: object) -> str:
    """A value as described by the model server's JSON reader."""
    text = json.dumps(value, ensure_ascii=False)
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{text}`"
        case int():
            return f"integer `{text}`"
        case float():
            return f"floating point `{text}`"
        case str():
            return f"string {text}"
        case _:
            return "sequence" if isinstance(value, list) else "map"


def _check_range(name: str, value: Any) -> None:
    match name:
        case "temperature" | "repetition_penalty" | "top_k" | "max_new_tokens" if value <= 0:
            raise invalid(f"`{name}` must be strictly positive")
        case "top_p" | "typical_p" if not 0 < value < 1:
            raise invalid(f"`{name}` must be > 0.0 and < 1.0")
        case "stop" if len(value) > MAX_STOPS:
            raise invalid(f"`stop` supports up to {MAX_STOPS} stop sequences. Given: {len(value)}")
        case "truncate" if value == 0:
            raise invalid("`truncate` must be strictly positive and less than 1024. Given: 0")
        case _:
            return


def invalid(text: str) -> UpstreamError:
    """Return the error for a value that is out of range."""
    body = {"error": f"Input validation error: {text}", "error_type": "validation"}
    return UpstreamError(422, body)
