"""What a routing policy may see: the one feature table and its one encoder.

The environment, the agents, the adversary, exported bundles and the live router all use this file, so that
a policy is served the very numbers it was trained on. An observation holds physical quantities in the units
of the table; ``encode`` turns it into the numbers a network reads. Policies written by hand read columns:

    observation["instances"][:, NUM_WAITING]       # one value per instance
    observation["request"][NUM_PROMPT_TOKENS]      # one value

A feature's *staleness class* says how old its value may be:

* ``scraped``: from the instance's ``/metrics``, as old as ``snapshot_age_s`` says;
* ``router``: counted by the router itself, always fresh;
* ``profile``: known before the first request;
* ``request``: of the request to be routed.
"""

from __future__ import annotations

import hashlib
import json
from math import isfinite
from typing import NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Observation: TypeAlias = dict[str, NDArray[np.generic]]
"""``instances`` float32 ``[max_instances, num_instance_features]``, ``request`` float32
``[num_request_features]``, ``mask`` int8 ``[max_instances]``: 1 where the request may go."""


class Feature(NamedTuple):
    """One row of the table."""

    name: str
    unit: str
    low: float
    high: float
    """Bounds; values beyond them are clipped."""
    transform: str
    """``linear``: value / scale. ``log1p``: log(1 + value / scale). ``key``: an identity, not encoded."""
    scale: float
    staleness: str
    source: str
    """How a backend obtains it."""


MAX_COUNT, MAX_TOKENS, MAX_SECONDS = 1e6, 1e8, 3600.0
MAX_KEY = float(2**24 - 1)
"""Keys up to here are exact in float32."""

INSTANCE_FEATURES: tuple[Feature, ...] = (
    Feature(
        "num_waiting", "requests", 0, MAX_COUNT, "log1p", 1, "scraped", "gauge vllm:num_requests_waiting"
    ),
    Feature(
        "num_running", "requests", 0, MAX_COUNT, "log1p", 1, "scraped", "gauge vllm:num_requests_running"
    ),
    Feature("frac_kv_cache_usage", "1", 0, 1, "linear", 1, "scraped", "gauge vllm:kv_cache_usage_perc"),
    Feature(
        "frac_prefix_hits",
        "1",
        0,
        1,
        "linear",
        1,
        "scraped",
        "counters vllm:prefix_cache_hits over vllm:prefix_cache_queries, since the instance started",
    ),
    Feature("snapshot_age_s", "s", 0, MAX_SECONDS, "log1p", 0.1, "scraped", "now less the last scrape"),
    Feature(
        "num_in_flight", "requests", 0, MAX_COUNT, "log1p", 1, "router", "sent there and not yet completed"
    ),
    Feature(
        "num_in_flight_prefills",
        "requests",
        0,
        MAX_COUNT,
        "log1p",
        1,
        "router",
        "sent there and still without a first token",
    ),
    Feature(
        "num_in_flight_prefill_tokens",
        "tokens",
        0,
        MAX_TOKENS,
        "log1p",
        1024,
        "router",
        "prompt tokens of the requests still without a first token",
    ),
    Feature(
        "num_in_flight_uncached_tokens",
        "tokens",
        0,
        MAX_TOKENS,
        "log1p",
        1024,
        "router",
        "those of them that the router expects the instance to compute",
    ),
    Feature(
        "num_in_flight_decode_tokens",
        "tokens",
        0,
        MAX_TOKENS,
        "log1p",
        1024,
        "router",
        "prompt tokens of the requests that have their first token and not their last",
    ),
    Feature(
        "num_sent_since_scrape",
        "requests",
        0,
        MAX_COUNT,
        "log1p",
        1,
        "router",
        "sent there since the last scrape",
    ),
    Feature(
        "num_tokens_sent_since_scrape",
        "tokens",
        0,
        MAX_TOKENS,
        "log1p",
        1024,
        "router",
        "prompt tokens sent there since the last scrape",
    ),
    Feature(
        "frac_prefix_hit",
        "1",
        0,
        1,
        "linear",
        1,
        "router",
        "share of this request's prompt cached there: by the router's own index, or exact where configured",
    ),
    Feature(
        "prefix_age_s",
        "s",
        0,
        MAX_SECONDS,
        "log1p",
        1,
        "router",
        "since the matched prefix was last sent there; the upper bound where nothing matches",
    ),
    Feature(
        "num_uncached_tokens",
        "tokens",
        0,
        MAX_TOKENS,
        "log1p",
        1024,
        "router",
        "prompt tokens of this request that the instance would have to compute",
    ),
    Feature(
        "recent_ttft_s",
        "s",
        0,
        MAX_SECONDS,
        "log1p",
        0.1,
        "router",
        "mean TTFT of the requests sent there, forgotten with a half-life; 0 before the first",
    ),
    Feature(
        "recent_tokens_per_s",
        "tokens/s",
        0,
        MAX_TOKENS,
        "log1p",
        1000,
        "router",
        "prompt and output tokens of the requests completed there per second, with the same half-life",
    ),
    Feature(
        "prefill_tokens_per_s",
        "tokens/s",
        0,
        MAX_TOKENS,
        "log1p",
        1000,
        "profile",
        "speed of one 2048-token prompt alone",
    ),
    Feature(
        "decode_step_s", "s", 0, 60, "log1p", 0.01, "profile", "one step of 16 sequences, 2048 context each"
    ),
    Feature(
        "num_kv_cache_tokens", "tokens", 0, 1e9, "log1p", 16384, "profile", "num_blocks times block_size"
    ),
    Feature("prefix_caching", "0 or 1", 0, 1, "linear", 1, "profile", "whether prefix caching is on"),
)
"""Columns of ``observation["instances"]``, in order."""

