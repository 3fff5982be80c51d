"""Engines with a real model, each in a module that is imported when used.

    rote                       a few scripted sentences (`emulator.engine`)
    tgi:URL                    a text-generation-inference server (`engines.tgi`)
    openai:URL[#model]         an OpenAI-compatible chat server (`engines.openai`)
    transformers:NAME_OR_PATH  a model in this process (`engines.local`)

Only these modules need more than anyio and h11: the engines for servers need httpx, and a model in
this process needs torch and transformers.
"""

from __future__ import annotations

from h2o_client.emulator.engine import EngineError, EngineLike, RoteEngine

SPECS = ("rote", "tgi:URL", "openai:URL[#model]", "transformers:NAME_OR_PATH")
"""The forms of an engine's name."""


def engine_of(spec: EngineLike | str | None) -> EngineLike:
    """Return the engine with the given name.

    Args:
        spec: One of `SPECS`; None means ``rote``; an engine is returned unchanged.

    Raises:
        EngineError: The name is unknown.
        ImportError: A package that it needs is not installed.
    """
    if spec is None:
        return RoteEngine()
    if not isinstance(spec, str):
        return spec
    kind, _, rest = spec.partition(":")
    match kind, rest:
        case "rote", "":
            return RoteEngine()
        case "tgi", _:
            from h2o_client.emulator.engines.tgi import TgiEngine

            return TgiEngine(rest)
        case "openai", _:
            from h2o_client.emulator.engines.openai import OpenAIEngine

            url, _, model = rest.partition("#")
            return OpenAIEngine(url, model or None)
        case "transformers", _:
            from h2o_client.emulator.engines.local import TransformersEngine

            return TransformersEngine(rest)
        case _:
            # Only the part before the colon: the rest may contain a password.
            raise EngineError(f"unknown engine {kind!r}; expected one of {', '.join(SPECS)}")
