"""What one router knows, kept up to date as it sends requests and sees answers: the source of observations.

The environment holds one, and so does a live router::

    view.reset()
    on scrape:         view.scraped(cluster.snapshot(), now_s)
    on request:        observation = view.look(request, now_s)
                       view.sent(request, instance, now_s)
    on first token:    view.first_token(request_id, now_s)
    on completion:     view.completed(request_id, num_output_tokens, now_s)

It sees nothing of the cluster but snapshots and its own requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp2
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs import observation as columns
from envs.cluster import ClusterSnapshot, InstanceTraits, Request
from envs.fading import Fading
from envs.observation import INSTANCE_FEATURES, INSTANCE_HIGH, INSTANCE_LOW, Observation
from envs.prefix_index import PrefixIndex

SAME_SCRAPE_S = 1e-6
"""Scrapes closer than this are one: a snapshot tells its age, and time less age is not exact."""


class _InFlight(NamedTuple):
    instance: int
    arrived_at_s: float
    num_prompt_tokens: int
    num_uncached_tokens: int


@njit(cache=True)
def _fill(
    table: NDArray[np.float64],
    hit_tokens: NDArray[np.int64],
    hit_used_at_s: NDArray[np.float64],
    scraped_at_s: NDArray[np.float64],
    throughput: NDArray[np.float64],
    max_model_len: NDArray[np.int64],
    healthy: NDArray[np.bool_],
    num_prompt_tokens: int,
    now_s: float,
    half_life_s: float,
    instances: NDArray[np.float32],
    mask: NDArray[np.int8],
) -> None:
    """Complete the table's columns of this request and this instant and copy it out, clipped."""
    for index in range(hit_tokens.shape[0]):
        row = table[index]
        num_hits = min(hit_tokens[index], num_prompt_tokens - 1)
        row[columns.SNAPSHOT_AGE_S] = now_s - scraped_at_s[index]
        row[columns.FRAC_PREFIX_HIT] = num_hits / num_prompt_tokens
        row[columns.PREFIX_AGE_S] = now_s - hit_used_at_s[index]
        row[columns.NUM_UNCACHED_TOKENS] = num_prompt_tokens - num_hits
        fade = 2.0 ** ((throughput[index, 1] - now_s) / half_life_s)
        row[columns.RECENT_TOKENS_PER_S] = throughput[index, 0] * fade * np.log(2.0) / half_life_s
        for column in range(row.shape[0]):
            instances[index, column] = min(max(row[column], INSTANCE_LOW[column]), INSTANCE_HIGH[column])
        mask[index] = healthy[index] and num_prompt_tokens < max_model_len[index]


@njit(cache=True)
def _take_scrape(
    table: NDArray[np.float64],
    scraped_at_s: NDArray[np.float64],
    healthy: NDArray[np.bool_],
    num_waiting: NDArray[np.int64],
    num_running: NDArray[np.int64],
    frac_kv_cache_usage: NDArray[np.float64],
    frac_prefix_hits: NDArray[np.float64],
    age_s: NDArray[np.float64],
    seen_healthy: NDArray[np.bool_],
    now_s: float,
) -> None:
    """Write the gauges of the instances that were scraped anew into their rows."""
    for index in range(table.shape[0]):
        healthy[index] = seen_healthy[index]
        if now_s - age_s[index] <= scraped_at_s[index] + SAME_SCRAPE_S:
            continue
        row = table[index]
        scraped_at_s[index] = now_s - age_s[index]
        row[columns.NUM_WAITING] = num_waiting[index]
        row[columns.NUM_RUNNING] = num_running[index]
        row[columns.FRAC_KV_CACHE_USAGE] = frac_kv_cache_usage[index]
        row[columns.FRAC_PREFIX_HITS] = frac_prefix_hits[index]
        row[columns.NUM_SENT_SINCE_SCRAPE] = 0.0
        row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] = 0.0


