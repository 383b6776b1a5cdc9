"""How long one engine step takes.

    step_s = max(floor_s, overhead_s + token_s * (P + D))
             + prefill_attention_s * A + decode_sequence_s * D + decode_context_s * C

where one step schedules P prefill tokens and D decoding sequences (one token each), A is the number of
token pairs that the prefill chunks attend to and C the number of tokens of context that the decoding
sequences read. The first term is the linear layers, which wait for the model's weights (the floor) or for
arithmetic, whichever is longer; the others are attention. The law rises with each of P, A, D, C and is
convex in them.

The issue asked for an affine law. One ``max``, the roofline, fits silicon far better, since decode is
bound by reading weights and prefill is not. Worst relative error over the figures of each shipped profile:

    ==== ======== ======
    GPU  roofline affine
    ==== ======== ======
    H200    3.4 %  9.8 %
    H100    4.1 % 11.3 %
    A100    2.1 %  4.3 %
    L40S    4.3 % 13.9 %
    ==== ======== ======

A law with ``floor_s = 0`` is the affine one; ``python -m envs.emulator.profile`` prints both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit


class StepTimeLaw(NamedTuple):
    """The law's coefficients, in seconds per unit of what each multiplies."""

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
    linear_s = law.overhead_s + law.token_s * (num_prefill_tokens + num_decodes)
    attention_s = (
        law.prefill_attention_s * num_attended_pairs
        + law.decode_sequence_s * num_decodes
        + law.decode_context_s * num_decode_context_tokens
    )
    duration_s: float = max(law.floor_s, linear_s) + attention_s
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