REQUEST_FEATURES: tuple[Feature, ...] = (
    Feature("num_prompt_tokens", "tokens", 0, MAX_TOKENS, "log1p", 1024, "request", "tokenised prompt"),
    Feature("turn", "turns", 0, 1e4, "log1p", 1, "request", "position in its session, from 1"),
    Feature(
        "frac_tenant_share",
        "1",
        0,
        1,
        "linear",
        1,
        "router",
        "its tenant's share of the prompt tokens routed lately",
    ),
    Feature(
        "arrivals_per_s", "requests/s", 0, MAX_COUNT, "log1p", 1, "router", "arrivals lately, all instances"
    ),
    Feature(
        "session_key",
        "key",
        -1,
        MAX_KEY,
        "key",
        1,
        "request",
        "24 bits of its session's identity; -1 without session",
    ),
)
"""Entries of ``observation["request"]``, in order."""

INSTANCE_NAMES: tuple[str, ...] = tuple(feature.name for feature in INSTANCE_FEATURES)
"""Names of the columns of ``observation["instances"]``, in order."""

REACHABLE: tuple[str, ...] = tuple(
    feature.name
    for feature in INSTANCE_FEATURES
    if feature.staleness == "scraped" and feature.name != "snapshot_age_s"
)
"""The features that an attacker or a fault outside of the router can reach: what the instances say of
themselves. How old that is, ``snapshot_age_s``, the router tells by its own clock."""

(
    NUM_WAITING,
    NUM_RUNNING,
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HITS,
    SNAPSHOT_AGE_S,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_SENT_SINCE_SCRAPE,
    NUM_TOKENS_SENT_SINCE_SCRAPE,
    FRAC_PREFIX_HIT,
    PREFIX_AGE_S,
    NUM_UNCACHED_TOKENS,
    RECENT_TTFT_S,
    RECENT_TOKENS_PER_S,
    PREFILL_TOKENS_PER_S,
    DECODE_STEP_S,
    NUM_KV_CACHE_TOKENS,
    PREFIX_CACHING,
) = range(len(INSTANCE_FEATURES))
NUM_PROMPT_TOKENS, TURN, FRAC_TENANT_SHARE, ARRIVALS_PER_S, SESSION_KEY = range(len(REQUEST_FEATURES))

