"""Reads the small responses of the 2025 protocol, including those in superjson.

`/api/v2/` answers `{"json": value, "meta": …}`. `meta` says which strings are dates and which nulls
are undefined, which is not needed here. The type of each field is checked: see `Fields`.
"""

# 11_history: conversations and lists. 14_models. 01b_settings_first: settings. 13_share.

from collections.abc import Callable
from typing import Any, TypeVar

from h2o_client.errors import (
    LoginRequiredError,
    RateLimitError,
    RedirectError,
    StatusError,
)
from h2o_client.protocol.address import is_id
from h2o_client.protocol.dialect import Created, Reader, Stage, StoredAnswer, StoredConversation
from h2o_client.protocol.effects import Head, Request
from h2o_client.protocol.fields import Fields, is_dict
from h2o_client.protocol.replies import (
    LOGIN,
    OWN_LIMIT,
    check_status,
    read_id,
    read_json,
    status_error,
    unexpected,
)
from h2o_client.protocol.text import load_json
from h2o_client.stored import ConversationInfo, Model, PromptExample, Settings
from h2o_client.types import Message

T = TypeVar("T")
# 30_rate_limit
_WINDOW = 61.0  # seconds without any message until the next one is accepted
_FULL = ("You have reached the maximum number of conversations", "This conversation has more than")


def login_required(status: int) -> LoginRequiredError:
    """Make the error for a server that requires a login."""
    return LoginRequiredError(LOGIN, status=status)


def check(head: Head, body: bytes, request: Request) -> None:
    """Raise an error if a response reports one; a redirect means a login.

    Raises:
        StatusError: the request was rejected.
    """
    try:
        check_status(head, body, request)
    except RedirectError as error:
        if error.base_url is not None:
            raise
        raise login_required(error.status) from None
    except RateLimitError as error:
        if error.message.startswith(_FULL):  # waiting does not help
            raise StatusError(
                f"{request.line}: the server answered 429: {error.message}",
                status=429,
                message=error.message,
                body=error.body,
            ) from None
        if OWN_LIMIT not in error.message:
            raise
        limit = error
    except StatusError as error:
        if error.status == 400 and error.message == "Message too long.":
            raise status_error(413, error.message, body=error.body, request=request) from None
        raise
    else:
        return
    raise RateLimitError(
        f"{request.line}: the server answered 429: {limit.message} (this is the service's own "
        f"limit, and rejected messages also count: do not send any for {_WINDOW:g} seconds)",
        status=429,
        message=limit.message,
        body=limit.body,
        retry_after=_WINDOW,
    )


def reading_json(read: "Callable[[Any], T]") -> Reader[T]:
    """Turn a function that reads the `json` field into a reader of responses."""

    def reader(head: Head, body: bytes, request: Request) -> T:
        check(head, body, request)
        answer = read_json(head, body)
        if "json" not in answer:
            raise unexpected(head, body, f"the answer to {request.operation}")
        return read(answer["json"])

    return reader


def read_created(head: Head, body: bytes, request: Request) -> Created:
    """Read the answer to `POST /conversation`; 0.10 does not include the root."""
    # 01_happy_path; chat-ui-0.10/01_happy_path
    check(head, body, request)
    answer = read_json(head, body)
    text, tip = answer.get("conversation"), None
    try:
        conversation = read_id(answer.get("conversationId"))
        if isinstance(text, str):
            tip = read_conversation(Fields(load_json(text), "conversation").get("json")).tip
    except (ValueError, RecursionError):
        raise unexpected(head, body, "the answer to a new conversation") from None
    cookies = tuple(value for name, value in head.headers if name == "set-cookie")
    return Created(conversation, tip, cookies, is_newer=True)


def read_share(head: Head, body: bytes, request: Request) -> str:
    """Return the path of a shared conversation."""
    check(head, body, request)
    share = read_json(head, body).get("shareId")
    if not is_id(share):
        raise unexpected(head, body, "the id of the shared conversation")
    return f"/r/{share}"


def read_share_prefix(value: Any) -> str:
    """Return the URL prefix of shared conversations; "" means the base URL."""
    prefix = Fields(value, "configuration").get("PUBLIC_SHARE_PREFIX")
    return prefix.rstrip("/") if isinstance(prefix, str) else ""


