"""Where requests are decided about: what the router knows, and who decides on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from time import perf_counter
from typing import NamedTuple, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from agents.router.asked import BLOCK_SIZE, Asked
from agents.router.fleet import UNKNOWN, Fleet, Instance
from agents.router.guard import Choice, Guard
from agents.router.refused import RefusedError
from agents.router.timings import Timings
from envs.cluster import Request
from envs.observation import Observation, encode
from envs.prefix_index import PrefixIndex
from envs.router_view import RouterView
from envs.sends import Sends

_ONE = np.ones(1, np.int8)


class NoInstanceError(RefusedError):
    """No instance may be sent the request."""


class Ticket(NamedTuple):
    """A request that was sent to an instance."""

    request: Request
    instance: Instance
    choice: Choice
    observation: Observation
    sent_at_s: float
    asked_as: int
    """``request_id`` of its first attempt: all attempts are one request of a client."""


class Ending(NamedTuple):
    """What became of a request at an instance."""

    at_s: float
    num_output_tokens: int
    ttft_s: float
    """NaN where its first token was not told of."""
    failure: str = ""
    is_retried: bool = False


class Tells(Protocol):
    """Who is told of decisions and what came of them."""

    num_dropped: int
    """Decisions that it had no time for."""

    def decided(self, ticket: Ticket) -> None:
        """Called with each decision."""
        ...

    def ended(self, ticket: Ticket, ending: Ending) -> None:
        """Called when it is known what came of it."""
        ...


class Desk:
    """Decides where requests go, and keeps count of them.

    Args:
        fleet: The instances.
        guard: Decides.
        prefix_capacity: Keys of the prefix index per instance: the bound on its memory.
    """

    def __init__(self, fleet: Fleet, guard: Guard, prefix_capacity: int) -> None:
        self.fleet, self.guard = fleet, guard
        self.teach: Callable[[NDArray[np.float32], float], None] | None = None
        """Told the encoded row of each instance that was chosen, and the TTFT that followed."""
        self.tape: Tells | None = None
        index = PrefixIndex(fleet.max_instances, BLOCK_SIZE, capacity=prefix_capacity)
        self.view = RouterView([UNKNOWN] * fleet.max_instances, fleet.max_instances, index)
        self.view.sends = Sends()
        self.timings = Timings()
        self.identity = uuid4().hex
        """By which peers tell it from others."""
        self.num_peers = 0
        """Other routers that tell what they count."""
        self._num_requests = 0
        self._is_stale = True
        self._served_by: dict[str, NDArray[np.int8]] = {}  # a served model -> 1 where it is, or may be

    def traits_changed(self, instance: Instance) -> None:
        """Take in what an instance is; of one that is new, forget what was in its place."""
        self.view.join(instance.number, instance.traits, is_new=not instance.models)
        self._served_by.clear()

    def state_changed(self) -> None:
        """Note that scrapes or health changed; they are looked at before the next decision."""
        self._is_stale = True

    def send(
        self,
        asked: Asked,
        arrived_at_s: float,
        without: Sequence[Instance] = (),
        retry_of: Ticket | None = None,
    ) -> Ticket:
        """Decide about a request and count it as sent.

        Args:
            asked: What is asked.
            arrived_at_s: When it came.
            without: Instances that it must not go to: where it failed before.
            retry_of: An earlier attempt that failed.

        Raises:
            NoInstanceError: None is left.
        """
        now_s = self.fleet.clock.now_s
        if self._is_stale:
            self._is_stale = False
            self.view.scraped(self.fleet.snapshot(), now_s)
        self._num_requests += 1
        request = Request(
            request_id=self._num_requests,
            arrived_at_s=arrived_at_s,
            num_prompt_tokens=asked.num_prompt_tokens,
            num_output_tokens=1,
            block_hashes=asked.block_hashes,
            session_id=asked.session_id,
            turn=asked.turn,
            tenant=asked.tenant,
            model=asked.model,
        )
        began_s = perf_counter()
        observation = self.view.look(request, now_s)
        mask = observation["mask"]
        for instance in without:
            mask[instance.number] = 0
        if asked.model:
            mask[self._serving(asked.model) == 0] = 0
        if not mask.any():
            raise self._no_instance(asked, has_failed=retry_of is not None)
        choice = self.guard.choose(observation, now_s, asked.tenant)
        self.view.sent(request, choice.instance, now_s)
        self.timings.add(perf_counter() - began_s)
        instance = self.fleet[choice.instance]
        self.fleet.began(instance)
        asked_as = request.request_id if retry_of is None else retry_of.asked_as
        ticket = Ticket(request, instance, choice, observation, now_s, asked_as)
        if self.tape is not None:
            self.tape.decided(ticket)
        return ticket

    def first_token(self, ticket: Ticket) -> None:
        """Note that its first token came."""
        self.view.first_token(ticket.request.request_id, self.fleet.clock.now_s)

    def served(self, ticket: Ticket, num_output_tokens: int, ttft_s: float | None) -> None:
        """Note that its last token came; ``ttft_s``: where its first one was told of."""
        now_s = self.fleet.clock.now_s
        loss_s = now_s - ticket.request.arrived_at_s if ttft_s is None else ttft_s
        if self.teach is not None and ttft_s is not None:
            self.teach(_row_of(ticket), ttft_s)
        self.view.completed(ticket.request.request_id, max(num_output_tokens, 1), now_s)
        self.fleet.served(ticket.instance)
        if self.tape is not None:
            told_s = nan if ttft_s is None else ttft_s
            self.tape.ended(ticket, Ending(now_s, max(num_output_tokens, 1), told_s))
        self.guard.learned(ticket.choice, loss_s, now_s)

    def failed(self, ticket: Ticket, is_down: bool, why: str, is_retried: bool = False) -> None:
        """Note that it failed; ``is_down``: that speaks against the instance."""
        at_s = self._let_go(ticket, is_down)
        self._tell_failed(ticket, at_s, why, is_retried)

    def again(
        self, ticket: Ticket, asked: Asked, without: Sequence[Instance], is_down: bool, why: str
    ) -> Ticket:
        """Note that it failed, and send it elsewhere; arguments are those of ``failed`` and ``send``.

        Raises ``NoInstanceError`` where there is no other: then this was its end.
        """
        at_s = self._let_go(ticket, is_down)
        try:
            other = self.send(asked, ticket.request.arrived_at_s, without, ticket)
        except NoInstanceError:
            self._tell_failed(ticket, at_s, why, is_retried=False)
            raise
        self._tell_failed(ticket, at_s, why, is_retried=True)
        return other

    def moved(self, ticket: Ticket, instance: Instance) -> Ticket:
        """Note that another one had to take it: where it was sent it failed. Nothing is learned of this one.

        Returns the ticket of its second way, on which nobody decided: no tape is told of it.
        """
        self.failed(ticket, True, "failed over", is_retried=True)
        now_s = self.fleet.clock.now_s
        self._num_requests += 1
        request = replace(ticket.request, request_id=self._num_requests)
        self.view.look(request, now_s)
        self.view.sent(request, instance.number, now_s)
        self.fleet.began(instance)
        choice = ticket.choice._replace(instance=instance.number, reason="moved")
        return ticket._replace(request=request, instance=instance, choice=choice, sent_at_s=now_s)

    def gave_up(self, ticket: Ticket) -> None:
        """Note that its client has gone: nobody's fault."""
        now_s = self.fleet.clock.now_s
        self.view.completed(ticket.request.request_id, 0, now_s)
        if self.tape is not None:
            self.tape.ended(ticket, Ending(now_s, 0, nan, "client has gone"))
        self.fleet.left(ticket.instance)

    def _let_go(self, ticket: Ticket, is_down: bool) -> float:
        """Count it as failed; return when."""
        now_s = self.fleet.clock.now_s
        self.view.completed(ticket.request.request_id, 0, now_s)
        self.fleet.failed(ticket.instance, is_down)
        if is_down:
            self.guard.learned(ticket.choice, nan, now_s)
        return now_s

    def _tell_failed(self, ticket: Ticket, at_s: float, why: str, is_retried: bool) -> None:
        if self.tape is not None:
            self.tape.ended(ticket, Ending(at_s, 0, nan, why, is_retried))

    def _serving(self, model: str) -> NDArray[np.int8]:
        """1 where a model is served, or the instance has not yet said what it serves; ``[max_instances]``."""
        held = self._served_by.get(model)
        if held is not None:
            return held
        serving = np.zeros(self.fleet.max_instances, np.int8)
        for instance in self.fleet:
            serving[instance.number] = not instance.models or model in instance.models
        if model in self.fleet.models():  # others are the clients' inventions, and without number
            self._served_by[model] = serving
        return serving

    def _no_instance(self, asked: Asked, has_failed: bool) -> NoInstanceError:
        instances = list(self.fleet)
        if asked.model and not self._serving(asked.model).any():
            names = ", ".join(self.fleet.models())
            return NoInstanceError(
                404, "not_found_error", f"no instance serves {asked.model!r}; there is {names}"
            )
        longest = max((each.traits.max_model_len for each in instances), default=0)
        if asked.num_prompt_tokens >= longest:
            num = asked.num_prompt_tokens
            what = f"the prompt has about {num} tokens, no instance takes more than {longest - 1}"
            return NoInstanceError(400, "invalid_request_error", what)
        but = " but where it failed" if has_failed else ""
        return NoInstanceError(503, "overloaded_error", f"none of {len(instances)} instances is up{but}")


def _row_of(ticket: Ticket) -> NDArray[np.float32]:
    """What the policy saw of the instance and the request, encoded."""
    number, observation = ticket.instance.number, ticket.observation
    row: NDArray[np.float32] = encode(
        observation["instances"][number : number + 1], observation["request"], _ONE
    )[0]
    return row
