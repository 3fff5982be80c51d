"""The values that describe what the service stores: models, settings, conversations.

They are separate from `types.py` because few programs need them, and defining them takes a tenth of
the time of importing a client. They are imported on first use.
"""

# 13_data_json, 10_share: the fields.

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from h2o_client.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptExample:
    """An example prompt that the service offers for a model.

    Attributes:
        title: its subject, in a few words.
        prompt: the prompt itself.
    """

    title: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server offers.

    Attributes:
        id: the value for `model=`; on all servers measured, the same as `name`.
        name: its name, such as "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1".
        display_name: its name as shown on the service's own page.
        description: a short description, if the server sends one.
        website_url: a page about it, if the server names one.
        parameters: the parameters that the service's own page sends for this model. The server does
            not add them to other requests.
        prompt_examples: the examples that the service's own page offers for this model.
        file_types: the MIME types that it accepts besides text, such as "image/*".
    """

    id: str
    name: str
    display_name: str
    description: str | None = None
    website_url: str | None = None
    # 08_parameters_upstream: who adds parameters.
    # A mapping is not hashable; models with different parameters still compare unequal.
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    prompt_examples: tuple[PromptExample, ...] = ()
    file_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the session, as stored by the server.

    Attributes:
        share_conversations: whether conversations are shared with the models' authors. The servers
            measured treat any text as true, even "false".
        terms_accepted_at: when this session accepted the terms; None if it has not.
        active_model: the model for new conversations.
        search_enabled: whether the service's own page searches the web. The server measured had no
            API key for a search engine, and always reports False.
        custom_prompts: the session's own system prompts, by model name; only on version 0.6.
    """

    # 02b_settings_stored: both flags.
    share_conversations: bool
    terms_accepted_at: datetime | None
    active_model: str
    search_enabled: bool = False
    custom_prompts: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationInfo:
    """One entry in the list of the session's conversations.

    Attributes:
        id: its id: 24 hexadecimal digits.
        title: its title, such as "Untitled 1".
        model: the model that it was created with.
    """

    id: str
    title: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConversation:
    """A shared conversation: a copy made at the time of sharing.

    Attributes:
        title: its title.
        model: the model that it was created with.
        messages: its messages, in order.
    """

    title: str
    model: str
    messages: tuple[Message, ...]
