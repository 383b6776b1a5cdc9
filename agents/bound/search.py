"""Search for the assignment of an episode's requests whose mean TTFT is least, all of them known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.bound.episode import Episode, world_of
from envs.cluster import NO_HASHES, InstanceTraits
from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.state import NONE
from envs.emulator.what_if import (
    ADD,
    FAIL,
    FLUSH_CACHE,
    SLOW,
    Branch,
    Fate,
    Trial,
    blank_requests,
    expected_ttft_s,
    idle_branch,
    send,
    try_out,
)
from envs.world import World

_BEFALLS = {"slow": SLOW, "flush_cache": FLUSH_CACHE, "fail": FAIL, "add": ADD}
FAR = 4
"""So many times as far ahead does a move look that is made."""


class Search:
    """Builds a plan and improves it by exact emulation of what each move does.

    What happens on an instance follows from the requests that it is sent, so that a move concerns the
    instance that a request leaves and the one that it joins, and the fleet need not be copied
    (``envs.emulator.what_if``). A *sweep* goes through the requests in the order in which they are decided:
    each instance stands where those before have brought it, and those after are sent as planned. The request
    goes where the sum of all TTFTs is then the least, as far as ``lookahead`` first tokens from there tell;
    if that is elsewhere than before, it is moved only if ``FAR`` times as many tell the same. After the sweep
    the whole plan is played, and taken back if it is worse.

    Args:
        cluster: Whose instances are emulated; it is not touched.
        episode: Its requests and where they may go; the plan begins as they went.
        lookahead: First tokens that a move is judged by.
        num_candidates: Instances that are looked at for one request: those with the least prompt tokens to
            compute until its first token, by their speed, with the caches as they are.
    """

    def __init__(
        self, cluster: EmulatedCluster, episode: Episode, lookahead: int = 8, num_candidates: int = 8
    ) -> None:
        requests, configs = episode.requests, cluster.configs
        hashes = [request.block_hashes for request in requests]
        self._requests = blank_requests(
            np.array([request.num_prompt_tokens for request in requests]),
            np.array([request.num_output_tokens for request in requests]),
            np.array([request.arrived_at_s for request in requests]),
            np.array([request.priority for request in requests]),
            np.cumsum([0, *map(len, hashes)]),
        )
        all_hashes = np.concatenate([NO_HASHES, *hashes])
        self._past = [
            idle_branch(config, cluster.block_size, len(requests), all_hashes) for config in configs
        ]
        kinds: list[tuple[InstanceConfig, Branch]] = []
        for config in configs:
            if all(config != other for other, _ in kinds):
                branch = idle_branch(config, cluster.block_size, len(requests), all_hashes)
                kinds.append((config, branch))
        self._scratch = [next(branch for other, branch in kinds if other == config) for config in configs]
        max_model_len = np.array([config.max_model_len for config in configs])
        fits = self._requests["num_prompt_tokens"][:, None] < max_model_len
        world = world_of(cluster)
        delays_s = np.broadcast_to(np.asarray(world.network_delay_s, np.float64), len(configs))
        takes = episode.allowed & fits & ~_closes(world, self._requests["arrived_at_s"], delays_s)
        self._allowed = takes.copy()
        nowhere = ~takes.any(axis=1)
        self._allowed[nowhere] = fits[nowhere]
        self._fates = [
            _fate(world, index, traits, float(delays_s[index]), takes[:, index].copy(), branch)
            for index, (traits, branch) in enumerate(zip(cluster.traits, self._past, strict=True))
        ]
        self._lookahead, self._num_candidates = lookahead, num_candidates
        is_allowed = self._allowed[np.arange(len(requests)), episode.instances]
        self.plan = np.where(is_allowed, episode.instances, self._allowed.argmax(axis=1))
        """Where each request goes, ``[num_requests]``."""
        self.ttft_s = np.zeros(len(requests))
        """What comes of it, ``[num_requests]``."""
        self._unread_s = np.zeros(len(requests))
        self._play()

    @property
    def cost_s(self) -> float:
        """The mean TTFT."""
        return float(self.ttft_s.mean())

    def improve(
        self,
        numbers: ArrayLike = (),
        rng: np.random.Generator | None = None,
        first: int = 0,
        stop: int | None = None,
    ) -> float:
        """Look for a better place of each request from ``first`` to before ``stop``, by default all.

        Args:
            numbers: Requests that lose their place in the plan before. If all do, it is built from nothing.
            rng: Draws them another place; none: they have none until their turn comes.
            first: See above.
            stop: See above.

        Returns:
            By what share of the mean TTFT the plan is better; 0 where it stays as it was.
        """
        before, ttft_s, cost_s = self.plan.copy(), self.ttft_s, self.cost_s
        changed = np.asarray(numbers, np.intp)
        if len(changed):
            self.plan[changed] = NONE if rng is None else [self._any(number, rng) for number in changed]
            self._play()
        self._begin()
        for number in range(len(self._requests) if stop is None else stop):
            if number < first:
                self._keep(number)
            else:
                self._place(number)
        self._play()
        if self.cost_s >= cost_s:
            self.plan, self.ttft_s = before, ttft_s
        return 1.0 - self.cost_s / cost_s

    def _play(self) -> None:
        """Play the plan."""
        self._begin()
        self.ttft_s = np.zeros(len(self._requests))
        for index in range(len(self._past)):
            self._future(index, self.ttft_s)

    def _any(self, number: int, rng: np.random.Generator) -> int:
        return int(rng.choice(np.flatnonzero(self._allowed[number])))

    def _begin(self) -> None:
        for past, fate in zip(self._past, self._fates, strict=True):
            past.memory[:] = fate.idle
            past.progress[:] = 0
            past.state.requests["request_id"] = NONE

    def _keep(self, number: int) -> None:
        """Send a request where the plan says."""
        index = int(self.plan[number])
        past, fate = self._past[index], self._fates[index]
        send(past, self._requests, fate, Trial(self.plan, self._unread_s, self._unread_s, index), number)

    def _expected_ttft_s(self, number: int, index: int) -> float:
        past, fate = self._past[index], self._fates[index]
        unread = Trial(self.plan, self._unread_s, self._unread_s, index)
        return float(expected_ttft_s(past, self._requests, fate, unread, number))

    def _place(self, number: int) -> None:
        """Send a request where it is best."""
        here = there = int(self.plan[number])
        options = np.flatnonzero(self._allowed[number]).tolist()
        expected_s = {index: self._expected_ttft_s(number, index) for index in options}
        most_s = np.inf
        if here != NONE and len(options) > 1:
            most_s = self.ttft_s[number] - self._future(here, self._unread_s, NONE, number, self._lookahead)
        for index in sorted(options, key=expected_s.__getitem__)[: self._num_candidates]:
            if index != here:
                change_s = self._future(index, self._unread_s, number, NONE, self._lookahead, most_s)
                if change_s < most_s:
                    most_s, there = change_s, index
        if there != here:
            self._move(number, there)
        self._keep(number)

    def _move(self, number: int, there: int) -> None:
        """Send a request elsewhere, if that is better with a longer look, too."""
        here, far = int(self.plan[number]), FAR * self._lookahead
        left_s, joined_s = self.ttft_s.copy(), self.ttft_s.copy()
        if here != NONE:
            change_s = self._future(here, left_s, NONE, number, far) - self.ttft_s[number]
            if change_s + self._future(there, joined_s, number, NONE, far) >= 0.0:
                return
        else:
            self._future(there, joined_s, number, NONE, far)
        self.plan[number] = there
        self.ttft_s = np.where(self.plan == here, left_s, np.where(self.plan == there, joined_s, self.ttft_s))

    def _future(self, index: int, after_s: NDArray[np.float64], *limits: Any) -> float:
        """See ``try_out``; ``limits`` are the last fields of ``Trial``."""
        past, scratch, fate = self._past[index], self._scratch[index], self._fates[index]
        trial = Trial(self.plan, self.ttft_s, after_s, index, *limits)
        return float(try_out(past, scratch, self._requests, fate, trial))


def _closes(world: World, sent_at_s: NDArray[np.float64], delays_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether an instance stops serving while a request is on its way: ``[num_requests, num_instances]``."""
    closes = np.zeros((len(sent_at_s), len(delays_s)), np.bool_)
    for event in world.events:
        if event.what in ("fail", "remove"):
            arrive_at_s = sent_at_s + delays_s[event.instance]
            closes[:, event.instance] |= (sent_at_s < event.at_s) & (event.at_s <= arrive_at_s)
    return closes


def _fate(
    world: World,
    index: int,
    traits: InstanceTraits,
    delay_s: float,
    takes: NDArray[np.bool_],
    idle: Branch,
) -> Fate:
    """What befalls an instance in a world."""
    events = [event for event in world.events if event.instance == index and event.what in _BEFALLS]
    return Fate(
        prefill_tokens_per_s=traits.prefill_tokens_per_s,
        delay_s=delay_s,
        takes=takes,
        at_s=np.array([event.at_s for event in events]),
        what=np.array([_BEFALLS[event.what] for event in events], np.int64),
        factor=np.array([event.factor for event in events]),
        idle=idle.memory.copy(),
    )
