"""What the loop's thread has seen and the environment's thread has not taken yet.

Under one lock a stamp is taken and what it says is put here, so that who holds the lock and reads the clock
knows that nothing earlier is still to come.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter, deque
from math import inf
from typing import NamedTuple

from envs.cluster import Completion, FirstToken, Request
from envs.live.clock import Clock

MAX_WAIT = 1.0  # seconds; a loop that died without a word is noticed after so long

COUNTED = (
    "num_submitted",
    "num_served",
    "num_failed",
    "num_timed_out",
    "num_without_cached_tokens",
    "num_scrapes",
    "num_scrapes_failed",
    "num_scrapes_refused",
    "num_times_unhealthy",
    "num_prefix_caches_reset",
)


class Outcome(NamedTuple):
    """How a request ended, as its stream tells."""

    request: Request
    completion: Completion
    token_ids: list[int]
    """The answer, where it was asked for."""
    token_at_s: array[float]
    """The instant of each chunk with tokens, where they are kept."""


class Mailbox:
    """First tokens and outcomes in the order of their instants, and counts of both."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Condition()
        self._error: BaseException | None = None
        self.restart()

    def restart(self) -> None:
        """Hold nothing."""
        with self.lock:
            self._first_tokens: deque[FirstToken] = deque()
            self._outcomes: deque[tuple[float, Outcome]] = deque()  # with the instant its end was known
            self.num_unfinished = 0
            self.num_in_flight = 0
            """Requests sent whose outcome has not been taken."""
            self.counts = Counter[str](dict.fromkeys(COUNTED, 0))
            self.max_inter_token_s = 0.0

    def sent(self) -> None:
        """Expect one more outcome."""
        with self.lock:
            self.num_unfinished += 1
            self.num_in_flight += 1
            self.counts["num_submitted"] += 1

    def put_first_token(self, token: FirstToken) -> None:
        """Put a first token, stamped with the lock held, which still is."""
        self._first_tokens.append(token)

    def put_outcome(self, outcome: Outcome, max_inter_token_s: float) -> None:
        """Put an outcome, as of now."""
        failure = outcome.completion.failure
        kind = (
            "num_timed_out" if failure.startswith("timed out") else "num_failed" if failure else "num_served"
        )
        with self.lock:
            self._outcomes.append((self.clock.now_s, outcome))
            self.num_unfinished -= 1
            self.counts[kind] += 1
            self.max_inter_token_s = max(self.max_inter_token_s, max_inter_token_s)
            self.lock.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let the environment's thread raise this, whatever it asks for next."""
        with self.lock:
            self._error = self._error or error
            self.lock.notify_all()

    def check(self) -> None:
        """Raise what went wrong in the loop's thread, if anything did."""
        if self._error is not None:
            raise RuntimeError(f"the thread of the live cluster failed: {self._error!r}") from self._error

    def wait(
        self, now_s: float, until_s: float, stop_at_outcome: bool
    ) -> tuple[float, list[FirstToken], list[Outcome]]:
        """Wait until an instant, or, if asked, for the first outcome before it; return what came by then.

        An infinite instant is waited for as long as something is in flight. Returns also the instant waited
        to, ``now_s`` where that was nothing.
        """
        with self.lock:
            while True:
                self.check()
                clock_s = self.clock.now_s
                if stop_at_outcome and self._outcomes and self._outcomes[0][0] <= until_s:
                    now_s = max(now_s, self._outcomes[0][0])
                    break
                if clock_s >= until_s:
                    now_s = until_s
                    break
                if until_s == inf and self.num_unfinished == 0:
                    break
                self.lock.wait(MAX_WAIT if until_s == inf else min(self.clock.until(until_s), MAX_WAIT))
            first_tokens, outcomes = [], []
            while self._first_tokens and self._first_tokens[0].at_s <= now_s:
                first_tokens.append(self._first_tokens.popleft())
            while self._outcomes and self._outcomes[0][0] <= now_s:
                outcomes.append(self._outcomes.popleft()[1])
            self.num_in_flight -= len(outcomes)
        return now_s, first_tokens, outcomes
