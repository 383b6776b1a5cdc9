"""Token-id prompts with the block structure of a trace.

A trace says which prompts open with the same blocks, not what they say. Each block hash becomes one block of
token ids, the same wherever it comes again and different from those of all other hashes, so that a server's
prefix cache finds what the trace says it should find and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.cluster import Request

NUM_TOKEN_IDS = 256
"""Ids used, one for each value of a byte."""
HASH_BYTES = 8
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


class Prompts:
    """Makes each request's prompt.

    Args:
        block_size: Tokens per block hash.
        first_token_id: The lowest id used; the model's vocabulary must hold the 256 from there on. The first
            ids of a vocabulary are left out, as they are often special ones.
    """

    def __init__(self, block_size: int, first_token_id: int = 10) -> None:
        if block_size < HASH_BYTES:
            raise ValueError(
                f"block_size is {block_size}: a block must have at least {HASH_BYTES} tokens to tell"
                " block hashes apart"
            )
        if first_token_id < 0:
            raise ValueError(f"first_token_id is {first_token_id}, it must not be negative")
        self.block_size = block_size
        self._first_token_id = first_token_id
        self.reset(0)

    def reset(self, nonce: int) -> None:
        """Begin an episode: what is private to a request differs from that of other nonces."""
        self._nonce = _mixed(nonce)
        self._answers: dict[int, NDArray[np.int64]] = {}  # block hash -> its tokens, some of an answer

    def tokens(self, request: Request) -> list[int]:
        """The prompt, ``[num_prompt_tokens]`` ids.

        Blocks without a hash, and what is left after the last whole block, are the request's own.
        """
        num_blocks = -(-request.num_prompt_tokens // self.block_size)
        hashes = np.empty(num_blocks, np.uint64)
        num_known = min(num_blocks, len(request.block_hashes))
        hashes[:num_known] = request.block_hashes[:num_known]
        own = _mixed(self._nonce + request.request_id)
        hashes[num_known:] = [_mixed(own + index) for index in range(num_known, num_blocks)]
        blocks = _digits(hashes, self.block_size)
        if self._answers:
            for index, block_hash in enumerate(request.block_hashes[:num_known].tolist()):
                answer = self._answers.get(block_hash)
                if answer is not None:
                    blocks[index] = answer
        ids: list[int] = (blocks.ravel()[: request.num_prompt_tokens] + self._first_token_id).tolist()
        return ids

    def answered(self, request: Request, token_ids: Sequence[int]) -> None:
        """Take in a request's answer: prompts that go on from it hold the tokens the server really said."""
        first = request.num_prompt_tokens // self.block_size
        if len(request.block_hashes) <= first or not token_ids:
            return
        begun = self.tokens(request)[first * self.block_size :]
        said = np.array([*begun, *token_ids], np.int64) - self._first_token_id
        for index, block_hash in enumerate(request.block_hashes[first:].tolist()):
            block = said[index * self.block_size : (index + 1) * self.block_size]
            if len(block) == self.block_size:
                self._answers[block_hash] = block


def _digits(hashes: NDArray[np.uint64], block_size: int) -> NDArray[np.int64]:
    """One block per hash: its bytes, then those of further scrambles of it; ``[num_blocks, block_size]``."""
    columns = []
    for start in range(0, block_size, HASH_BYTES):
        columns.append(hashes.astype("<u8").view(np.uint8).reshape(-1, HASH_BYTES))
        if start + HASH_BYTES < block_size:
            hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(_MIX_1) + np.uint64(_GOLDEN)
    return np.concatenate(columns, axis=1)[:, :block_size].astype(np.int64)


def _mixed(value: int) -> int:
    """Scramble a whole number into 64 bits (splitmix64's step and finaliser)."""
    value = (value + 1) * _GOLDEN & _MASK
    value = (value ^ (value >> 30)) * _MIX_1 & _MASK
    value = (value ^ (value >> 27)) * _MIX_2 & _MASK
    return value ^ (value >> 31)
