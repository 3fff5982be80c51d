import contextlib
import copy
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import HELLO, everything, named

from h2o_client.errors import (
    ForbiddenError,
    NotFoundError,
    ProtocolError,
    RedirectError,
    ServerError,
    StatusError,
)
from h2o_client.protocol.chat_ui_2023.stored import (
    Overview,
    read_conversation,
    read_nodes,
    read_root,
)
from h2o_client.protocol.dialect import StoredConversation
from h2o_client.stored import ConversationInfo, Settings
from h2o_client.types import Message

FALCON_40B = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
FALCON_7B = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"


def body(scenario: str, name: str) -> bytes:
    """Return the body of the last exchange with a name."""
    return named(scenario, name).body


def bodies() -> Iterator[tuple[str, bytes]]:
    for exchange in everything():
        if "__data.json" in exchange.path and exchange.body.startswith(b"{"):
            yield f"{exchange.place}: {exchange.name}", exchange.body


def page(*nodes: Any) -> bytes:
    return json.dumps({"type": "data", "nodes": nodes}).encode()


def flat(value: Any) -> dict[str, Any]:
    """Encode a value as a node in the simplest form, without sharing."""
    entries: list[Any] = []

    def add(thing: Any) -> int:
        place = len(entries)
        entries.append(thing)
        if isinstance(thing, dict):
            fields = cast("dict[str, Any]", thing)
            entries[place] = {name: add(item) for name, item in fields.items()}
        elif isinstance(thing, list):
            entries[place] = [add(item) for item in cast("list[object]", thing)]
        return place

    add(value)
    return {"type": "data", "data": entries}


def plain(value: Any) -> Any:
    """Convert a value to the form of the captures' readable view."""
    if isinstance(value, datetime):
        return {"$Date": [value.isoformat(timespec="milliseconds").replace("+00:00", "Z")]}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(item) for item in cast("list[object]", value)]
    return value


def test_captured_bodies_match_their_readable_view() -> None:
    seen = 0
    for exchange in everything():
        if not isinstance(exchange.decoded, list):
            continue
        view = cast("list[dict[str, Any]]", exchange.decoded)
        try:
            nodes = read_nodes(exchange.body)
        except StatusError:
            assert "error" in json.dumps(view)
            continue
        # Some views omit nodes without data, or irrelevant fields.
        view = [node for node in view if node and node != {"type": "skip"}]
        found = plain([node for node in nodes if node is not None])
        for part, whole in zip(view, found, strict=True):
            assert {name: whole[name] for name in part} == part
        seen += 1
    assert seen > 50


def test_captured_bodies_are_pages_or_errors() -> None:
    kinds: dict[str, int] = {}
    for name, content in bodies():
        reader = read_root if '"messages":' not in content.decode() else read_conversation
        try:
            found = type(reader(content)).__name__
        except StatusError as error:
            found = type(error).__name__
        kinds[found] = kinds.get(found, 0) + 1
        assert found, name
    assert {"Overview", "StoredConversation", "NotFoundError", "ForbiddenError"} <= set(kinds)
    assert {"ServerError", "RedirectError"} <= set(kinds)


def test_root_is_read() -> None:
    root = read_root(body("13_data_json", "GET /__data.json"))
    assert [model.id for model in root.models] == [FALCON_40B, FALCON_7B]
    model = root.models[0]
    assert model.name == FALCON_40B
    assert model.display_name == "h2ogpt falcon 40b v1"
    assert model.description == "h2oGPT Falcon 40B"
    assert model.website_url == "https://h2o.ai"
    assert model.parameters == {
        "temperature": 0.4,
        "truncate": 2048,
        "max_new_tokens": 1024,
        "do_sample": True,
        "repetition_penalty": 1.2,
    }
    assert [example.title for example in model.prompt_examples] == [
        "Write an email from bullet list",
        "Code a snake game",
        "Assist in a task",
    ]
    assert model.prompt_examples[2].prompt == "How do I make a delicious lemon cheesecake?"
    assert root.settings == Settings(
        share_conversations=True,
        terms_accepted_at=datetime(2026, 11, 20, 17, 0, 6, 835000, tzinfo=UTC),
        active_model=FALCON_40B,
        search_enabled=False,
    )
    assert root.conversations == (
        ConversationInfo(id="6b007c971090eb6ec94d7843", title="Untitled 2", model=FALCON_7B),
        ConversationInfo(id="6b007c961090eb6ec94d7841", title="Untitled 1", model=FALCON_40B),
    )


