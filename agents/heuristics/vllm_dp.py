"""vLLM's own balancing of data-parallel engines."""

from __future__ import annotations

from typing import ClassVar

from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, first_of_equals, within
from envs.observation import NUM_RUNNING, NUM_SENT_SINCE_SCRAPE, NUM_WAITING


class VLLMDataParallel(Heuristic):
    """``DPLBAsyncMPClient.get_core_engine_for_request`` of vLLM, up to the rewrite that weighs KV usage.

    Rule: argmin 4 * waiting + running over the last statistics (every 100 ms there, every scrape here). The
    client counts each request that it sends as one more waiting until the next statistics come:
    ``num_sent_since_scrape`` is added to ``num_waiting``. Of equals the first, as there for a single client,
    so ties depend on the rows' order.

    Args:
        waiting_weight: running requests that one waiting request is worth.
        count_sent: whether requests sent since the scrape count as waiting, as vLLM does.
    """

    kind: ClassVar[Kind] = "load"

    def __init__(self, waiting_weight: float = 4.0, count_sent: bool = True) -> None:
        self.waiting_weight = within("waiting_weight", waiting_weight, 0.0)
        self.count_sent = count_sent

    def costs(self, candidates: Candidates) -> Array:
        """Price by weighted requests."""
        column = candidates.column
        num_waiting = column(NUM_WAITING)
        if self.count_sent:
            num_waiting = num_waiting + column(NUM_SENT_SINCE_SCRAPE)
        return first_of_equals(self.waiting_weight * num_waiting + column(NUM_RUNNING))
