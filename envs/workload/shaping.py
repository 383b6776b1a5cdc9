"""Which part of a trace, how long its requests may be, and how fast they come: the shared settings."""

from __future__ import annotations

from math import inf
from typing import Literal

from envs.workload.settings import positive, positive_int
from envs.workload.trace import Trace

Part = Literal["all", "train", "test"]


def shaped(
    trace: Trace,
    *,
    part: Part = "all",
    frac_train: float = 0.7,
    window_start_s: float = 0.0,
    window_stop_s: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_model_len: int | None = None,
    num_repeats: int = 1,
    rate_factor: float = 1.0,
    rate_per_s: float | None = None,
) -> Trace:
    """Part, window, clip, drop, repeat, then set the rate, in that order.

    The window [window_start_s, window_stop_s) (None: to the end) counts in seconds as recorded from the
    beginning of the part; so no window of one part holds a request of the other. ``rate_per_s`` is the mean
    arrival rate wanted (None: the trace's own, times ``rate_factor``). Raises ``ValueError``, naming the
    setting, for one out of range and for two rates.
    """
    if part not in ("all", "train", "test"):
        raise ValueError(f"part is {part!r}: choose 'all', 'train' or 'test'")
    if not 0.0 < frac_train < 1.0:
        raise ValueError(f"frac_train is {frac_train}: it must lie between 0 and 1")
    if not 0.0 <= window_start_s < (inf if window_stop_s is None else window_stop_s):
        raise ValueError(
            f"window_start_s is {window_start_s} and window_stop_s {window_stop_s}:"
            " give numbers with 0 <= window_start_s < window_stop_s, or window_stop_s = null for the end"
        )
    positive_int("num_repeats", num_repeats)
    positive("rate_factor", rate_factor)
    if rate_per_s is not None:
        positive("rate_per_s", rate_per_s)
    if rate_per_s is not None and rate_factor != 1.0:
        raise ValueError(f"both rate_per_s = {rate_per_s} and rate_factor = {rate_factor} given: choose one")
    if part != "all":
        trace = trace.split(frac_train)[0 if part == "train" else 1]
    if window_start_s > 0.0 or window_stop_s is not None:
        trace = trace.window(window_start_s, inf if window_stop_s is None else window_stop_s)
    trace = trace.truncated(max_prompt_tokens, max_output_tokens)
    if max_model_len is not None:
        trace = trace.dropping_longer_than(max_model_len)
    trace = trace.repeated(num_repeats)
    return trace.scaled(rate_factor if rate_per_s is None else rate_per_s / trace.rate_per_s)
