"""aibrix's virtual token counter: heavy users to the last instances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, Memory, least, within
from agents.heuristics.window import Window
from envs.feedback import Feedback
from envs.observation import FRAC_TENANT_SHARE, NUM_RUNNING

MAX_TOKENS_UNKNOWN = 8000.0
"""The most that a user had, before anything is known (token_tracker.go)."""


class Vtc(Heuristic):
    """``vtc-basic`` of vllm-project/aibrix at e3e10f9 (2026-08-22), after VTC (OSDI 2024).

    Rule: argmin of fairness_weight * |i - min(user / bucket, n - 1)| + load_weight * min(load / 100, 1) +
    noise, i being an instance's place among the n valid ones (so the choice depends on the rows' order), user
    the tokens of this request's user in the last 5 minutes, bucket = max(1000, (least + most of any user) /
    2), load ``num_running``, noise uniform in [0, 0.1). Input tokens count 1, output tokens 2.

    Approximations: whose request it is, is not observed, but that user's share of the prompt tokens of late:
    user = ``frac_tenant_share`` * the tokens of all users. Those are counted as requests end, by ``Window``'s
    clock and with their true outputs (there at dispatch, with a guess).

    Args:
        fairness_weight: of the distance from the user's place.
        load_weight: of the running requests.
        max_load: running requests that count as full.
        min_bucket_tokens: the least bucket.
        output_weight: input tokens that one output token is worth.
        window_s: how long tokens count.
        noise: breadth of the noise.
    """

    kind: ClassVar[Kind] = "load"
    memory: ClassVar[Memory] = "own"

    def __init__(
        self,
        fairness_weight: float = 1.0,
        load_weight: float = 1.0,
        max_load: float = 100.0,
        min_bucket_tokens: float = 1000.0,
        output_weight: float = 2.0,
        window_s: float = 300.0,
        noise: float = 0.1,
    ) -> None:
        self.fairness_weight = within("fairness_weight", fairness_weight, 0.0)
        self.load_weight = within("load_weight", load_weight, 0.0)
        self.max_load = within("max_load", max_load, 1.0)
        self.min_bucket_tokens = within("min_bucket_tokens", min_bucket_tokens, 1.0)
        self.output_weight = within("output_weight", output_weight, 0.0)
        self.window_s = within("window_s", window_s, 0.0)
        self.noise = within("noise", noise, 1e-6)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: nobody had any tokens."""
        super().reset(rng)
        self._used = Window(self.window_s)

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Count the tokens of the requests that ended, by tenant."""
        self._used.advance(completions)
        for feedback in completions:
            num_tokens = feedback.num_prompt_tokens + self.output_weight * feedback.num_output_tokens
            self._used.add(feedback.tenant, num_tokens)

    def costs(self, candidates: Candidates) -> Array:
        """Price without the noise."""
        used = self._used.totals.values()
        bounds = (min(used), max(used)) if used else (self.min_bucket_tokens, MAX_TOKENS_UNKNOWN)
        bucket = max(self.min_bucket_tokens, sum(bounds) / 2.0)
        user = float(candidates.request[FRAC_TENANT_SHARE]) * sum(used)
        num = len(candidates.indices)
        distance = np.abs(np.arange(num) - min(user / bucket, num - 1.0))
        load = np.minimum(candidates.column(NUM_RUNNING) / self.max_load, 1.0)
        costs: Array = self.fairness_weight * distance + self.load_weight * load
        return costs

    def chances(self, costs: Array, candidates: Candidates) -> Array:
        """Probability that a candidate is the cheapest once each has its noise, exact but for rounding."""
        lowest = least(costs)
        near = np.flatnonzero(costs < lowest + self.noise)
        starts = (costs[near] - lowest) / self.noise  # each then is uniform in [start, start + 1)
        nodes, weights = np.polynomial.legendre.leggauss(len(near) // 2 + 1)  # exact for such a product
        edges = np.append(np.unique(starts), 1.0)
        chances = np.zeros(len(costs))
        for low, high in pairwise(edges.tolist()):
            at = low + (high - low) * (nodes + 1.0) / 2.0
            dearer = np.minimum(
                1.0 - at[:, None] + starts, 1.0
            )  # [nodes, near]: that one's noise puts it beyond
            for place, index in enumerate(near.tolist()):
                if starts[place] <= low:
                    others = np.delete(dearer, place, axis=1).prod(axis=1)
                    chances[index] += (high - low) / 2.0 * (weights * others).sum()
        normal: Array = chances / chances.sum()
        return normal
