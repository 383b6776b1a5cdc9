"""What chunks mean. Those of vLLM are as its 0.32 sends them."""

import json

import pytest

from envs.live.answer import Answer, ErrorInStreamError
from envs.live.sse import MalformedStreamError


def chunk(**entries):
    return json.dumps(entries).encode()


def text(content="a", finish_reason=None, **more):
    return chunk(id="cmpl-1", choices=[{"index": 0, "text": content, "finish_reason": finish_reason, **more}])


def delta(finish_reason=None, **entries):
    return chunk(id="chat-1", choices=[{"index": 0, "delta": entries, "finish_reason": finish_reason}])


def usage(prompt=10, completion=3, **more):
    return chunk(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion, **more})


def test_a_completion():
    answer = Answer()
    took = [answer.take(data) for data in (text(), text(""), text("b", "length"))]
    assert took == [True, True, True]  # a token may be half a character, without text
    assert answer.is_finished
    assert answer.num_output_tokens == 3
    assert not answer.take(usage(10, 5, prompt_tokens_details={"cached_tokens": 4}))
    assert (answer.num_prompt_tokens, answer.num_output_tokens, answer.num_cached_tokens) == (10, 5, 4)
    assert not answer.is_done
    assert not answer.take(b"[DONE]")
    assert answer.is_done


def test_the_role_of_a_chat_is_no_token():
    answer = Answer()
    chunks = [delta(role="assistant", content=""), delta(content=""), delta(content="a"), delta("stop")]
    assert [answer.take(data) for data in chunks] == [False, True, True, True]
    assert Answer().take(delta(role="assistant", content="Hi"))
    assert Answer().take(delta(reasoning="Hm"))


def test_token_ids_tell_how_many_tokens_a_chunk_brought():
    answer = Answer()
    took = [
        answer.take(text("ab", token_ids=[5, 6], prompt_token_ids=[1, 2, 3])),
        answer.take(text("", token_ids=[])),
        answer.take(text("c", "length", token_ids=[7])),
    ]
    assert took == [True, False, True]
    assert answer.token_ids == [5, 6, 7]
    assert answer.num_output_tokens == 3
    assert answer.num_chunks == 2


def test_usage_may_come_with_every_chunk_and_without_details():
    answer = Answer()
    data = json.loads(text())
    data["usage"] = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}
    assert answer.take(json.dumps(data).encode())
    assert answer.num_cached_tokens is None
    answer.take(usage(9, 2, prompt_tokens_details={"cached_tokens": 30}))
    assert answer.num_cached_tokens == 9  # no more than there are


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"choices": [{', "data that is not JSON"),
        (b"\xff\xfe\x00", "data that is not JSON"),
        (b"[" * 100_000, "data that is not JSON"),
        (b"3", "data that is no object"),
        (chunk(choices=None), "a chunk that is not vLLM's"),
        (chunk(id="x"), "a chunk that is not vLLM's"),
        (chunk(choices=[3]), "a chunk that is not vLLM's"),
        (chunk(choices=[{"words": 3}]), "a chunk that is not vLLM's"),
        (text(token_ids=["a"]), "a chunk that is not vLLM's"),
        (text(token_ids=3), "a chunk that is not vLLM's"),
        (delta(), None),
        (chunk(choices=[{"delta": None}]), "a chunk that is not vLLM's"),
        (usage(completion=-3), "a chunk that is not vLLM's"),
        (usage(completion=float("nan")), "a chunk that is not vLLM's"),
        (usage(completion=True), "a chunk that is not vLLM's"),
        (usage(prompt_tokens_details={"cached_tokens": 1e30}), "a chunk that is not vLLM's"),
    ],
)
def test_what_vllm_does_not_send_is_refused(data, reason):
    if reason is None:
        assert Answer().take(data)
    else:
        with pytest.raises(MalformedStreamError, match=reason):
            Answer().take(data)


def test_errors_in_the_stream():
    with pytest.raises(ErrorInStreamError, match=r"^error 400 in stream$"):
        Answer().take(chunk(error={"message": "bad", "type": "BadRequestError", "code": 400}))
    for error in ("bad", {"message": "bad"}, {"code": "bad"}):
        with pytest.raises(ErrorInStreamError, match=r"^error 500 in stream$"):
            Answer().take(chunk(error=error))


@pytest.mark.parametrize("reason", ["stop", "length", "repetition"])
def test_good_ends(reason):
    answer = Answer()
    answer.take(text("a", reason))
    assert answer.is_finished


@pytest.mark.parametrize(
    ("reason", "told", "is_down"),
    [("abort", "abort", False), ("error", "error", True), ("my sk-key", "for another reason", False)],
)
def test_an_answer_that_the_server_ended_before_its_time(reason, told, is_down):
    answer = Answer()
    answer.take(text())
    with pytest.raises(ErrorInStreamError, match=f"^finished by the server: {told}$") as error:
        answer.take(text("", reason))
    assert error.value.is_down == is_down
    assert not answer.is_finished
    with pytest.raises(MalformedStreamError):
        Answer().take(text("", ["abort"]))
