"""A local model: tokens, stops, parameters and scheduling, compared with `model.generate` itself.

The model is created here, with random weights and a tokenizer trained on a few lines, saved to a
folder and loaded like any other. Requires the extra `local-model`; `.ci/run full` installs it.
"""

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from backends import Api
from test_emulator import Client, events

from h2o_client import GenerationError, H2oClient, H2oError, InvalidRequestError, StatusError
from h2o_client import Token as SdkToken
from h2o_client.emulator import (
    DEFAULT_MODELS,
    Emulator,
    EngineError,
    GenerationRequest,
    WebSearch,
)
from h2o_client.emulator.parameters import Options

pytestmark = pytest.mark.long

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Why is drinking water so healthy? Because the body needs it.",
    "naïve café, 世界, 👋🏽 and all that.",
    "user assistant system hello there what is your name",
] * 4
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}<|{{ message['role'] }}|>"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
CONTEXT = 256


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
}
OTHERS: dict[str, dict[str, Any]] = {
    "Mistral": {**SIZES, "sliding_window": 16},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},  # has a different cache
}
"""Other model architectures, and their sizes."""


def make_model(folder: Path, *, template: str | None = TEMPLATE, kind: str = "Llama") -> None:
    """Save a tiny model and its tokenizer."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    tokenizers = importlib.import_module("tokenizers")
    learner = tokenizers.ByteLevelBPETokenizer()
    learner.train_from_iterator(
        LINES, vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=learner._tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        **OTHERS.get(kind, SIZES),
        initializer_range=0.6,  # makes some tokens likelier than others
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    importlib.import_module("torch").set_num_threads(1)  # it is small, and tests run in parallel
    made = tmp_path_factory.mktemp("model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of other packages
        make_model(made)
    return made


@pytest.fixture(scope="session")
def running(folder: Path) -> Iterator[Emulator]:
    """An emulator with the model, loaded once for all tests."""
    with Emulator(engine=f"transformers:{folder}", stop_poll=0.002) as emulator:
        yield emulator


@pytest.fixture
def server(running: Emulator) -> Iterator[Emulator]:
    yield running
    running.wait_idle()


@pytest.fixture(scope="session")
def reference(folder: Path) -> "Reference":
    return Reference(folder)


class Reference:
    """The same model, used directly through the library."""

    def __init__(self, folder: Path) -> None:
        self.torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def prompt(self, *texts: str) -> list[int]:
        """Return the token ids of a conversation: question, answer, question."""
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def generate(
        self, ids: list[int], *, seed: int | None = None, **parameters: Any
    ) -> tuple[list[int], list[float]]:
        """Run `model.generate`; return ids and log-probabilities."""
        parameters = {"top_k": 0, **parameters}
        if seed is not None:
            self.torch.manual_seed(seed)
        inputs = self.torch.tensor([ids])
        out = self.model.generate(
            inputs,
            attention_mask=self.torch.ones_like(inputs),
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **parameters,
        )
        scores = self.model.compute_transition_scores(
            out.sequences, out.scores, normalize_logits=True
        )
        made: list[int] = out.sequences[0][len(ids) :].tolist()
        return made, scores[0].tolist()


def tokens_of(server: Emulator, text: str, **parameters: Any) -> list[SdkToken]:
    """Return the tokens of an answer, through the SDK."""
    defaults: dict[str, Any] = {"repetition_penalty": 1.0, "temperature": 1.0}
    with (
        H2oClient(server.url, retries=0) as client,
        client.stream(text, **{**defaults, **parameters}) as stream,
    ):
        return list(stream.events())


def same(tokens: list[SdkToken], expected: tuple[list[int], list[float]]) -> bool:
    ids, logprobs = expected
    assert [token.id for token in tokens] == ids
    for token, logprob in zip(tokens, logprobs, strict=True):
        assert token.logprob is not None
        assert math.isclose(token.logprob, logprob, abs_tol=1e-4)
    return True


# Tokens and parameters


def test_greedy_tokens_match_the_library(server: Emulator, reference: Reference) -> None:
    tokens = tokens_of(server, "hello there", **GREEDY)
    assert same(tokens, reference.generate(reference.prompt("hello there"), **GREEDY))


@pytest.mark.parametrize(
    "parameters",
    [
        {"repetition_penalty": 1.7},
        {"do_sample": True, "seed": 7},
        {"do_sample": True, "seed": 7, "temperature": 0.4, "repetition_penalty": 1.2},
        {"do_sample": True, "seed": 1, "top_k": 5},
        {"do_sample": True, "seed": 2, "top_p": 0.7, "temperature": 1.3},
        {"do_sample": True, "seed": 3, "typical_p": 0.8},
        {"do_sample": True, "seed": 2**40, "top_k": 9, "top_p": 0.9, "temperature": 0.8},
        {"max_new_tokens": 1},
    ],
)
def test_sampled_tokens_match_the_library(
    server: Emulator, reference: Reference, parameters: dict[str, Any]
) -> None:
    given = {**GREEDY, **parameters}
    tokens = tokens_of(server, "what is your name", **given)
    assert same(tokens, reference.generate(reference.prompt("what is your name"), **given))


def test_same_seed_repeats_the_answer(server: Emulator) -> None:
    def ids(seed: int | None) -> list[int | None]:
        more = {} if seed is None else {"seed": seed}
        return [t.id for t in tokens_of(server, "hi", do_sample=True, max_new_tokens=20, **more)]

    assert ids(5) == ids(5)
    assert ids(5) != ids(6)
    assert ids(None) != ids(None)


def test_text_equals_the_joined_tokens(server: Emulator, reference: Reference) -> None:
    """Multi-token characters arrive whole; the end token is not part of the text."""
    with H2oClient(server.url, retries=0) as client:
        for seed in range(8):
            given: dict[str, Any] = {"do_sample": True, "seed": seed, "max_new_tokens": 40}
            given |= {"details": True}
            with client.stream("hello", repetition_penalty=1.0, temperature=1.0, **given) as stream:
                tokens = list(stream.events())
            assert stream.reply is not None
            ids = [token.id for token in tokens if not token.special]
            whole = reference.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            assert stream.reply.text == whole
            assert stream.reply.generated_tokens == len(tokens)
            ended = tokens[-1].id == reference.tokenizer.eos_token_id
            assert stream.reply.finish_reason == ("eos_token" if ended else "length")


def test_end_token_is_special_and_last(server: Emulator, reference: Reference) -> None:
    """Some seed produces it; it is special, and the last token."""
    ends = 0
    for seed in range(20):
        tokens = tokens_of(
            server, "hi", do_sample=True, seed=seed, temperature=50.0, max_new_tokens=100
        )
        special = [token for token in tokens if token.id == reference.tokenizer.eos_token_id]
        assert [token.special for token in tokens].count(True) >= len(special)
        if special:
            assert tokens[-1] == special[0]
            assert tokens[-1].text == "</s>"
            ends += 1
    assert ends


def test_truncate_keeps_the_last_tokens(server: Emulator, reference: Reference) -> None:
    ids = reference.prompt("The quick brown fox jumps over the lazy dog.")
    tokens = tokens_of(server, "The quick brown fox jumps over the lazy dog.", truncate=6, **GREEDY)
    assert same(tokens, reference.generate(ids[-6:], **GREEDY))


def test_truncate_drops_complete_turns_first(server: Emulator, reference: Reference) -> None:
    given = {**GREEDY, "repetition_penalty": 1.0, "temperature": 1.0}
    with H2oClient(server.url) as client, client.conversation() as talk:
        talk.send("hello there", **given)
        room = len(reference.prompt("what is")) + 3
        with talk.stream("what is", truncate=room, **given) as stream:
            tokens = list(stream.events())
    assert same(tokens, reference.generate(reference.prompt("what is"), **GREEDY))


def test_history_uses_the_models_template(server: Emulator, reference: Reference) -> None:
    given = {**GREEDY, "repetition_penalty": 1.0, "temperature": 1.0}
    with H2oClient(server.url) as client, client.conversation() as talk:
        first = talk.send("hello there", **given)
        with talk.stream("what is your name", **given) as stream:
            tokens = list(stream.events())
    ids = reference.prompt("hello there", first.text.rstrip(), "what is your name")
    assert same(tokens, reference.generate(ids, **GREEDY))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_match_the_library(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_model(tmp_path, kind=kind)
        reference = Reference(tmp_path)
        text = "hello there what is your name, and why is it so"
        given = {**GREEDY, "max_new_tokens": 30, "repetition_penalty": 1.2}
        with Emulator(engine=f"transformers:{tmp_path}") as server:
            tokens = tokens_of(server, text, **given)
        assert same(tokens, reference.generate(reference.prompt(text), **given))


def test_sampling_parameters_imply_do_sample() -> None:
    """Same as text-generation-inference."""
    assert Options.of({}).do_sample is False
    assert Options.of({"repetition_penalty": 1.2}).do_sample is False
    assert Options.of({"temperature": 0.5}).do_sample is True
    assert Options.of({"top_k": 5}).do_sample is True
    assert Options.of({"top_k": 5, "do_sample": False}).do_sample is False


def last_event(server: Emulator, text: str, **parameters: Any) -> tuple[dict[str, Any], str]:
    """Return the raw last event of an answer, and the stored answer."""
    client = Client(server).open()
    status, body, _ = client.say(text, parameters)
    assert status == 200
    stored = client.stored()[-1][1]
    client.ask("DELETE", f"/conversation/{client.conversation}")
    return events(body)[-1], stored


def test_details_and_full_text_are_returned(server: Emulator) -> None:
    """The seed is the one used; the prompt is the service's."""
    given = {"details": True, "max_new_tokens": 3}
    last, _ = last_event(server, "hello", do_sample=True, seed=2**64 - 1, **given)
    assert last["details"]["finish_reason"] in {"length", "eos_token"}
    assert last["details"]["seed"] == 2**64 - 1
    one, other = (last_event(server, "hello", do_sample=True, **given)[0] for _ in range(2))
    assert one["details"]["seed"] != other["details"]["seed"]
    last, stored = last_event(server, "hello", return_full_text=True, **given)
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 3, "seed": None}
    assert last["generated_text"].startswith("<|prompt|>hello</s><|answer|>")
    assert stored
    assert not stored.startswith("<|prompt|>")