def test_root_without_a_session_is_read() -> None:
    root = read_root(body("13_data_json", "GET /__data.json, no cookie"))
    assert root.conversations == ()
    assert root.settings.terms_accepted_at is None


def test_root_with_a_skipped_page_is_read() -> None:
    root = read_root(body("13_data_json", "GET /__data.json?x-sveltekit-invalidated=10"))
    assert len(root.models) == 2


def test_stored_settings_are_read() -> None:
    def share(name: str) -> bool:
        content = body("02b_settings_stored", f"{name}: GET /__data.json")
        return read_root(content).settings.share_conversations

    assert share("share=false (string)")
    assert not share("share absent")


def test_conversation_is_read() -> None:
    found = read_conversation(body("13_data_json", "GET conversation __data.json"))
    asked = datetime(2026, 11, 20, 17, 0, 6, 851000, tzinfo=UTC)
    answered = datetime(2026, 11, 20, 17, 0, 7, 70000, tzinfo=UTC)
    assert found == StoredConversation(
        title="Untitled 1",
        model=FALCON_40B,
        messages=(
            Message(
                role="user",
                content="Hello 👋 мир",
                id="11510aaf-adbb-46f4-b5c1-dbeb7d18abd7",
                created_at=asked,
                updated_at=asked,
            ),
            Message(
                role="assistant",
                content=HELLO,
                id="e97c90c8-897a-456c-a793-833b21f2a81c",
                created_at=answered,
                updated_at=answered,
            ),
        ),
    )


def test_conversation_without_messages_is_read() -> None:
    found = read_conversation(body("13_data_json", "empty conversation"))
    assert found == StoredConversation(title="Untitled 2", model=FALCON_7B, messages=())


def test_conversation_of_a_removed_model_is_read() -> None:
    found = read_conversation(body("25_removed_model", "GET conversation __data.json"))
    assert found.model == "gone/model"


@pytest.mark.parametrize(("vote", "score"), [("1", 1), ("-1", -1), ("0", None)])
def test_votes_are_read(vote: str, score: int | None) -> None:
    found = read_conversation(body("12_vote_and_prompt", f"data after vote {vote}"))
    assert [message.score for message in found.messages] == [None, score]


def test_web_search_id_is_read() -> None:
    found = read_conversation(body("16_web_search", "GET conversation __data.json"))
    ids = [message.web_search_id for message in found.messages]
    assert ids == [None, "6b007ca61090eb6ec94d784e"]


def test_stopped_answer_is_read() -> None:
    found = read_conversation(body("28_stop_variants", "stored"))
    assert found.messages[1].content == " Hello"
    assert not found.messages[1].partial


def test_disconnected_answer_is_stored_later() -> None:
    assert read_conversation(body("17_disconnect", "1 s after")).messages == ()
    later = read_conversation(body("17_disconnect", "14 s after"))
    assert later.messages[1].content.startswith(" slow0 slow1")
    assert later.messages[1].content.endswith(" slow59")


def test_shared_conversation_is_read() -> None:
    found = read_conversation(body("10_share", "GET /r/{id}/__data.json, no cookie"))
    assert found.title == "Untitled 1"
    assert [str(message) for message in found.messages] == ["Share this 👋", HELLO]


def test_unknown_share_is_an_error() -> None:
    with pytest.raises(NotFoundError) as caught:
        read_conversation(body("10_share", "GET /r/unknown/__data.json"))
    assert caught.value.message == "Conversation not found"


@pytest.mark.parametrize(
    ("name", "error", "status", "message"),
    [
        ("missing conversation", NotFoundError, 404, "Conversation not found."),
        ("invalid id", ServerError, 500, "Internal Error"),
        ("no cookie", ForbiddenError, 403, "You don't have access to this conversation."),
    ],
)
def test_error_nodes_are_raised(
    name: str, error: type[StatusError], status: int, message: str
) -> None:
    with pytest.raises(error) as caught:
        read_conversation(body("13_data_json", name))
    assert caught.value.status == status
    assert caught.value.message.startswith(message)
    assert message in caught.value.body
    # The layout's data, with titles of other conversations, must not appear in the error.
    assert "conversations" not in caught.value.body


