"""Dynamo's KV router cost."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, least, most, whole, within
from envs.observation import (
    FRAC_PREFIX_HIT,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_PROMPT_TOKENS,
)


class DynamoCost(Heuristic):
    """Default worker selection of ai-dynamo/dynamo (selector/default.rs at 07a6c9c; 1.6.1).

    Rule: argmin of s * max(active prefill blocks + prompt blocks - c * matched blocks, 0) + decode blocks
    + w * requests in flight, random among ties; s 1, c 1, w 0, temperature 0. At a temperature T > 0 the
    choice is drawn from softmax(-cost / ((max - min) * T)). Its preset ``--agentic`` is s 4, c 2, w 64.

    Columns: active prefill blocks from ``num_in_flight_uncached_tokens``; decode blocks from the prompts in
    flight, ``num_in_flight_prefill_tokens + num_in_flight_decode_tokens`` (Dynamo holds a request's blocks
    from dispatch on); matched blocks from ``frac_prefix_hit``. Blocks are fractional.

    Approximations: Dynamo counts a block held by several requests once and adds those of this prompt that no
    request there holds; which are held is not observed, so shared blocks count repeatedly and the prompt's
    count nowhere. Where no two requests in flight share blocks, this rule chooses as Dynamo 1.6.1 does; where
    all do, half of its choices are others (``make golden``: 0 and 79 of 150). Host and disk tiers, shared
    caches and the decay of the credit (0 by default) are left out.

    Args:
        block_size: tokens per block.
        prefill_weight: s.
        overlap_credit: c.
        request_weight: w.
        temperature: T.
    """

    kind: ClassVar[Kind] = "prefix"

    def __init__(
        self,
        block_size: int = 16,
        prefill_weight: float = 1.0,
        overlap_credit: float = 1.0,
        request_weight: float = 0.0,
        temperature: float = 0.0,
    ) -> None:
        self.block_size = whole("block_size", block_size, 1)
        self.prefill_weight = within("prefill_weight", prefill_weight, 0.0)
        self.overlap_credit = within("overlap_credit", overlap_credit, 0.0)
        self.request_weight = within("request_weight", request_weight, 0.0)
        self.temperature = within("temperature", temperature, 0.0)

    def costs(self, candidates: Candidates) -> Array:
        """Price in blocks."""
        column = candidates.column
        num_prompt_tokens = candidates.request[NUM_PROMPT_TOKENS].astype(np.float64)
        uncredited = num_prompt_tokens * (1.0 - self.overlap_credit * column(FRAC_PREFIX_HIT))
        num_prefill_tokens = np.maximum(column(NUM_IN_FLIGHT_UNCACHED_TOKENS) + uncredited, 0.0)
        num_active_tokens = column(NUM_IN_FLIGHT_PREFILL_TOKENS) + column(NUM_IN_FLIGHT_DECODE_TOKENS)
        num_blocks = (self.prefill_weight * num_prefill_tokens + num_active_tokens) / self.block_size
        if self.request_weight > 0.0:
            num_blocks = num_blocks + self.request_weight * column(NUM_IN_FLIGHT)
        costs: Array = num_blocks
        return costs

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Uniform over the lowest, or softmax at a temperature."""
        if self.temperature <= 0.0:
            return super().chances(costs, candidates)
        spread = most(costs) - least(costs)
        divisor = np.where(spread > 0.0, spread, 1.0) * self.temperature  # where all are alike, any will do
        weights: Array = np.exp((least(costs) - costs) / divisor)
        chances: Array = weights / weights.sum()
        return chances
