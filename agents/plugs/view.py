"""What a plug knows of its instances: a twin of ``envs.router_view.RouterView`` in NumPy and plain Python.

The same events lead to the same observations, to single precision; ``tests/agents/plugs/test_view.py`` holds
it to that. Other than there, instances have names, come and go, and memory is bounded whatever the host says
or forgets to say::

    view = View(schema, {name: Profile(...)})
    on scrape:      view.scraped(name, Gauges(...), at_s)
    on request:     observation = view.look(prompt, names, now_s)     # rows in the order of the names
                    view.sent(request_id, prompt, name, now_s)
    on first token: view.first_token(request_id, now_s)
    at the end:     view.completed(request_id, num_output_tokens, now_s)
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.plugs.prefix_index import PrefixIndex
from agents.plugs.prompt import TOKENS_PER_KEY, Prompt

SAME_SCRAPE_S = 1e-6
"""Scrapes closer than this are one."""
INSTANCE_COLUMNS = (
    "num_waiting",
    "num_running",
    "frac_kv_cache_usage",
    "frac_prefix_hits",
    "snapshot_age_s",
    "num_in_flight",
    "num_in_flight_prefills",
    "num_in_flight_prefill_tokens",
    "num_in_flight_uncached_tokens",
    "num_in_flight_decode_tokens",
    "num_sent_since_scrape",
    "num_tokens_sent_since_scrape",
    "frac_prefix_hit",
    "prefix_age_s",
    "num_uncached_tokens",
    "recent_ttft_s",
    "recent_tokens_per_s",
    "prefill_tokens_per_s",
    "decode_step_s",
    "num_kv_cache_tokens",
    "prefix_caching",
)
"""Columns of the observations that are made here; ``schema.json`` must name the same."""
REQUEST_COLUMNS = ("num_prompt_tokens", "turn", "frac_tenant_share", "arrivals_per_s", "session_key")

Observation = dict[str, NDArray[Any]]
"""``instances`` float32 ``[num_instances, num_instance_features]``, ``request`` float32
``[num_request_features]``, ``mask`` int8 ``[num_instances]``."""


class Profile(NamedTuple):
    """What is known of an instance beforehand. The defaults are RouteGym's ``h100_llama-3.1-8b``."""

    prefill_tokens_per_s: float = 46_846.0
    """Speed of one 2048-token prompt alone."""
    decode_step_s: float = 0.00786
    """One step of 16 sequences, 2048 context each."""
    num_kv_cache_tokens: float = 441_616.0
    prefix_caching: bool = True
    max_model_len: int = 131_072


class Gauges(NamedTuple):
    """What an instance says of itself."""

    num_waiting: float = 0.0
    num_running: float = 0.0
    frac_kv_cache_usage: float = 0.0
    frac_prefix_hits: float = 0.0


class Flight(NamedTuple):
    """A request in flight."""

    name: str
    arrived_at_s: float
    sent_at_s: float
    num_prompt_tokens: int
    num_uncached_tokens: int
    is_decoding: bool


class Sum:
    """A sum that forgets the past: what was added a half-life ago counts half."""

    __slots__ = ("_amount", "_at_s", "_half_life_s")

    def __init__(self, half_life_s: float) -> None:
        self._amount, self._at_s, self._half_life_s = 0.0, 0.0, half_life_s

    def now(self, now_s: float) -> float:
        """What is left."""
        return float(self._amount * 2.0 ** min((self._at_s - now_s) / self._half_life_s, 1000.0))

    def per_s(self, now_s: float) -> float:
        """The rate whose steady flow would make this sum."""
        return self.now(now_s) * math.log(2.0) / self._half_life_s

    def add(self, amount: float, now_s: float) -> None:
        """Add."""
        self._amount, self._at_s = self.now(now_s) + amount, now_s


class Instance:
    """What is known of one instance: its row of features and what they are made of."""

    def __init__(self, profile: Profile, half_life_s: float, prefixes: PrefixIndex, now_s: float) -> None:
        self.profile, self.prefixes = profile, prefixes
        self.scraped_at_s, self.gauges = now_s, Gauges()
        self.num_in_flight = self.num_prefills = 0
        self.num_prefill_tokens = self.num_uncached_tokens = self.num_decode_tokens = 0
        self.num_sent = self.num_tokens_sent = 0
        self.ttft_s, self.ttft_weight, self.tokens = Sum(half_life_s), Sum(half_life_s), Sum(half_life_s)
        self.recent_ttft_s = 0.0

    def row(self, prompt: Prompt, now_s: float) -> tuple[float, ...]:
        """The features, in the order of ``INSTANCE_COLUMNS``."""
        hit_tokens, used_at_s = self.prefixes.match(prompt.keys, now_s)
        num_hits = min(hit_tokens, prompt.num_prompt_tokens - 1)
        return (
            *self.gauges,
            now_s - self.scraped_at_s,
            self.num_in_flight,
            self.num_prefills,
            self.num_prefill_tokens,
            self.num_uncached_tokens,
            self.num_decode_tokens,
            self.num_sent,
            self.num_tokens_sent,
            num_hits / prompt.num_prompt_tokens,
            now_s - used_at_s,
            prompt.num_prompt_tokens - num_hits,
            self.recent_ttft_s,
            self.tokens.per_s(now_s),
            *self.profile[:4],
        )

    def end_prefill(self, flight: Flight) -> None:
        """A request has its first token, or has none and never will."""
        self.num_prefills -= 1
        self.num_prefill_tokens -= flight.num_prompt_tokens
        self.num_uncached_tokens -= flight.num_uncached_tokens


