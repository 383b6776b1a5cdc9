"""Random traces from a few statistics.

The defaults are the published statistics of the Mooncake conversation trace (3.40 requests/s; prompt
p50/p90 6909/27367, 891 to 126195; output 350/597, 1 to 2000; ideal hit rate 36.6 %), for which this is the
stand-in where the trace is absent. What it lacks of the original: sessions that grow, and any dependence
between time, length and content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from envs.workload.drawn import Drawn
from envs.workload.laws import LogNormal, tenant_shares, zipf_shares
from envs.workload.rate import Burst, Ramp, RateSchedule, Shift, events_of
from envs.workload.replay import Replay, Start
from envs.workload.settings import positive, positive_int, slo_of
from envs.workload.shaping import Part, shaped
from envs.workload.trace import Floats, Integers, Trace

MOONCAKE_RATE = RateSchedule(3.40)
MOONCAKE_PROMPT = LogNormal(median=6909, sigma=1.074, min=891, max=126195)
MOONCAKE_OUTPUT = LogNormal(median=350, sigma=0.4167, min=1, max=2000)


def _frac_shared(base: float, shifts: Sequence[Sequence[float]], arrived_at_s: Floats) -> Floats:
    """Share of each prompt that it has in common with others, ``[num_requests]``."""
    named = {"frac_shared_prefix": base}
    frac_shared, last_s = np.full(len(arrived_at_s), base), -1.0
    for index, row in enumerate(shifts):
        if not isinstance(row, Sequence) or len(row) != 2 or not last_s < row[0]:
            raise ValueError(f"prefix_shifts[{index}] is {row}: give [at_s, frac_shared], instants ascending")
        last_s, named[f"the share of prefix_shifts[{index}]"] = row
        frac_shared[arrived_at_s >= last_s] = row[1]
    for name, frac in named.items():
        if not 0.0 <= frac <= 0.9:
            raise ValueError(f"{name} is {frac}: it must lie in [0, 0.9]")
    return frac_shared


def _prefix_ids(num_prompt_tokens: Integers, group: Integers, frac_shared: Floats, block: int) -> Integers:
    """Content ids, flat: each prompt opens with ``frac_shared`` of its blocks from its group's document."""
    num_blocks = -(-num_prompt_tokens // block)
    num_shared = np.minimum(np.rint(frac_shared * num_prompt_tokens / block), num_prompt_tokens // block)
    total, longest = int(num_blocks.sum()), int(num_blocks.max())
    place = np.arange(total) - np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
    document = np.repeat(group, num_blocks) * longest + place
    own = (int(group.max()) + 1) * longest + np.arange(total)
    return np.where(place < np.repeat(num_shared, num_blocks), document, own).astype(np.int64)


def generate(
    rng: np.random.Generator,
    *,
    num_requests: int = 12031,
    rate: RateSchedule = MOONCAKE_RATE,
    arrival_cv: float = 1.0,
    num_prefix_groups: int = 64,
    frac_shared_prefix: float = 0.39,
    prefix_shifts: Sequence[Sequence[float]] = (),
    group_zipf: float = 1.0,
    prompt: LogNormal = MOONCAKE_PROMPT,
    output: LogNormal = MOONCAKE_OUTPUT,
    num_tenants: int = 1,
    tenant_weights: Sequence[float] | None = None,
    hash_block_tokens: int = 512,
) -> Trace:
    """Draw a trace.

    Gaps between arrivals are Gamma with coefficient of variation ``arrival_cv`` (1: Poisson, 0: even) at
    rate 1, warped to ``rate``. Each prompt opens with ``frac_shared_prefix`` of its tokens, rounded to
    blocks of ``hash_block_tokens``, from one of ``num_prefix_groups`` documents (0: no prefixes), whose
    popularity falls with rank to the power ``-group_zipf``. From the instant of each row
    ``[at_s, frac_shared]`` of ``prefix_shifts`` on, another share takes its place. Raises ``ValueError`` for
    settings out of range.
    """
    if num_requests < 1:
        raise ValueError(f"num_requests is {num_requests}: it must be at least 1")
    if not 0.0 <= arrival_cv < float("inf"):
        raise ValueError(f"arrival_cv is {arrival_cv}: it must be a number from 0 (1: Poisson)")
    if num_prefix_groups < 0 or hash_block_tokens < 1:
        raise ValueError(
            f"num_prefix_groups is {num_prefix_groups} and hash_block_tokens {hash_block_tokens}:"
            " they must be at least 0 and 1"
        )
    gaps = np.ones(num_requests)
    if arrival_cv > 0.0:
        gaps = rng.gamma(arrival_cv**-2, arrival_cv**2, num_requests)
    num_prompt_tokens = prompt.draw_whole(rng, num_requests)
    num_output_tokens = output.draw_whole(rng, num_requests)
    tenant = rng.choice(num_tenants, num_requests, p=tenant_shares(num_tenants, tenant_weights))
    arrived_at_s = rate.instant_of(np.cumsum(gaps))
    frac_shared = _frac_shared(frac_shared_prefix, prefix_shifts, arrived_at_s)
    hashes: dict[str, Any] = {}
    if num_prefix_groups:
        group = rng.choice(num_prefix_groups, num_requests, p=zipf_shares(num_prefix_groups, group_zipf))
        num_blocks = -(-num_prompt_tokens // hash_block_tokens)
        hashes = {
            "hash_ids": _prefix_ids(num_prompt_tokens, group, frac_shared, hash_block_tokens),
            "hash_offsets": np.concatenate(([0], np.cumsum(num_blocks))),
        }
    return Trace(
        arrived_at_s=arrived_at_s,
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=num_output_tokens,
        tenant=tenant,
        hash_block_tokens=hash_block_tokens if num_prefix_groups else 0,
        notes=("generated",),
        **hashes,
    )


def workload(
    *,
    seed: int = 0,
    num_generated: int = 12031,
    rate_per_s: float = 3.40,
    shifts: Sequence[Sequence[float]] = (),
    ramps: Sequence[Sequence[float]] = (),
    bursts: Sequence[Sequence[float]] = (),
    arrival_cv: float = 1.0,
    num_prefix_groups: int = 64,
    frac_shared_prefix: float = 0.39,
    prefix_shifts: Sequence[Sequence[float]] = (),
    group_zipf: float = 1.0,
    prompt_median: float = 6909,
    prompt_sigma: float = 1.074,
    prompt_min: float = 891,
    prompt_max: float = 126195,
    output_median: float = 350,
    output_sigma: float = 0.4167,
    output_min: float = 1,
    output_max: float = 2000,
    num_tenants: int = 1,
    tenant_weights: Sequence[float] | None = None,
    hash_block_tokens: int = 512,
    part: Part = "all",
    frac_train: float = 0.7,
    window_start_s: float = 0.0,
    window_stop_s: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_model_len: int | None = None,
    num_repeats: int = 1,
    rate_factor: float = 1.0,
    num_requests: int | None = None,
    start: Start | Literal["fresh"] = "first",
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> Replay | Drawn:
    """Replay a generated trace; ``conf/workload/generated.yaml`` explains every setting."""
    slo = slo_of(slo_ttft_s, slo_tpot_s)
    num_generated = positive_int("num_generated", num_generated)
    rate = RateSchedule(
        positive("rate_per_s", rate_per_s),
        events_of(Shift, "shifts", shifts),
        events_of(Ramp, "ramps", ramps),
        events_of(Burst, "bursts", bursts),
    )
    prompt = LogNormal(prompt_median, prompt_sigma, prompt_min, prompt_max)
    output = LogNormal(output_median, output_sigma, output_min, output_max)

    def drawn(rng: np.random.Generator) -> Replay:
        trace = generate(
            rng,
            num_requests=num_generated,
            rate=rate,
            arrival_cv=arrival_cv,
            num_prefix_groups=num_prefix_groups,
            frac_shared_prefix=frac_shared_prefix,
            prefix_shifts=prefix_shifts,
            group_zipf=group_zipf,
            prompt=prompt,
            output=output,
            num_tenants=num_tenants,
            tenant_weights=tenant_weights,
            hash_block_tokens=hash_block_tokens,
        )
        trace = shaped(
            trace,
            part=part,
            frac_train=frac_train,
            window_start_s=window_start_s,
            window_stop_s=window_stop_s,
            max_prompt_tokens=max_prompt_tokens,
            max_output_tokens=max_output_tokens,
            max_model_len=max_model_len,
            num_repeats=num_repeats,
            rate_factor=rate_factor,
        )
        where = "first" if start == "fresh" else start
        return Replay(trace, block_size=block_size, num_requests=num_requests, start=where, slo=slo)

    return Drawn(drawn, seed) if start == "fresh" else drawn(np.random.default_rng(seed))