def read_conversation(value: Any) -> StoredConversation:
    """Read a conversation: its newest branch, and all others."""
    fields = Fields(value, "conversation")
    answers: list[StoredAnswer] = []
    tree = tuple(_message(item, answers) for item in fields.each("messages"))
    return StoredConversation(
        title=fields.text("title").strip(),
        model=fields.text("model"),
        messages=_newest_branch(tree),
        root=fields.id("rootMessageId") if fields.get("rootMessageId") else None,
        tree=tree,
        answers=tuple(answers),
    )


def read_models(value: Any) -> tuple[Model, ...]:
    """Read the list of models."""
    return tuple(_model(item) for item in Fields({"models": value}, "list").each("models"))


def read_settings(value: Any) -> Settings:
    """Read the session's settings."""
    fields = Fields(value, "settings")
    prompts = Fields(fields.get("customPrompts") or {}, "settings.customPrompts")
    return Settings(
        share_conversations=fields.flag("shareConversationsWithModelAuthors"),
        terms_accepted_at=fields.optional_iso_date("welcomeModalSeenAt"),
        active_model=fields.text("activeModel"),
        custom_prompts={name: prompts.text(name) for name in prompts.names},
    )


def read_kept_settings(value: Any) -> dict[str, Any]:
    """Return all settings, to send them back."""
    fields = Fields(value, "settings")
    return {name: fields.get(name) for name in fields.names if fields.get(name) is not None}


def read_list(value: Any) -> tuple[tuple[ConversationInfo, ...], bool]:
    """Read a page of the list of conversations, and whether there are more."""
    fields = Fields(value, "list")
    infos = tuple(
        ConversationInfo(
            id=item.id("id"), title=item.text("title").strip(), model=item.text("model")
        )
        for item in fields.each("conversations")
    )
    return infos, fields.flag("hasMore")


def _message(fields: Fields, answers: list[StoredAnswer]) -> Message:
    stage, over = _stage(fields)
    is_answer = fields.text("from") == "assistant"
    ancestors = fields.items("ancestors")
    message = Message(
        role=fields.text("from"),
        content=fields.text("content"),
        id=fields.id("id"),
        created_at=fields.optional_iso_date("createdAt"),
        updated_at=fields.optional_iso_date("updatedAt"),
        partial=is_answer and stage is not Stage.WHOLE,
        parent=ancestors[-1] if ancestors and is_id(ancestors[-1]) else None,
        children=tuple(child for child in fields.items("children") if is_id(child)),
    )
    if is_answer:
        generation = fields.get("generationId")
        answers.append(
            StoredAnswer(message, generation if isinstance(generation, str) else None, stage, over)
        )
    return message


def _stage(fields: Fields) -> tuple[Stage, bool]:
    """Return the state of an answer and whether its run is over, from the events of the run."""
    updates = [update for update in fields.items("updates") if is_dict(update)]
    statuses = [update.get("status") for update in updates if update.get("type") == "status"]
    finals = [update for update in updates if update.get("type") == "finalAnswer"]
    interrupted = fields.get("interrupted") is True
    # A server that restarts marks the answers that it did not finish as interrupted.
    ended = "error" in statuses or "finished" in statuses
    over = ended or (interrupted and not finals)
    if "error" in statuses:
        return Stage.FAILED, over
    if interrupted or any(final.get("interrupted") for final in finals):
        return Stage.STOPPED, over
    if finals:
        return Stage.WHOLE, over
    return (Stage.FAILED if "finished" in statuses else Stage.RUNNING), over


def _newest_branch(tree: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the branch of the newest message, without an empty system message at its root."""
    known = {message.id: message for message in tree}
    branch: list[Message] = []
    message = tree[-1] if tree else None
    while message is not None and len(branch) < len(tree):
        if message.role != "system" or message.content:
            branch.append(message)
        message = known.get(message.parent) if message.parent is not None else None
    return tuple(reversed(branch))


def _model(fields: Fields) -> Model:
    name = fields.text("name")
    types = fields.items("multimodalAcceptedMimetypes") or ["image/*"]
    takes_images = fields.get("multimodal") is True
    display_name, description = fields.get("displayName"), fields.get("description")
    website = fields.get("websiteUrl")
    return Model(
        id=fields.text("id"),
        name=name,
        display_name=display_name if isinstance(display_name, str) else name,
        description=description if isinstance(description, str) else None,
        website_url=website if isinstance(website, str) else None,
        prompt_examples=tuple(
            PromptExample(title=example.text("title"), prompt=example.text("prompt"))
            for example in fields.optional_each("promptExamples")
        ),
        file_types=tuple(map(str, types)) if takes_images else (),
    )
