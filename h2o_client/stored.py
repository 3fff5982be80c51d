"""What the service has, as users hold it: its models, settings, conversations.

Values like those of `types.py`. Few programs ask for them, and to define them takes a tenth of the
time that importing a client does: so they are imported when they are asked for.
"""

# 13_data_json, 10_share: the fields.

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from h2o_client.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptExample:
    """A prompt that the service offers as an example for a model.

    Attributes:
        title: what it is about, in a few words.
        prompt: the prompt itself.
    """

    title: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the server offers.

    Attributes:
        id: what to name it by in `model=`; on the measured servers the same as `name`.
        name: its name, such as "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1".
        display_name: its name as the service's own page shows it.
        description: what it is, in a few words, where the server tells.
        website_url: where to read about it, where the server tells.
        parameters: the parameters that the service's own page sends for it. The server adds
            none of them by itself.
        prompt_examples: the examples that the service's own page offers for it.
        file_types: the MIME types that it takes beside text, such as "image/*".
    """

    id: str
    name: str
    display_name: str
    description: str | None = None
    website_url: str | None = None
    # 08_parameters_upstream: who adds parameters.
    # A mapping has no hash; a model with another one is not equal all the same.
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    prompt_examples: tuple[PromptExample, ...] = ()
    file_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the session has chosen, as the server has stored it.

    Attributes:
        share_conversations: whether conversations are shared with the models' authors. To
            measured servers any text means yes, "false" too.
        terms_accepted_at: when the terms were accepted in this session; None if they were not.
        active_model: the model that is chosen for new conversations.
        search_enabled: whether the service's own page searches the web. The measured server,
            which had no key for a search engine, has it False whatever is sent.
        custom_prompts: the session's own system prompts by the names of their models; servers
            of version 0.6 have them.
    """

    # 02b_settings_stored: both flags.
    share_conversations: bool
    terms_accepted_at: datetime | None
    active_model: str
    search_enabled: bool = False
    custom_prompts: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationInfo:
    """One of the session's conversations, as they are listed.

    Attributes:
        id: its id: 24 hexadecimal digits.
        title: its title, such as "Untitled 1".
        model: the model that it was begun with.
    """

    id: str
    title: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConversation:
    """A conversation that was shared: a copy of what it was then.

    Attributes:
        title: its title.
        model: the model that it was begun with.
        messages: what was said, in order.
    """

    title: str
    model: str
    messages: tuple[Message, ...]