class RouterView:
    """One router's knowledge of its instances.

    Args:
        traits: The instances, in index order.
        max_instances: Rows of the observation; those beyond the instances are 0 and masked.
        index: The router's own prefix index, of so many instances.
        half_life_s: Of the features that speak of late: recent TTFT and throughput, arrivals, tenants.
    """

    def __init__(
        self,
        traits: Sequence[InstanceTraits],
        max_instances: int,
        index: PrefixIndex,
        half_life_s: float = 30.0,
    ) -> None:
        if len(traits) > max_instances:
            raise ValueError(
                f"the cluster has {len(traits)} instances and max_instances is {max_instances}: raise it"
            )
        if len({trait.block_size for trait in traits}) != 1:
            raise ValueError("the instances differ in block_size; a request's block hashes fit only one")
        if not half_life_s > 0:
            raise ValueError(f"half_life_s is {half_life_s}, it must be more than 0")
        self.max_instances = max_instances
        self.index = index
        self.half_life_s = half_life_s
        num = len(traits)
        self._block_size = traits[0].block_size
        self._max_model_len = np.array([trait.max_model_len for trait in traits])
        self._prefix_caching = [trait.prefix_caching for trait in traits]
        self._profile = np.zeros((num, len(INSTANCE_FEATURES)))
        for row, trait in zip(self._profile, traits, strict=True):
            row[columns.PREFILL_TOKENS_PER_S] = trait.prefill_tokens_per_s
            row[columns.DECODE_STEP_S] = trait.decode_step_s
            row[columns.NUM_KV_CACHE_TOKENS] = trait.num_blocks * trait.block_size
            row[columns.PREFIX_CACHING] = trait.prefix_caching
        self._table = self._profile.copy()
        self._healthy = np.ones(num, np.bool_)
        self._scraped_at_s = np.zeros(num)
        self._throughput = np.zeros((num, 2))  # a Fading each: amount, at_s
        self.reset()

    def reset(self) -> None:
        """Know nothing but the profiles, at time 0."""
        self.index.reset()
        self._table[:] = self._profile
        self._healthy.fill(True)
        self._scraped_at_s.fill(0.0)
        self._throughput.fill(0.0)
        num = len(self._table)
        self._ttft = [(Fading(self.half_life_s), Fading(self.half_life_s)) for _ in range(num)]
        self._arrivals = Fading(self.half_life_s)
        self._tokens = Fading(self.half_life_s)
        self._tenants: dict[int, Fading] = {}  # tenant -> prompt tokens routed
        self._in_flight: dict[int, _InFlight] = {}  # request_id -> what it adds to its instance's row
        self._decoding: set[int] = set()  # request_ids in flight that have their first token
        self._looked: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def scraped(self, snapshot: ClusterSnapshot, now_s: float) -> None:
        """Take in the last scrape of each instance; one that is no newer than the last changes nothing."""
        _take_scrape(
            self._table,
            self._scraped_at_s,
            self._healthy,
            snapshot.num_waiting,
            snapshot.num_running,
            snapshot.frac_kv_cache_usage,
            snapshot.frac_prefix_hits,
            snapshot.age_s,
            snapshot.healthy,
            now_s,
        )

    def look(
        self, request: Request, now_s: float, exact_hit_tokens: NDArray[np.int64] | None = None
    ) -> Observation:
        """Return what a policy may see of this request and the fleet now, in arrays of its own.

        ``exact_hit_tokens`` ``[num_instances]``, from the caches themselves, replaces the router's estimate.
        """
        num_prompt_tokens = request.num_prompt_tokens
        if exact_hit_tokens is None:
            prompt_hashes = request.block_hashes[: num_prompt_tokens // self._block_size]
            hit_tokens, used_at_s = self.index.match(prompt_hashes, now_s)
        else:
            hit_tokens = exact_hit_tokens
            used_at_s = np.where(hit_tokens > 0, now_s, -np.inf)
        self._looked = (request.request_id, hit_tokens)
        instances = np.zeros((self.max_instances, len(INSTANCE_FEATURES)), np.float32)
        mask = np.zeros(self.max_instances, np.int8)
        _fill(
            self._table,
            hit_tokens,
            used_at_s,
            self._scraped_at_s,
            self._throughput,
            self._max_model_len,
            self._healthy,
            num_prompt_tokens,
            now_s,
            self.half_life_s,
            instances,
            mask,
        )
        tenant = self._tenants.get(request.tenant)
        total = self._tokens.now(now_s)
        features = (
            num_prompt_tokens,
            request.turn,
            min(tenant.now(now_s) / total, 1.0) if tenant and total > 0 else 0.0,
            self._arrivals.per_s(now_s),
            request.session_id & 0xFFFFFF if request.session_id >= 0 else -1,
        )
        return {"instances": instances, "request": np.array(features, np.float32), "mask": mask}

    def sent(self, request: Request, instance: int, now_s: float) -> None:
        """Note that the request last looked at was sent to an instance."""
        looked, hit_tokens = self._looked
        if looked != request.request_id:
            raise ValueError(
                f"request {request.request_id} was sent without a look; the last was at {looked}"
            )
        num_prompt_tokens = request.num_prompt_tokens
        num_uncached_tokens = num_prompt_tokens - min(int(hit_tokens[instance]), num_prompt_tokens - 1)
        row = self._table[instance]
        row[columns.NUM_IN_FLIGHT] += 1
        row[columns.NUM_IN_FLIGHT_PREFILLS] += 1
        row[columns.NUM_IN_FLIGHT_PREFILL_TOKENS] += num_prompt_tokens
        row[columns.NUM_IN_FLIGHT_UNCACHED_TOKENS] += num_uncached_tokens
        row[columns.NUM_SENT_SINCE_SCRAPE] += 1
        row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] += num_prompt_tokens
        self._in_flight[request.request_id] = _InFlight(
            instance, request.arrived_at_s, num_prompt_tokens, num_uncached_tokens
        )
        if self._prefix_caching[instance]:
            self.index.sent(instance, request.block_hashes[: num_prompt_tokens // self._block_size], now_s)
        self._arrivals.add(1.0, now_s)
        self._tokens.add(num_prompt_tokens, now_s)
        if request.tenant not in self._tenants:
            self._tenants[request.tenant] = Fading(self.half_life_s)
        self._tenants[request.tenant].add(num_prompt_tokens, now_s)

    def first_token(self, request_id: int, at_s: float) -> None:
        """Note that a request's first token came."""
        flight = self._in_flight[request_id]
        row = self._table[flight.instance]
        self._end_prefill(flight)
        row[columns.NUM_IN_FLIGHT_DECODE_TOKENS] += flight.num_prompt_tokens
        self._decoding.add(request_id)
        ttft_s, weight = self._ttft[flight.instance]
        ttft_s.add(at_s - flight.arrived_at_s, at_s)
        weight.add(1.0, at_s)
        row[columns.RECENT_TTFT_S] = ttft_s.amount / weight.amount

    def completed(self, request_id: int, num_output_tokens: int, at_s: float) -> None:
        """Note that a request's last token came, or that it failed (``num_output_tokens`` 0)."""
        flight = self._in_flight.pop(request_id)
        row = self._table[flight.instance]
        row[columns.NUM_IN_FLIGHT] -= 1
        if request_id in self._decoding:
            self._decoding.remove(request_id)
            row[columns.NUM_IN_FLIGHT_DECODE_TOKENS] -= flight.num_prompt_tokens
        else:
            self._end_prefill(flight)
        if num_output_tokens:
            fading = self._throughput[flight.instance]
            fading[0] *= exp2((fading[1] - at_s) / self.half_life_s)
            fading[0] += flight.num_prompt_tokens + num_output_tokens
            fading[1] = at_s

    def _end_prefill(self, flight: _InFlight) -> None:
        row = self._table[flight.instance]
        row[columns.NUM_IN_FLIGHT_PREFILLS] -= 1
        row[columns.NUM_IN_FLIGHT_PREFILL_TOKENS] -= flight.num_prompt_tokens
        row[columns.NUM_IN_FLIGHT_UNCACHED_TOKENS] -= flight.num_uncached_tokens
