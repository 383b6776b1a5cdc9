"""What distilled rules may be made of: features, and what follows from them by the physics of serving."""

from __future__ import annotations

from typing import NamedTuple

from agents.distill.expression import INSTANCE_COLUMNS, REQUEST_ENTRIES, Expression, Feature, Fleet, Quantity
from agents.distill.unit import unit

_SPEED, _CAPACITY, _STEP = (
    Feature(name) for name in ("prefill_tokens_per_s", "num_kv_cache_tokens", "decode_step_s")
)
_BACKLOG, _OWN = Feature("num_in_flight_uncached_tokens"), Feature("num_uncached_tokens")
_TOKENS = (
    _BACKLOG,
    _OWN,
    Feature("num_in_flight_prefill_tokens"),
    Feature("num_in_flight_decode_tokens"),
    Feature("num_tokens_sent_since_scrape"),
    Feature("num_prompt_tokens"),
)
_COUNTS = tuple(
    Feature(name) for name in ("num_waiting", "num_running", "num_in_flight", "num_in_flight_prefills")
)

PAST = ("frac_prefix_hits", "snapshot_age_s", "prefix_age_s", "recent_ttft_s", "recent_tokens_per_s")
"""Features that tell how instances fared before, which follows from where requests were sent: a student that
goes by them takes what the teacher's choices led to for their reason, and then chases its own past (causal
confusion: de Haan, Jayaraman, Levine, NeurIPS 2019). Where a PPO agent had a mean TTFT of 1.08 s, formulas
with them had 1.17 to 1.41 s, those without 1.07 to 1.15 s (four streams of 1,000 requests)."""
PRESENT = tuple(Feature(name) for name in INSTANCE_COLUMNS if name not in PAST)
"""All others of an instance."""

EXPECTED_TTFT = Quantity("expected_ttft_s", (_BACKLOG + _OWN) / _SPEED)
"""Time to compute what is ahead of the request's first token, one prompt after the other."""


class Term(NamedTuple):
    """What a formula may weigh: a feature, a product of features, or one of these over a feature."""

    top: Expression
    over: Feature | None = None

    @property
    def expression(self) -> Expression:
        """The whole of it."""
        return self.top if self.over is None else self.top / self.over

    @property
    def is_work(self) -> bool:
        """Whether it is a time to compute tokens: what a cost may be told in."""
        return self.over == _SPEED and self.expression.unit == unit("s")


TERMS: tuple[Term, ...] = (
    *(Term(feature) for feature in PRESENT),
    *(Term(tokens, _SPEED) for tokens in _TOKENS),  # time to compute them
    *(Term(tokens, _CAPACITY) for tokens in _TOKENS),  # share of the KV cache that they fill
    *(Term(count * _STEP) for count in _COUNTS),  # time of a step for each
    *(Term(_OWN * count, _SPEED) for count in _COUNTS),  # by how much others are held up, all together
    *(Term(tokens * Feature("frac_kv_cache_usage"), _SPEED) for tokens in _TOKENS),
)
"""Of one instance and the request."""

CONTEXTS: tuple[Feature | Quantity | Fleet, ...] = (
    *(Feature(name) for name in REQUEST_ENTRIES),
    Fleet("least", EXPECTED_TTFT),
    Fleet("mean", EXPECTED_TTFT),
    Fleet("mean", Feature("num_in_flight")),
    Fleet("mean", Feature("frac_kv_cache_usage")),
    Fleet("most", Feature("frac_prefix_hit")),
)
"""The same for all instances; a formula may be another for other contexts."""


def excess(of: Feature | Quantity) -> Quantity:
    """By how much something exceeds its least over the fleet."""
    return Quantity(f"excess_{of.name}", of - Fleet("least", of))
