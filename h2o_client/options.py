"""The generation options of a call, written down once: their names, types and meaning."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class GenerationOptions(TypedDict, total=False):
    """How the model generates an answer: keyword arguments of `chat()`, `send()` and the like.

    What is left out, or None, has the client's value (`H2oClient(parameters={…})`), or else the
    service's default. Parameters that are not listed here go in `parameters={…}`.

    Attributes:
        temperature: randomness of the choice of tokens; the service's default is 0.4.
        truncate: how many tokens of the prompt count, the last ones; 2048.
        max_new_tokens: the longest answer, in tokens; 1024.
        do_sample: whether tokens are sampled; False always takes the likeliest one. True.
        repetition_penalty: a value above 1 makes repetition less likely; 1.2.
        return_full_text: asks the model server to repeat the prompt; False.
        top_p: samples from the likeliest tokens whose probabilities add up to this, 0 to 1.
        top_k: samples from this many of the likeliest tokens.
        typical_p: samples from the most typical tokens up to this probability, 0 to 1.
        seed: makes sampling repeatable.
        stop: texts that end the answer where they are generated.
        watermark: asks the model server to watermark the answer.
        details: asks the model server for details of the generation.
    """

    temperature: float | None
    truncate: int | None
    max_new_tokens: int | None
    do_sample: bool | None
    repetition_penalty: float | None
    return_full_text: bool | None
    top_p: float | None
    top_k: int | None
    typical_p: float | None
    seed: int | None
    stop: Sequence[str] | None
    watermark: bool | None
    details: bool | None


OPTION_TYPES: Mapping[str, Any] = {
    name: annotation.__args__[0] for name, annotation in GenerationOptions.__annotations__.items()
}
"""The type of each option, None aside."""


def similar_option(name: str) -> str | None:
    """Return the option that a misspelt name is meant for, if one is similar."""
    import difflib  # needed once in a while, and all would wait for it

    return next(iter(difflib.get_close_matches(name.lower(), OPTION_TYPES, n=1, cutoff=0.75)), None)


def as_arguments(
    given: Mapping[str, Any], parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a call for parameters that were given by name, in a file perhaps.

    Options are given as such, and checked by the call; so are names that are similar to an option,
    which the call rejects with a hint. All others go in `parameters`.

    Args:
        given: names and values.
        parameters: what else goes in `parameters`.
    """
    others = {
        name: value
        for name, value in given.items()
        if name not in OPTION_TYPES and similar_option(str(name)) is None
    }
    options = {name: value for name, value in given.items() if name not in others}
    if others:
        options["parameters"] = {**(parameters or {}), **others}
    return options
