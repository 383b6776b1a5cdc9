"""A request at the picker: where it goes, and what came of it. Knows nothing of Envoy's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from agents.picker.destination import Destinations
from agents.router.answer_meter import AnswerMeter
from agents.router.asked import BadRequestError, Identity, asked
from agents.router.desk import Desk, NoInstanceError, Ticket
from agents.router.fleet import Instance
from agents.router.front import Front
from agents.router.log import Log
from agents.router.proxy import CLIENT_GONE, RETRIED_STATUSES, ROUTED
from agents.router.refused import RefusedError


@dataclass(frozen=True)
class CallSettings:
    """Limits of what is picked for."""

    max_body_bytes: int = 8 << 20
    num_fallbacks: int = 0
    """Further endpoints that the gateway is told of, best first, for its retries."""
    max_in_flight: int | None = None
    """Requests under way at all instances together, beyond which further ones get 429."""
    max_in_flight_per_instance: int | None = None
    """At one instance, beyond which it is not picked; 429 where all have as many."""

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for name, least in (("max_body_bytes", 1), ("num_fallbacks", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"calls.{name} is {getattr(self, name)}, it must be at least {least}")
        for name in ("max_in_flight", "max_in_flight_per_instance"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"calls.{name} is {value}, it must be at least 1, or null")


class Calls(Front):
    """All requests, and their counts.

    Args:
        desk: Decides.
        settings: Limits.
        identity: How sessions and tenants are known.
        log: Where a line for each request goes.
    """

    def __init__(self, desk: Desk, settings: CallSettings, identity: Identity, log: Log) -> None:
        super().__init__(desk, identity, log)
        self.settings = settings
        self.destinations = Destinations(desk.fleet)


class Call:
    """One request. Whatever happens to it, and in whichever order, ``end`` leaves nothing of it behind.

    Args:
        calls: Where it is counted.
        method: Of HTTP.
        path: With its query.
        headers: By name in lower case.
        subset: The only addresses that it may go to; None: to all.
    """

    def __init__(
        self, calls: Calls, method: str, path: str, headers: Mapping[str, str], subset: Sequence[str] | None
    ) -> None:
        self._calls, self._headers, self._subset = calls, headers, subset
        self._clock = calls.desk.fleet.clock
        self._arrived_at_s = self._clock.now_s
        self.path = path.partition("?")[0]
        self._is_routed = method == "POST" and self.path.endswith(ROUTED)
        self._ticket: Ticket | None = None
        self._meter = AnswerMeter()
        self._status: int | None = None
        self._is_stream = self._is_begun = self._is_over = False
        self.request_id = headers.get("x-request-id") or uuid4().hex
        self.num_attempts = 0
        self.instance_name, self.reason, self.failure = "", "", ""
        self.ttft_s = float("nan")
        calls.num_in_flight += 1

    def pick(self, body: bytes) -> list[str]:
        """Decide where it goes: the best address first, then its fallbacks.

        What is no completion, chat or embedding goes to the instance that has the fewest requests, and is
        not counted: there is no telling what it takes.

        Raises:
            RefusedError: Nowhere.
        """
        calls = self._calls
        without = self._without()
        if not self._is_routed:
            up = [each for each in calls.desk.fleet if _is_up(each) and each not in without]
            if not up:
                raise self._none_up()
            ranked = sorted(up, key=lambda instance: instance.num_in_flight)
        else:
            try:
                wanted = asked(self.path, body, self._headers, calls.identity)
            except BadRequestError as error:
                raise RefusedError(400, "invalid_request_error", str(error)) from None
            try:
                ticket = calls.desk.send(wanted, self._arrived_at_s, without)
            except NoInstanceError as error:
                raise (self._none_up() if error.status == 503 else error) from None
            self._ticket = ticket
            self.reason = ticket.choice.reason
            ranked = [ticket.instance, *self._fallbacks(ticket)]
        self.num_attempts = 1
        self.instance_name = ranked[0].endpoint.name
        return [calls.destinations.of(each) for each in ranked[: 1 + calls.settings.num_fallbacks]]

    def answered(self, status: int, content_type: str, served_by: str) -> None:
        """Note the headers of its answer, and which address sent it where the gateway says so."""
        calls = self._calls
        self._status, self._is_stream = status, content_type.startswith("text/event-stream")
        if self._ticket is not None and served_by:
            others = calls.destinations.among([served_by])
            if others and others[0] is not self._ticket.instance:
                self._ticket = calls.desk.moved(self._ticket, others[0])
                self.instance_name = others[0].endpoint.name
                self.num_attempts += 1
                calls.counts["num_retries"] += 1

    def take(self, data: bytes) -> None:
        """Note further bytes of its answer."""
        if self._ticket is None or not data:
            return
        self._meter.take(data)
        if self._is_stream and not self._is_begun:
            self._is_begun = True
            self._calls.desk.first_token(self._ticket)
            self.ttft_s = self._clock.now_s - self._arrived_at_s

    def done(self) -> None:
        """Note that its answer is whole."""
        ticket, desk = self._ticket, self._calls.desk
        if ticket is None:
            return
        self._ticket = None
        if self._status in RETRIED_STATUSES:
            self.failure = f"http {self._status}"
            desk.failed(ticket, True, self.failure)
        else:
            desk.served(ticket, self._meter.num_output_tokens, self.ttft_s if self._is_begun else None)

    def refused(self, error: RefusedError) -> None:
        """Note that the picker answered it."""
        self._status, self.failure = error.status, str(error)

    def end(self) -> None:
        """Let go of it; where its answer was not whole, nobody is blamed: clients go, too."""
        if self._is_over:
            return
        self._is_over = True
        calls = self._calls
        if self._ticket is not None:
            self.failure = "broken off"
            calls.counts["num_broken_off"] += self._status is not None
            calls.desk.gave_up(self._ticket)
            self._ticket, self._status = None, CLIENT_GONE
        status = CLIENT_GONE if self._status is None else self._status
        calls.num_in_flight -= 1
        calls.statuses[status] += 1
        calls.log.request(self, status, self._clock.now_s - self._arrived_at_s)

    def _without(self) -> list[Instance]:
        """Instances that it may not go to. Raises ``RefusedError`` where no other is up."""
        calls, settings, fleet = self._calls, self._calls.settings, self._calls.desk.fleet
        most, most_each = settings.max_in_flight, settings.max_in_flight_per_instance
        if most is not None and sum(each.num_in_flight for each in fleet) >= most:
            raise RefusedError(429, "overloaded_error", f"{most} requests are under way, no more are taken")
        if self._subset is None and most_each is None:
            return []
        allowed = list(fleet) if self._subset is None else calls.destinations.among(self._subset)
        up = [each for each in allowed if _is_up(each)]
        if not up:
            raise self._none_up()
        free = [each for each in up if most_each is None or each.num_in_flight < most_each]
        if not free:
            what = f"each of {len(up)} instances has {most_each} requests under way, no more are taken"
            raise RefusedError(429, "overloaded_error", what)
        return [each for each in fleet if each not in free]

    def _none_up(self) -> RefusedError:
        if self._subset is None:
            return RefusedError(
                503, "overloaded_error", f"none of {len(list(self._calls.desk.fleet))} instances is up"
            )
        what = f"of the {len(self._subset)} endpoints of the subset hint, none is known, up, and serves this"
        return RefusedError(503, "overloaded_error", what)

    def _fallbacks(self, ticket: Ticket) -> list[Instance]:
        """Where else it might have gone, by what the decision's scores say."""
        if not self._calls.settings.num_fallbacks:
            return []
        may = ticket.observation["mask"] != 0
        may[ticket.choice.instance] = False
        order = np.argsort(-ticket.choice.scores, kind="stable")
        return [self._calls.desk.fleet[int(number)] for number in order if may[number]]


def _is_up(instance: Instance) -> bool:
    return instance.health.is_up and not instance.is_leaving
