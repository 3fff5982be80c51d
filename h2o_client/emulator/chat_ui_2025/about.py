"""Information about the service and its user: models, flags, settings and so on."""

from __future__ import annotations

from typing import Any

from h2o_client.emulator.call import Handler
from h2o_client.emulator.chat_ui_2025.call import Call
from h2o_client.emulator.store import Model, Settings
from h2o_client.emulator.sveltekit import (
    UNDEFINED,
    HttpError,
    InternalError,
    empty,
    endpoint_json,
    moment,
)
from h2o_client.emulator.web import Answered, Response

CACHED = ("cache-control", "private, max-age=60")
SITE = "https://huggingface.co"
CONFIG = {
    "PUBLIC_APP_ASSETS": "chatui",
    "PUBLIC_APP_DESCRIPTION": "Making the community's best AI chat models available to everyone.",
    "PUBLIC_APP_NAME": "ChatUI",
    "PUBLIC_LLM_ROUTER_ALIAS_ID": "omni",
    "PUBLIC_LLM_ROUTER_DISPLAY_NAME": "Omni",
}
UNSET = "APPLE_APP_ID COMMIT_SHA GOOGLE_ANALYTICS_ID LLM_ROUTER_LOGO_URL ORIGIN"
UNSET_TOO = "PLAUSIBLE_SCRIPT_URL SHARE_PREFIX"
NEWER = "CAVEAT FEATURE_ANNOUNCEMENTS"
OVERRIDES = "multimodal tools artifacts provider reasoningEffort reasoning"


def _cached(call: Call) -> list[tuple[str, str]]:
    return [CACHED] if call.main else []


def _named(model: Model) -> dict[str, Any]:
    return {"id": model.name, "name": model.name, "displayName": model.display_name or model.name}


def _abilities(call: Call) -> dict[str, Any]:
    names = ["supportsTools", "supportsReasoning", *(["supportsArtifacts"] if call.main else [])]
    return dict.fromkeys([*names, "unlisted", "hasInferenceAPI"], False)


def _details() -> dict[str, Any]:
    return {"providers": UNDEFINED, "parameters": {"stop_sequences": UNDEFINED}}


def _model(call: Call, model: Model) -> dict[str, Any]:
    # 14_models
    unset = ["websiteUrl", "modelUrl", "datasetName", "datasetUrl", "logoUrl", "promptExamples"]
    return {
        **_named(model),
        **dict.fromkeys(unset, UNDEFINED),
        "description": model.description,
        "preprompt": model.preprompt or UNDEFINED,
        "multimodal": model.multimodal,
        "multimodalAcceptedMimetypes": ["image/*"] if model.multimodal else UNDEFINED,
        **_abilities(call),
        "isRouter": False,
    }


async def models(call: Call) -> Answered:
    """``GET /api/v2/models``."""
    shown = [_model(call, model) for model in call.service.models]
    if not call.main:
        shown = [item | _details() for item in shown]
    return call.superjson(shown, *_cached(call))


async def model(call: Call) -> Answered:
    """``GET /api/v2/models/{namespace}/{model}``."""
    found = call.service.model(call.ids[0])
    if found is None:
        raise HttpError(404, "Model not found")
    return call.superjson(_model(call, found) | _details())


async def models_v1(call: Call) -> Answered:
    """``GET /api/models``: the older form."""
    shown = [
        {
            **_named(item),
            "websiteUrl": SITE,
            "modelUrl": SITE,
            "description": item.description,
            "promptExamples": [],
            "preprompt": item.preprompt,
            "multimodal": item.multimodal,
            **_abilities(call),
        }
        for item in call.service.models
    ]
    return endpoint_json(shown)


async def flags(call: Call) -> Answered:
    """``GET /api/v2/feature-flags``: only this dialect answers with JSON."""
    # 15_detect, 31_login
    told = {
        "enableAssistants": False,
        "loginEnabled": call.service.config.login is not None,
        "isAdmin": False,
        "transcriptionEnabled": False,
    }
    return call.superjson(told)


async def public_config(call: Call) -> Answered:
    """``GET /api/v2/public-config``."""
    unset = [*UNSET.split(), *UNSET_TOO.split(), *(NEWER.split() if call.main else [])]
    told = CONFIG | {f"PUBLIC_{name}": "" for name in unset}
    return call.superjson(told, *_cached(call))


async def user(call: Call) -> Answered:
    """``GET /api/v2/user``: the user who is logged in, if any."""
    login = call.service.config.login
    known = login is not None and call.session == login
    return call.superjson({"id": "1", "username": "user", "isAdmin": False} if known else None)


async def user_v1(_: Call) -> Answered:
    """``GET /api/user``."""
    body = b'{"message":"Must be signed in"}'
    return Response(401, [("content-type", "application/json")], body)


async def settings(call: Call) -> Answered:
    """Save the settings; missing ones are set to their defaults."""
    # 01b_settings_first
    fields = call.json()
    share = fields.get("shareConversationsWithModelAuthors", True)
    active = fields.get("activeModel", call.service.models[0].name)
    if not isinstance(share, bool) or not isinstance(active, str):
        raise InternalError
    seen = call.service.store.clock() if fields.get("welcomeModalSeen") is True else None
    call.service.store.sessions.put(call.session, Settings(share, active, seen))
    return empty()


async def show_settings(call: Call) -> Answered:
    """``GET /api/v2/user/settings``."""
    known = call.service.store.sessions.use(call.session)
    chosen = known or Settings(share=True, active_model=call.service.models[0].name)
    seen = chosen.accepted_at
    told = {
        "welcomeModalSeen": seen is not None,
        "welcomeModalSeenAt": None if seen is None else moment(seen),
        "activeModel": chosen.active_model,
        "shareConversationsWithModelAuthors": chosen.share,
        # Settings that the emulator does not use.
        "streamingMode": "smooth",
        "directPaste": False,
        "hapticsEnabled": True,
        "billingOrganization": UNDEFINED,
        **{name: {} for name in ("hidePromptExamples", "customPrompts", "customPromptsEnabled")},
        **{f"{name}Overrides": {} for name in OVERRIDES.split()},
    }
    return call.superjson(told)


def plain(status: int, body: bytes) -> Handler:
    """An endpoint with a constant answer."""

    async def tell(_: Call) -> Answered:
        return Response(status, [("content-type", "text/plain;charset=UTF-8")], body)

    return tell


async def login(_: Call) -> Answered:
    """``GET /login`` of a server without a login."""
    # 15_detect
    raise InternalError
