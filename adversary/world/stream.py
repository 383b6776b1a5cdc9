"""The requests of an attacked world: those of a trace, changed window by window.

    stream = AttackedStream(replay, threat)
    stream.reset(stream_rng(seed))
    stream.give(values)                # of the first window: its requests are known now
    while stream.next_is_known:
        request = stream.pop()

Whatever chance decides of a request (whether it is among the ``frac_overflow`` that run to the cap) is drawn
for all requests of the trace when the stream is reset. Of the ``n`` requests that arrive in a window with
``frac_overflow`` those run to the cap whose draws are the ``floor(frac_overflow * n)`` lowest: never more
than that share. The same values give the same requests whether they are given all at once or one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nextafter

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from adversary.threat import Values
from adversary.world.threat import Traffic, WorldThreat
from envs.cluster import Completion, Request
from envs.workload.block_hash import content_hash, expand
from envs.workload.replay import Replay
from envs.workload.stream import Workload


def stream_rng(seed: int) -> np.random.Generator:
    """The generator that ``RoutingEnv.reset(seed=seed)`` gives to its workload."""
    return seeding.np_random(seed)[0].spawn(1)[0]


def calm_stream(base: Workload, duration_s: float) -> AttackedStream:
    """The trace's own requests, for so long: what an attack of that length is compared with."""
    threat = WorldThreat(window_s=duration_s, num_windows=1, rate_factor=[0.5, 1.0])
    return AttackedStream(base, threat, threat.neutral(0))


