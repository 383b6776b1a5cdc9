"""The one seam between an emulated and a live cluster of vLLM instances.

Everything above this file (environment, agents, evaluator, recorder) runs unchanged on both backends:

    cluster.reset()
    for request in stream:
        events = cluster.advance_to(request.arrived_at_s)   # live: waits
        snapshot = cluster.snapshot()                       # as old as the last scrape
        cluster.submit(request, choose(snapshot, request))
    events = cluster.drain()
    cluster.close()

Times are seconds as float64: names end in ``_s`` (durations) or ``_at_s`` (instants). Only a live
cluster reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

NO_HASHES: NDArray[np.int64] = np.empty(0, np.int64)
"""Block hashes of a request whose content is shared with no other request."""


class Slo(NamedTuple):
    """Service-level objective of a request: the latencies its user accepts, in seconds."""

    ttft_s: float = 2.0
    tpot_s: float = 0.1


DEFAULT_SLO = Slo()


@dataclass(frozen=True, slots=True)
class Request:
    """One generation request.

    ``block_hashes`` are chained (equal hash = equal whole prefix), one per full block of the prompt; where
    the workload knows the answer's content too, they go on for the full blocks of prompt + answer. What
    lies past the prompt, like ``num_output_tokens``, is hidden from policies.
    """

    request_id: int
    arrived_at_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: NDArray[np.int64] = field(default_factory=lambda: NO_HASHES)
    session_id: int = -1
    turn: int = 1
    tenant: int = 0
    model: str = ""
    slo: Slo = DEFAULT_SLO
    priority: int = 0
    """Lower is served first, by instances whose policy is ``priority``; others do not look at it."""

    def __post_init__(self) -> None:
        """Refuse what no engine can serve."""
        if self.num_prompt_tokens < 1 or self.num_output_tokens < 1:
            raise ValueError(
                f"request {self.request_id} has {self.num_prompt_tokens} prompt and"
                f" {self.num_output_tokens} output tokens; both must be at least 1"
            )


class FirstToken(NamedTuple):
    """A request's first token left its instance."""

    request_id: int
    instance_index: int
    at_s: float


class Completion(NamedTuple):
    """A request's outcome, as its router learns it.

    ``first_token_at_s`` and ``finished_at_s`` are NaN where the request failed before them; ``failure``
    is empty for a served request and else says why.
    """

    request_id: int
    instance_index: int
    arrived_at_s: float
    first_token_at_s: float
    finished_at_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    """Prompt tokens found in the instance's prefix cache when the request was first admitted."""
    num_preemptions: int
    slo: Slo
    failure: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_token_at_s - self.arrived_at_s

    @property
    def e2e_s(self) -> float:
        """Time from arrival to the last token."""
        return self.finished_at_s - self.arrived_at_s

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; 0 for a one-token answer."""
        return (self.finished_at_s - self.first_token_at_s) / max(self.num_output_tokens - 1, 1)

    @property
    def slo_met(self) -> bool:
        """Whether the request was served within its objective."""
        return not self.failure and self.ttft_s <= self.slo.ttft_s and self.tpot_s <= self.slo.tpot_s


class Events(NamedTuple):
    """What happened while a cluster advanced, each list in order of time."""

    first_tokens: list[FirstToken]
    completions: list[Completion]


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """What the last scrape of each instance's ``/metrics`` said. All arrays are ``[num_instances]``."""

    num_waiting: NDArray[np.int64]
    num_running: NDArray[np.int64]
    frac_kv_cache_usage: NDArray[np.float64]
    frac_prefix_hits: NDArray[np.float64]
    """Prefix-cache hit tokens over queried tokens since the instance started."""
    age_s: NDArray[np.float64]
    """Time since the scrape these values came from."""
    healthy: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class InstanceTraits:
    """What a router knows of an instance before it sends it anything."""

    name: str
    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    prefix_caching: bool
    prefill_tokens_per_s: float
    """Prompt tokens computed per second, one 2048-token prompt alone."""
    decode_step_s: float
    """One decode step of 16 requests with 2048 tokens of context each."""


class Cluster(Protocol):
    """A set of vLLM instances that requests are submitted to."""

    @property
    def now_s(self) -> float:
        """The instant the cluster has been advanced to."""
        ...

    @property
    def traits(self) -> list[InstanceTraits]:
        """One entry per instance, in index order."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether the same seed and decisions lead to the same outcomes, and nobody else uses the cluster."""
        ...

    def reset(self, rng: np.random.Generator | None = None, num_routers: int = 1) -> None:
        """Go back to time 0 with every instance idle and every cache empty.

        Args:
            rng: All chance of a world that leaves something to chance; none: the generator of seed 0.
            num_routers: How many routers scrape, each for itself, spread evenly over the scrape interval.
        """
        ...

    def submit(self, request: Request, instance_index: int) -> None:
        """Hand a request to an instance now (live: start its stream)."""
        ...

    def advance_to(self, time_s: float, stop_at_completion: bool = False) -> Events:
        """Let time pass (live: wait) until ``time_s``, or, if asked, only until the first completion."""
        ...

    def drain(self) -> Events:
        """Let time pass until nothing is in flight."""
        ...

    def snapshot(self, router: int = 0) -> ClusterSnapshot:
        """What a router's last scrape of each instance said."""
        ...

    def num_exact_hit_tokens(self, request: Request) -> NDArray[np.int64]:
        """Prompt tokens of ``request`` that each instance's cache holds right now, ``[num_instances]``."""
        ...

    def counters(self) -> Mapping[str, float]:
        """What went otherwise than it should since ``reset``, and how often; empty where nothing can."""
        ...

    def close(self) -> None:
        """Let go of connections and threads, where there are any; once closed, ``reset`` opens it again."""
        ...


@runtime_checkable
class DisturbableCluster(Cluster, Protocol):
    """A cluster whose instances can be disturbed; each method acts now. ``envs.world`` says what each does.

    Requests that an instance loses, or is sent while it does not serve, end as a ``Completion`` with a
    ``failure``, among the events of ``advance_to`` like all others. The methods raise ``ValueError`` where
    the instance is in a state that does not allow it.
    """

    def slow(self, instance_index: int, factor: float) -> None:
        """Let steps chosen from now on take ``factor`` times as long as the profile says."""
        ...

    def fail(self, instance_index: int) -> None:
        """Kill the process."""
        ...

    def restart(self, instance_index: int) -> None:
        """Start a process after ``fail``; it serves after the cold start."""
        ...

    def add(self, instance_index: int) -> None:
        """Start an absent instance; it serves after the cold start."""
        ...

    def remove(self, instance_index: int) -> None:
        """Send it nothing new; it finishes what it has."""
        ...

    def flush_cache(self, instance_index: int) -> None:
        """Forget the prefix cache; no request is disturbed."""
        ...

    def lag_scrapes(self, instance_index: int, lag_s: float) -> None:
        """Let what is scraped of it from now on reach routers so much later."""
        ...
