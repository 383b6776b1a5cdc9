"""Preble's exploitation or exploration, as aibrix ported it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import (
    Array,
    Candidates,
    Heuristic,
    Kind,
    Memory,
    demote,
    first_of_equals,
    least,
    most,
    share,
    within,
)
from agents.heuristics.window import Window
from envs.feedback import Feedback
from envs.observation import FRAC_PREFIX_HIT, NUM_IN_FLIGHT, NUM_PROMPT_TOKENS, NUM_UNCACHED_TOKENS


class AibrixPreble(Heuristic):
    """``prefix-cache-preble`` of vllm-project/aibrix at e3e10f9 (2026-08-22), after Preble (2407.00023).

    Rule, r being ``num_in_flight``: if max r - min r > 8, only the instances of min r are looked at. If the
    longest match of all (``frac_prefix_hit``) exceeds 0.5, of those that match longest the one that was sent
    the fewest requests in the last 3 minutes, random among ties. Else argmin of the cost of what it was sent
    in the last 3 minutes, the first of equals as there, so ties depend on the rows' order.

    Cost of a request: missed * prefill time + 45 tokens * 0.15 s. Missed is the share of its prompt that
    nobody held; the prefill time is that of these tokens on a V100, by aibrix's regression (``prefill_s``).

    Approximations: aibrix adds up over the nodes of a prefix tree and has a node's count and cost on every
    instance that it was ever sent to, its prefill divided by their number; here each request counts where it
    went, as in the paper. The last 3 minutes are known by ``Window``'s clock. Its own tree forgets after 5
    minutes; matches are here those of this router's index. Preble's eviction cost, rebalancing and stealing
    are not in aibrix either.

    Args:
        imbalance: spread of r beyond which only the least loaded count.
        match_threshold: match beyond which its holders are chosen from.
        window_s: how long a request counts.
        num_output_tokens: what is guessed of a request's output.
        output_token_s: what one output token costs.
    """

    kind: ClassVar[Kind] = "prefix"
    memory: ClassVar[Memory] = "own"

    def __init__(
        self,
        imbalance: float = 8.0,
        match_threshold: float = 0.5,
        window_s: float = 180.0,
        num_output_tokens: float = 45.0,
        output_token_s: float = 0.15,
    ) -> None:
        self.imbalance = within("imbalance", imbalance, 0.0)
        self.match_threshold = share("match_threshold", match_threshold)
        self.window_s = within("window_s", window_s, 0.0)
        self.num_output_tokens = within("num_output_tokens", num_output_tokens, 0.0)
        self.output_token_s = within("output_token_s", output_token_s, 0.0)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: nothing was sent."""
        super().reset(rng)
        self._sent = Window(self.window_s)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn how time goes on."""
        self._sent.advance(completions)

    def chose(self, candidates: Candidates, place: int) -> None:
        """Add up what the request costs."""
        num_missed = least(candidates.column(NUM_UNCACHED_TOKENS))
        num_prompt_tokens = float(candidates.request[NUM_PROMPT_TOKENS])
        missed = num_missed / max(num_prompt_tokens, 1.0)
        cost_s = missed * prefill_s(num_missed, num_prompt_tokens)
        cost_s += self.num_output_tokens * self.output_token_s
        self._sent.add(int(candidates.indices[place]), float(cost_s))

    def costs(self, candidates: Candidates) -> Array:
        """Price by requests or cost of late; others than the least loaded, or than the holders, behind."""
        num_in_flight = candidates.column(NUM_IN_FLIGHT)
        imbalanced = most(num_in_flight) - least(num_in_flight) > self.imbalance
        match, indices = candidates.column(FRAC_PREFIX_HIT), candidates.indices.tolist()
        out = imbalanced & (num_in_flight > least(num_in_flight))
        exploits = most(match) > self.match_threshold
        self.note("imbalanced", imbalanced)
        self.note("explored", ~exploits)
        if exploits:
            num_sent = np.array([self._sent.counts[index] for index in indices], np.float64)
            return demote(num_sent, out | (match < most(np.where(out, -1.0, match))))
        return demote(first_of_equals(np.array([self._sent.totals[index] for index in indices])), out)


def prefill_s(num_tokens: float, num_context_tokens: float) -> float:
    """Time to compute tokens that end a context of so many, seconds: Mistral 7B on a V100.

    The regressions of aibrix (prefix_cache_preble.go at e3e10f9): linear layers, attention of one request,
    and what of it grows with the square; less a tenth of the time is taken to be useful.
    """
    if num_tokens >= 384:
        linear_ms = 0.27106428 * num_tokens + 10.52444263
    elif num_tokens >= 192:
        linear_ms = -295.0 + 3.125 * num_tokens - 6.4e-3 * num_tokens**2
    else:
        linear_ms = 55.0
    if num_context_tokens <= 1024:
        attention_ms = 0.80
    else:
        attention_ms = 4.65e-4 * num_context_tokens + 0.398
        if num_tokens <= 1024:
            attention_ms /= 2
    quadratic_ms = 0.0
    if num_tokens >= 4096:
        quadratic_ms = -18.425 + 9.65e-3 * num_tokens + 5.4e-6 * num_tokens**2
    return float((linear_ms + attention_ms + quadratic_ms) / 1000.0 / 0.9)
