"""production-stack's prefix awareness: the longest match, whatever the load."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, most, whole
from envs.observation import NUM_PROMPT_TOKENS, NUM_UNCACHED_TOKENS


class StackPrefixAware(Heuristic):
    """``prefixaware`` of vllm-project/production-stack at a6c01db (2026-08-05).

    Rule: the longest match in whole chunks of 128 characters, random among equals; so where nothing matches,
    random among all (``missed``). Load is not looked at.

    Approximations: the match is this router's view in tokens, ``num_prompt_tokens - num_uncached_tokens``,
    a chunk being 32 of them (4 characters each); there a trie of the prompts' hashes that forgets nothing.

    Args:
        chunk_tokens: tokens per chunk.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(self, chunk_tokens: int = 32) -> None:
        self.chunk_tokens = whole("chunk_tokens", chunk_tokens, 1)

    def costs(self, candidates: Candidates) -> Array:
        """Price by chunks that do not match, up to a constant."""
        num_hits = candidates.request[NUM_PROMPT_TOKENS] - candidates.column(NUM_UNCACHED_TOKENS)
        num_chunks: Array = (
            (np.maximum(num_hits, 0.0) / self.chunk_tokens).astype(np.int64).astype(np.float64)
        )
        self.note("missed", most(num_chunks) <= 0.0)
        return -num_chunks
