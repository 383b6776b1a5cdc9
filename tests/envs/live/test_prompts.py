"""Prompts share exactly what the trace's block hashes say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.cluster import Request
from envs.live.prompts import NUM_TOKEN_IDS, Prompts

BLOCK = 16


def request(number: int, num_prompt: int, hashes: list[int], num_output: int = 4) -> Request:
    return Request(number, 0.0, num_prompt, num_output, np.array(hashes, np.int64))


def shared(one: list[int], other: list[int]) -> int:
    """Whole blocks that two prompts open with alike."""
    num = 0
    while (
        len(block := one[num * BLOCK : (num + 1) * BLOCK]) == BLOCK
        and block == other[num * BLOCK : (num + 1) * BLOCK]
    ):
        num += 1
    return num


HASHES = st.lists(st.integers(1, 2**63 - 1), max_size=6)


@given(common=HASHES, one=HASHES, other=HASHES, tail=st.integers(1, BLOCK - 1))
def test_prompts_share_what_their_hashes_share(
    common: list[int], one: list[int], other: list[int], tail: int
) -> None:
    prompts = Prompts(BLOCK)
    chains = [common + one, common + other]
    made = [
        prompts.tokens(request(number, BLOCK * len(chain) + tail, chain))
        for number, chain in enumerate(chains)
    ]
    expected = 0
    for a, b in zip(*chains, strict=False):
        if a != b:
            break
        expected += 1
    assert shared(*made) == expected
    for ids, chain in zip(made, chains, strict=True):
        assert len(ids) == BLOCK * len(chain) + tail
        assert min(ids) >= 10
        assert max(ids) < 10 + NUM_TOKEN_IDS


def test_blocks_without_a_hash_are_a_requests_own() -> None:
    prompts = Prompts(BLOCK)
    first, second = (prompts.tokens(request(number, 100, [])) for number in (1, 2))
    assert shared(first, second) == 0
    assert prompts.tokens(request(1, 100, [])) == first
    assert shared(prompts.tokens(request(1, 100, [5])), prompts.tokens(request(2, 100, [5]))) == 1
    prompts.reset(7)
    assert shared(prompts.tokens(request(1, 100, [])), first) == 0


def test_a_prompt_goes_on_with_the_answer_that_was_said() -> None:
    prompts = Prompts(BLOCK)
    chain = [11, 12, 13, 14, 15]
    turn = request(
        1, 40, chain[:3], num_output=10
    )  # two whole blocks and 8 tokens; the third ends in the answer
    said = list(range(100, 110))
    begun = prompts.tokens(turn)
    prompts.answered(turn, said)
    follow_up = prompts.tokens(request(2, 70, chain))
    assert follow_up[:40] == begun
    assert follow_up[40:48] == said[:8]
    prompts.reset(0)
    assert prompts.tokens(request(2, 70, chain))[40:48] != said[:8]


def test_an_answer_that_nobody_goes_on_from_is_not_kept() -> None:
    prompts = Prompts(BLOCK)
    prompts.answered(request(1, 40, [11, 12]), list(range(100, 130)))
    assert not prompts._answers


def test_blocks_too_short_to_tell_hashes_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="block_size is 4: a block must have at least 8 tokens"):
        Prompts(4)
    with pytest.raises(ValueError, match="first_token_id is -1"):
        Prompts(16, -1)