@pytest.mark.parametrize("full", [False, True])
def test_incomplete_character_at_the_end(
    server: Emulator, reference: Reference, full: bool
) -> None:
    """Its text is known at the end of the answer, and belongs to its own token."""
    engine = engine_in(server)
    first, *_ = reference.tokenizer.encode("😀", add_special_tokens=False)
    hello = reference.tokenizer.encode("hello", add_special_tokens=False)
    end = reference.tokenizer.eos_token_id
    ids = [*hello, first, *([] if full else [end])]
    request = GenerationRequest("m", "p", {"max_new_tokens": len(ids)}, (("user", "hi"),))
    answer = engine._begin(request)
    made = [token for number in ids for token in answer.add(number, -0.5)]
    assert [token.id for token in made] == ids
    shown = [token.text for token in made if not token.special]
    assert "".join(shown) == "hello\ufffd" == reference.tokenizer.decode([*hello, first])
    assert made[-1].finish == ("length" if full else "eos_token")


def test_old_turns_are_dropped_when_the_context_is_full(server: Emulator) -> None:
    """A conversation longer than the model's context continues."""
    with H2oClient(server.url, retries=0) as client, client.conversation() as talk:
        for _ in range(6):
            talk.send("hello there what is your name " * 4, max_new_tokens=20, do_sample=False)
        assert len(talk.history()) == 12


