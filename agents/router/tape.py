"""Records what the router decides and what came of it, in a thread of its own.

The files are those of ``envs.live.recorder``: ``python -m agents.ope`` evaluates other policies on them,
``workload=recording`` replays their requests. The thread writes, so that no request waits for a disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan, nan
from queue import SimpleQueue

from agents.router.desk import Ending, Ticket
from agents.router.fleet import UNKNOWN
from agents.router.log import Log
from envs.cluster import DEFAULT_SLO
from envs.feedback import Feedback
from envs.live.recorder import Recorder

MAX_WAITING = 20_000
"""Entries that wait for the thread; of further requests nothing is recorded, and that is counted."""


@dataclass(frozen=True)
class TapeSettings:
    """Where to record."""

    directory: str


class Tape:
    """Made, started and closed beside a router.

    Args:
        settings: See there.
        max_instances: Of the router. Its places are recorded, not its instances, which come and go.
        policy_version: Which policy decides at the start.
        log: Told where it cannot be written; the router goes on.
        seed: Of the router's chance.

    Raises:
        ValueError: The directory holds another recording.
        OSError: It cannot be written.
    """

    def __init__(
        self, settings: TapeSettings, max_instances: int, policy_version: str, log: Log, seed: int = 0
    ) -> None:
        self._recorder = Recorder(
            settings.directory, [UNKNOWN] * max_instances, max_instances, policy_version
        )
        self._recorder.begin_episode(seed)
        self._log = log
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ids: dict[int, int] = {}  # request_id -> its decision in the recording
        self._num_decided = 0
        self.num_dropped = 0
        """Requests of which nothing was recorded."""
        self.is_broken = False
        """Whether it could not be written, after which nothing more is."""
        self._thread = threading.Thread(target=self._run, name="routegym-tape", daemon=True)
        self._thread.start()

    def decided(self, ticket: Ticket) -> None:
        """Note a decision."""
        if self.is_broken or self._queue.qsize() >= MAX_WAITING:
            self.num_dropped += 1
            return
        self._ids[ticket.request.request_id] = self._num_decided
        self._num_decided += 1
        choice, recorder = ticket.choice, self._recorder
        self._queue.put(
            lambda: recorder.decided(
                replace(ticket.request, request_id=ticket.asked_as),
                ticket.observation,
                choice.instance,
                choice.propensities,
                choice.scores,
                ticket.sent_at_s,
            )
        )

    def ended(self, ticket: Ticket, ending: Ending) -> None:
        """Note what came of a decision."""
        decision_id = self._ids.pop(ticket.request.request_id, None)
        if decision_id is None:
            return
        request, (at_s, num_output_tokens, ttft_s, failure, is_retried) = ticket.request, ending
        e2e_s = nan if failure else at_s - request.arrived_at_s
        tpot_s = (e2e_s - ttft_s) / max(num_output_tokens - 1, 1)
        met = not failure and ttft_s <= DEFAULT_SLO.ttft_s and not tpot_s > DEFAULT_SLO.tpot_s
        feedback = Feedback(
            decision_id=decision_id,
            propensity=float(ticket.choice.propensities[ticket.choice.instance]),
            instance=ticket.choice.instance,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=num_output_tokens,
            num_cached_tokens=0,
            num_preemptions=0,
            arrived_at_s=request.arrived_at_s,
            ttft_s=e2e_s if isnan(ttft_s) else ttft_s,
            tpot_s=tpot_s,
            e2e_s=e2e_s,
            slo_met=met,
            tenant=request.tenant,
            failure=failure,
            is_retried=is_retried,
        )
        self._queue.put(lambda: self._recorder.learned([feedback], at_s, False))

    def close(self) -> None:
        """Write what is there."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None:
                entry()
            self._recorder.close()
        except Exception as error:  # whatever it is, the router goes on, and its log tells of it
            self.is_broken = True
            self._log.event("not_recorded", reason=str(error))
