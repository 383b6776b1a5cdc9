"""Which part of a trace, how long its requests may be, and how fast they come: the shared settings."""

from __future__ import annotations

from typing import Literal

from envs.workload.trace import Trace

Part = Literal["all", "train", "test"]


def shaped(
    trace: Trace,
    *,
    part: Part = "all",
    frac_train: float = 0.7,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_model_len: int | None = None,
    num_repeats: int = 1,
    rate_factor: float = 1.0,
    rate_per_s: float | None = None,
) -> Trace:
    """Part, clip, drop, repeat, then set the rate, in that order.

    ``rate_per_s`` is the mean arrival rate wanted (None: the trace's own, times ``rate_factor``).
    Raises ``ValueError`` for an unknown part or for two rates.
    """
    if part not in ("all", "train", "test"):
        raise ValueError(f"part is {part!r}: choose 'all', 'train' or 'test'")
    if rate_per_s is not None and rate_factor != 1.0:
        raise ValueError(f"both rate_per_s = {rate_per_s} and rate_factor = {rate_factor} given: choose one")
    if part != "all":
        trace = trace.split(frac_train)[0 if part == "train" else 1]
    trace = trace.truncated(max_prompt_tokens, max_output_tokens)
    if max_model_len is not None:
        trace = trace.dropping_longer_than(max_model_len)
    trace = trace.repeated(num_repeats)
    return trace.scaled(rate_factor if rate_per_s is None else rate_per_s / trace.rate_per_s)
