"""What a request's first token waits for, each part in seconds by the profile: the terms of a model of TTFT.

With P the profile's prefill speed (one prompt of 2048 tokens alone), d its decode step (of 32,768 tokens of
context), n the prompt's tokens, u those of them that must be computed, U, N and m the uncached tokens, prompt
tokens and number of the prompts ahead, D the tokens of context being decoded, K those of the KV cache and H
those of it in use (``held_tokens``), x those that wait there and that this router did not send:

===============  =====================================  ==================================================
term             seconds                                why
===============  =====================================  ==================================================
own              u / P                                  linear layers
own_attention    q u (n - u / 2) / P                    each token attends to all before it
own_beside       (u / 2048) d D / 32768                 decodes share the steps; their context is read too
ahead            V / P, V = U (1 - 1 / 2m)              first come, first served; the first is half done
ahead_attention  q V (N - U / 2) / (m P)                likewise, of m prompts of one length
ahead_beside     (V / 2048) d D / 32768                 likewise
room             max(H + u - 0.9 K, 0) / tokens/s       until enough blocks are free
others           x (U + u) / (m + 1) / P                what other routers sent, as of the last scrape
step             decode_step_s                          the step under way
floor            1                                      network, server, scheduler
===============  =====================================  ==================================================

q is 6e-5 per token: of the roofline profiles of Llama-3.1-8B, prefill_attention_s / token_s lies between
5.3e-5 (A100) and 8.7e-5 (L40S). It weighs two terms and is not learned; their weights are. So is how many
tokens a step prefills, 2048 here, and how much of d is the reading of context.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from envs.observation import (
    DECODE_STEP_S,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_KV_CACHE_TOKENS,
    NUM_RUNNING,
    NUM_SENT_SINCE_SCRAPE,
    NUM_WAITING,
    PREFILL_TOKENS_PER_S,
    RECENT_TOKENS_PER_S,
    SNAPSHOT_AGE_S,
)

TERMS = (
    "own",
    "own_attention",
    "own_beside",
    "ahead",
    "ahead_attention",
    "ahead_beside",
    "room",
    "others",
    "step",
    "floor",
)
NUM_OWN = 3
"""The first terms are the request's own work, the others what it waits for."""
ATTENTION_PER_TOKEN = 6e-5
TOKENS_PER_STEP = 2048.0
PROFILED_CONTEXT = 16 * 2048.0
"""Tokens of context in the step that ``decode_step_s`` says."""
FULL = 0.9
"""Share of the KV cache from which on a request is taken to wait for room."""
SLOWEST_TURNOVER_S = 100.0
"""An instance is taken to free its whole cache in this time at least, also where nothing was completed."""


class Load(NamedTuple):
    """What the terms are made of, ``[num_instances]`` each (the prompt's alone may be one number)."""

    prefill_tokens_per_s: Any
    num_prompt_tokens: Any
    num_cached_tokens: Any
    """Of this prompt, as expected there."""
    num_uncached_ahead: Any
    num_tokens_ahead: Any
    num_prompts_ahead: Any
    num_decoding_tokens: Any
    num_held_tokens: Any
    """By the requests under way (``held_tokens``)."""
    num_kv_cache_tokens: Any
    throughput_tokens_per_s: Any
    num_unseen: Any
    """Requests that wait there and that this router did not send."""
    decode_step_s: Any


def load_of(instances: Any, num_held_tokens: Any, num_prompt_tokens: Any, num_cached_tokens: Any) -> Load:
    """The load that raw features ``[num_instances, num_instance_features]`` show; arrays may be traced.

    The others are as in ``Load``.
    """
    return Load(
        np.maximum(instances[:, PREFILL_TOKENS_PER_S], 1.0),
        num_prompt_tokens,
        num_cached_tokens,
        instances[:, NUM_IN_FLIGHT_UNCACHED_TOKENS],
        instances[:, NUM_IN_FLIGHT_PREFILL_TOKENS],
        np.maximum(instances[:, NUM_IN_FLIGHT_PREFILLS], 1.0),
        instances[:, NUM_IN_FLIGHT_DECODE_TOKENS],
        num_held_tokens,
        np.maximum(instances[:, NUM_KV_CACHE_TOKENS], 1.0),
        instances[:, RECENT_TOKENS_PER_S],
        unseen_of(instances),
        instances[:, DECODE_STEP_S],
    )


def unseen_of(instances: Any) -> Any:
    """Requests that wait there and that this router did not send, ``[num_instances]``; may be traced.

    Those that waited at the last scrape, less its own of then that still wait; the older, the less it tells.
    """
    own = np.maximum(instances[:, NUM_IN_FLIGHT_PREFILLS] - instances[:, NUM_SENT_SINCE_SCRAPE], 0.0)
    return np.maximum(instances[:, NUM_WAITING] - own, 0.0) / (1.0 + instances[:, SNAPSHOT_AGE_S])


def share_seen_of(instances: Any) -> Any:
    """Share of the fleet's requests that this router sent: 1 where it is alone; may be traced."""
    said = (instances[:, NUM_RUNNING] + instances[:, NUM_WAITING]).sum()
    sent = np.maximum(instances[:, NUM_IN_FLIGHT].sum(), 1.0)
    return np.minimum(sent / np.maximum(said, 1.0), 1.0)


def terms_of(load: Load) -> list[Any]:
    """``TERMS`` in their order, seconds, ``[num_instances]`` each (the last is 1); arrays may be traced."""
    speed, capacity = load.prefill_tokens_per_s, load.num_kv_cache_tokens
    to_compute = np.maximum(load.num_prompt_tokens - load.num_cached_tokens, 0.0)
    to_wait_for = load.num_uncached_ahead * (1.0 - 0.5 / load.num_prompts_ahead)
    own, ahead = to_compute / speed, to_wait_for / speed
    context = np.maximum(load.num_prompt_tokens - 0.5 * to_compute, 0.0)
    context_ahead = np.maximum(load.num_tokens_ahead - 0.5 * load.num_uncached_ahead, 0.0)
    beside_s = load.decode_step_s * load.num_decoding_tokens / (TOKENS_PER_STEP * PROFILED_CONTEXT)
    wanted = load.num_held_tokens + to_compute
    freed_per_s = np.maximum(load.throughput_tokens_per_s, capacity / SLOWEST_TURNOVER_S)
    return [
        own,
        ATTENTION_PER_TOKEN * own * context,
        to_compute * beside_s,
        ahead,
        ATTENTION_PER_TOKEN * ahead * context_ahead / load.num_prompts_ahead,
        to_wait_for * beside_s,
        np.maximum(wanted - FULL * capacity, 0.0) / freed_per_s,
        load.num_unseen * (load.num_uncached_ahead + to_compute) / (load.num_prompts_ahead + 1.0) / speed,
        load.decode_step_s,
        1.0,
    ]
