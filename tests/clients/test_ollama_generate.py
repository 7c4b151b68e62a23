"""Ollama's Python SDK: texts and embeddings."""

from __future__ import annotations

import json
import math

import ollama
import pytest

from support.client_models import (
    ABSENT,
    CALLED_WITH,
    CHATTERBOX,
    EMOJI_SPEAKER,
    EMOJI_SPOKEN,
    ENCODER,
    JSON_SPEAKER,
    SPEAKER,
    SPOKEN,
    THINKER,
    cancelled,
    wait_for_cancellation,
)
from support.server import DEADLINE
from support.spoken_models import THOUGHT, THOUGHTFUL_ANSWER

COLD = {"temperature": 0}


@pytest.fixture(scope="module")
def client(server):
    with ollama.Client(host=server.url, timeout=DEADLINE) as made:
        yield made


def ask(**fields):
    return {"model": SPEAKER, "prompt": "Hello", "options": COLD, **fields}


def test_a_text_is_generated(client):
    answer = client.generate(**ask(system="Be brief."))
    assert answer.response.strip() == SPOKEN
    assert (answer.model, answer.done, answer.done_reason) == (SPEAKER, True, "stop")
    assert answer.eval_count > len(SPOKEN.split())
    assert answer.total_duration > 0


@pytest.mark.parametrize(("model", "spoken"), [(SPEAKER, SPOKEN), (EMOJI_SPEAKER, EMOJI_SPOKEN)])
def test_a_text_is_streamed(client, model, spoken):
    lines = list(client.generate(**ask(model=model, stream=True)))
    assert "".join(line.response for line in lines).strip() == spoken
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_raw_prompt_is_taken_as_it_is(client):
    raw = client.generate(**ask(raw=True))
    templated = client.generate(**ask())
    assert raw.response.strip() == SPOKEN
    assert raw.prompt_eval_count < templated.prompt_eval_count
    with pytest.raises(ollama.ResponseError, match="raw") as caught:
        client.generate(**ask(raw=True, system="Be brief."))
    assert caught.value.status_code == 400


def test_a_context_is_gone_on_with(client):
    first = client.generate(**ask())
    assert first.context
    second = client.generate(**ask(context=first.context))
    assert second.prompt_eval_count > first.prompt_eval_count + first.eval_count // 2


def test_a_schema_binds_the_answer(client):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    }
    answer = client.generate(**ask(model=JSON_SPEAKER, format=schema))
    assert json.loads(answer.response) == CALLED_WITH


def test_thoughts_stand_beside_the_text(client):
    answer = client.generate(**ask(model=THINKER, think=True))
    assert (answer.thinking.strip(), answer.response.strip()) == (THOUGHT, THOUGHTFUL_ANSWER)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"model": ABSENT}, 404, "not found"),
        ({"model": ENCODER}, 400, "does not support"),
        ({"suffix": "end"}, 400, "does not support insert"),
        ({"options": {"num_predict": "many"}}, 400, "num_predict"),
    ],
    ids=["model", "encoder", "suffix", "option"],
)
def test_a_wrong_request_says_why(client, fields, status, reason, stream):
    with pytest.raises(ollama.ResponseError, match=reason) as caught:
        list(client.generate(**ask(stream=stream, **fields)))
    assert caught.value.status_code == status


def test_a_text_that_is_left_is_generated_no_further(client, server):
    before = cancelled(server)
    stream = client.generate(**ask(model=CHATTERBOX, stream=True))
    next(stream)
    stream.close()
    wait_for_cancellation(server, before)


def test_texts_are_embedded(client):
    answer = client.embed(model=ENCODER, input=["the", "of the"])
    assert [len(vector) for vector in answer.embeddings] == [64, 64]
    for vector in answer.embeddings:
        assert math.isclose(sum(value * value for value in vector), 1, rel_tol=1e-3)
    assert answer.prompt_eval_count > 0
    one = client.embed(model=ENCODER, input="the")
    assert one.embeddings[0] == pytest.approx(answer.embeddings[0], abs=1e-4)


def test_fewer_dimensions_are_given(client):
    (vector,) = client.embed(model=ENCODER, input="the", dimensions=8).embeddings
    assert len(vector) == 8
    assert math.isclose(sum(value * value for value in vector), 1, rel_tol=1e-3)


def test_what_is_too_long_is_cut_or_refused(client):
    long = "the " * 3000
    assert client.embed(model=ENCODER, input=long).prompt_eval_count == 512
    with pytest.raises(ollama.ResponseError, match="context length") as caught:
        client.embed(model=ENCODER, input=long, truncate=False)
    assert caught.value.status_code == 400


def test_the_old_way_to_embed_works(client):
    vector = client.embeddings(model=ENCODER, prompt="the").embedding
    (new,) = client.embed(model=ENCODER, input="the").embeddings
    assert vector == pytest.approx(new, abs=1e-4)
