"""Generation parameters: their defaults, and checks of the caller's values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from h2o_client.options import HINTS, OPTION_TYPES, similar_option
from h2o_client.protocol.requests import encode

DEFAULT_PARAMETERS: Mapping[str, Any] = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}


def merge_parameters(
    client: Mapping[str, Any], call: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the parameters of the client, the call's mapping and the call's keywords.

    Keywords that are None are ignored. Values in a mapping are passed on unchanged.

    Raises:
        TypeError: a keyword is not one of `GenerationOptions`, or has the wrong type.
        ValueError: a parameter is not finite.
    """
    merged = dict(client)
    if call is not None:
        merged.update(check_parameters(call))
    for name, value in keywords.items():
        _check_keyword(name, value)
        if value is not None:
            merged[name] = value
    return merged


def check_flag(name: str, value: object) -> bool:
    """Return a flag if it is valid.

    Raises:
        TypeError: the value is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_model(model: object) -> str:
    """Return the name of a model if it is valid.

    Raises:
        TypeError: the name is not a string.
        ValueError: the name is blank.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a string, not {type(model).__name__}")
    if not model.strip():
        raise ValueError("model must not be blank")
    return model


def check_parameters(parameters: object) -> dict[str, Any]:
    """Return a mapping of parameters if it can be sent.

    Raises:
        TypeError: it is not a mapping of strings to values that JSON can represent.
        ValueError: a value is not finite.
    """
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise TypeError("parameters must be a mapping with strings as keys")
    plain = dict(parameters)
    encode(plain)
    return plain


def _check_keyword(name: str, value: object) -> None:
    if name in HINTS:
        raise TypeError(f"unexpected keyword argument {name!r}: {HINTS[name]}")
    if name not in OPTION_TYPES:
        similar = similar_option(name)
        hint = "" if similar is None else f"did you mean {similar!r}? "
        raise TypeError(
            f"unexpected keyword argument {name!r}: {hint}pass anything else in parameters={{…}}"
        )
    if value is None:
        return
    kind = OPTION_TYPES[name]
    expected, words = _KINDS[kind]
    if (
        not isinstance(value, expected)
        or (isinstance(value, bool) and kind is not bool)
        or (isinstance(value, Sequence) and not _are_texts(value))
    ):
        raise TypeError(f"{name} must be {words}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")


def _are_texts(values: Sequence[object]) -> bool:
    return not isinstance(values, str) and all(isinstance(value, str) for value in values)


_KINDS: Mapping[object, tuple[Any, str]] = {
    float: (int | float, "a number"),
    int: (int, "an integer"),
    bool: (bool, "True or False"),
    Sequence[str]: (Sequence, "a list of strings"),
}
