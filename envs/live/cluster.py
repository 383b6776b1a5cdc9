"""Real vLLM servers behind the ``Cluster`` protocol.

Requests are streamed over HTTP in a thread of their own, where every token is stamped as it comes; the
environment lives at the instant it has been advanced to, and learns of nothing before. So a policy that is
slow delays no stamp, and every latency counts from when the request was due, not from when it was sent.
"""

from __future__ import annotations

import functools
import os
import secrets
import warnings
import weakref
from collections.abc import Mapping, Sequence
from math import inf
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from envs.cluster import ClusterSnapshot, Events, InstanceTraits, Request
from envs.live.cache_view import CacheView
from envs.live.clock import Clock
from envs.live.discovery import discover
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits
from envs.live.loop_thread import LoopThread
from envs.live.mailbox import Mailbox
from envs.live.notices import Notices
from envs.live.prompts import Prompts
from envs.live.request_body import request_body
from envs.live.stream import Flight
from envs.live.traffic import Traffic


class LiveCluster:
    """vLLM servers that are reached by HTTP.

    All times are cluster seconds, ``speed_factor`` of them to a second of the monotonic clock.

    Args:
        endpoints: The instances, in index order; no name and no url twice.
        scrape_interval_s: How often each router reads each instance's metrics.
        speed_factor: 1 for servers that are as fast as they are; for servers whose modelled device is n times
            slower than its profile says, 1 / n.
        limits: How long to wait for what.
        keep_token_times: Keep the instant of every chunk of every answer, for ``take_token_times``.
    """

    repeatable = False

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        scrape_interval_s: float = 0.1,
        speed_factor: float = 1.0,
        limits: Limits | None = None,
        keep_token_times: bool = False,
    ) -> None:
        self._thread: LoopThread | None = None
        self._has_begun = False
        if not 0.0 < scrape_interval_s < inf:
            raise ValueError(
                f"scrape_interval_s is {scrape_interval_s}, it must be a positive number of seconds"
            )
        names = [endpoint.name for endpoint in endpoints]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"the endpoints are {names}; there must be at least one, and no name twice")
        by_url: dict[str, str] = {}
        for endpoint in endpoints:
            if (other := by_url.setdefault(endpoint.url, endpoint.name)) != endpoint.name:
                raise ValueError(f"{endpoint}: endpoint {other!r} has the same url; leave one of them out")
        self.endpoints = tuple(endpoints)
        self.scrape_interval_s = scrape_interval_s
        self.limits = limits or Limits()
        self.keep_token_times = keep_token_times
        self._clock = Clock(speed_factor)
        known = discover(self.endpoints, self.limits, speed_factor)
        self._models = [each.model for each in known]
        self._traits = [each.traits for each in known]
        self._prompts = Prompts(self._traits[0].block_size)
        self._num_requests = 0  # since this was made: no two have the same id over HTTP
        self._now_s = 0.0

    @property
    def now_s(self) -> float:
        """The instant the cluster has been advanced to."""
        return self._now_s

    @property
    def lag_s(self) -> float:
        """How far the clock is ahead of ``now_s``: so much later than due will be sent what is sent now."""
        return max(0.0, self._clock.now_s - self._now_s) if self._thread else 0.0

    @property
    def traits(self) -> list[InstanceTraits]:
        """One entry per instance, in index order."""
        return self._traits

    @property
    def num_in_flight(self) -> int:
        """Requests submitted whose outcome was not yet learned."""
        self._opened()
        return self._mailbox.num_in_flight

    def reset(self, rng: np.random.Generator | None = None, num_routers: int = 1) -> None:
        """End what is in flight and begin at time 0 with caches that hold nothing of what will be sent.

        ``rng`` makes what is private to requests; that no cache holds it is seen to by a salt of its own.
        """
        if num_routers < 1:
            raise ValueError(f"num_routers is {num_routers}, it must be at least 1")
        rng = rng if rng is not None else np.random.default_rng(0)
        self._prompts.reset(int(rng.integers(2**63)))
        self._salt = secrets.token_hex(8)
        if self._thread is None:
            self._open()
        thread = self._own_thread()
        self._mailbox.check()
        self._has_begun = False
        thread.call(self._traffic.begin(num_routers, self.scrape_interval_s))
        self._now_s = 0.0
        self._lags_s: list[float] = []
        self._token_times: dict[int, NDArray[np.float64]] = {}
        self._has_begun = True

    def submit(self, request: Request, instance_index: int) -> None:
        """Start a request's stream now.

        Raises ``IndexError`` for an instance that does not exist and ``ValueError`` for a request that it
        could never serve. An answer that would outgrow ``max_model_len`` is cut there.
        """
        thread = self._opened()
        self._mailbox.check()
        if not 0 <= instance_index < len(self.endpoints):
            raise IndexError(
                f"instance {instance_index} does not exist: the cluster has {len(self.endpoints)}"
            )
        room = self._traits[instance_index].max_model_len - request.num_prompt_tokens
        if room < 1:
            raise ValueError(
                f"request {request.request_id} has {request.num_prompt_tokens} prompt tokens, instance"
                f" {instance_index} takes fewer than its max_model_len of"
                f" {self._traits[instance_index].max_model_len}: drop or clip such requests in the workload"
            )
        body = request_body(
            self.endpoints[instance_index],
            self._models[instance_index],
            request,
            self._prompts.tokens(request),
            min(request.num_output_tokens, room),
            self._salt,
            self._answer_is_reused(request),
        )
        self._num_requests += 1
        self._lags_s.append(self.lag_s)
        self._mailbox.sent()
        name = f"{self._salt}-{self._num_requests}"
        thread.post(self._traffic.send, Flight(request, instance_index, body, name))

    def advance_to(self, time_s: float, stop_at_completion: bool = False) -> Events:
        """Wait until ``time_s``, or, if asked, only until the first completion; not at all if that is past.

        ``time_s`` may be infinite with ``stop_at_completion``; with nothing in flight no time passes then.
        Raises ``ValueError`` for an instant before ``now_s``, and ``RuntimeError`` for an error in the thread
        that sends and reads.
        """
        self._opened()
        if not time_s >= self._now_s or (time_s == inf and not stop_at_completion):
            raise ValueError(f"cannot advance to {time_s} s: the cluster is at {self._now_s} s")
        self._now_s, first_tokens, outcomes = self._mailbox.wait(self._now_s, time_s, stop_at_completion)
        for outcome in outcomes:
            request, failure = outcome.request, outcome.completion.failure
            if not failure and self._answer_is_reused(request):
                self._prompts.answered(request, outcome.token_ids)
            if self.keep_token_times:
                self._token_times[request.request_id] = np.array(outcome.token_at_s)
        return Events(first_tokens, [outcome.completion for outcome in outcomes])

    def drain(self) -> Events:
        """Wait until nothing is in flight; the limits see to it that this comes to an end."""
        events = Events([], [])
        while self.num_in_flight:
            passed = self.advance_to(inf, stop_at_completion=True)
            events.first_tokens.extend(passed.first_tokens)
            events.completions.extend(passed.completions)
        return events

    def snapshot(self, router: int = 0) -> ClusterSnapshot:
        """What a router's last good scrape of each instance said, of those it had by ``now_s``."""
        self._opened()
        scrapes = [scraper.seen(self._now_s) for scraper in self._traffic.scrapers[router]]
        return ClusterSnapshot(
            num_waiting=np.array([scrape.metrics.num_waiting for scrape in scrapes], np.int64),
            num_running=np.array([scrape.metrics.num_running for scrape in scrapes], np.int64),
            frac_kv_cache_usage=np.array([scrape.metrics.frac_kv_cache_usage for scrape in scrapes]),
            frac_prefix_hits=np.array([scrape.frac_prefix_hits for scrape in scrapes]),
            age_s=np.array([max(0.0, self._now_s - scrape.taken_at_s) for scrape in scrapes]),
            healthy=np.array([health.is_up for health in self._traffic.health], np.bool_),
        )

    def num_exact_hit_tokens(self, request: Request) -> NDArray[np.int64]:
        """Prompt tokens that each instance's cache holds as its KV events tell, ``[num_instances]``.

        Raises ``ValueError`` where not every endpoint publishes them.
        """
        self._opened()
        if self._views is None:
            without = [each.name for each in self.endpoints if each.kv_events is None or each.api == "chat"]
            raise ValueError(
                f"exact prefix hits need the KV events of every endpoint, and token ids: give {without[0]!r}"
                " a kv_events (and api: completions), or set prefix_hits to estimated"
            )
        prompt = self._prompts.tokens(request)
        return np.array([view.num_hit_tokens(prompt, self._salt) for view in self._views], np.int64)

    def counters(self) -> Mapping[str, int | float]:
        """What happened since the last reset: requests by outcome, scrapes, KV events, and how late it was.

        ``num_served``, ``num_failed`` and ``num_timed_out`` add up to ``num_submitted`` once nothing is in
        flight.
        """
        self._opened()
        lags_s = self._lags_s or [0.0]
        return {
            **self._mailbox.counts,
            **self._traffic.view_counts(),
            "max_inter_token_s": self._mailbox.max_inter_token_s,
            "max_lag_s": max(lags_s),
            "mean_lag_s": sum(lags_s) / len(lags_s),
        }

    def reasons(self) -> Mapping[tuple[str, str], int]:
        """How often what went wrong with which instance since the last reset, as (name, reason)."""
        self._opened()
        return self._notices.counts()

    def take_token_times(self) -> dict[int, NDArray[np.float64]]:
        """Return the instants of each chunk by request id, of what ended since the last call; forget them."""
        times, self._token_times = self._token_times, {}
        return times

    def close(self) -> None:
        """End all streams and connections, and the thread; ``reset`` opens them again."""
        if self._thread is not None:
            self._thread = None
            self._stop()

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None:
            what = f"unclosed {type(self).__name__}: call close()"
            warnings.warn(what, ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LiveCluster has connections and a thread; make another where it is needed")

    def _answer_is_reused(self, request: Request) -> bool:
        """Whether the workload knows of the answer's content, which other prompts may go on from."""
        return len(request.block_hashes) > request.num_prompt_tokens // self._prompts.block_size

    def _open(self) -> None:
        """Start the thread. Nothing in it refers to this object, so that it can be garbage."""
        self._pid = os.getpid()
        self._notices = Notices()
        self._mailbox = Mailbox(self._clock)
        self._views: list[CacheView] | None = None
        if all(endpoint.kv_events is not None and endpoint.api != "chat" for endpoint in self.endpoints):
            self._views = [
                CacheView(trait.block_size, functools.partial(self._notices.note, trait.name))
                for trait in self._traits
            ]
        self._traffic = Traffic(
            self.endpoints,
            self.limits,
            self._clock,
            self._mailbox,
            self._notices,
            self._views,
            self.keep_token_times,
        )
        self._thread = LoopThread(self._traffic.close, self._mailbox.fail)
        self._stop = weakref.finalize(self, self._thread.stop)  # as garbage, or when the program ends
        try:
            self._thread.call(self._traffic.open())
        except BaseException:
            self.close()
            raise

    def _opened(self) -> LoopThread:
        """The thread. Raises ``RuntimeError`` where there is none, or no episode in it."""
        thread = self._own_thread()
        if not self._has_begun:
            raise RuntimeError("the last reset of the live cluster was interrupted: call reset")
        return thread

    def _own_thread(self) -> LoopThread:
        if self._thread is None:
            raise RuntimeError("the live cluster is not open: call reset")
        if self._pid != os.getpid():
            raise RuntimeError("this LiveCluster was opened before a fork; make another in this process")
        return self._thread
