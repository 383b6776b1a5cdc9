"""How long one engine step takes.

    step_s = max(floor_s, overhead_s + token_s * n) + stairs(n)
             + prefill_attention_s * A + decode_sequence_s * D + decode_context_s * C
             + prefill_extra(P, A) + decode_extra(D, C)                with n = P + D

where one step schedules P prefill tokens and D decoding sequences (one token each), A is the number of
token pairs that the prefill chunks attend to and C the number of tokens of context that the decoding
sequences read. What depends on n is the linear layers, which wait for the model's weights (the floor) or
for arithmetic, whichever is longer; the rest is attention. The law never falls with more of P, A, D or C,
not even by a rounding error: every coefficient is >= 0, and what it multiplies rises with each of them.

A law has two forms. The *roofline* leaves ``stairs`` and the extras at 0 and suits a handful of figures
(``fit`` in ``profile.py``). The issue asked for an affine law there; one ``max`` fits silicon far better,
since decode is bound by reading weights and prefill is not. Worst relative error over the figures of the
profiles that are fitted so:

    ==== ======== ======
    GPU  roofline affine
    ==== ======== ======
    H200    3.4 %  9.8 %
    H100    4.1 % 11.3 %
    A100    2.1 %  4.3 %
    L40S    4.3 % 13.9 %
    ==== ======== ======

A law with ``floor_s = 0`` is the affine one; ``python -m envs.emulator.profile`` prints both.

The *table* is for a whole database (``profile_fit.py``). GEMMs take longer in stairs, a step up wherever one
more wave of tiles is needed, so ``stairs`` is piecewise linear between 16 knots; the extras are what
attention costs beyond its bulk rate (see the fields).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit


class StepTimeLaw(NamedTuple):
    """The law's coefficients, in seconds per unit of what each multiplies; those absent are 0."""

    floor_s: float
    """Per step: reading the weights once."""
    overhead_s: float
    """Per step that is bound by arithmetic."""
    token_s: float
    """Per scheduled token: the linear layers' arithmetic."""
    prefill_attention_s: float
    """Per token pair attended in prefill."""
    decode_sequence_s: float
    """Per decoding sequence, whatever its context."""
    decode_context_s: float
    """Per token of context in decode: reading its keys and values."""
    prefill_step_s: float = 0.0
    """Per step that prefills at all."""
    prefill_token_s: float = 0.0
    """Per prefill token: what attention adds to the linear layers."""
    prefill_far_s: float = 0.0
    """Per pair, where each prefill token counts for at least ``prefill_far_pairs`` of them."""
    prefill_far_pairs: float = 0.0
    decode_step_s: float = 0.0
    """Per step that decodes at all."""
    decode_least_s: float = 0.0
    """Per token of context, where each sequence counts for at least ``decode_least_tokens`` of them."""
    decode_least_tokens: float = 0.0
    decode_first_s: float = 0.0
    """Per token of context, of the ``decode_first_tokens`` that come after the first ``decode_first_after``
    in all: few tokens do not fill the GPU."""
    decode_first_tokens: float = 0.0
    decode_first_after: float = 0.0
    decode_near_s: float = 0.0
    """Per token of context up to ``decode_near_tokens`` for each sequence after the first
    ``decode_near_after``: more sequences than these share the GPU's units less evenly."""
    decode_near_tokens: float = 0.0
    decode_near_after: float = 0.0
    decode_more_s: float = 0.0
    """A second such cost."""
    decode_more_tokens: float = 0.0
    decode_more_after: float = 0.0
    knot_1_tokens: float = 0.0
    knot_2_tokens: float = 0.0
    knot_3_tokens: float = 0.0
    knot_4_tokens: float = 0.0
    knot_5_tokens: float = 0.0
    knot_6_tokens: float = 0.0
    knot_7_tokens: float = 0.0
    knot_8_tokens: float = 0.0
    knot_9_tokens: float = 0.0
    knot_10_tokens: float = 0.0
    knot_11_tokens: float = 0.0
    knot_12_tokens: float = 0.0
    knot_13_tokens: float = 0.0
    knot_14_tokens: float = 0.0
    knot_15_tokens: float = 0.0
    knot_16_tokens: float = 0.0
    """Scheduled tokens at which the stairs bend, in rising order."""
    slope_1_s: float = 0.0
    slope_2_s: float = 0.0
    slope_3_s: float = 0.0
    slope_4_s: float = 0.0
    slope_5_s: float = 0.0
    slope_6_s: float = 0.0
    slope_7_s: float = 0.0
    slope_8_s: float = 0.0
    slope_9_s: float = 0.0
    slope_10_s: float = 0.0
    slope_11_s: float = 0.0
    slope_12_s: float = 0.0
    slope_13_s: float = 0.0
    slope_14_s: float = 0.0
    slope_15_s: float = 0.0
    slope_16_s: float = 0.0
    """Per scheduled token from this knot to the next; the last slope goes on for ever."""


STEP_TIME_DTYPE = np.dtype([(name, np.float64) for name in StepTimeLaw._fields])
"""The law as a NumPy record: what a compiled engine stores for each of its instances."""


def as_record(law: StepTimeLaw) -> Any:
    """The law as a record of ``STEP_TIME_DTYPE``."""
    return np.array([law], STEP_TIME_DTYPE)[0]


@njit(cache=True, forceinline=True)
def attended_pairs(num_tokens: float, num_computed_tokens: float) -> float:
    """Token pairs that a prefill chunk attends to: each token sees all before it and itself."""
    return num_tokens * (num_computed_tokens + 0.5 * (num_tokens + 1.0))


