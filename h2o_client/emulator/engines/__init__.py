"""Engines that have a real model behind them, each in a module that is imported when used.

    rote                       a few scripted sentences; needs nothing   (`emulator.engine`)
    tgi:URL                    a text-generation-inference server (`engines.tgi`)
    openai:URL[#model]         an OpenAI-compatible chat server (`engines.openai`)
    transformers:NAME_OR_PATH  a model in this process (`engines.local`)

Only these modules need more than anyio and h11: the two servers need httpx, the
model in this process torch and transformers.
"""

from __future__ import annotations

from h2o_client.emulator.engine import EngineError, EngineLike, RoteEngine

SPECS = ("rote", "tgi:URL", "openai:URL[#model]", "transformers:NAME_OR_PATH")
"""The forms of an engine's name."""


def engine_of(spec: EngineLike | str | None) -> EngineLike:
    """Make the engine with the given name.

    Args:
        spec: One of `SPECS`; None is ``rote``; an engine is returned as it is.

    Raises:
        EngineError: The name is not that of an engine.
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
            # Only what stands before the colon: there may be a password after it.
            raise EngineError(f"unknown engine {kind!r}; expected one of {', '.join(SPECS)}")
