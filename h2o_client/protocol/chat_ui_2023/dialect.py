"""The requests of the 2023 protocol, each with the reader of its answer."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from h2o_client.errors import H2oError, ServerError
from h2o_client.protocol import dialect
from h2o_client.protocol.chat_ui_2023 import replies
from h2o_client.protocol.chat_ui_2023.answer import AnswerParser
from h2o_client.protocol.dialect import (
    MAX_STORED,
    Created,
    Outgoing,
    Query,
    Stage,
    StoredAnswer,
    StoredConversation,
)
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.payloads import DEFAULT_PARAMETERS
from h2o_client.protocol.replies import check_status, read_prompt_preview, reading
from h2o_client.protocol.requests import FORM, JSON, Site, encode, in_path
from h2o_client.types import DEFAULT_MODEL, PromptPreview

if TYPE_CHECKING:
    from h2o_client.protocol.chat_ui_2023.stored import Overview
    from h2o_client.stored import ConversationInfo, Model, Settings

T = TypeVar("T")


class Dialect2023:
    """chat-ui 0.3 to 0.6.

    Args:
        site: builds requests.
    """

    name = "chat-ui-2023"
    stream_type = "text/event-stream"
    capabilities = frozenset({"parameters", "summarize", "vote", "web_search"})
    default_model: str | None = DEFAULT_MODEL
    has_tree = False
    retries_limit = True

    def __init__(self, site: Site) -> None:
        self._site = site

    def accept_terms(
        self, *, model: str | None, share: bool, kept: Mapping[str, Any] | None = None
    ) -> Query[list[str]]:
        """`POST /settings`: accept the terms and choose the model.

        Custom prompts that are left out are deleted.
        """
        fields = {
            "ethicsModalAccepted": "true",
            "shareConversationsWithModelAuthors": "true",
            "ethicsModalAcceptedAt": "",
            "activeModel": model or DEFAULT_MODEL,
            "searchEnabled": "true",
        }
        if not share:
            # 02b_settings_stored: the server treats any non-empty value as true, even the text
            # "false"; omitting the field opts out on every version.
            del fields["shareConversationsWithModelAuthors"]
        fields |= kept or {}
        content = urlencode(fields).encode()
        request = self._site.request("settings", "POST", "/settings", content, FORM)
        return Query(request, replies.read_session_cookies, proves=True)

    def kept_settings(self) -> Query[dict[str, Any]]:
        """`GET /__data.json`: the custom prompts, and the model if the server still offers it."""
        return self._root(_kept)

    def create(
        self,
        *,
        model: str,
        from_share: str | None = None,
        preprompt: str | None = None,  # noqa: ARG002 -- for other dialects
    ) -> Query[Created]:
        """`POST /conversation`."""  # 03_create_conversation; a copy: 10_share
        fields = {"model": model}
        if from_share is not None:
            fields = {"fromShare": from_share, **fields}
        request = self._site.request("create", "POST", "/conversation", encode(fields), JSON)
        return Query(request, replies.read_created)

    def message(self, conversation: str, message: Outgoing) -> Request:
        """`POST /conversation/{id}`."""  # 01_happy_path; is_retry: 07_two_turns_and_retry
        content = encode(
            {
                "inputs": message.prompt,
                "parameters": {**DEFAULT_PARAMETERS, **message.parameters},
                "stream": True,
                "options": {
                    "id": message.message_id,
                    "response_id": message.response_id,
                    "is_retry": message.is_retry,
                    "use_cache": False,
                    "web_search_id": message.web_search_id,
                },
            }
        )
        return self._site.about("message", "POST", conversation, content=content)

    def check(self, head: Head, body: bytes, request: Request) -> None:
        """Raise an error if the response reports one."""
        check_status(head, body, request)

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer."""
        return AnswerParser(text=text)

    def reattach(self, conversation: str, response_id: str) -> None:
        """Return None: the server does not support this."""

    def cannot_reattach(self) -> None:
        """Do nothing: this is already known."""

    def reattached_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer."""
        return AnswerParser(text=text)

    def find(self, stored: StoredConversation, message: Outgoing) -> StoredAnswer | None:
        """Find an answer by its id; the server stores it only at its end."""
        for found in stored.messages:
            if found.id == message.response_id:
                return StoredAnswer(found, None, Stage.WHOLE, over=True)
        return None

    def stop(
        self,
        conversation: str,
        response_id: str = "",  # noqa: ARG002 -- for other dialects
        seen: str = "",  # noqa: ARG002 -- for other dialects
    ) -> Query[None]:
        """`POST /conversation/{id}/stop-generating`, without a body."""  # 11_stop_generating
        return Query(
            self._site.about("stop", "POST", conversation, "/stop-generating"), check_status
        )

    def delete(self, conversation: str) -> Query[None]:
        """`DELETE /conversation/{id}`."""  # 15_delete
        return Query(self._site.about("delete", "DELETE", conversation), check_status)

    def delete_all(self) -> Query[None]:
        """`POST /conversations?/delete`, an empty form."""  # 14_delete_all
        request = self._site.request("delete_all", "POST", "/conversations?/delete", b"", FORM)
        return Query(request, replies.read_settings)

    def models(self) -> "Query[tuple[Model, ...]]":
        """`GET /__data.json`: the models."""
        return self._root(lambda overview: overview.models)

    def settings(self) -> "Query[Settings]":
        """`GET /__data.json`: the settings."""
        return self._root(lambda overview: overview.settings)

    def conversations(
        self,
        page: int,  # noqa: ARG002 -- for other dialects
    ) -> "Query[tuple[tuple[ConversationInfo, ...], bool]]":
        """`GET /__data.json`: the conversations, all on one page."""
        return self._root(lambda overview: (overview.conversations, False))

    def is_unknown_model(self, error: H2oError) -> bool:
        """Whether an error may mean that the server does not know the model."""
        # 02_settings_variants, 03_create_conversation: the service gives no better reason.
        return isinstance(error, ServerError) and error.message == "Internal Error"

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """`GET /conversation/{id}/__data.json`."""  # 13_data_json
        from h2o_client.protocol.chat_ui_2023.stored import read_conversation

        request = self._site.about("data", "GET", conversation, "/__data.json")
        return Query(request, reading(read_conversation), MAX_STORED, proves=True)

    def shared(self, share: str) -> Query[StoredConversation]:
        """`GET /r/{id}/__data.json`, in the same form as other conversations."""  # 10_share
        from h2o_client.protocol.chat_ui_2023.stored import read_conversation

        request = self._site.request("shared", "GET", f"/r/{in_path(share)}/__data.json")
        return Query(request, reading(read_conversation), MAX_STORED, proves=True)

    def summarize(self, conversation: str) -> Query[str]:
        """`POST /conversation/{id}/summarize`, without a body."""  # 09_summarize_and_title
        request = self._site.about("summarize", "POST", conversation, "/summarize")
        return Query(request, replies.read_title)

    def rename(self, conversation: str, title: str) -> Query[None]:
        """`PATCH /conversation/{id}`."""  # 09_summarize_and_title
        content = encode({"title": title})
        return Query(
            self._site.about("rename", "PATCH", conversation, content=content), check_status
        )

    def share(self, conversation: str) -> Query[str]:
        """`POST /conversation/{id}/share`, without a body."""  # 10_share
        return Query(
            self._site.about("share", "POST", conversation, "/share"), replies.read_share_url
        )

    def share_prefix(self) -> Query[str]:
        """Raise: this server returns whole URLs."""
        raise AssertionError("not needed here")

    def vote(self, conversation: str, message: str, score: int) -> Query[None]:
        """`POST /conversation/{id}/message/{id}/vote`."""  # 12_vote_and_prompt
        path, content = f"/message/{in_path(message)}/vote", encode({"score": score})
        return Query(self._site.about("vote", "POST", conversation, path, content), check_status)

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """`GET /conversation/{id}/message/{id}/prompt`."""  # 12_vote_and_prompt
        path = f"/message/{in_path(message)}/prompt"
        request = self._site.about("prompt", "GET", conversation, path)
        return Query(request, read_prompt_preview)

    def web_search(self, conversation: str, prompt: str) -> Request:
        """`GET /conversation/{id}/web-search?prompt=…`."""  # 16_web_search
        path = f"/web-search?{urlencode({'prompt': prompt})}"
        return self._site.about("search", "GET", conversation, path)

    def web_search_parser(self) -> dialect.WebSearchParser:
        """Make the parser of a web search."""
        from h2o_client.protocol.chat_ui_2023.web_search import WebSearchParser

        return WebSearchParser()

    def _root(self, select: "Callable[[Overview], T]") -> Query[T]:
        """`GET /__data.json`: models, settings, conversations."""  # 13_data_json
        from h2o_client.protocol.chat_ui_2023.stored import read_root

        request = self._site.request("root", "GET", "/__data.json")
        return Query(
            request, reading(lambda body: select(read_root(body))), MAX_STORED, proves=True
        )


def _kept(overview: "Overview") -> dict[str, Any]:
    """Return the fields of the settings that are sent back unchanged."""
    kept: dict[str, Any] = {}
    if any(known.id == overview.settings.active_model for known in overview.models):
        kept["activeModel"] = overview.settings.active_model
    if overview.settings.custom_prompts:
        kept["customPrompts"] = encode(dict(overview.settings.custom_prompts)).decode()
    return kept
