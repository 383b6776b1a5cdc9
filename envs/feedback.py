"""What a router learns of its own decisions, once they have played out."""

from __future__ import annotations

from typing import NamedTuple


class Feedback(NamedTuple):
    """The outcome of one routing decision.

    Bandits learn from these and never from the reward that happens to arrive at the next step: a request's
    latency is known only after later decisions were made.
    """

    decision_id: int
    """Which decision since the last reset, from 0."""
    propensity: float
    """Probability with which the instance was chosen; NaN where the caller of ``step`` did not declare it."""
    instance: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    """Prompt tokens found in the instance's prefix cache."""
    num_preemptions: int
    arrived_at_s: float
    ttft_s: float
    tpot_s: float
    e2e_s: float
    slo_met: bool
    tenant: int
    failure: str
    """Empty for a served request, else why it failed; latencies to what did not come are NaN then."""
    num_retries: int = 0
    """How often the request had been sent before this decision."""
    is_retried: bool = False
    """Whether the request was sent again after this failure: its outcome is then a later decision's."""
