"""What has happened at the instances and is on its way to the router."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

from envs.cluster import Completion, Events, FirstToken


class Reports:
    """First tokens and completions, by the instant at which they are learned."""

    def __init__(self) -> None:
        self._num = 0  # tells reports of one instant apart: first sent, first learned
        self._first_tokens: list[tuple[float, int, FirstToken]] = []
        self._completions: list[tuple[float, int, Completion]] = []

    @property
    def next_completion_at_s(self) -> float:
        """When the next completion is learned; infinite where none is on its way."""
        return self._completions[0][0] if self._completions else inf

    def send_first_token(self, token: FirstToken, way_s: float) -> None:
        """Send a first token on its way, which takes so long; it is stamped with when it is learned."""
        token = token._replace(at_s=token.at_s + way_s)
        self._num += 1
        heappush(self._first_tokens, (token.at_s, self._num, token))

    def send_completion(self, completion: Completion, at_s: float, way_s: float) -> None:
        """Send the outcome of a request that ended at ``at_s``, served or failed."""
        completion = completion._replace(
            first_token_at_s=completion.first_token_at_s + way_s,
            finished_at_s=completion.finished_at_s + way_s,
        )
        self._num += 1
        heappush(self._completions, (at_s + way_s, self._num, completion))

    def take(self, now_s: float) -> Events:
        """What is learned by now and was not taken before."""
        events = Events([], [])
        while self._first_tokens and self._first_tokens[0][0] <= now_s:
            events.first_tokens.append(heappop(self._first_tokens)[2])
        while self._completions and self._completions[0][0] <= now_s:
            events.completions.append(heappop(self._completions)[2])
        return events