SCHEMA_HASH = hashlib.sha256(json.dumps([INSTANCE_FEATURES, REQUEST_FEATURES]).encode()).hexdigest()[:16]
"""Version of the table: a policy trained on one table must not be served another."""


def _column(features: tuple[Feature, ...], field: str) -> NDArray[np.float32]:
    return np.array([getattr(feature, field) for feature in features], np.float32)


INSTANCE_LOW, INSTANCE_HIGH = _column(INSTANCE_FEATURES, "low"), _column(INSTANCE_FEATURES, "high")
REQUEST_LOW, REQUEST_HIGH = _column(REQUEST_FEATURES, "low"), _column(REQUEST_FEATURES, "high")

_ENCODED = tuple(feature for feature in (*INSTANCE_FEATURES, *REQUEST_FEATURES) if feature.transform != "key")
_ENCODED_REQUEST = tuple(
    index for index, feature in enumerate(REQUEST_FEATURES) if feature.transform != "key"
)
_SCALE = _column(_ENCODED, "scale")
_LOG = np.array([index for index, feature in enumerate(_ENCODED) if feature.transform == "log1p"])
ENCODED_NAMES: tuple[str, ...] = tuple(feature.name for feature in _ENCODED)
"""Names of the columns that ``encode`` returns."""


def observation_space(max_instances: int) -> spaces.Dict:
    """The space of observations of up to ``max_instances`` instances."""
    if max_instances < 1:
        raise ValueError(f"max_instances is {max_instances}, it must be at least 1")
    return spaces.Dict(
        {
            "instances": spaces.Box(
                np.tile(INSTANCE_LOW, (max_instances, 1)), np.tile(INSTANCE_HIGH, (max_instances, 1))
            ),
            "request": spaces.Box(REQUEST_LOW, REQUEST_HIGH),
            "mask": spaces.MultiBinary(max_instances),
        }
    )


def encode(
    instances: NDArray[np.generic], request: NDArray[np.generic], mask: NDArray[np.generic]
) -> NDArray[np.float32]:
    """Turn raw observations into what a network reads.

    Args:
        instances: ``[..., max_instances, num_instance_features]``.
        request: ``[..., num_request_features]``.
        mask: ``[..., max_instances]``.

    Returns:
        float32 ``[..., max_instances, len(ENCODED_NAMES)]``: each row an instance's features and, the same
        in every row, the request's; rows of masked instances are 0.

    Raises:
        ValueError: where a feature is not finite; the message names it.
    """
    flat, request_flat = instances.ravel(), request.ravel()
    if not (isfinite(flat.dot(flat)) and isfinite(request_flat.dot(request_flat))):  # squares cannot cancel
        check_finite(instances, request)
    num_features = instances.shape[-1]
    encoded = np.empty((*instances.shape[:-1], len(_ENCODED)), np.float32)
    encoded[..., :num_features] = instances
    encoded[..., num_features:] = request[..., None, _ENCODED_REQUEST]
    encoded /= _SCALE
    encoded[..., _LOG] = np.log1p(np.maximum(encoded[..., _LOG], 0.0))
    encoded *= mask[..., None]
    return encoded


def decode(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The physical values of encoded rows, ``[..., len(ENCODED_NAMES)]``; of masked ones 0."""
    values = rows.astype(np.float64)
    values[..., _LOG] = np.expm1(values[..., _LOG])
    return values * _SCALE


def check_finite(instances: NDArray[np.generic], request: NDArray[np.generic]) -> None:
    """Raise ``ValueError`` naming the first feature that is NaN or infinite, if any."""
    for values, features in ((instances, INSTANCE_FEATURES), (request, REQUEST_FEATURES)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            place = tuple(int(index) for index in bad[0])
            where = f" of instance {place[-2]}" if values is instances else ""
            raise ValueError(
                f"observation: {features[place[-1]].name}{where} is {values[place]}, it must be a finite"
                f" number of {features[place[-1]].unit}: look at what fills this feature"
            )
