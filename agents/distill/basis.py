"""What distilled rules may be made of: features, and what follows from them by the physics of serving."""

from __future__ import annotations

from typing import NamedTuple

from agents.distill.expression import (
    INSTANCE_COLUMNS,
    REQUEST_ENTRIES,
    Expression,
    Feature,
    Fleet,
    Number,
    Quantity,
)
from agents.distill.unit import unit

ONE = Number(1.0)
_SPEED, _CAPACITY, _STEP = (
    Feature(name) for name in ("prefill_tokens_per_s", "num_kv_cache_tokens", "decode_step_s")
)
_BACKLOG, _OWN, _PROMPT = (
    Feature(name) for name in ("num_in_flight_uncached_tokens", "num_uncached_tokens", "num_prompt_tokens")
)
_PREFILLING, _DECODING = Feature("num_in_flight_prefill_tokens"), Feature("num_in_flight_decode_tokens")
_ARRIVALS, _USAGE = Feature("arrivals_per_s"), Feature("frac_kv_cache_usage")
_TURNOVERS = Feature("prefix_age_s") * Feature("recent_tokens_per_s") / _CAPACITY

SURVIVING = Quantity("expected_uncached_tokens", _PROMPT - (_PROMPT - _OWN) / (ONE + _TURNOVERS))
"""Tokens to compute if a match fades while the cache is turned over, half of it after one turnover: the index
of a router does not see what was evicted since (``agents.bandits.survival`` learns how fast)."""
FRAC_DECODING = Quantity("frac_decoding", _DECODING / _CAPACITY)
"""Share of the KV cache that holds prompts past their first token."""
EXPECTED_TTFT = Quantity("expected_ttft_s", (_BACKLOG + _OWN) / _SPEED)
"""Time to compute what is ahead of the request's first token, one prompt after the other."""
LOADED_TTFT = Quantity("loaded_ttft_s", EXPECTED_TTFT * (ONE + _DECODING / _CAPACITY))
"""The same where decodes share the steps, and the blocks that they hold are the sooner missed."""
FADED_TTFT = Quantity("faded_ttft_s", (_BACKLOG + SURVIVING) / _SPEED * (ONE + _DECODING / _CAPACITY))
"""The same with what survives of the match."""

_TOKENS = (
    _BACKLOG,
    _OWN,
    SURVIVING,
    _PREFILLING,
    _DECODING,
    Feature("num_tokens_sent_since_scrape"),
    _PROMPT,
)
_COUNTS = tuple(
    Feature(name) for name in ("num_waiting", "num_running", "num_in_flight", "num_in_flight_prefills")
)

PAST = ("frac_prefix_hits", "snapshot_age_s", "prefix_age_s", "recent_ttft_s", "recent_tokens_per_s")
"""Features that tell how instances fared before, which follows from where requests were sent: a student that
goes by them takes what the teacher's choices led to for their reason, and then chases its own past (causal
confusion: de Haan, Jayaraman, Levine, NeurIPS 2019). Where a PPO agent had a mean TTFT of 1.08 s, formulas
with them had 1.17 to 1.41 s, those without 1.07 to 1.15 s (four streams of 1,000 requests). Turnovers alone
are made of them: those say when a match was evicted, whoever chose."""
PRESENT = tuple(Feature(name) for name in INSTANCE_COLUMNS if name not in PAST)
"""All others of an instance."""


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
    *(Term(tokens, _CAPACITY) for tokens in (_PREFILLING, _DECODING)),  # share of the KV cache that they fill
    *(Term(count * _STEP) for count in _COUNTS),  # time of a step for each
    *(Term(_OWN * count, _SPEED) for count in _COUNTS),  # by how much others are held up, all together
)
"""Of one instance and the request: what a cost may add up."""

SLOWED: tuple[Expression, ...] = (
    FRAC_DECODING,
    FRAC_DECODING * FRAC_DECODING,
    _PREFILLING / _CAPACITY,
    (_DECODING + _PREFILLING) / _CAPACITY,
    _USAGE,
    _USAGE * _USAGE,
    _DECODING,
    _PROMPT,  # of long prompts attention is the greater part
    *(own for own in (_OWN, SURVIVING)),
    *(_ARRIVALS * own for own in (_OWN, SURVIVING)),  # those who come meanwhile wait, too
    *(_ARRIVALS * own / _SPEED for own in (_OWN, SURVIVING)),
    *_COUNTS,
)
"""By which the whole sum may grow: W + S + λ S (W + S) is (W + S) (1 + λ S)."""

CONTEXTS: tuple[Feature | Quantity | Fleet, ...] = (
    *(Feature(name) for name in REQUEST_ENTRIES),
    Fleet("least", EXPECTED_TTFT),
    Fleet("mean", EXPECTED_TTFT),
    Fleet("mean", Feature("num_in_flight")),
    Fleet("mean", _USAGE),
    Fleet("most", Feature("frac_prefix_hit")),
)
"""The same for all instances; a formula may be another for other contexts."""


def excess(of: Feature | Quantity) -> Quantity:
    """By how much something exceeds its least over the fleet."""
    return Quantity(f"excess_{of.name}", of - Fleet("least", of))
