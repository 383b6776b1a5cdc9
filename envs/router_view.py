"""What one router knows, kept up to date as it sends requests and sees answers: the source of observations.

The environment holds one, and so does a live router::

    view.reset()
    on scrape:         view.scraped(cluster.snapshot(), now_s)
    on request:        observation = view.look(request, now_s)
                       view.sent(request, instance, now_s)
    on first token:    view.first_token(request_id, now_s)
    on completion:     view.completed(request_id, num_output_tokens, now_s)

It sees nothing of the cluster but snapshots and its own requests, and where there are other routers before
the same instances, what those tell of theirs: ``view.told(their counts)``, ``view.index.told(...)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs import knowledge
from envs.cluster import ClusterSnapshot, InstanceTraits, Request
from envs.counts import COUNTED, NUM_TTFT, Counts, none
from envs.fading import faded, per_s
from envs.knowledge import ARRIVALS, FIRST_TENANT, NO_TENANT, blank_knowledge, know_nothing
from envs.observation import (
    ARRIVALS_PER_S,
    INSTANCE_FEATURES,
    INSTANCE_HIGH,
    RECENT_TOKENS_PER_S,
    RECENT_TTFT_S,
    REQUEST_FEATURES,
    Observation,
)
from envs.prefix_index import PrefixIndex
from envs.sends import Send, Sends

_MOST_COUNTED = INSTANCE_HIGH[list(COUNTED)]
_TINY = 1e-12


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
        self._block_size = traits[0].block_size
        self._prefix_caching = [trait.prefix_caching for trait in traits]
        self._knowledge = blank_knowledge(traits, num_tenants=4, num_slots=256)
        self.sends: Sends | None = None
        """What it tells other routers, where there are any, beside its counts."""
        self.reset()

    def reset(self) -> None:
        """Know nothing but the profiles, at time 0."""
        self.index.reset()
        know_nothing(self._knowledge)
        self._tenants: dict[int, int] = {}  # tenant -> its number, in the order of their first requests
        self._slots: dict[int, int] = {}  # request_id -> its row of the flights
        self._free_slots = list(range(len(self._knowledge.flights)))[::-1]
        self._looked: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._others: Counts | None = None

    def join(self, instance: int, traits: InstanceTraits, is_new: bool) -> None:
        """Take in what an instance is; of one that is new in its place, forget what was there before."""
        self._prefix_caching[instance] = traits.prefix_caching
        if is_new:
            self.index.forget(instance)
            if self.sends is not None:  # they go by the number of a place, which is another's now
                self.sends = Sends()
        knowledge.join(self._knowledge, instance, traits, is_new)

    def scraped(self, snapshot: ClusterSnapshot, now_s: float) -> None:
        """Take in the last scrape of each instance; one that is no newer than the last changes nothing."""
        knowledge.scraped(
            self._knowledge,
            snapshot.num_waiting,
            snapshot.num_running,
            snapshot.frac_kv_cache_usage,
            snapshot.frac_prefix_hits,
            snapshot.age_s,
            snapshot.healthy,
            now_s,
        )

    def counts(self, now_s: float) -> Counts:
        """What this router counts of its own requests."""
        known, half_life_s = self._knowledge, self.half_life_s
        counts = none(len(known.table)).instances
        counts[:, : len(COUNTED)] = known.table[:, COUNTED]
        instances = known.instances
        # Elementwise, though the functions are written for numbers.
        tokens = faded(instances["tokens"], instances["tokens_at_s"], now_s, half_life_s)  # type: ignore[arg-type]
        counts[:, COUNTED.index(RECENT_TOKENS_PER_S)] = per_s(tokens, half_life_s)
        for column, name in ((-2, "ttft_s"), (-1, "ttft_weight")):
            counts[:, column] = faded(instances[name], instances["ttft_at_s"], now_s, half_life_s)  # type: ignore[arg-type]
        arrivals, arrived_at_s = known.fading[ARRIVALS]
        return Counts(counts, per_s(faded(arrivals, arrived_at_s, now_s, half_life_s), half_life_s))

    def told(self, others: Counts | None) -> None:
        """Take in what the other routers count together, of the same instances; None: there are none."""
        self._others = others

    def look(
        self, request: Request, now_s: float, exact_hit_tokens: NDArray[np.int64] | None = None
    ) -> Observation:
        """Return what a policy may see of this request and the fleet now, in arrays of its own.

        ``exact_hit_tokens`` ``[num_instances]``, from the caches themselves, replaces the router's estimate.
        """
        if exact_hit_tokens is None:
            hit_tokens, hit_used_at_s = self.index.match(self._prompt_hashes(request), now_s)
        else:
            hit_tokens, hit_used_at_s = exact_hit_tokens, np.where(exact_hit_tokens > 0, now_s, -np.inf)
        self._looked = (request.request_id, hit_tokens)
        instances = np.zeros((self.max_instances, len(INSTANCE_FEATURES)), np.float32)
        features = np.zeros(len(REQUEST_FEATURES), np.float32)
        mask = np.zeros(self.max_instances, np.int8)
        knowledge.look(
            self._knowledge,
            request.num_prompt_tokens,
            request.turn,
            self._tenants.get(request.tenant, NO_TENANT),
            request.session_id,
            hit_tokens,
            hit_used_at_s,
            now_s,
            self.half_life_s,
            instances,
            features,
            mask,
        )
        if (others := self._others) is not None:
            all_of_us = self.counts(now_s).plus(others)
            seen, ttft_s, weight = instances[: len(others.instances)], *all_of_us.instances[:, -NUM_TTFT:].T
            seen[:, COUNTED] = np.clip(all_of_us.instances[:, :-NUM_TTFT], 0.0, _MOST_COUNTED)
            seen[weight > 0, RECENT_TTFT_S] = (ttft_s / np.maximum(weight, _TINY))[weight > 0]
            features[ARRIVALS_PER_S] = all_of_us.arrivals_per_s
        return {"instances": instances, "request": features, "mask": mask}

    def sent(self, request: Request, instance: int, now_s: float) -> None:
        """Note that the request last looked at was sent to an instance."""
        looked, hit_tokens = self._looked
        if looked != request.request_id:
            raise ValueError(
                f"request {request.request_id} was sent without a look; the last was at {looked}"
            )
        # These two may replace the knowledge, so they come before it is read as an argument.
        slot, tenant = self._free_slot(), self._tenant(request.tenant)
        self._slots[request.request_id] = slot
        knowledge.sent(
            self._knowledge,
            slot,
            instance,
            request.arrived_at_s,
            request.num_prompt_tokens,
            tenant,
            int(hit_tokens[instance]),
            now_s,
            self.half_life_s,
        )
        if self._prefix_caching[instance]:
            hashes = self._prompt_hashes(request)
            self.index.sent(instance, hashes, now_s)
            if self.sends is not None and len(keys := self.index.keys_of(hashes)):
                self.sends.add(Send(instance, keys.copy()))

    def first_token(self, request_id: int, at_s: float) -> None:
        """Note that a request's first token came."""
        knowledge.first_token(self._knowledge, self._slots[request_id], at_s, self.half_life_s)

    def completed(self, request_id: int, num_output_tokens: int, at_s: float) -> None:
        """Note that a request's last token came, or that it failed (``num_output_tokens`` 0)."""
        slot = self._slots.pop(request_id)
        self._free_slots.append(slot)
        knowledge.completed(self._knowledge, slot, num_output_tokens, at_s, self.half_life_s)

    def _prompt_hashes(self, request: Request) -> NDArray[np.int64]:
        return request.block_hashes[: request.num_prompt_tokens // self._block_size]

    def _free_slot(self) -> int:
        if not self._free_slots:
            flights = self._knowledge.flights
            num = len(flights)
            self._knowledge = self._knowledge._replace(
                flights=np.concatenate([flights, np.zeros_like(flights)])
            )
            self._free_slots = list(range(num, 2 * num))[::-1]
        return self._free_slots.pop()

    def _tenant(self, tenant: int) -> int:
        """The number of a tenant, a new one for a new tenant."""
        number = self._tenants.setdefault(tenant, len(self._tenants))
        fading = self._knowledge.fading
        if FIRST_TENANT + number == len(fading):
            self._knowledge = self._knowledge._replace(fading=np.concatenate([fading, np.zeros_like(fading)]))
        return number
