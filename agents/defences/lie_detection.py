"""Find instances whose reports contradict the latencies that the router observes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.defences.defence import GAUGES, Defence, Flags, Rows
from agents.hyperparameters import check_counts, check_not_negative, check_range
from agents.policy import Decision, Policy
from envs.observation import (
    DECODE_STEP_S,
    FRAC_PREFIX_HITS,
    NUM_TOKENS_SENT_SINCE_SCRAPE,
    NUM_UNCACHED_TOKENS,
    NUM_WAITING,
    PREFILL_TOKENS_PER_S,
    RECENT_TTFT_S,
    Observation,
)

Floats = NDArray[np.float64]
MEMORY = ("promised_s", "num_sent", "ttft_s", "ratio", "num_left")
"""Arrays of what is remembered, each ``[max_instances]``."""


class LieDetection(Defence):
    """An instance that takes much longer than its reported queue promises is not believed for a while.

    A request that is sent to an instance is promised the TTFT

        (num_waiting * mean + num_tokens_sent_since_scrape + num_uncached_tokens) / prefill_tokens_per_s
        + decode_step_s,

    ``mean`` being the mean uncached tokens of the requests routed so far. The promises of the last requests
    sent to an instance, forgotten by ``forgetting`` per request, are held against its ``recent_ttft_s``
    whenever that has changed, which is when a first token came. The instance lies if the ratio of the two is
    more than ``max_ratio`` times that of the other instances (their median, at least 1: a promise kept is no
    lie). For the next ``num_decisions`` its gauges are then replaced by the worst of the instances that are
    believed, or their median, unless its own are worse; then it gets another chance, in which the first
    tokens that come tell whether it still lies.

    It needs no counters, so that it works where several routers share the instances; it learns of a lie only
    as fast as first tokens come. It cannot tell a lie from an instance that is slower than its profile says,
    a throttled one say: either gets fewer requests. Old scrapes make honest instances look like liars at
    times, as their queues grow unseen.

    Args:
        policy: What is defended.
        max_ratio: How many times the others' ratio is a lie.
        min_ttft_s: An instance with a lower recent TTFT is left in peace.
        min_requests: Requests sent to an instance before it is judged, or held against others.
        num_decisions: For how many an instance is not believed, after the last time it was found to lie.
        forgetting: Weight of the past promises per request.
        replacement: ``worst`` or ``median`` of the instances that are believed.
    """

    kind = "lie_detection"
    counted = (
        "lying_instances",
        "lied_to",
    )  # times one was found to lie; decisions in which one was replaced

    def __init__(
        self,
        policy: Policy,
        max_ratio: float = 6.0,
        min_ttft_s: float = 0.5,
        min_requests: int = 5,
        num_decisions: int = 200,
        forgetting: float = 0.9,
        replacement: Literal["worst", "median"] = "worst",
    ) -> None:
        super().__init__(policy)
        check_range(1.0, 1e6, max_ratio=max_ratio)
        check_not_negative(min_ttft_s=min_ttft_s)
        check_counts(min_requests=min_requests, num_decisions=num_decisions)
        check_range(0.0, 0.9999, forgetting=forgetting)
        if replacement not in ("worst", "median"):
            raise ValueError(f"replacement is {replacement!r}, it must be 'worst' or 'median'")
        self.max_ratio, self.min_ttft_s, self.min_requests = max_ratio, min_ttft_s, min_requests
        self.num_decisions, self.forgetting, self.replacement = num_decisions, forgetting, replacement
        self.forget()

    def forget(self) -> None:
        """Know nothing of any instance."""
        self._begin(0)
        self._num_tokens = 0.0  # uncached, of all requests routed so far
        self._num_requests = 0

    def _begin(self, num_instances: int) -> None:
        self._promised_s = np.zeros(num_instances)  # mean promise of the last requests sent there
        self._num_sent = np.zeros(num_instances)
        self._ttft_s = np.zeros(num_instances)  # recent TTFT as last seen
        self._ratio = np.zeros(num_instances)  # of recent TTFT and promise, as last judged; 0: not yet
        self._num_left = np.zeros(num_instances)  # decisions for which it is not believed yet

    def act(self, observation: Observation) -> Decision:
        """Let the policy decide, and note what the chosen instance promises."""
        decision = super().act(observation)
        row = np.asarray(observation["instances"][decision.instance], np.float64)
        place = decision.instance
        num_tokens = row[NUM_UNCACHED_TOKENS]
        self._num_tokens += num_tokens
        self._num_requests += 1
        queued = row[NUM_WAITING] * self._num_tokens / self._num_requests + row[NUM_TOKENS_SENT_SINCE_SCRAPE]
        promise_s = (queued + num_tokens) / max(row[PREFILL_TOKENS_PER_S], 1.0) + row[DECODE_STEP_S]
        kept = self.forgetting if self._num_sent[place] else 0.0
        self._promised_s[place] = kept * self._promised_s[place] + (1.0 - kept) * promise_s
        self._num_sent[place] += 1
        return decision

    def mend(self, rows: Rows, valid: Flags) -> None:
        """Judge the instances of which something new is known; replace the gauges of those that lie."""
        if len(self._num_left) != len(rows):
            self._begin(len(rows))
        self._num_left = np.maximum(self._num_left - 1, 0)
        self._judge(rows[:, RECENT_TTFT_S].astype(np.float64))
        self.distrusted = (self._num_left > 0) & valid
        believed = rows[valid & ~self.distrusted]
        if not self.distrusted.any() or not len(believed):
            return
        self._counts["lied_to"] += 1
        for column in GAUGES:
            worse = np.minimum if column == FRAC_PREFIX_HITS else np.maximum  # of hits, fewer are worse
            theirs = believed[:, column]
            instead = worse.reduce(theirs) if self.replacement == "worst" else np.median(theirs)
            rows[self.distrusted, column] = worse(rows[self.distrusted, column], instead)

    def _judge(self, ttft_s: Floats) -> None:
        has_news = (ttft_s != self._ttft_s) & (self._num_sent >= self.min_requests)
        self._ttft_s = ttft_s
        if not has_news.any():
            return
        self._ratio[has_news] = ttft_s[has_news] / self._promised_s[has_news]
        for place in np.flatnonzero(has_news & (ttft_s > self.min_ttft_s)):
            others = self._ratio[(self._ratio > 0.0) & (np.arange(len(ttft_s)) != place)]
            if len(others) and self._ratio[place] > self.max_ratio * max(float(np.median(others)), 1.0):
                self._counts["lying_instances"] += int(self._num_left[place] == 0)
                self._num_left[place] = self.num_decisions

    def memory(self) -> dict[str, Any]:
        """What is known of each instance."""
        return {name: getattr(self, f"_{name}").copy() for name in MEMORY} | {
            "num_tokens": self._num_tokens,
            "num_requests": self._num_requests,
        }

    def load_memory(self, memory: Mapping[str, Any]) -> None:
        """Take up what ``memory`` returned."""
        for name in MEMORY:
            setattr(self, f"_{name}", np.array(memory[name], np.float64))
        self._num_tokens, self._num_requests = float(memory["num_tokens"]), int(memory["num_requests"])
