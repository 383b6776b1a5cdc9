"""What a router reads off a request, against what the model would read."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.router.asked import (
    BLOCK_SIZE,
    BYTES_PER_TOKEN,
    NUM_TENANTS,
    BadRequestError,
    Identity,
    asked,
    block_hashes,
)

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
IDENTITY = Identity()
BLOCK_BYTES = BLOCK_SIZE * BYTES_PER_TOKEN


def read(content, path=COMPLETIONS, **headers):
    return asked(path, json.dumps(content).encode(), headers, IDENTITY)


def chat(*said, **more):
    roles = ["system", *["user", "assistant"] * len(said)]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return read({"messages": messages, **more}, CHAT)


def num_shared(one, other):
    """Blocks that two prompts have in common from the start."""
    return sum(a == b for a, b in zip(one.block_hashes, other.block_hashes, strict=False))


def test_text_counts_four_bytes_a_token():
    assert read({"prompt": "a" * 400}).num_prompt_tokens == 100
    assert read({"prompt": "é" * 400}).num_prompt_tokens == 200
    assert read({"prompt": ""}).num_prompt_tokens == 1


def test_token_ids_count_exactly_and_are_told_apart():
    one, other = read({"prompt": list(range(1000, 1040))}), read({"prompt": [*range(1000, 1039), 5]})
    assert one.num_prompt_tokens == other.num_prompt_tokens == 40
    assert len(one.block_hashes) == 2
    assert num_shared(one, other) == 2
    assert num_shared(one, read({"prompt": [1, *range(1001, 1040)]})) == 0


def test_lists_of_prompts_are_read_one_after_the_other():
    assert read({"prompt": ["ab", "cd"]}).num_prompt_tokens == 1
    assert read({"input": [[1, 2, 3], [4, 5]]}, EMBEDDINGS).num_prompt_tokens == 5


def test_a_conversation_goes_on_from_what_was_said():
    system, first, answer = "s" * 300, "u" * 300, "a" * 300
    one, two = chat(system, first), chat(system, first, answer, "next")
    assert (one.turn, two.turn) == (1, 2)
    assert num_shared(one, two) == len(one.block_hashes)
    assert num_shared(one, chat("x" + system, first)) == 0


def test_neither_order_of_keys_nor_sampling_hides_a_prefix():
    text = "p" * 500
    one = asked(COMPLETIONS, f'{{"temperature": 1, "prompt": "{text}"}}'.encode(), {}, IDENTITY)
    other = asked(COMPLETIONS, f'{{"prompt":"{text}","n":2,"model":"m"}}'.encode(), {}, IDENTITY)
    np.testing.assert_array_equal(one.block_hashes, other.block_hashes)


def test_tools_and_parts_of_messages_count():
    plain = chat("x" * 100)
    assert chat("x" * 100, tools=[{"type": "function"}]).num_prompt_tokens > plain.num_prompt_tokens
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None},
    ]
    assert read({"messages": parts}, CHAT).turn == 2


def test_roles_are_told_apart():
    one = read({"messages": [{"role": "user", "content": "x" * 100}]}, CHAT)
    other = read({"messages": [{"role": "system", "content": "x" * 98}]}, CHAT)
    assert num_shared(one, other) == 0


def test_sessions_and_tenants_are_those_of_the_headers():
    plain = read({"prompt": "a"})
    assert (plain.session_id, plain.tenant) == (-1, 0)
    one = read({"prompt": "a"}, **{"x-session-id": "s1", "x-tenant-id": "t1"})
    same = read({"prompt": "b"}, **{"x-session-id": "s1", "x-tenant-id": "t1"})
    other = read({"prompt": "a"}, **{"x-session-id": "s2", "x-tenant-id": "t2"})
    assert one.session_id == same.session_id != other.session_id
    assert one.tenant == same.tenant != other.tenant
    assert 0 <= one.session_id < 2**63


def test_tenants_without_number_take_bounded_memory():
    seen = {read({"prompt": "a"}, **{"x-tenant-id": f"t{number}"}).tenant for number in range(5000)}
    assert seen <= set(range(1, NUM_TENANTS))
    assert len(seen) > 0.9 * NUM_TENANTS


@settings(max_examples=100, deadline=None)
@given(one=st.binary(max_size=600), other=st.binary(max_size=600))
def test_equal_hash_equal_prefix(one, other):
    hashes, others = block_hashes(one), block_hashes(other)
    assert len(hashes) == len(one) // BLOCK_BYTES
    for number, (mine, theirs) in enumerate(zip(hashes, others, strict=False)):
        end = (number + 1) * BLOCK_BYTES
        assert (mine == theirs) == (one[:end] == other[:end])


def test_hashes_of_a_million_blocks_do_not_collide():
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 4, (2_000, 500 * BLOCK_BYTES), np.uint8)  # little varied, as text is
    hashes = np.concatenate([block_hashes(prompt.tobytes()) for prompt in prompts])
    assert len(np.unique(hashes)) == 1_000_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["prompt", "messages", "input", "model", "stream", "tools", "role", "content"])


@settings(max_examples=400, deadline=None)
@given(
    content=st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON), max_size=3)),
    path=st.sampled_from([COMPLETIONS, CHAT, EMBEDDINGS]),
)
def test_whatever_is_sent_is_read_or_refused(content, path):
    try:
        body = json.dumps(content).encode()
    except ValueError:
        return
    try:
        request = asked(path, body, {}, IDENTITY)
    except BadRequestError:
        return
    assert request.num_prompt_tokens >= 1
    assert len(request.block_hashes) <= request.num_prompt_tokens // BLOCK_SIZE


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=100))
def test_whatever_bytes_are_sent_are_read_or_refused(body):
    with suppress(BadRequestError):
        asked(CHAT, body, {}, IDENTITY)


@pytest.mark.parametrize("model", ["{}", "[]", "0", "true", r'"\ud800"'])
def test_a_model_that_is_no_text_is_refused(model):
    with pytest.raises(BadRequestError, match="model must be a string"):
        asked(COMPLETIONS, f'{{"prompt": "a", "model": {model}}}'.encode(), {}, IDENTITY)


def test_without_a_model_any_instance_will_do():
    assert read({"prompt": "a", "model": None}).model == read({"prompt": "a"}).model == ""


@pytest.mark.parametrize("body", [b'{"prompt": 1e400}', b'{"prompt": [99999999999]}', b'{"prompt": [[[]]]}'])
def test_odd_prompts_are_refused(body):
    with pytest.raises(BadRequestError):
        asked(COMPLETIONS, body, {}, IDENTITY)
