"""One session, one instance; a new session where the fewest are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from agents.export.runtime import ring_position
from agents.heuristics.heuristic import Array, Candidates, Heuristic, Kind, Memory, demote, least, within
from agents.heuristics.window import Window
from envs.feedback import Feedback
from envs.observation import SESSION_KEY


class Place(NamedTuple):
    """Where a session is."""

    instance: int
    used_at_s: float


class StickyLeastLoaded(Heuristic):
    """``sticky_least_loaded`` of vllm-project/router (0.1.17; 335c57e).

    Rule: a session stays where it is while that instance is valid. A new one, or one whose instance is not,
    goes where the fewest sessions are, of equals by rendezvous hashing of session and instance. A session
    that is not used for 2 hours is forgotten. Requests without session go where the fewest are, too, and are
    not counted; of equals a random one (there the hash of the prompt, which is not observed).

    Time is ``Window``'s, that of the outcomes. Nobody tells that a session has ended (there a call may).

    Args:
        session_s: after which a session that is not used is forgotten.
    """

    kind: ClassVar[Kind] = "session"
    memory: ClassVar[Memory] = "own"

    def __init__(self, session_s: float = 7200.0) -> None:
        self.session_s = within("session_s", session_s, 0.0)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode: there are no sessions."""
        super().reset(rng)
        self._clock = Window(0.0)
        self._places: dict[int, Place] = {}  # session -> where it is, the one longest unused first
        self._num_sessions: Counter[int] = Counter()  # instance -> sessions there

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn how time goes on; forget sessions that nobody used."""
        self._clock.advance(completions)
        for session, place in list(self._places.items()):
            if place.used_at_s > self._clock.now_s - self.session_s:
                break
            self._forget(session)

    def chose(self, candidates: Candidates, place: int) -> None:
        """Note where the session is."""
        session = int(candidates.request[SESSION_KEY])
        if session >= 0:
            if session in self._places:
                self._forget(session)
            instance = int(candidates.indices[place])
            self._places[session] = Place(instance, max(self._clock.now_s, 0.0))
            self._num_sessions[instance] += 1

    def costs(self, candidates: Candidates) -> Array:
        """Price by sessions, behind all others those that lose the hash, or are not the session's own."""
        session, indices = int(candidates.request[SESSION_KEY]), candidates.indices.tolist()
        place = self._places.get(session)
        num_sessions = np.array([self._num_sessions[index] for index in indices], np.float64)
        if place is not None and place.instance in indices:
            return demote(num_sessions, candidates.indices != place.instance)
        if place is not None:
            self._counts["moved"] += 1
        if session < 0:
            self._counts["without_session"] += 1
            return num_sessions
        fewest = num_sessions == least(num_sessions)
        weights = np.array([ring_position(f"session {session} instance {index}") for index in indices])
        return demote(num_sessions, candidates.indices != candidates.indices[(weights * fewest).argmax()])

    def _forget(self, session: int) -> None:
        self._num_sessions[self._places.pop(session).instance] -= 1
