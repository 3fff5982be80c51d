"""The recorded conversations, played against the flows that would have made their requests.

Each response of these scenarios goes to the flow for its request: the flow's request must equal the
recorded one, and its result must match the recorded response.
"""

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from recorded import HELLO, Exchange, scenario
from world import SESSION, Answer, Part, Reaction, World, cut, lost, message_of, talk_of

from h2o_client.errors import (
    ForbiddenError,
    H2oError,
    IncompleteStreamError,
    ModelUnavailableError,
    NotFoundError,
    RedirectError,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
)
from h2o_client.protocol import conversations, queries
from h2o_client.protocol.conversation import ConversationCore
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Flow, Request
from h2o_client.protocol.exchange import Exchange as Client
from h2o_client.protocol.message import MessageOperation
from h2o_client.protocol.retries import Call
from h2o_client.protocol.state import Life, State
from h2o_client.protocol.turn import Turn
from h2o_client.types import DEFAULT_MODEL, Reply, Timeouts

SCENARIOS = (
    "03_create_conversation",
    "07_two_turns_and_retry",
    "07b_no_pause_between_turns",
    "07c_parallel_messages",
    "09_summarize_and_title",
    "10_share",
    "11_stop_generating",
    "11b_stop_again_later",
    "12_vote_and_prompt",
    "13_data_json",
    "14_delete_all",
    "15_delete",
    "16_web_search",
    "17_disconnect",
    "24_race_after_stream",
    "25_removed_model",
    "26_own_cookie",
    "28_stop_variants",
)
ID = r"/conversation/(?P<id>[^/?]+)"
NEVER = 1e9
RECORDED_AT = "http://127.0.0.1:3004"
OPERATIONS = (
    *("settings", "create", "message", "stop", "delete", "data", "root", "shared", "summarize"),
    *("rename", "share", "vote", "prompt", "search", "delete_all"),
)

# Kinds of request that the core never makes.
FOREIGN = re.compile(
    r"GET /conversation|GET /conversation/[^/]+(/summarize)?|PUT .*|OPTIONS .*|HEAD .*"
    r"|GET /search/.*|GET /|GET /\?.*|GET /__data\.json\?.*|GET /nope.*|GET /r/[^/]+"
    r"|GET /r/.*/prompt|GET /(privacy|login|healthcheck)|POST /conversation/|POST /conversations"
)
# Arguments that the core rejects before sending anything.
REFUSED = {
    ("09_summarize_and_title", "PATCH empty title"),
    ("09_summarize_and_title", "PATCH title 101 chars"),
    ("12_vote_and_prompt", "vote 2"),
}
# Bodies in another form than the core's; their responses are read all the same.
OTHER_BODIES = {
    "missing model",
    "malformed JSON",
    "malformed JSON, accept text/html",
    "empty body",
    "JSON array",
    "extra fields ignored",
    "PATCH malformed",
    "summarize with JSON body {}",
    "is_retry true and no id",
    "JSON content-type",
    "no prompt",
    "empty prompt",
}


def outcome(exchange: Exchange) -> Answer:
    """Return the recorded response."""
    if exchange.status is None:
        return lost()
    whole = b"".join(exchange.chunks) == exchange.body and exchange.body
    # A truncated chunk is recorded as b"", which would mean the end.
    pieces: list[Part] = [c for c in exchange.chunks if c] if whole else [exchange.body]
    pieces = [piece for piece in pieces if piece]
    if exchange.ended in ("eof", "client-closed"):
        pieces.append(cut())
    elif exchange.ended == "timeout":
        pieces.append(NEVER)
    return Answer(exchange.status, tuple(pieces), exchange.headers)


def made(client: Client, sent: dict[str, Any], call: Call) -> Flow[str]:
    """Create a conversation as recorded, and return its id."""
    ids: list[str] = []
    model, share = sent.get("model", DEFAULT_MODEL), sent.get("fromShare")
    yield from conversations.create(client, model, call, ids.append, from_share=share)
    return ids[0]


def overview(client: Client) -> Flow[Any]:
    """Read everything in `/__data.json`."""
    models = yield from queries.models(client)
    settings = yield from queries.settings(client)
    return models, settings, (yield from queries.conversations(client))