def test_redirect_is_an_error() -> None:
    with pytest.raises(RedirectError) as caught:
        read_root(body("13_data_json", "GET /__data.json?model="))
    assert caught.value.location == "/"
    assert 300 <= caught.value.status < 400


def test_redirect_with_a_status_is_an_error() -> None:
    with pytest.raises(RedirectError) as caught:
        read_root(b'{"type":"redirect","status":307,"location":"/login"}')
    assert caught.value.status == 307


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b'{"type":"error","error":{"message":"x"},"status":404}', 404, "x"),
        (b'{"type":"error","error":"x"}', 500, "x"),
        (b'{"type":"error"}', 500, ""),
        (page({"type": "error", "error": {"text": "x"}, "status": 503}, None), 503, ""),
        (page({"bad": 1}, {"type": "error", "error": {"message": "y"}, "status": 410}), 410, "y"),
    ],
)
def test_error_in_any_node_is_raised(content: bytes, status: int, message: str) -> None:
    with pytest.raises(StatusError) as caught:
        read_nodes(content)
    assert caught.value.status == status
    assert caught.value.message == message


ROOT: dict[str, Any] = {
    "models": [{"id": "m", "name": "m"}],
    "settings": {
        "shareConversationsWithModelAuthors": False,
        "ethicsModalAcceptedAt": None,
        "activeModel": "m",
    },
    "conversations": [{"id": "1", "title": "t", "model": "m"}],
}
CONVERSATION: dict[str, Any] = {
    "title": "t",
    "model": "m",
    "messages": [{"from": "user", "content": "hi"}],
}


def changed(value: Any, path: str, new: Any) -> Any:
    """Return a deep copy with one part replaced; `...` removes it."""
    result = copy.deepcopy(value)
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    part = result
    for parent in parents:
        part = part[parent]
    if new is ...:
        del part[last]
    else:
        part[last] = new
    return result


def test_minimal_root_is_read() -> None:
    root = read_root(page(flat(ROOT)))
    assert root.models[0].display_name == "m"
    assert root.models[0].description is None
    assert root.models[0].parameters == {}
    assert root.settings.search_enabled is False


def test_minimal_conversation_is_read() -> None:
    found = read_conversation(page(None, flat(CONVERSATION)))
    assert found.messages == (Message(role="user", content="hi"),)


def test_unknown_fields_and_nodes_are_ignored() -> None:
    value = changed(CONVERSATION, "messages.0.files", [{"type": "x"}])
    value = changed(value, "searches", {})
    found = read_conversation(page(flat(ROOT), flat({"other": 1}), flat(value), {"type": "skip"}))
    assert found.messages[0].content == "hi"


