"""aibrix's least expected latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, Memory, first_of_equals, within
from envs.feedback import Feedback

PREFILL_S, PROMPT_TOKENS, DECODE_S, OUTPUT_TOKENS, REQUESTS = range(5)
"""What is added up per instance."""


class AibrixLeastLatency(Heuristic):
    """``least-latency`` of vllm-project/aibrix at e3e10f9 (2026-08-22).

    Rule: argmin of (mean prefill time / mean prompt) * P + (mean decode time / mean output) * G, per instance
    since its start; P and G are the means over the instances' mean prompts and outputs, not this request's
    lengths. Of an instance without a request the means are 0, so it goes first. Of equals the last, as there,
    so ties depend on the rows' order. aibrix adds the queueing time, but reads a histogram as a gauge, which
    makes it 0.

    Approximations: vLLM's histograms are not observed, the outcomes of this router's own requests stand in
    (``observe``): the prefill time is TTFT, and so has the queueing in it; the decode time is the rest. There
    mean lengths are of the last day.

    Args:
        guessed_prompt_tokens: P before any is known.
        guessed_output_tokens: G before any is known.
    """

    kind: ClassVar[Kind] = "load"
    memory: ClassVar[Memory] = "own"

    def __init__(self, guessed_prompt_tokens: float = 10.0, guessed_output_tokens: float = 100.0) -> None:
        self.guessed_prompt_tokens = within("guessed_prompt_tokens", guessed_prompt_tokens, 0.0)
        self.guessed_output_tokens = within("guessed_output_tokens", guessed_output_tokens, 0.0)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: nothing is known."""
        super().reset(rng)
        self._sums = np.zeros((0, 5))

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Add up times and tokens of what was served."""
        for feedback in completions:
            if feedback.failure or not math.isfinite(feedback.e2e_s):
                continue
            self._grow(feedback.instance + 1)
            self._sums[feedback.instance] += (
                feedback.ttft_s,
                feedback.num_prompt_tokens,
                feedback.e2e_s - feedback.ttft_s,
                feedback.num_output_tokens,
                1.0,
            )

    def costs(self, candidates: Candidates) -> Array:
        """Price by expected latency, ranked."""
        self._grow(int(candidates.indices[-1]) + 1)
        sums = self._sums[candidates.indices]
        prefill_s = _scaled(sums, PREFILL_S, PROMPT_TOKENS, self.guessed_prompt_tokens)
        decode_s = _scaled(sums, DECODE_S, OUTPUT_TOKENS, self.guessed_output_tokens)
        return first_of_equals((prefill_s + decode_s)[::-1])[::-1]

    def _grow(self, num_instances: int) -> None:
        missing = num_instances - len(self._sums)
        if missing > 0:
            self._sums = np.concatenate([self._sums, np.zeros((missing, 5))])


def _scaled(sums: Array, time_s: int, tokens: int, guess: float) -> Array:
    """Mean time of each instance, for the fleet's mean number of tokens."""
    means = sums[:, tokens] / np.maximum(sums[:, REQUESTS], 1.0)
    known = means > 0.0
    typical = means[known].mean() if known.any() else guess
    mean_s = sums[:, time_s] / np.maximum(sums[:, REQUESTS], 1.0)
    scaled: Array = mean_s / np.where(known, means, typical) * typical
    return scaled
