"""Search for the assignment of an episode's requests whose mean TTFT is least, all of them known."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

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
LEAST_GAIN_S = 1e-9
"""A change of the sum of TTFTs that is less is taken for rounding."""


class Search:
    """Coordinate descent over the assignment, each step exact.

    A *sweep* goes through the requests in the order in which they are decided, and sends each where the sum
    of all TTFTs is least, given where all others go, those before it and those after it. What a move does
    follows from the two instances alone that it concerns (``envs.emulator.what_if``), so that the fleet need
    not be copied: first the request's present instance goes on without it, and every other one with it, for
    as long as ``lookahead`` first tokens; the best move found so is made if, with both futures played to
    their end, the sum is less. So no sweep makes it more.

    Args:
        cluster: Whose instances are emulated; it is not touched.
        episode: Its requests and where they may go; where they went is where the search begins.
        alone_s: The least TTFT of each request on each instance, ``[num_requests, num_instances]``: where that
            is no gain, nothing is tried.
        lookahead: First tokens that a move is judged by before it is looked at in full.
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
        self._allowed = episode.allowed & fits
        nowhere = ~self._allowed.any(axis=1)
        self._allowed[nowhere] = fits[nowhere]
        world = world_of(cluster)
        self._fates = [
            _fate(world, index, traits, episode.allowed[:, index] & fits[:, index], branch)
            for index, (traits, branch) in enumerate(zip(cluster.traits, self._past, strict=True))
        ]
        self._lookahead = lookahead
        is_allowed = self._allowed[np.arange(len(requests)), episode.instances]
        self.plan = np.where(is_allowed, episode.instances, self._allowed.argmax(axis=1))
        """Where each request goes, ``[num_requests]``."""
        self.ttft_s = np.zeros(len(requests))
        """What comes of it, ``[num_requests]``."""
        self._unread_s = np.zeros(len(requests))
        self._num_candidates = num_candidates
        self.assess()

    @property
    def cost_s(self) -> float:
        """The mean TTFT."""
        return float(self.ttft_s.mean())

    def build(self) -> None:
        """Make a plan out of nothing: each request where it and those before it fare best."""
        self.plan[:] = NONE
        self.sweep()

    def sweep(self) -> int:
        """Go through all requests once; return how many were moved."""
        num_moved = 0
        self._begin()
        for number in range(len(self._requests)):
            num_moved += self._place(number)
        self.assess()
        return num_moved

    def assess(self) -> None:
        """Play the plan."""
        self._begin()
        for index in range(len(self._past)):
            self._future(index, self.ttft_s)

    def _begin(self) -> None:
        for past, fate in zip(self._past, self._fates, strict=True):
            past.memory[:] = fate.idle
            past.progress[:] = 0
            past.state.requests["request_id"] = NONE

    def _place(self, number: int) -> bool:
        """Send a request where it is best; return whether that is elsewhere than before."""
        here = there = int(self.plan[number])
        own = np.empty((len(self._past), 1), np.int64)
        idle = [Trial(self.plan, self._unread_s, self._unread_s, index) for index in range(len(self._past))]
        options = np.flatnonzero(self._allowed[number]).tolist()
        expected_s = {
            index: expected_ttft_s(
                self._past[index], self._requests, self._fates[index], idle[index], number, own[index]
            )
            for index in options
        }
        most_s = np.inf
        if here != NONE and len(options) > 1:
            most_s = self.ttft_s[number] - self._future(here, self._unread_s, NONE, number, self._lookahead)
        for index in sorted(options, key=expected_s.__getitem__)[: self._num_candidates]:
            if index != here:
                change_s = self._future(index, self._unread_s, number, NONE, self._lookahead, most_s)
                if change_s < most_s:
                    most_s, there = change_s, index
        moved = there != here and self._move(number, there)
        index = int(self.plan[number])
        fate, tokens = self._fates[index], int(own[index, 0])
        send(self._past[index], self._requests, fate, idle[index], number, tokens)
        return moved

    def _move(self, number: int, there: int) -> bool:
        """Send a request elsewhere, if that is better with a longer look; return whether it is."""
        here, far = int(self.plan[number]), FAR * self._lookahead
        left_s, joined_s = self.ttft_s.copy(), self.ttft_s.copy()
        change_s = self._future(there, joined_s, number, NONE, far)
        if here != NONE:
            change_s += self._future(here, left_s, NONE, number, far)
            if change_s - self.ttft_s[number] > -LEAST_GAIN_S:
                return False
        self.plan[number] = there
        self.ttft_s = np.where(self.plan == here, left_s, np.where(self.plan == there, joined_s, self.ttft_s))
        return True

    def _future(self, index: int, after_s: NDArray[np.float64], *trial: float) -> float:
        """See ``try_out``."""
        past, scratch, fate = self._past[index], self._scratch[index], self._fates[index]
        whole = Trial(self.plan, self.ttft_s, after_s, index, *trial)
        return float(try_out(past, scratch, self._requests, fate, whole))


def _fate(world: World, index: int, traits: InstanceTraits, takes: NDArray[np.bool_], idle: Branch) -> Fate:
    """What befalls an instance in a world."""
    events = [event for event in world.events if event.instance == index and event.what in _BEFALLS]
    delay_s = world.network_delay_s
    return Fate(
        prefill_tokens_per_s=traits.prefill_tokens_per_s,
        delay_s=float(delay_s[index] if isinstance(delay_s, Sequence) else delay_s),
        takes=takes,
        at_s=np.array([event.at_s for event in events]),
        what=np.array([_BEFALLS[event.what] for event in events], np.int64),
        factor=np.array([event.factor for event in events]),
        idle=idle.memory.copy(),
    )