@pytest.mark.parametrize("new", [..., None, 7, True, "x", [], {}, [7], {"a": 1}])
@pytest.mark.parametrize(
    "path",
    [
        "models", "models.0", "models.0.id", "models.0.name", "settings", "conversations",
        "settings.shareConversationsWithModelAuthors", "settings.activeModel",
        "conversations.0", "conversations.0.id", "conversations.0.title", "conversations.0.model",
    ],
)  # fmt: skip
def test_invalid_root_is_a_protocol_error(path: str, new: Any) -> None:
    good: dict[str, tuple[type, ...]] = {
        "models": (list,),
        "conversations": (list,),
        "settings.shareConversationsWithModelAuthors": (bool,),
    }
    if (
        new == [7]
        or not isinstance(new, good.get(path, (str,)))
        or path.endswith((".0", "settings"))
    ):
        if path in ("models.0", "conversations.0") and new is ...:
            return
        with pytest.raises(ProtocolError) as caught:
            read_root(page(flat(changed(ROOT, path, new))))
        assert path.rpartition(".")[2].strip("0") in str(caught.value)
    else:
        assert isinstance(read_root(page(flat(changed(ROOT, path, new)))), Overview)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("models.0.displayName", 7),
        ("models.0.description", []),
        ("models.0.websiteUrl", True),
        ("models.0.parameters", []),
        ("models.0.parameters", "x"),
        ("models.0.promptExamples", {}),
        ("models.0.promptExamples", [None]),
        ("models.0.promptExamples", [{"title": "t"}]),
        ("settings.ethicsModalAcceptedAt", "2026-11-20T17:00:06.835Z"),
        ("settings.ethicsModalAcceptedAt", True),
        ("settings.searchEnabled", "false"),
    ],
)
def test_invalid_optional_fields_of_root_are_ignored(path: str, new: Any) -> None:
    with pytest.raises(ProtocolError):
        read_root(page(flat(changed(ROOT, path, new))))


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("title", ...),
        ("title", 7),
        ("model", None),
        ("messages", ...),
        ("messages", None),
        ("messages", "x"),
        ("messages.0", "x"),
        ("messages.0.from", ...),
        ("messages.0.from", 1),
        ("messages.0.content", None),
        ("messages.0.content", ["x"]),
        ("messages.0.id", 5),
        ("messages.0.score", True),
        ("messages.0.score", "1"),
        ("messages.0.score", 0.5),
        ("messages.0.createdAt", "today"),
        ("messages.0.updatedAt", 5),
        ("messages.0.webSearchId", 5),
    ],
)
def test_invalid_stored_conversation_is_a_protocol_error(path: str, new: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_conversation(page(flat(ROOT), flat(changed(CONVERSATION, path, new))))
    assert "this protocol" in str(caught.value)
    assert "hi" not in str(caught.value).split()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>a proxy</html>",
        b"\xff\xfe{}",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"type":"data"}',
        b'{"type":"data","nodes":{}}',
        b'{"type":"data","nodes":[1]}',
        b'{"type":"data","nodes":[{}]}',
        b'{"type":"data","nodes":[{"type":"data","data":[]}]}',
        b'{"type":"data","nodes":[{"type":"data","data":[NaN]}]}',
        b'{"type":"data","nodes":[{"type":"data","data":[[1]]}]}',
        b'{"type":"data","nodes":[{"type":"error","status":"404"}]}',
        b'{"type":"data","nodes":[{"type":"error","status":true}]}',
        b'{"type":"data","nodes":[{"type":"error","status":200}]}',
        b'{"type":"redirect"}',
        b'{"message":"Internal Error"}',
        b'{"type":"data","nodes":[]}',
        b'{"type":"data","nodes":[null,{"type":"skip"}]}',
        b'{"type":"data","nodes":[{"type":"data","data":null}]}',
        b'{"type":"data","nodes":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"9" * 5000,
    ],
)
def test_other_content_is_a_protocol_error(content: bytes) -> None:
    for reader in (read_root, read_conversation, read_conversation):
        with pytest.raises(ProtocolError) as caught:
            reader(content)
        assert len(str(caught.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-8, 12) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "models", "settings", "from", "title", "type", "error", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
nodes = st.fixed_dictionaries(
    {"type": st.sampled_from(["data", "skip", "error", "x"])},
    optional={"data": json_values, "error": json_values, "status": json_values},
)


@pytest.mark.slow
@given(
    json_values
    | st.lists(nodes | json_values, max_size=3).map(lambda n: {"type": "data", "nodes": n})
)
def test_any_content_is_read_or_a_typed_error(value: Any) -> None:
    content = json.dumps(value).encode()
    for reader in (read_root, read_conversation):
        with contextlib.suppress(ProtocolError, StatusError):
            reader(content)


@given(st.integers(0, 3000))
def test_truncated_body_is_an_error(length: int) -> None:
    whole = body("13_data_json", "GET conversation __data.json").rstrip()
    if length < len(whole):
        with pytest.raises(ProtocolError):
            read_conversation(whole[:length])


def test_values_can_be_pickled_copied_and_hashed() -> None:
    root = read_root(body("13_data_json", "GET /__data.json"))
    assert pickle.loads(pickle.dumps(root)) == root
    assert copy.deepcopy(root) == root
    assert len({*root.models, *root.models}) == 2
    assert root.models[0].parameters is not root.models[1].parameters