@njit(cache=True, forceinline=True)
def _between(number: float, low: float, high: float) -> float:
    """How much of ``number`` lies between ``low`` and ``high``."""
    return min(max(number, low), high) - low


@njit(cache=True, forceinline=True)
def _stairs_s(law: Any, num_tokens: float) -> float:
    """The piecewise linear part of the law, written out since a record has no fields to loop over."""
    return (
        (
            law.slope_1_s * _between(num_tokens, law.knot_1_tokens, law.knot_2_tokens)
            + law.slope_2_s * _between(num_tokens, law.knot_2_tokens, law.knot_3_tokens)
            + law.slope_3_s * _between(num_tokens, law.knot_3_tokens, law.knot_4_tokens)
            + law.slope_4_s * _between(num_tokens, law.knot_4_tokens, law.knot_5_tokens)
        )
        + (
            law.slope_5_s * _between(num_tokens, law.knot_5_tokens, law.knot_6_tokens)
            + law.slope_6_s * _between(num_tokens, law.knot_6_tokens, law.knot_7_tokens)
            + law.slope_7_s * _between(num_tokens, law.knot_7_tokens, law.knot_8_tokens)
            + law.slope_8_s * _between(num_tokens, law.knot_8_tokens, law.knot_9_tokens)
        )
        + (
            law.slope_9_s * _between(num_tokens, law.knot_9_tokens, law.knot_10_tokens)
            + law.slope_10_s * _between(num_tokens, law.knot_10_tokens, law.knot_11_tokens)
            + law.slope_11_s * _between(num_tokens, law.knot_11_tokens, law.knot_12_tokens)
            + law.slope_12_s * _between(num_tokens, law.knot_12_tokens, law.knot_13_tokens)
        )
        + (
            law.slope_13_s * _between(num_tokens, law.knot_13_tokens, law.knot_14_tokens)
            + law.slope_14_s * _between(num_tokens, law.knot_14_tokens, law.knot_15_tokens)
            + law.slope_15_s * _between(num_tokens, law.knot_15_tokens, law.knot_16_tokens)
            + law.slope_16_s * max(num_tokens - law.knot_16_tokens, 0.0)
        )
    )


@njit(cache=True, forceinline=True)
def step_time_s(
    law: Any,
    num_prefill_tokens: float,
    num_attended_pairs: float,
    num_decodes: float,
    num_decode_context_tokens: float,
) -> float:
    """Seconds that one engine step takes.

    Args:
        law: A ``StepTimeLaw`` or a record of ``STEP_TIME_DTYPE``.
        num_prefill_tokens: P, summed over the step's prefill chunks.
        num_attended_pairs: A, summed over the step's prefill chunks.
        num_decodes: D, sequences that decode one token.
        num_decode_context_tokens: C, tokens of context summed over those sequences.
    """
    num_tokens = num_prefill_tokens + num_decodes
    linear_s = law.overhead_s + law.token_s * num_tokens
    attention_s = (
        law.prefill_attention_s * num_attended_pairs
        + law.decode_sequence_s * num_decodes
        + law.decode_context_s * num_decode_context_tokens
    )
    prefill_extra_s = (
        law.prefill_step_s * min(num_prefill_tokens, 1.0)
        + law.prefill_token_s * num_prefill_tokens
        + law.prefill_far_s * max(num_attended_pairs, law.prefill_far_pairs * num_prefill_tokens)
    )
    least_tokens = law.decode_least_tokens * num_decodes
    first_tokens = max(num_decode_context_tokens - law.decode_first_after, 0.0)
    near_tokens = law.decode_near_tokens * max(num_decodes - law.decode_near_after, 0.0)
    more_tokens = law.decode_more_tokens * max(num_decodes - law.decode_more_after, 0.0)
    decode_extra_s = (
        law.decode_step_s * min(num_decodes, 1.0)
        + law.decode_least_s * max(num_decode_context_tokens, least_tokens)
        + law.decode_first_s * min(first_tokens, law.decode_first_tokens)
        + law.decode_near_s * min(num_decode_context_tokens, near_tokens)
        + law.decode_more_s * min(num_decode_context_tokens, more_tokens)
    )
    extra_s = _stairs_s(law, num_tokens) + prefill_extra_s + decode_extra_s
    duration_s: float = max(law.floor_s, linear_s) + attention_s + extra_s
    return duration_s


def prefill_s(law: StepTimeLaw, num_prompt_tokens: int, max_num_batched_tokens: int) -> float:
    """Seconds to prefill one prompt alone, in chunks of at most ``max_num_batched_tokens``."""
    total_s = 0.0
    for start in range(0, num_prompt_tokens, max_num_batched_tokens):
        num_tokens = min(max_num_batched_tokens, num_prompt_tokens - start)
        total_s += step_time_s(law, num_tokens, attended_pairs(num_tokens, start), 0, 0)
    return total_s


def prefill_tokens_per_s(
    law: StepTimeLaw, max_num_batched_tokens: int, num_prompt_tokens: int = 2048
) -> float:
    """Prompt tokens computed per second, one prompt alone (``InstanceTraits.prefill_tokens_per_s``)."""
    return num_prompt_tokens / prefill_s(law, num_prompt_tokens, max_num_batched_tokens)


def decode_step_s(law: StepTimeLaw, num_sequences: int = 16, num_context_tokens: int = 2048) -> float:
    """Seconds of one decode step, with so much context each (``InstanceTraits.decode_step_s``)."""
    return float(step_time_s(law, 0, 0, num_sequences, num_sequences * num_context_tokens))
