"""What is read off an OpenAI body, and that nothing a client sends is too much."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.plugs.prompt import MAX_KEYED_TOKENS, Prompt, keys_of, of_body, session_key


def test_a_completion():
    text = "a" * 1000
    prompt = of_body({"prompt": text, "user": "bob"})
    assert prompt.num_prompt_tokens == 250
    assert len(prompt.keys) == 3  # of 256 bytes each
    assert (prompt.tenant, prompt.session_key, prompt.turn) == ("bob", -1, 1)


def test_keys_are_hashes_of_all_up_to_there():
    content = bytes(range(256)) * 3
    assert keys_of(content)[1] == hashlib.blake2b(content[:512], digest_size=8).digest()


def test_a_shared_beginning_has_the_same_keys():
    one, other = keys_of(b"x" * 600 + b"a" * 600), keys_of(b"x" * 600 + b"b" * 600)
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, False, False]


def test_token_ids_are_counted():
    prompt = of_body({"prompt": list(range(130))})
    assert prompt.num_prompt_tokens == 130
    assert len(prompt.keys) == 2


def test_a_conversation_grows_at_its_end():
    first = [{"role": "system", "content": "s" * 600}, {"role": "user", "content": "q" * 600}]
    second = [*first, {"role": "assistant", "content": "a" * 300}, {"role": "user", "content": "more"}]
    one, two = of_body({"messages": first}), of_body({"messages": second})
    assert (one.turn, two.turn) == (1, 2)
    assert two.keys[: len(one.keys)] == one.keys


def test_who_asks():
    body = {"prompt": "a", "session_id": 7, "user": "u"}
    assert of_body(body).session_key == session_key("7")
    headers = {"x-session-id": "s", "x-tenant-id": "t"}
    prompt = of_body(body, headers)
    assert (prompt.session_key, prompt.tenant) == (session_key("s"), "t")
    assert 0 <= prompt.session_key < 2**24


def test_what_is_hashed_is_bounded():
    assert len(of_body({"prompt": "a" * (8 * MAX_KEYED_TOKENS)}).keys) == MAX_KEYED_TOKENS // 64


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(body=anything, prompt=anything, messages=anything)
def test_nothing_is_too_much(body, prompt, messages):
    for each in (body, {"prompt": prompt}, {"messages": messages}, {"messages": [{"content": messages}]}):
        read = of_body(each)
        assert isinstance(read, Prompt)
        assert read.num_prompt_tokens >= 1
        assert read.turn >= 1
    assert of_body({"prompt": prompt, "user": body, "session_id": body, "tools": body}).turn == 1


@pytest.mark.parametrize(
    "content", ["\ud800", [{"type": "text", "text": "a"}], [{"type": "image_url"}], None]
)
def test_contents_of_other_kinds(content):
    assert of_body({"messages": [{"role": "user", "content": content}]}).num_prompt_tokens >= 1