class AttackedStream:
    """Open-loop ``Workload``: a trace's requests as a ``WorldThreat`` changes them.

    It lasts just ``num_windows * window_s`` and takes from the trace what that needs: time runs through the
    trace ``rate_factor`` times as fast. Without any change its requests are those of the trace up to there.
    The windows that were given stay given over a ``reset``, so that an attack may be played on another seed.

    Args:
        base: Whose requests; its clock begins with its first request.
        threat: What may be done to them.
        values: What is done in all windows, ``[num_windows, num_knobs]``; empty: they are given later.

    Raises:
        ValueError: ``base`` is no trace in open loop. From ``reset``: it is shorter than the attack.
    """

    closed_loop = False

    def __init__(self, base: Workload, threat: WorldThreat, values: Sequence[Values] | Values = ()) -> None:
        if not isinstance(base, Replay):
            raise ValueError(
                f"the workload is a {type(base).__name__}: only a trace in open loop can be attacked, such as"
                " workload=generated, mooncake, azure, recording or stored"
            )
        self.base, self.threat = base, threat
        self._given: list[Traffic] = [threat.traffic(row) for row in values]
        self._chances: NDArray[np.float64] = np.empty((0, 4))  # [num_requests of the trace, 4], in [0, 1)
        self._begin()

    @property
    def most_needed_s(self) -> float:
        """Seconds of the trace that an attack may use up."""
        factors = [knob.high for knob in self.threat.knobs(0) if knob.name == "rate_factor"]
        return self.threat.duration_s * max(factors, default=1.0)

    @property
    def num_given(self) -> int:
        """Windows whose values were given."""
        return len(self._given)

    @property
    def next_is_known(self) -> bool:
        """Whether a request of the windows given is left."""
        return self._next < len(self._requests)

    @property
    def exhausted(self) -> bool:
        """Whether every request of all windows has been popped."""
        return not self.next_is_known and self.num_given == self.threat.num_windows

    @property
    def num_requests(self) -> int | None:
        """Requests of all windows; None while not all are given."""
        return len(self._requests) if self.num_given == self.threat.num_windows else None

    @property
    def block_size(self) -> int:
        """Tokens per block hash."""
        return self.base.block_size

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data."""
        length = f"{self.threat.num_windows} windows of {self.threat.window_s:g} s"
        return (*self.base.notes, f"attacked in {length}")

    def forget(self) -> None:
        """Forget the windows that were given, and begin anew without any."""
        self._given.clear()
        self._begin()

    def give(self, values: Values) -> int:
        """Say what is done in the next window, ``[num_knobs]``; return how many requests arrive in it.

        Raises ``RuntimeError`` before ``reset``, and ``ValueError`` after the last window.
        """
        if not len(self._chances):
            raise RuntimeError("what chance decides is not drawn yet: call reset before give")
        if self.num_given == self.threat.num_windows:
            raise ValueError(f"all {self.num_given} windows were given: call forget to begin another attack")
        traffic = self.threat.traffic(values)
        num_before = len(self._requests)
        self._add(self.num_given, traffic)
        self._given.append(traffic)
        return len(self._requests) - num_before

    def reset(self, rng: np.random.Generator) -> None:
        """Begin anew with the windows given so far; ``rng`` serves the trace first, then this."""
        self.base.reset(rng)
        needed_s = self.most_needed_s
        times_s, stretch = self.base.trace.arrived_at_s, self.base.stretch
        lasts_s = float(times_s[stretch[-1]] - times_s[stretch[0]])
        if lasts_s < needed_s:
            raise ValueError(
                f"the workload lasts {lasts_s:.1f} s, an attack of {self.threat.duration_s:g} s may need"
                f" {needed_s:.1f} s of it: raise num_requests, num_generated or num_repeats, or lower"
                " num_windows, window_s or rate_factor"
            )
        self._begin()
        self._chances = rng.random((len(stretch), 4))
        for window, traffic in enumerate(self._given):
            self._add(window, traffic)

    def next_arrival_at_s(self) -> float:
        """When the next request arrives; infinite after the last of all.

        Raises ``RuntimeError`` where that hangs on a window that was not given.
        """
        if self.next_is_known:
            return self._requests[self._next].arrived_at_s
        if self.exhausted:
            return inf
        raise RuntimeError(f"window {self.num_given} was not given: call give with its values first")

    def pop(self) -> Request:
        """Return the next request; ``RuntimeError`` where none is known."""
        if not self.next_is_known:
            raise RuntimeError(f"no request is left of the {self.num_given} windows given")
        self._next += 1
        return self._requests[self._next - 1]

    def observe(self, completion: Completion) -> None:
        """Nothing follows from a completion in open loop."""

    def _begin(self) -> None:
        self._requests: list[Request] = []
        self._next = 0
        self._ahead_s = 0.0  # how far the trace's clock is ahead of this stream's

    def _add(self, window: int, traffic: Traffic) -> None:
        """Change the trace's requests that arrive in this window, and add them."""
        begins_at_s = window * self.threat.window_s
        ends_at_s = begins_at_s + self.threat.window_s
        base_begins_at_s = begins_at_s + self._ahead_s
        self._ahead_s += self.threat.window_s * (traffic.rate_factor - 1.0)
        last_at_s = nextafter(ends_at_s, 0.0)
        at_once: list[Request] = []
        later: list[Request] = []
        arriving: list[Request] = []
        while self.base.next_arrival_at_s() < ends_at_s + self._ahead_s:
            arriving.append(self.base.pop())
        chances = self._chances[[request.request_id for request in arriving]]
        fractions = (traffic.frac_unshared, traffic.frac_overflow, traffic.frac_synchronised)
        hits = zip(*map(_lowest, chances[:, :3].T, fractions), strict=True)
        for request, (is_unshared, is_overflow, is_at_once), draw in zip(
            arriving, hits, chances[:, 3].tolist(), strict=True
        ):
            changed = self._changed(request, traffic, is_unshared, is_overflow, draw)
            if is_at_once:
                at_once.append(replace(changed, arrived_at_s=begins_at_s))
                continue
            after_s = (request.arrived_at_s - base_begins_at_s) / traffic.rate_factor
            later.append(replace(changed, arrived_at_s=min(begins_at_s + after_s, last_at_s)))  # rounding
        for request in at_once + later:
            self._requests.append(replace(request, request_id=len(self._requests)))

    def _changed(
        self, request: Request, traffic: Traffic, is_unshared: bool, is_overflow: bool, draw: float
    ) -> Request:
        """``draw`` in [0, 1) says in which part of a larger working set it falls."""
        num_prompt, num_output = request.num_prompt_tokens, request.num_output_tokens
        hashes = request.block_hashes
        if traffic.prompt_factor != 1.0:
            num_prompt = self._scaled(num_prompt, num_output, traffic.prompt_factor)
            # What follows a cut prompt, or its first part, is no longer what was answered.
            hashes = hashes[: min(num_prompt, request.num_prompt_tokens) // self.block_size]
        if is_unshared:
            hashes = _salted(hashes, -1 - request.request_id)
        elif salt := int(draw * traffic.working_set_factor):
            hashes = _salted(hashes, salt)
        if is_overflow:
            assert self.threat.overflow_tokens is not None
            num_output = max(num_output, self.threat.overflow_tokens)
        return replace(
            request,
            num_prompt_tokens=num_prompt,
            num_output_tokens=num_output,
            block_hashes=hashes,
        )

    def _scaled(self, num_prompt: int, num_output: int, factor: float) -> int:
        """Length of a prompt that is cut, or grows as far as it may."""
        wanted = max(round(num_prompt * factor), 1)
        if factor < 1.0:
            return wanted
        assert self.threat.max_model_len is not None
        return min(wanted, max(num_prompt, self.threat.max_model_len - num_output))


def _lowest(draws: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Which of the draws are among the lowest, as many as are at most this fraction of them."""
    hit = np.zeros(len(draws), np.bool_)
    hit[np.argsort(draws, kind="stable")[: int(fraction * len(draws) + 1e-9)]] = True  # 0.29 * 100 < 29
    return hit


def _salted(hashes: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Other hashes, in [1, 2^63), equal where hashes and salt are equal: still chained."""
    if not len(hashes):
        return hashes
    # Twice, for hashes are content_hash of small numbers too: h(3) ^ h(4) would be had in two ways.
    key = content_hash(int(content_hash(salt)))
    bounds = np.array([0, len(hashes)])
    return expand(hashes ^ key, bounds, bounds, 1)