class View:
    """One router's knowledge of its instances.

    Args:
        schema: The bundle's, whose features must be those of this file.
        profiles: Of the instances, by name; that of ``""`` is of all that are not named.
        half_life_s: Of the features that speak of late. As in training: 30 s unless it was set otherwise.
        tokens_per_key: Granularity of the prefix index; other than 64 where keys are not ``prompt.keys_of``.
        prefix_capacity: Keys remembered per instance, llm-d's 31,250 as in training.
        prefix_max_age_s: A prefix not sent again for so long is taken to be evicted.
        max_known: Instances remembered; the ones not asked about for longest are forgotten.
        max_tenants: Tenants remembered, likewise.
        max_flights: Requests in flight; beyond, the oldest is taken to have failed.
        max_flight_s: A request in flight for so long is taken to have failed.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        profiles: Mapping[str, Profile] | None = None,
        *,
        half_life_s: float = 30.0,
        tokens_per_key: int = TOKENS_PER_KEY,
        prefix_capacity: int = 31_250,
        prefix_max_age_s: float = float("inf"),
        max_known: int = 256,
        max_tenants: int = 10_000,
        max_flights: int = 100_000,
        max_flight_s: float = 3600.0,
    ) -> None:
        features = schema["instance_features"], schema["request_features"]
        named = [tuple(row[0] for row in table) for table in features]
        if named != [INSTANCE_COLUMNS, REQUEST_COLUMNS]:
            raise ValueError("the bundle's features are not those of its plugs: export the policy again")
        limits = half_life_s, max_known, max_tenants, max_flights, max_flight_s
        if not all(limit > 0 for limit in limits):
            raise ValueError(
                "half_life_s, max_known, max_tenants, max_flights and max_flight_s must be above 0,"
                f" they are {limits}"
            )
        self._low = np.array([row[2] for row in features[0]])
        self._high = np.array([row[3] for row in features[0]])
        self._profiles = {"": Profile(), **(profiles or {})}
        self._half_life_s = half_life_s
        self._index = tokens_per_key, prefix_capacity, prefix_max_age_s
        PrefixIndex(*self._index)  # refuses what cannot be
        self._max_known, self._max_tenants = max_known, max_tenants
        self._max_flights, self._max_flight_s = max_flights, max_flight_s
        self._instances: OrderedDict[str, Instance] = OrderedDict()  # least recently asked about first
        self._flights: OrderedDict[Hashable, Flight] = OrderedDict()  # request_id -> flight, oldest first
        self._arrivals, self._tokens = Sum(half_life_s), Sum(half_life_s)
        self._tenants: OrderedDict[Hashable, Sum] = OrderedDict()  # least recently active first

    def num_in_flight(self, name: str) -> int:
        """Requests sent to an instance and not completed."""
        known = self._instances.get(name)
        return 0 if known is None else known.num_in_flight

    def sent_to(self, request_id: Hashable) -> str | None:
        """The instance that a request in flight was sent to."""
        flight = self._flights.get(request_id)
        return None if flight is None else flight.name

    def scraped(self, name: str, gauges: Gauges, at_s: float) -> None:
        """Take in a scrape; one that is no newer than the last changes nothing.

        Raises:
            ValueError: A gauge is negative or not a finite number.
        """
        for gauge, value in zip(Gauges._fields, gauges, strict=True):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name}: {gauge} is {value}, it must be a finite number from 0")
        is_new = name not in self._instances
        known = self._known(name, at_s)
        if is_new or at_s > known.scraped_at_s + SAME_SCRAPE_S:
            known.scraped_at_s, known.gauges = at_s, gauges
            known.num_sent = known.num_tokens_sent = 0

    def look(self, prompt: Prompt, names: Sequence[str], now_s: float) -> Observation:
        """What a policy may see of this request and these instances now, in arrays of its own."""
        self._end_lost_flights(now_s)
        known = [self._known(name, now_s) for name in names]
        rows = np.array([each.row(prompt, now_s) for each in known], np.float64)
        instances = np.clip(rows.reshape(len(known), len(INSTANCE_COLUMNS)), self._low, self._high)
        share, total = 0.0, self._tokens.now(now_s)
        own = self._tenants.get(prompt.tenant)
        if own is not None and total > 0.0:
            share = min(own.now(now_s) / total, 1.0)
        request = prompt.num_prompt_tokens, prompt.turn, share, self._arrivals.per_s(now_s)
        fits = [prompt.num_prompt_tokens < each.profile.max_model_len for each in known]
        return {
            "instances": instances.astype(np.float32),
            "request": np.array([*request, prompt.session_key], np.float32),
            "mask": np.array(fits, np.int8),
        }

    def sent(
        self,
        request_id: Hashable,
        prompt: Prompt,
        name: str,
        now_s: float,
        arrived_at_s: float | None = None,
    ) -> None:
        """Note that a request was sent to an instance; one sent before under this id has failed."""
        self.completed(request_id, 0, now_s)
        if len(self._flights) == self._max_flights:
            self.completed(next(iter(self._flights)), 0, now_s)
        known, num_tokens = self._known(name, now_s), prompt.num_prompt_tokens
        hit_tokens, _ = known.prefixes.match(prompt.keys, now_s)
        num_uncached = num_tokens - min(hit_tokens, num_tokens - 1)
        known.num_in_flight += 1
        known.num_prefills += 1
        known.num_prefill_tokens += num_tokens
        known.num_uncached_tokens += num_uncached
        known.num_sent += 1
        known.num_tokens_sent += num_tokens
        arrived_at_s = now_s if arrived_at_s is None else arrived_at_s
        self._flights[request_id] = Flight(name, arrived_at_s, now_s, num_tokens, num_uncached, False)
        self._arrivals.add(1.0, now_s)
        self._tokens.add(num_tokens, now_s)
        self._tenant(prompt.tenant).add(num_tokens, now_s)
        if known.profile.prefix_caching:
            known.prefixes.sent(prompt.keys, now_s)

    def first_token(self, request_id: Hashable, at_s: float) -> None:
        """Note that a request's first token came; of one not in flight, nothing is noted."""
        flight = self._flights.get(request_id)
        if flight is None or flight.is_decoding:
            return
        self._flights[request_id] = flight._replace(is_decoding=True)
        known = self._instances.get(flight.name)
        if known is None:
            return
        known.end_prefill(flight)
        known.num_decode_tokens += flight.num_prompt_tokens
        known.ttft_s.add(at_s - flight.arrived_at_s, at_s)
        known.ttft_weight.add(1.0, at_s)
        known.recent_ttft_s = known.ttft_s.now(at_s) / known.ttft_weight.now(at_s)

    def completed(self, request_id: Hashable, num_output_tokens: int, at_s: float) -> None:
        """Note that a request ended, with 0 tokens if it failed; of one not in flight, nothing is noted."""
        flight = self._flights.pop(request_id, None)
        known = None if flight is None else self._instances.get(flight.name)
        if flight is None or known is None:
            return
        known.num_in_flight -= 1
        if flight.is_decoding:
            known.num_decode_tokens -= flight.num_prompt_tokens
        else:
            known.end_prefill(flight)
        if num_output_tokens > 0:
            known.tokens.add(flight.num_prompt_tokens + num_output_tokens, at_s)

    def sizes(self) -> dict[str, int]:
        """How much is remembered."""
        return {
            "instances": len(self._instances),
            "flights": len(self._flights),
            "tenants": len(self._tenants),
            "keys": sum(len(known.prefixes) for known in self._instances.values()),
        }

    def _known(self, name: str, now_s: float) -> Instance:
        known = self._instances.get(name)
        if known is None:
            if len(self._instances) == self._max_known:
                self._forget(next(iter(self._instances)))
            profile = self._profiles.get(name, self._profiles[""])
            prefixes = PrefixIndex(*self._index)
            known = self._instances[name] = Instance(profile, self._half_life_s, prefixes, now_s)
        else:
            self._instances.move_to_end(name)
        return known

    def _forget(self, name: str) -> None:
        del self._instances[name]
        for request_id in [each for each, flight in self._flights.items() if flight.name == name]:
            del self._flights[request_id]  # or it would be taken off an instance that comes back

    def _tenant(self, tenant: Hashable) -> Sum:
        if tenant in self._tenants:
            self._tenants.move_to_end(tenant)
        else:
            if len(self._tenants) == self._max_tenants:
                self._tenants.popitem(last=False)
            self._tenants[tenant] = Sum(self._half_life_s)
        return self._tenants[tenant]

    def _end_lost_flights(self, now_s: float) -> None:
        while self._flights:
            request_id, flight = next(iter(self._flights.items()))
            if flight.sent_at_s > now_s - self._max_flight_s:
                return
            self.completed(request_id, 0, now_s)
