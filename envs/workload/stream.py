"""What the environment asks of a request stream."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from envs.cluster import Completion, Request


class Workload(Protocol):
    """A stream of requests in virtual or real time, open or closed loop.

        workload.reset(np.random.default_rng(seed))
        while not workload.exhausted:
            arrival_s = workload.next_arrival_at_s()
            events = cluster.advance_to(arrival_s, stop_at_completion=workload.closed_loop)
            for completion in events.completions:
                workload.observe(completion)
            if workload.closed_loop and events.completions:
                continue  # a follow-up may now come before the arrival that was known
            request = workload.pop()
            cluster.submit(request, choose(request))
        for completion in cluster.drain().completions:
            workload.observe(completion)

    Instants count from the last ``reset``. The stream is a function of the generator given to ``reset`` and,
    in closed loop, of the completions observed.
    """

    @property
    def closed_loop(self) -> bool:
        """Whether completions bring further requests, so that every one must be observed."""
        ...

    @property
    def exhausted(self) -> bool:
        """Nothing will ever come again: no arrival is scheduled, and no popped request can bring one.

        Not exhausted with ``next_arrival_at_s() == inf`` means: wait for a completion.
        """
        ...

    @property
    def num_requests(self) -> int | None:
        """How many requests one reset gives, if none fails; None while that is not known."""
        ...

    @property
    def block_size(self) -> int:
        """Tokens per block hash of the requests."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data, for the results that come of it."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Begin anew at instant 0; all chance comes from ``rng``."""
        ...

    def next_arrival_at_s(self) -> float:
        """When the next known request arrives; infinite when none is known now."""
        ...

    def pop(self) -> Request:
        """Return the next known request and go past it; ``RuntimeError`` when none is known."""
        ...

    def observe(self, completion: Completion) -> None:
        """Learn that a popped request ended; a closed-loop stream may schedule its follow-up."""
        ...
