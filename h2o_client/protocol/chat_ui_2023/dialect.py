"""The requests of the protocol of 2023, each with the reader of its answer."""

from collections.abc import Mapping
from urllib.parse import urlencode

from h2o_client.protocol import dialect
from h2o_client.protocol.chat_ui_2023 import replies
from h2o_client.protocol.chat_ui_2023.answer import AnswerParser
from h2o_client.protocol.dialect import (
    MAX_STORED,
    Outgoing,
    Overview,
    Query,
    StoredConversation,
)
from h2o_client.protocol.effects import Request
from h2o_client.protocol.replies import check_status, reading
from h2o_client.protocol.requests import FORM, JSON, Site, encode, in_path
from h2o_client.types import PromptPreview


class Dialect2023:
    """chat-ui 0.3 to 0.6.

    Args:
        site: builds requests.
    """

    name = "chat-ui-2023"
    stream_type = "text/event-stream"
    capabilities = frozenset({"parameters", "summarize", "vote", "web_search"})

    def __init__(self, site: Site) -> None:
        self._site = site

    def accept_terms(
        self, *, model: str, share: bool, custom_prompts: Mapping[str, str] | None = None
    ) -> Query[list[str]]:
        """`POST /settings`: accept the terms and choose the model.

        Custom prompts that are left out are deleted.
        """
        fields = {
            "ethicsModalAccepted": "true",
            "shareConversationsWithModelAuthors": "true",
            "ethicsModalAcceptedAt": "",
            "activeModel": model,
            "searchEnabled": "true",
        }
        if not share:
            # 02b_settings_stored: the server reads any value but an empty one as "yes", the text
            # "false" too; to opt out on every version, the field is left out.
            del fields["shareConversationsWithModelAuthors"]
        if custom_prompts:
            fields["customPrompts"] = encode(dict(custom_prompts)).decode()
        content = urlencode(fields).encode()
        request = self._site.request("settings", "POST", "/settings", content, FORM)
        return Query(request, replies.read_session_cookies)

    def create(self, *, model: str, from_share: str | None = None) -> Query[str]:
        """`POST /conversation`."""  # 03_create_conversation; a copy: 10_share
        fields = {"model": model}
        if from_share is not None:
            fields = {"fromShare": from_share, **fields}
        request = self._site.request("create", "POST", "/conversation", encode(fields), JSON)
        return Query(request, replies.read_conversation_id)

    def message(self, conversation: str, message: Outgoing) -> Request:
        """`POST /conversation/{id}`."""  # 01_happy_path; is_retry: 07_two_turns_and_retry
        content = encode(
            {
                "inputs": message.prompt,
                "parameters": message.parameters,
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
        return self._request("message", "POST", conversation, content=content)

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer."""
        return AnswerParser(text=text)

    def stop(self, conversation: str) -> Query[None]:
        """`POST /conversation/{id}/stop-generating`, without a body."""  # 11_stop_generating
        return Query(self._request("stop", "POST", conversation, "/stop-generating"), check_status)

    def delete(self, conversation: str) -> Query[None]:
        """`DELETE /conversation/{id}`."""  # 15_delete
        return Query(self._request("delete", "DELETE", conversation), check_status)

    def delete_all(self) -> Query[None]:
        """`POST /conversations?/delete`, an empty form."""  # 14_delete_all
        request = self._site.request("delete_all", "POST", "/conversations?/delete", b"", FORM)
        return Query(request, replies.read_settings)

    def overview(self) -> Query[Overview]:
        """`GET /__data.json`: models, settings, conversations."""  # 13_data_json
        from h2o_client.protocol.chat_ui_2023.stored import read_root

        request = self._site.request("root", "GET", "/__data.json")
        return Query(request, reading(read_root), MAX_STORED)

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """`GET /conversation/{id}/__data.json`."""  # 13_data_json
        from h2o_client.protocol.chat_ui_2023.stored import read_conversation

        request = self._request("data", "GET", conversation, "/__data.json")
        return Query(request, reading(read_conversation), MAX_STORED)

    def shared(self, share: str) -> Query[StoredConversation]:
        """`GET /r/{id}/__data.json`, in the same form as one's own."""  # 10_share
        from h2o_client.protocol.chat_ui_2023.stored import read_conversation

        request = self._site.request("shared", "GET", f"/r/{in_path(share)}/__data.json")
        return Query(request, reading(read_conversation), MAX_STORED)

    def summarize(self, conversation: str) -> Query[str]:
        """`POST /conversation/{id}/summarize`, without a body."""  # 09_summarize_and_title
        request = self._request("summarize", "POST", conversation, "/summarize")
        return Query(request, replies.read_title)

    def rename(self, conversation: str, title: str) -> Query[None]:
        """`PATCH /conversation/{id}`."""  # 09_summarize_and_title
        content = encode({"title": title})
        return Query(self._request("rename", "PATCH", conversation, content=content), check_status)

    def share(self, conversation: str) -> Query[str]:
        """`POST /conversation/{id}/share`, without a body."""  # 10_share
        return Query(self._request("share", "POST", conversation, "/share"), replies.read_share_url)

    def vote(self, conversation: str, message: str, score: int) -> Query[None]:
        """`POST /conversation/{id}/message/{id}/vote`."""  # 12_vote_and_prompt
        path, content = f"/message/{in_path(message)}/vote", encode({"score": score})
        return Query(self._request("vote", "POST", conversation, path, content), check_status)

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """`GET /conversation/{id}/message/{id}/prompt`."""  # 12_vote_and_prompt
        path = f"/message/{in_path(message)}/prompt"
        request = self._request("prompt", "GET", conversation, path)
        return Query(request, replies.read_prompt_preview)

    def web_search(self, conversation: str, prompt: str) -> Request:
        """`GET /conversation/{id}/web-search?prompt=…`."""  # 16_web_search
        path = f"/web-search?{urlencode({'prompt': prompt})}"
        return self._request("search", "GET", conversation, path)

    def web_search_parser(self) -> dialect.WebSearchParser:
        """Make the parser of a web search."""
        from h2o_client.protocol.chat_ui_2023.web_search import WebSearchParser

        return WebSearchParser()

    def _request(
        self,
        operation: str,
        method: str,
        conversation: str,
        path: str = "",
        content: bytes | None = None,
    ) -> Request:
        """Build a request about a conversation; its content is JSON."""
        path = f"/conversation/{in_path(conversation)}{path}"
        content_type = None if content is None else JSON
        return self._site.request(operation, method, path, content, content_type)
