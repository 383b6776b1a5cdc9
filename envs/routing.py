"""``RouteGym/Routing-v0``: one step is one routing decision.

    import envs, gymnasium
    env = gymnasium.make("RouteGym/Routing-v0")            # or cluster=..., workload=..., reward=...
    observation, info = env.reset(seed=0)
    while not done:
        instance = choose(observation)                     # observation["mask"][instance] must be 1
        observation, reward, done, _, info = env.step(instance)
        learn(info["completions"])                         # outcomes of earlier decisions

An episode is the workload's request stream. The reward of a step covers the time up to the next decision;
that of the last step also what was still in flight.

A request that failed is decided anew at the instant that its failure is learned, up to ``max_retries`` times:
a decision of its own, with its own feedback. It has been waiting since it arrived, so that the TTFT of a
request served in the end, like what its waiting costs, counts all attempts; one that failed for good counts
as the ``Interval`` says, and as a miss of its objective.
"""

from __future__ import annotations

from collections import deque
from math import inf, isnan
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.cluster import Cluster, Completion, Events, Request
from envs.emulator.fleet import cluster as emulated_cluster
from envs.feedback import Feedback
from envs.interval import interval_of
from envs.observation import Observation, observation_space
from envs.prefix_index import PrefixIndex
from envs.render import to_ansi, to_rgb_array
from envs.router_view import RouterView
from envs.routers import Routers
from envs.workload import generator
from envs.workload.stream import Workload
from reward.ttft import Ttft
from reward.weighted_sum import Weighted, WeightedSum

DEFAULT_FLEET: dict[str, dict[str, Any]] = {
    "h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 131072},
    "l40s": {"count": 2, "profile": "l40s_llama-3.1-8b", "max_model_len": 131072},
}
DEFAULT_RATE_PER_S = 6.0


class NoInstanceError(ValueError):
    """A request that no instance can serve."""


class MaskedActionError(ValueError):
    """A request was routed to an instance that its observation masked."""


class _Decision(NamedTuple):
    decision_id: int
    propensity: float
    request: Request
    num_retries: int
    router: int