def stop(client: Client, conversation: str, deadline: Deadline) -> Flow[None]:
    """Stop the generation, as a turn does."""
    with contextlib.suppress(NotFoundError):
        query = client.dialect.stop(conversation, "", "")
        yield from client.attempt(query, deadline, deadline)


def sent_json(exchange: Exchange) -> dict[str, Any]:
    """Return the recorded request's body, or {} if it is not a JSON object."""
    try:
        value = json.loads(exchange.request_body or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class Replay:
    """One exchange, and the flow for it."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.sent = sent_json(exchange)
        options = self.sent.get("options") or {}
        ids = [options.get("id", SESSION), options.get("response_id", SESSION)]
        if options.get("is_retry"):
            ids = ids[1:]  # the message's own id is known
        answers: dict[str, Reaction] = dict.fromkeys(OPERATIONS, self.answer)
        self.world = World(
            {**answers, "root": self.root if exchange.path != "/__data.json" else self.answer},
            ids=ids,
            base_url=RECORDED_AT,
            session=None if exchange.path == "/settings" else SESSION,
            retries=0,
            timeouts=Timeouts(recovery=0.05),
            dialect="chat-ui-2023",
        )
        self.client = self.world.exchange
        if exchange.path != "/settings":
            self.client.session.accepted = True
        self.asked = 0

    def root(self, _: Request) -> Answer:
        """Fetched for the names of the models after a 500, which was not recorded."""
        return lost()

    def answer(self, request: Request) -> Answer:
        """Check the request against the recorded one, and respond as the server did."""
        recorded = self.exchange
        if request.operation == "settings" and recorded.path != "/settings":
            return lost()  # the session is opened again, in another exchange
        assert request.method == recorded.method
        url = urlsplit(request.url)
        ours, theirs = url._replace(scheme="", netloc=""), urlsplit(recorded.path)
        assert ours.path == theirs.path
        if recorded.name not in OTHER_BODIES:
            assert parse_qsl(ours.query) == parse_qsl(theirs.query)
            self.check_body(request)
        self.asked += 1
        return outcome(recorded)

    def check_body(self, request: Request) -> None:
        text = (request.content or b"").decode()
        recorded = self.exchange.request_body or ""
        if self.exchange.path == "/settings":
            assert parse_qsl(text, True) == parse_qsl(recorded, True)
        elif recorded:
            ours = json.loads(text)
            if request.operation == "rename":
                assert ours == {"title": self.sent["title"].strip()}
            else:
                assert ours == self.sent
                assert list(ours) == list(self.sent) or request.operation == "create"
        else:
            assert text == ""

    def flow(self) -> Flow[Any]:
        """Yield the flow that makes this request."""
        client, sent = self.client, self.sent
        line = f"{self.exchange.method} {self.exchange.path}"
        call = client.call()

        def talk(number: str) -> ConversationCore:
            return talk_of(self.world, id=number)

        flows: list[tuple[str, Callable[[dict[str, str]], Flow[Any]]]] = [
            ("POST /settings", lambda _: client.open_session(call)),
            (
                "POST /conversation",
                lambda _: made(client, sent, call),
            ),
            (rf"POST {ID}", lambda m: self.turn().run(m["id"], call)),
            (
                rf"POST {ID}/stop-generating",
                lambda m: stop(client, m["id"], call.deadline),
            ),
            (rf"DELETE {ID}", lambda m: conversations.delete(client, m["id"], call)),
            (rf"GET {ID}/__data.json", lambda m: conversations.stored(client, m["id"], call)),
            (rf"POST {ID}/summarize", lambda m: talk(m["id"]).summarize()),
            (rf"PATCH {ID}", lambda m: talk(m["id"]).rename(sent.get("title", "x"))),
            (rf"POST {ID}/share", lambda m: talk(m["id"]).share()),
            (
                rf"POST {ID}/message/(?P<m>[^/]+)/vote",
                lambda m: talk(m["id"]).vote(m["m"], sent["score"]),
            ),
            (rf"GET {ID}/message/(?P<m>[^/]+)/prompt", lambda m: talk(m["id"]).prompt(m["m"])),
            (rf"GET {ID}/web-search(\?prompt=(?P<q>.*))?", lambda m: self.search(talk(m["id"]))),
            (r"GET /__data.json", lambda _: overview(client)),
            (r"GET /r/(?P<id>[^/]+)/__data.json", lambda m: queries.shared(client, m["id"])),
            (r"POST /conversations\?/delete", lambda _: queries.delete_conversations(client)),
        ]
        for pattern, make in flows:
            found = re.fullmatch(pattern, line)
            if found is not None:
                return make(found.groupdict())
        raise AssertionError(f"no flow for {line}")

    def turn(self) -> Turn:
        sent = self.sent
        options = sent.get("options", {})
        turn = Turn(
            self.client,
            sent["inputs"],
            model="m",
            parameters=sent["parameters"],
            recover=False,
            life=open_life(),
            message_id=options.get("id", SESSION) if options.get("is_retry") else None,
        )
        turn.web_search_id = options.get("web_search_id", "")
        return turn

    def search(self, talk: ConversationCore) -> Flow[Any]:
        """Run only the search of a message."""
        query = dict(parse_qsl(urlsplit(self.exchange.path).query)).get("prompt", "x")
        ask = message_of(talk, query, web_search=True)
        return search_only(self, ask, talk, query)


def search_only(
    replay: Replay, ask: MessageOperation, talk: ConversationCore, query: str
) -> Flow[list[tuple[str, str]]]:
    turn = Turn(
        replay.client,
        query,
        model="m",
        parameters={},
        recover=False,
        life=open_life(),
    )
    yield from ask._search(talk.id or "", turn, replay.client.call())
    return [(entry.type, entry.message) for entry in turn.web_search]


def open_life() -> Life:
    life = Life()
    life.move(State.OPEN)
    return life


def ours(exchange: Exchange) -> bool:
    return FOREIGN.fullmatch(f"{exchange.method} {exchange.path}") is None


EXCHANGES = [exchange for name in SCENARIOS for exchange in scenario(name) if ours(exchange)]
SENT = [
    exchange
    for exchange in EXCHANGES
    if (exchange.place.partition("/")[2].partition(":")[0], exchange.name) not in REFUSED
]


def node_error(exchange: Exchange) -> tuple[int, str] | None:
    """Return the error inside a 200 response."""
    if "__data.json" not in exchange.path or exchange.status != 200:
        return None
    for node in json.loads(exchange.body).get("nodes", []):
        if node and node["type"] == "error":
            return node.get("status", 500), node["error"]["message"]
    return None


def error_class(status: int, text: str) -> type[H2oError]:
    if status == 405 and "welcome modal" in text:
        return TermsNotAcceptedError
    classes: dict[int, type[H2oError]] = {
        308: RedirectError,
        403: ForbiddenError,
        404: NotFoundError,
        405: StatusError,
        410: ModelUnavailableError,
        500: ServerError,
    }
    return classes[status]


def failure(exchange: Exchange) -> type[H2oError] | None:
    """Return the error of a response, if it is one."""
    node = node_error(exchange)
    if node is not None:
        return error_class(*node)
    if exchange.status is None or exchange.ended in ("eof", "client-closed"):
        return IncompleteStreamError
    if exchange.path == "/conversations?/delete" and exchange.status == 303:
        return None
    if exchange.status >= 300:
        gone = exchange.status == 404
        quiet = exchange.method == "DELETE" or exchange.path.endswith("/stop-generating")
        if gone and quiet:
            return None  # a missing conversation counts as deleted or stopped
        return error_class(exchange.status, exchange.body.decode())
    return None


@pytest.mark.parametrize("exchange", SENT, ids=str)
def test_recorded_response_is_read(exchange: Exchange) -> None:
    replay = Replay(exchange)
    error = failure(exchange)
    if error is not None:
        # An unknown session is opened again, which no recording includes here.
        again = error is TermsNotAcceptedError
        with pytest.raises(H2oError) as caught:
            replay.world.play(replay.flow())
        assert again or type(caught.value) is error
        if isinstance(caught.value, StatusError) and exchange.status == 200:
            assert (caught.value.status, caught.value.message) == node_error(exchange)
        elif isinstance(caught.value, StatusError):
            assert caught.value.status == exchange.status
        if error is IncompleteStreamError:
            assert caught.value.partial == streamed(exchange)
        if again:
            assert replay.world.operations[1] == "settings"
    else:
        check(exchange, replay.world.play(replay.flow()))
    # The client reads `/__data.json` in three requests.
    assert replay.asked == (3 if exchange.path == "/__data.json" else 1)


def streamed(exchange: Exchange) -> str:
    """Return the text of the recorded tokens."""
    events = [
        json.loads(line[5:]) for line in exchange.body.split(b"\n") if line.startswith(b"data:")
    ]
    return "".join(e["token"]["text"] for e in events if not e["token"]["special"])


def check(exchange: Exchange, value: Any) -> None:
    """Check the result of a flow for a successful response."""
    path = urlsplit(exchange.path).path
    answer = exchange.decoded
    if exchange.is_stream:
        assert isinstance(value, Reply)
        assert value.text == streamed(exchange)
        assert value.finish_reason == "eos_token"
        options = sent_json(exchange)["options"]
        assert value.response_id == options.get("response_id", SESSION)
    elif path == "/conversation":
        assert value == json.loads(exchange.body)["conversationId"]
    elif path == "/__data.json":
        root = answer[0]  # the view has only one field here
        models, settings, listed = value
        assert [c.id for c in listed] == [c["id"] for c in root["conversations"]]
        assert DEFAULT_MODEL in [model.id for model in models]
        if "models" in root:
            assert [m.id for m in models] == [m["id"] for m in root["models"]]
            assert [m.parameters for m in models] == [m["parameters"] for m in root["models"]]
            assert settings.active_model == root["settings"]["activeModel"]
    elif answer is None and path.endswith("/__data.json"):
        # The same share once more [10_share:15].
        assert exchange.name == "share still readable after delete"
        assert [message.content for message in value.messages] == ["Share this 👋", HELLO]
    elif path.endswith("/__data.json"):
        assert answer is not None
        page = answer[-1]
        assert (value.title, value.model) == (page["title"].strip(), page["model"])
        found = [(m.role, m.content, m.id, m.score, m.web_search_id) for m in value.messages]
        assert found == [
            (m["from"], m["content"], m["id"], m.get("score"), m.get("webSearchId") or None)
            for m in page["messages"]
        ]
        stored = [m.updated_at.isoformat(timespec="milliseconds") for m in value.messages]
        assert [text.replace("+00:00", "Z") for text in stored] == [
            m["updatedAt"]["$Date"][0] for m in page["messages"]
        ]
    elif path.endswith("/summarize"):
        assert value == json.loads(exchange.body)["title"].strip()
    elif path.endswith("/share"):
        assert value == json.loads(exchange.body)["url"]
    elif path.endswith("/prompt"):
        preview = json.loads(exchange.body)
        assert (value.prompt, value.model) == (preview["prompt"], preview["model"])
        assert value.parameters == preview["parameters"]
    elif path.endswith("/web-search"):
        last = exchange.body.decode().rpartition('{"messages":')[2]
        entries = json.loads('{"messages":' + last)["messages"]
        assert value == [(entry["type"], entry.get("message", "")) for entry in entries]
    else:
        assert value is None
        assert exchange.status in (200, 303, 404)


def test_nearly_all_recordings_are_replayed() -> None:
    foreign = [
        exchange.place for name in SCENARIOS for exchange in scenario(name) if not ours(exchange)
    ]
    assert len(foreign) == 31  # pages, and unsupported methods
    assert len(EXCHANGES) - len(SENT) == len(REFUSED)
    assert len(SENT) >= 130


@pytest.mark.parametrize(
    "exchange", [exchange for exchange in EXCHANGES if exchange not in SENT], ids=str
)
def test_arguments_rejected_by_the_server_are_rejected_locally(exchange: Exchange) -> None:
    assert exchange.status == 500
    replay = Replay(exchange)
    with pytest.raises(ValueError, match=r"title|score"):
        replay.world.play(replay.flow())
    assert replay.world.requests == []


# Several exchanges together


def resumed(
    name: str, answers: dict[str, Any], *messages: Exchange
) -> tuple[World, ConversationCore]:
    """Return a conversation resumed as recorded, before these messages."""
    options = [sent_json(message)["options"] for message in messages]
    world = World(answers, ids=[option[key] for option in options for key in ("id", "response_id")])
    return world, talk_of(world, id=json.loads(scenario(name)[1].body)["conversationId"])


def play(world: World, talk: ConversationCore, prompt: str | None, **options: Any) -> Reply:
    return world.play(message_of(talk, prompt, **options).run())


@pytest.mark.parametrize("name", ["07_two_turns_and_retry", "07b_no_pause_between_turns"])
def test_two_turns_match_the_stored_history(name: str) -> None:
    _, _, first, second, stored, *_ = scenario(name)
    world, talk = resumed(
        name,
        {"message": [outcome(first), outcome(second)], "data": outcome(stored)},
        first,
        second,
    )
    for exchange in (first, second):
        assert play(world, talk, sent_json(exchange)["inputs"]).text == HELLO
    history = world.play(talk.refresh())
    assert [(m.role, m.content, m.id) for m in talk.messages] == [
        (m.role, m.content, m.id) for m in history
    ]
    assert world.bodies("message") == [sent_json(first), sent_json(second)]


def test_next_message_waits_for_a_stopped_answer_to_be_stored() -> None:
    _, _, stop, slow, stored, *_ = scenario("11_stop_generating")
    following = scenario("11_stop_generating")[9]
    world, talk = resumed(
        "11_stop_generating",
        {
            "message": [outcome(slow), outcome(following)],
            "stop": outcome(stop),
            "data": outcome(stored),
        },
        slow,
        following,
    )
    ask = message_of(talk, sent_json(slow)["inputs"])
    world.on_emit = lambda: world.play(ask.stop()) if world.text.endswith(" slow14") else None
    reply = world.play(ask.run())
    world.on_emit = lambda: None
    assert (reply.text, reply.finish_reason) == (streamed(slow), "stopped")
    assert play(world, talk, sent_json(following)["inputs"]).text == HELLO
    assert world.operations == ["message", "stop", "data", "message"]
    assert talk.messages[1].content == reply.text + " slow15"
    assert talk.messages[1].partial


def test_stop_before_the_first_token_ends_without_a_response() -> None:
    _, _, stop, silent, stored, *_ = scenario("28_stop_variants")
    world, talk = resumed(
        "28_stop_variants",
        {"message": lambda _: stopped(), "stop": outcome(stop), "data": outcome(stored)},
        silent,
    )
    ask = message_of(talk, sent_json(silent)["inputs"])

    def stopped() -> Answer:
        world.play(ask.stop())
        return outcome(silent)

    reply = world.play(ask.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert world.operations == ["message", "stop"]
    # It is stored all the same: the next message finds it immediately.
    history = world.play(talk.refresh())
    assert history[-1].id == reply.response_id


def test_answer_after_a_disconnect_is_recovered() -> None:
    _, _, slow, early, late, *_ = scenario("17_disconnect")
    world, talk = resumed(
        "17_disconnect",
        {"message": outcome(slow), "data": [outcome(early)] * 3 + [outcome(late)]},
        slow,
    )
    reply = play(world, talk, sent_json(slow)["inputs"])
    assert reply.text == "".join(f" slow{n}" for n in range(60)) == world.text
    assert reply.recovered
    assert world.operations == ["message", *["data"] * 4]


def test_web_search_precedes_its_message() -> None:
    _, _, search, *_ = scenario("16_web_search")
    message, stored = scenario("16_web_search")[7:9]
    world, talk = resumed(
        "16_web_search",
        {"search": outcome(search), "message": outcome(message), "data": outcome(stored)},
        message,
    )
    reply = play(world, talk, "Who won the cup?", web_search=True)
    assert reply.text == HELLO
    assert [entry.type for entry in reply.web_search] == ["update", "update", "error", "result"]
    assert world.bodies("message") == [sent_json(message)]
    assert talk.messages[-1].web_search_id == world.play(talk.refresh())[-1].web_search_id


def test_copy_of_a_shared_conversation_keeps_its_model() -> None:
    exchanges = scenario("10_share")
    share, copied, copy = exchanges[3], exchanges[12], exchanges[13]
    url = json.loads(share.body)["url"]
    world = World({"create": outcome(copied), "data": outcome(copy)})
    talk = talk_of(world, from_share=url)
    history = world.play(talk.refresh())
    assert world.bodies("create")[0]["fromShare"] == sent_json(copied)["fromShare"]
    assert [message.content for message in history] == ["Share this 👋", HELLO]
    # Another model was requested; the copy keeps the original's.
    assert sent_json(copied)["model"] != talk.model == DEFAULT_MODEL
