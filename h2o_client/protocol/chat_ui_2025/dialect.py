"""The requests of the 2025 protocol, each with the reader of its answer."""

import base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NoReturn

from h2o_client.errors import H2oError, StatusError
from h2o_client.protocol.chat_ui_2025 import stored
from h2o_client.protocol.chat_ui_2025.answer import AnswerParser
from h2o_client.protocol.chat_ui_2025.stored import reading_json
from h2o_client.protocol.dialect import (
    MAX_STORED,
    Created,
    Outgoing,
    Query,
    StoredAnswer,
    StoredConversation,
    unsupported,
)
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.replies import read_prompt_preview
from h2o_client.protocol.requests import JSON, Site, encode, in_path
from h2o_client.stored import ConversationInfo, Model, Settings
from h2o_client.types import File, PromptPreview


class Dialect2025:
    """chat-ui 0.9.6 and later.

    Args:
        site: builds requests.
    """

    name = "chat-ui-2025"
    capabilities = frozenset({"branches", "files", "preprompt", "titles"})
    stream_type = "application/jsonl"
    default_model: str | None = None
    has_tree = True
    retries_limit = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._reattaches = True  # until the server shows otherwise

    def accept_terms(
        self, *, model: str | None, share: bool, kept: Mapping[str, Any] | None = None
    ) -> Query[list[str]] | None:
        """`POST /settings`, only to opt out of sharing, which is on by default.

        The server resets omitted fields to their defaults.
        """
        # 01b_settings_first
        if share:
            return None
        fields: dict[str, Any] = {**(kept or {}), "shareConversationsWithModelAuthors": False}
        if model is not None:
            fields.setdefault("activeModel", model)
        request = self._site.request("settings", "POST", "/settings", encode(fields), JSON)

        def read(head: Head, body: bytes, request: Request) -> list[str]:
            stored.check(head, body, request)
            if body.lstrip().startswith(b"{"):  # 31_login: a redirect in a 200
                raise stored.login_required(head.status)
            return [value for name, value in head.headers if name == "set-cookie"]

        return Query(request, read)

    def kept_settings(self) -> Query[dict[str, Any]]:
        """`GET /api/v2/user/settings`."""
        request = self._site.request("settings", "GET", "/api/v2/user/settings")
        return Query(request, reading_json(stored.read_kept_settings))

    def create(
        self, *, model: str, from_share: str | None = None, preprompt: str | None = None
    ) -> Query[Created]:
        """`POST /conversation`."""  # 01_happy_path; a copy: 13_share; 23_preprompt
        fields = {"model": model}
        if from_share is not None:
            fields["fromShare"] = from_share
        if preprompt is not None:
            fields["preprompt"] = preprompt
        request = self._site.request("create", "POST", "/conversation", encode(fields), JSON)
        return Query(request, stored.read_created, MAX_STORED)

    def message(self, conversation: str, message: Outgoing) -> Request:
        """`POST /conversation/{id}`, a form of the message and its files."""
        # 01_happy_path; is_retry: 03_retry; files: 17_files
        fields = {
            "inputs": message.prompt,
            "id": message.parent,
            "is_retry": message.is_retry,
            "generationId": message.response_id,
        }
        parts = [_part('name="data"', "", encode(fields)), *map(_file, message.files)]
        # The boundary must not occur in the body, so it is a hash of the body.
        boundary = "h2o" + sha256(b"".join(parts)).hexdigest()
        mark = f"--{boundary}".encode()
        content = b"".join([mark + b"\r\n" + part + b"\r\n" for part in parts]) + mark + b"--\r\n"
        return self._site.request(
            "message",
            "POST",
            f"/conversation/{in_path(conversation)}",
            content,
            f"multipart/form-data; boundary={boundary}",
        )

    def check(self, head: Head, body: bytes, request: Request) -> None:
        """Raise an error if the response reports one."""
        stored.check(head, body, request)

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer."""
        return AnswerParser(text)

    def reattach(self, conversation: str, response_id: str) -> Request | None:
        """`GET /conversation/{id}/stream?generationId=…&fromSeq=0`."""  # 06_disconnect
        if not self._reattaches:
            return None
        path = f"/stream?generationId={in_path(response_id)}&fromSeq=0"
        return self._site.about("reattach", "GET", conversation, path)

    def cannot_reattach(self) -> None:
        """Remember that the server is version 0.10 or older."""  # chat-ui-0.10/15_detect
        self._reattaches = False

    def reattached_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of a reattached stream."""
        return AnswerParser(text, reattached=True)

    def find(self, stored: StoredConversation, message: Outgoing) -> StoredAnswer | None:
        """Find an answer by its generation; on 0.10, the newest answer that was not known."""
        if any(answer.generation is not None for answer in stored.answers):
            return next(
                (each for each in stored.answers if each.generation == message.response_id), None
            )
        # 0.10: find it by its question, which has our text and follows our parent.
        questions = {each.id: each for each in stored.tree if each.role == "user"}
        for answer in reversed(stored.answers):
            question = questions.get(answer.message.parent)
            if answer.message.id in message.known or question is None:
                continue
            if message.is_retry:
                if message.parent in question.children:
                    return answer
            elif question.parent == message.parent and question.content == _as_stored(
                message.prompt
            ):
                return answer
        return None

    def stop(self, conversation: str, response_id: str, seen: str) -> Query[None]:
        """`POST /conversation/{id}/stop-generating`; truncates the answer to the part seen."""
        # 04_stop: the length is in UTF-16 units.
        length = len(seen.encode("utf-16-le")) // 2
        content = encode({"generationId": response_id, "seenContentLength": length})
        request = self._site.about("stop", "POST", conversation, "/stop-generating", content)
        return Query(request, stored.check)

    def delete(self, conversation: str) -> Query[None]:
        """`DELETE /conversation/{id}`."""  # 05_delete
        return Query(self._site.about("delete", "DELETE", conversation), stored.check)

    def delete_all(self) -> Query[None]:
        """`DELETE /api/v2/conversations`."""  # 05_delete
        request = self._site.request("delete_all", "DELETE", "/api/v2/conversations")
        return Query(request, reading_json(lambda _: None))

    def models(self) -> Query[tuple[Model, ...]]:
        """`GET /api/v2/models`."""  # 14_models
        request = self._site.request("models", "GET", "/api/v2/models")
        return Query(request, reading_json(stored.read_models), MAX_STORED)

    def settings(self) -> Query[Settings]:
        """`GET /api/v2/user/settings`."""  # 01b_settings_first
        request = self._site.request("settings", "GET", "/api/v2/user/settings")
        return Query(request, reading_json(stored.read_settings))

    def conversations(self, page: int) -> Query[tuple[tuple[ConversationInfo, ...], bool]]:
        """`GET /api/v2/conversations?p=…`."""  # 11_history
        request = self._site.request("list", "GET", f"/api/v2/conversations?p={page}")
        return Query(request, reading_json(stored.read_list), MAX_STORED)

    def is_unknown_model(self, error: H2oError) -> bool:
        """Whether an error may mean that the server does not know the model."""
        # 08_wrong_model
        return (
            isinstance(error, StatusError)
            and error.status == 400
            and error.message == "Invalid request"
        )

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """`GET /api/v2/conversations/{id}`."""  # 11_history
        path = f"/api/v2/conversations/{in_path(conversation)}"
        request = self._site.request("data", "GET", path)
        return Query(request, reading_json(stored.read_conversation), MAX_STORED)

    def shared(self, share: str) -> Query[StoredConversation]:
        """`GET /api/v2/conversations/{share id}`, in the same form as others."""  # 13_share
        request = self._site.request("shared", "GET", f"/api/v2/conversations/{in_path(share)}")
        return Query(request, reading_json(stored.read_conversation), MAX_STORED)

    def rename(self, conversation: str, title: str) -> Query[None]:
        """`PATCH /api/v2/conversations/{id}`, which explains why it rejects a title."""  # 12_title
        path = f"/api/v2/conversations/{in_path(conversation)}"
        request = self._site.request("rename", "PATCH", path, encode({"title": title}), JSON)
        return Query(request, reading_json(lambda _: None))

    def share(self, conversation: str) -> Query[str]:
        """`POST /conversation/{id}/share`, without a body."""  # 13_share
        return Query(self._site.about("share", "POST", conversation, "/share"), stored.read_share)

    def share_prefix(self) -> Query[str]:
        """`GET /api/v2/public-config`."""  # 15_detect
        request = self._site.request("config", "GET", "/api/v2/public-config")
        return Query(request, reading_json(stored.read_share_prefix))

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """`GET /conversation/{id}/message/{id}/prompt`."""  # 21_vote_prompt
        path = f"/message/{in_path(message)}/prompt"
        return Query(self._site.about("prompt", "GET", conversation, path), read_prompt_preview)

    # 21_vote_prompt, 12_title, 15_detect: features that these versions removed.

    def summarize(self, conversation: str) -> NoReturn:
        """Raise: these servers name conversations automatically."""
        raise unsupported("summarize")

    def vote(self, conversation: str, message: str, score: int) -> NoReturn:
        """Raise: these servers do not support votes."""
        raise unsupported("vote")

    def web_search(self, conversation: str, prompt: str) -> NoReturn:
        """Raise: these servers do not search the web."""
        raise unsupported("web_search")

    def web_search_parser(self) -> NoReturn:
        """Raise: these servers do not search the web."""
        raise unsupported("web_search")


def _part(disposition: str, kind: str, content: bytes) -> bytes:
    """Write one part of a form."""
    lines = [f"Content-Disposition: form-data; {disposition}"]
    if kind:
        lines.append(f"Content-Type: {kind}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _file(file: File) -> bytes:
    """Write the part of a file, in base64, as the prefix of its name declares."""  # 17_files
    name = file.name
    for char, escaped in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(char, escaped)
    disposition = f'name="files"; filename="base64;{name}"'
    return _part(disposition, file.type, base64.b64encode(file.content))


def _as_stored(prompt: str) -> str:
    """Return a prompt as the server stores it."""
    return prompt.replace("\r\n", "\n")