class RoutingEnv(gymnasium.Env[Observation, np.int64]):
    """Routes a request stream over a cluster.

    Args:
        cluster: Where requests run; by default a small emulated fleet.
        workload: Which requests come when; by default the generator's.
        reward: What is good, by default minus the TTFT.
        max_instances: Rows of the observation and number of actions; null means the cluster's.
        prefix_hits: ``estimated`` by the router's own index, or ``exact`` from the caches themselves.
        prefix_tokens_per_key: Granularity of that index, a multiple of the block size; llm-d's.
        prefix_capacity: Keys that it remembers per instance; llm-d's.
        prefix_max_age_s: A prefix not sent again for so long is taken to be evicted; null: never.
        half_life_s: Of the features that speak of late.
        max_retries: How often a request that failed is sent again; see above.
        num_routers: Routers in front of the cluster. Each has its own scrapes, counters and prefix index, and
            the observation is that of the router on which the request landed, ``router``. The caller of
            ``step`` is the program that all of them run: what it remembers from step to step they would
            share, as real routers do not, unless it keeps one memory per ``router`` (``agents.per_router``
            does).
        router_affinity: What lands on one router, each ``request`` by itself or a whole ``session``.
        share_interval_s: How often routers tell each other what each counts and which prefixes it sent where,
            so that their counters and indices hold the requests of all, the others' as of then; null: never.
        render_mode: ``ansi`` (text) or ``rgb_array`` (a picture of queues, KV use and hits).
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        cluster: Cluster | None = None,
        workload: Workload | None = None,
        reward: WeightedSum | None = None,
        max_instances: int | None = None,
        prefix_hits: str = "estimated",
        prefix_tokens_per_key: int = 64,
        prefix_capacity: int = 31_250,
        prefix_max_age_s: float | None = None,
        half_life_s: float = 30.0,
        max_retries: int = 0,
        num_routers: int = 1,
        router_affinity: str = "request",
        share_interval_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        if prefix_hits not in ("estimated", "exact"):
            raise ValueError(f"prefix_hits is {prefix_hits!r}, it must be estimated or exact")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode is {render_mode!r}, it must be ansi, rgb_array or none")
        self.cluster = cluster if cluster is not None else emulated_cluster(DEFAULT_FLEET)
        self.workload = (
            workload
            if workload is not None
            else generator.workload(num_requests=1000, rate_per_s=DEFAULT_RATE_PER_S)
        )
        self.reward = reward if reward is not None else WeightedSum({"ttft": Weighted(Ttft())})
        max_instances = max_instances if max_instances is not None else len(self.cluster.traits)
        traits = self.cluster.traits
        if self.workload.block_size != traits[0].block_size:
            raise ValueError(
                f"the workload's block_size is {self.workload.block_size} and the cluster's"
                f" {traits[0].block_size}: block hashes would stand for other tokens; set both alike"
            )
        for name, count, least in (("max_retries", max_retries, 0), ("num_routers", num_routers, 1)):
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise ValueError(f"{name} is {count!r}, it must be a whole number of at least {least}")

        def view() -> RouterView:
            max_age_s = inf if prefix_max_age_s is None else prefix_max_age_s
            index = PrefixIndex(
                len(traits), traits[0].block_size, prefix_tokens_per_key, prefix_capacity, max_age_s
            )
            return RouterView(traits, max_instances, index, half_life_s)

        self.routers = Routers([view() for _ in range(num_routers)], router_affinity, share_interval_s)
        self._router = 0
        self.max_retries = max_retries
        self._max_model_len = np.array([trait.max_model_len for trait in traits])
        self.exact_prefix_hits = prefix_hits == "exact"
        self.render_mode = render_mode
        self.observation_space = observation_space(max_instances)  # type: ignore[assignment]
        self.action_space = spaces.Discrete(max_instances)
        self._request: Request | None = None
        self._observation: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode with every instance idle; the request stream follows from ``seed``."""
        super().reset(seed=seed)
        rng = self.np_random.spawn(1)[0]
        self.workload.reset(rng)
        world_rng, landing_rng = rng.spawn(2)
        self.cluster.reset(world_rng, self.num_routers)
        self.routers.reset(landing_rng)
        self._router = 0
        self._in_flight: dict[int, _Decision] = {}  # request_id -> how it was routed
        self._to_retry: deque[_Decision] = deque()  # failed ones, to be decided anew now
        self._num_retries = 0  # of the current request
        self._decisions = 0
        self._propensity = float("nan")
        self._num_waiting = 0
        self._request = None
        self._to_next_decision()
        if self._request is None:
            raise ValueError("the workload has no request: give it at least one")
        return self._look(), {"completions": [], "time_s": self.cluster.now_s}

    @property
    def num_routers(self) -> int:
        """Routers in front of the cluster."""
        return len(self.routers.views)

    @property
    def request(self) -> Request:
        """The current request, with what is hidden from policies: for recorders, not for what decides.

        Raises ``gymnasium.error.ResetNeeded`` where there is none.
        """
        if self._request is None:
            raise gymnasium.error.ResetNeeded("there is no request: call reset")
        return self._request

    @property
    def router(self) -> int:
        """The router on which the current request landed."""
        return self._router

    @property
    def view(self) -> RouterView:
        """What that router knows."""
        return self.routers.views[self._router]

    def declare_propensity(self, propensity: float) -> None:
        """Say with what probability the next ``step``'s instance was chosen, for its feedback."""
        self._propensity = propensity

    def action_masks(self) -> NDArray[np.bool_]:
        """Which instances the current request may go to, as MaskablePPO asks."""
        return self._look()["mask"].astype(np.bool_)

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Send the current request to an instance and let time pass until the next one is to be decided.

        Raises ``MaskedActionError`` where the observation masks that instance, and
        ``gymnasium.error.ResetNeeded`` after the end of an episode.
        """
        request = self._request
        if request is None:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset")
        instance, mask = int(action), self._look()["mask"]
        if not 0 <= instance < len(mask) or not mask[instance]:
            raise MaskedActionError(
                f"instance {instance} is masked for request {request.request_id}"
                f" ({request.num_prompt_tokens} prompt tokens): choose one whose mask is 1"
            )
        now_s = self.cluster.now_s
        self.cluster.submit(request, instance)
        self.view.sent(request, instance, now_s)
        self._in_flight[request.request_id] = _Decision(
            self._decisions, self._propensity, request, self._num_retries, self._router
        )
        self._decisions += 1
        self._propensity = float("nan")
        self._num_waiting += self._num_retries == 0  # else it has been waiting since it arrived
        # Those that are to be decided anew at this instant are no less in flight.
        num_waiting, num_in_flight = self._num_waiting, len(self._in_flight) + len(self._to_retry)

        events, retried = self._to_next_decision()
        feedback = [self._feedback(completion) for completion in events.completions + retried]
        spans = (now_s, self.cluster.now_s, self._late_s())
        interval = interval_of(events, retried, num_waiting, num_in_flight, *spans)
        self._num_waiting -= len(events.first_tokens)
        self._num_waiting -= sum([isnan(completion.first_token_at_s) for completion in events.completions])
        self._num_waiting += sum([not isnan(completion.first_token_at_s) for completion in retried])
        reward, amounts = self.reward(interval)
        info = {"completions": feedback, "reward": amounts, "time_s": self.cluster.now_s}
        return self._look(), reward, self._request is None, False, info

    def render(self) -> str | NDArray[np.uint8] | None:
        """Show each instance's queue, KV use and prefix hits as of now, as text or as a picture."""
        if self.render_mode is None:
            gymnasium.logger.warn("render was called without a render_mode: give ansi or rgb_array to make()")
            return None
        draw = to_ansi if self.render_mode == "ansi" else to_rgb_array
        return draw(self.cluster.traits, self._look(), self.cluster.now_s)

    def close(self) -> None:
        """Close the cluster."""
        super().close()
        self.cluster.close()

    def _look(self) -> Observation:
        if self._observation is None:
            raise gymnasium.error.ResetNeeded("there is no request yet: call reset")
        return self._observation

    def _to_next_decision(self) -> tuple[Events, list[Completion]]:
        """Let time pass until a request is to be decided, or until nothing is left, and look at it.

        Returns what happened, and apart from it the failures of requests that are decided anew.
        """
        cluster, workload = self.cluster, self.workload
        events, retried = Events([], []), list[Completion]()
        stop_at_completion = workload.closed_loop or self.max_retries > 0
        while not self._to_retry and not workload.exhausted:
            next_at_s = min(workload.next_arrival_at_s(), self.routers.next_share_at_s)
            self._take(cluster.advance_to(next_at_s, stop_at_completion), events, retried)
            self.routers.share(cluster.now_s)
            if cluster.now_s >= workload.next_arrival_at_s():
                break
        if not self._to_retry and workload.exhausted:
            self._drain(events, retried)
        if self._to_retry:
            failed = self._to_retry.popleft()
            request, self._num_retries = failed.request, failed.num_retries + 1
        elif workload.exhausted:
            if self._request is not None:  # the last observation shows the drained fleet
                self._observe(self._request)
            self._request = None
            return events, retried
        else:
            request, self._num_retries = workload.pop(), 0
        self._request = request
        self._router = self.routers.router_of(request)
        if not self._observe(request)["mask"].any():
            raise NoInstanceError(
                f"request {request.request_id} ({request.num_prompt_tokens} prompt tokens) can go to no"
                " instance: none has a max_model_len above that; set the workload's max_model_len to drop"
                " such requests, or raise the cluster's"
            )
        return events, retried

    def _drain(self, events: Events, retried: list[Completion]) -> None:
        """Let time pass until nothing is in flight or a request is to be sent again."""
        if self.max_retries == 0:
            self._take(self.cluster.drain(), events, retried)
        while self.max_retries > 0 and not self._to_retry:
            passed = self.cluster.advance_to(inf, stop_at_completion=True)
            if not passed.completions:
                return
            self._take(passed, events, retried)

    def _observe(self, request: Request) -> Observation:
        now_s = self.cluster.now_s
        self.view.scraped(self.cluster.snapshot(self._router), now_s)
        exact_hit_tokens = self.cluster.num_exact_hit_tokens(request) if self.exact_prefix_hits else None
        observation = self.view.look(request, now_s, exact_hit_tokens)
        if not observation["mask"].any():
            # None that is healthy takes it: as Envoy's load balancers in a panic (arch_overview/upstream/
            # load_balancing/panic_threshold of its documentation), offer all. What is sent may fail.
            fits = request.num_prompt_tokens < self._max_model_len
            observation["mask"][: len(fits)] = fits
        self._observation = observation
        return observation

    def _take(self, passed: Events, events: Events, retried: list[Completion]) -> None:
        """Let router and workload learn what passed; add it to ``events``, and to ``retried`` what is."""
        for token in passed.first_tokens:
            self._view_of(token.request_id).first_token(token.request_id, token.at_s)
        for completion in passed.completions:
            self._view_of(completion.request_id).completed(
                completion.request_id, completion.num_output_tokens, completion.finished_at_s
            )
            decision = self._in_flight[completion.request_id]
            if completion.failure and decision.num_retries < self.max_retries:
                self._to_retry.append(decision)
                retried.append(completion)
            else:
                self.workload.observe(completion)
                events.completions.append(completion)
        events.first_tokens.extend(passed.first_tokens)

    def _late_s(self) -> float:
        """How long the new request waited unseen: a live answer's end, due to bring it, is learned late."""
        if self._request is None or self._num_retries > 0:
            return 0.0
        return self.cluster.now_s - self._request.arrived_at_s

    def _view_of(self, request_id: int) -> RouterView:
        return self.routers.views[self._in_flight[request_id].router]

    def _feedback(self, completion: Completion) -> Feedback:
        decision = self._in_flight.pop(completion.request_id)
        return Feedback(
            decision_id=decision.decision_id,
            propensity=decision.propensity,
            instance=completion.instance_index,
            num_prompt_tokens=completion.num_prompt_tokens,
            num_output_tokens=completion.num_output_tokens,
            num_cached_tokens=completion.num_cached_tokens,
            num_preemptions=completion.num_preemptions,
            arrived_at_s=completion.arrived_at_s,
            ttft_s=completion.ttft_s,
            tpot_s=completion.tpot_s,
            e2e_s=completion.e2e_s,
            slo_met=completion.slo_met,
            tenant=decision.request.tenant,
            failure=completion.failure,
            num_retries=decision.num_retries,
            is_retried=bool(completion.failure) and decision.num_retries < self.max_retries,
        )