def test_model_failure_is_an_error_event(
    server: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets an error event, nothing is stored, and the next question is answered."""
    with H2oClient(server.url, retries=0) as client:
        with pytest.raises(GenerationError, match="Server error: probability"):
            client.chat("hello", temperature=1e-300, recover=False)
        engine = engine_in(server)
        model, count = engine._model, iter(range(100))
        forward = model.forward

        def fails(*args: Any, **keywords: Any) -> Any:
            if next(count) == 3:
                raise RuntimeError("CUDA out of memory")
            return forward(*args, **keywords)

        fails.__signature__ = importlib.import_module("inspect").signature(  # type: ignore[attr-defined]
            forward
        )
        model.forward = fails
        try:
            with pytest.raises(GenerationError, match="CUDA out of memory") as caught:
                client.chat("hello", recover=False, max_new_tokens=50, seed=3)
        finally:
            del model.forward
        assert caught.value.partial
        assert client.chat("hello", max_new_tokens=5, do_sample=False).generated_tokens == 5
    assert "CUDA out of memory" in caplog.text


def test_stop_sequences_end_the_answer(server: Emulator) -> None:
    free = tokens_of(server, "hello", **GREEDY)
    text = "".join(token.text for token in free)
    shown = [token.text for token in free if token.text]
    stop = shown[4][-1] + shown[5][0]  # spans two tokens
    with H2oClient(server.url) as client:
        given = {**GREEDY, "repetition_penalty": 1.0, "stop": [stop, ""], "details": True}
        reply = client.chat("hello", **given)
    assert reply.finish_reason == "stop_sequence"
    assert stop in reply.text
    assert len(reply.text) < len(text)
    assert text.startswith(reply.text)


def test_answer_is_limited_by_the_context(server: Emulator) -> None:
    tokens = tokens_of(server, "hello", max_new_tokens=4000, do_sample=False)
    assert len(tokens) < CONTEXT
    with pytest.raises(InvalidRequestError, match=f"less than {CONTEXT} tokens"):
        tokens_of(server, "hello " * CONTEXT)


def test_invalid_parameters_do_not_reach_the_model(server: Emulator) -> None:
    client = Client(server).open()
    status, body, _ = client.say("Hi", {"temperature": -1})
    client.ask("DELETE", f"/conversation/{client.conversation}")
    assert (status, json.loads(body)["error_type"]) == (422, "validation")


def engine_in(server: Emulator) -> Any:
    return server._service.live_engines()[0]


def test_search_results_are_part_of_the_question(server: Emulator) -> None:
    """The template has no system role, like that of the suggested model."""
    server.search(WebSearch("Facts"))
    with H2oClient(server.url) as client, client.conversation() as talk:
        reply = talk.send("hello", web_search=True, **GREEDY)
    assert reply.generated_tokens == 12


def test_template_error_rejects_the_request(server: Emulator) -> None:
    request = GenerationRequest("m", "p", {}, (("system", "hi"),))
    with pytest.raises(Exception, match="422") as caught:
        engine_in(server)._begin(request)
    assert "no system role" in caught.value.body["error"]  # type: ignore[attr-defined]


# Scheduling and stops


async def test_streaming_and_stopping(api: Api) -> None:
    """Tokens are sent as they are drawn, and a stop takes effect within one token."""
    engine = engine_in(api.server)
    async with (
        api.client() as client,
        client.stream("hello", max_new_tokens=200, do_sample=True, seed=11) as stream,
    ):
        steps = Steps(engine)
        async for _ in stream:
            break
        await stream.stop()
    await api.wait(api.server.wait_idle)
    seen = steps.count
    await api.wait(lambda: time.sleep(0.05))
    assert steps.count == seen
    steps.remove()
    await api.settled()


class Steps:
    """Counts an engine's steps, and slows them down so that a stop can come in between."""

    def __init__(self, engine: Any, pause: float = 0.01) -> None:
        self.engine = engine
        self.count = 0
        self.order: list[int] = []
        model = engine._model
        self._forward = model.forward

        def forward(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            self.order.append(id(keywords.get("past_key_values")))
            time.sleep(pause)
            return self._forward(*args, **keywords)

        forward.__signature__ = importlib.import_module("inspect").signature(  # type: ignore[attr-defined]
            model.forward
        )
        model.forward = forward

    def remove(self) -> None:
        del self.engine._model.forward


def test_stop_takes_effect_within_a_token(server: Emulator) -> None:
    steps = Steps(engine_in(server))
    try:
        with H2oClient(server.url) as client, client.conversation() as talk:
            with talk.stream("hello", max_new_tokens=200, do_sample=True, seed=11) as stream:
                first = next(iter(stream))
                stream.stop()
                server.wait_idle()
            made = steps.count
            time.sleep(0.05)
            assert steps.count == made < 60
            assert talk.history()[-1].content.startswith(first.strip()[:1])
    finally:
        steps.remove()


def test_concurrent_conversations_alternate(server: Emulator, reference: Reference) -> None:
    steps = Steps(engine_in(server), pause=0.002)
    given = {**GREEDY, "max_new_tokens": 30}
    questions = ["hello there", "what is your name", "why", "The quick brown fox"]
    answers: dict[str, list[SdkToken]] = {}
    try:
        threads = [
            threading.Thread(
                target=lambda text=text: answers.update({text: tokens_of(server, text, **given)})
            )
            for text in questions
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        steps.remove()
    for text in questions:
        assert same(answers[text], reference.generate(reference.prompt(text), **given))
    runs = sum(one != other for one, other in zip(steps.order, steps.order[1:], strict=False))
    assert runs > len(steps.order) // 2  # mostly alternates


def test_close_ends_an_answer_within_a_token(folder: Path) -> None:
    with Emulator(engine=f"transformers:{folder}") as server:
        steps = Steps(engine_in(server))
        with H2oClient(server.url, retries=0) as client:
            stream = client.stream("hello", recover=False, max_new_tokens=200, do_sample=True)
            next(iter(stream))
            server.close()
            made = steps.count
            with pytest.raises(H2oError):
                list(stream)
        assert steps.count == made


# Loading


def test_progress_is_shown_while_it_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = importlib.import_module("h2o_client.emulator.engines.local")
    load = local.TransformersEngine._load

    def slowly(self: Any) -> Any:
        time.sleep(0.1)
        return load(self)

    monkeypatch.setattr(local.TransformersEngine, "_load", slowly)
    monkeypatch.setattr(local, "HEARTBEAT", 0.03)
    said: list[str] = []
    with Emulator(engine=f"transformers:{folder}", progress=said.append):
        pass
    assert said[0].startswith(f"loading {folder} …")
    assert said[1].startswith(f"loading {folder}: ")
    assert "million parameters, on " in said[-1]


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    server = Emulator(engine=f"transformers:{tmp_path}")
    with pytest.raises(EngineError, match="cannot load"):
        server.start()
    with pytest.raises(EngineError, match="cannot load"):
        engine_in(server).template()


@pytest.mark.parametrize("name", ["/no/such/folder", "./nor/this", "~/nor/that", "a/b/c"])
def test_missing_folder_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(EngineError, match=f"cannot load {name}: the folder does not exist"):
        Emulator(engine=f"transformers:{name}").start()


def test_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    with Emulator(engine=f"transformers:~/{folder.name}") as server:
        assert tokens_of(server, "hello", **GREEDY)


def command(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "h2o_client", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_hub_name_without_a_network_is_an_error(tmp_path: Path) -> None:
    name = "h2oai/h2o-danube3-500m-chat"
    done = command(
        "serve", "--engine", f"transformers:{name}", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (1, "")
    assert err.startswith(f"loading {name} …\n")
    last = err.splitlines()[-1]
    assert last.startswith(f"h2o-client: cannot load {name}: ")
    assert "Traceback" not in err


def test_chat_with_a_local_model_is_one_command(folder: Path) -> None:
    """Runs a model and a server for one answer."""
    done = command(
        *("chat", "--engine", f"transformers:{folder}", "--param", "do_sample=false"),
        *("--param", "max_new_tokens=9", "--json", "hello"),
    )
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert json.loads(out)["generated_tokens"] == 9
    assert "loaded" in err


@needs.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_answers_of_the_model(folder: Path, number: int) -> None:
    done = command("serve", "--engine", f"transformers:{folder}", "--port", "0")
    assert done.stdout is not None
    while not (found := re.search(r"H2O_CHAT_URL=(\S+)", done.stdout.readline())):
        assert done.poll() is None
    with (
        H2oClient(found[1], retries=0) as client,
        client.stream("hello", recover=False, max_new_tokens=200, seed=11) as stream,
    ):
        next(iter(stream))
        done.send_signal(number)
        with pytest.raises(H2oError):
            list(stream)
    _, err = done.communicate(timeout=60)
    assert done.returncode == 0
    assert "Traceback" not in err
    assert err.endswith("\nstopped\n")


def test_template_is_that_of_the_model(folder: Path) -> None:
    server = Emulator(engine=f"transformers:{folder}")
    assert engine_in(server).template() == TEMPLATE


def test_model_without_a_template_gets_the_services_prompt(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_model(tmp_path, template=None)
    reference = Reference(tmp_path)
    ids = reference.tokenizer.encode("<|prompt|>hello</s><|answer|>")
    with Emulator(engine=f"transformers:{tmp_path}") as server:
        assert same(tokens_of(server, "hello", **GREEDY), reference.generate(ids, **GREEDY))
        assert engine_in(server).template() is None


def test_sdk_defaults_work_with_a_local_model(server: Emulator) -> None:
    with H2oClient(server.url) as client:
        reply = client.chat("hello", max_new_tokens=20)
        assert reply.text
        assert reply.model == DEFAULT_MODELS[0].name
        with pytest.raises(StatusError, match="strictly positive"):
            client.chat("hello", temperature=0.0)
