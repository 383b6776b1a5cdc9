"""Ray Serve: a ``RequestRouter`` that asks a bundle's policy which replica serves a request.

Put the bundle's folder on ``PYTHONPATH`` of every node (or into ``runtime_env``), and::

    from ray.serve.config import RequestRouterConfig

    @serve.deployment(
        num_replicas=4,
        request_router_config=RequestRouterConfig(
            request_router_class="plugs.ray_serve.BundleRequestRouter",
            request_router_kwargs={"profiles": {"": {"decode_step_s": 0.0079}}},
            request_routing_stats_period_s=1,
            request_routing_stats_timeout_s=1,
        ),
    )
    class Llm:
        async def record_routing_stats(self):  # else the policy sees no more than the router's own counts
            return routing_stats(await the_text_of_vllm_metrics())

``request_router_kwargs`` are the arguments of ``chooser.Chooser``, in JSON. With Ray Serve LLM the same goes
into ``LLMConfig(deployment_config={"request_router_config": ...})``. Set it on the deployment that calls
vLLM, not on an HTTP ingress, whose router is shown no body.

What it sees: the request's arguments (a body as a dict, as an object with ``messages`` or ``prompt``, or
text), its own requests in flight, prefixes it sent, and what ``record_routing_stats`` returned, which the
controller hands on every ``request_routing_stats_period_s`` (10 s by default).

Limits: Ray tells a router when a request ends but neither its first token nor how many there were. So
requests in flight all count as prefills, ``recent_ttft_s`` stays 0 and ``recent_tokens_per_s`` counts prompt
tokens alone: train with these features as they are, or prefer a policy that does not lean on them. Each
handle has a router of its own that counts its own requests. The class is of Ray's alpha API; tested with
Ray 2.60.0. Its counters are the Ray metric ``routegym_plug``, by the tag ``counter``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agents.plugs.chooser import Chooser
from agents.plugs.metrics import parse
from agents.plugs.prompt import Prompt, of_body
from agents.plugs.view import Gauges

if TYPE_CHECKING:
    BundleRequestRouter: type[Any]

PUBLISH_INTERVAL_S = 10.0
"""Of the counters."""


def routing_stats(metrics_text: str) -> dict[str, float]:
    """What ``record_routing_stats`` is to return: the gauges in the text of vLLM's ``/metrics``.

    Raises:
        ValueError: One of them is missing or cannot be.
    """
    return {**parse(metrics_text)._asdict(), "recorded_at_s": time.time()}  # tells it from the one before


def __getattr__(name: str) -> Any:
    """Make the class when Ray asks for it, so that this file can be imported without Ray."""
    if name != "BundleRequestRouter":
        raise AttributeError(name)
    globals()[name] = _make_class()
    return globals()[name]


def _make_class() -> Any:
    try:
        from ray.serve.request_router import RequestRouter
        from ray.util import metrics
    except ImportError as error:
        raise ImportError("this plug needs Ray Serve: pip install 'ray[serve]'") from error

    class BundleRequestRouter(RequestRouter):
        """Ranks replicas by a bundle's policy."""

        def initialize_state(self, **settings: Any) -> None:
            """Load the bundle. Raises ``ValueError`` where it cannot be loaded."""
            self.chooser = Chooser(**settings)
            self._stats: dict[str, Any] = {}  # replica -> what it said last
            self._gauge: Any = metrics.Gauge("routegym_plug", "What the plug did.", ("counter",))
            self._published_at_s = time.monotonic()

        async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
            """Return one rank per replica: the chosen one, then the others as the policy likes them."""
            if not candidate_replicas:
                return []
            replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
            self._take_in(replicas)
            request_id = None if pending_request is None else pending_request.metadata.internal_request_id
            if request_id is not None and self.chooser.sent_to(request_id) is None:
                self._follow(pending_request, request_id)
            prompt = self.chooser.read(prompt_of, pending_request)
            choice = self.chooser.choose(prompt, list(replicas), request_id)
            self._publish()
            return [[replicas[name]] for name in choice.order]

        def on_request_routed(self, pending_request: Any, replica_id: Any, result: Any) -> None:
            """Note where the request went, should the chosen replica have been full."""
            request_id, name = pending_request.metadata.internal_request_id, replica_id.unique_id
            if self.chooser.sent_to(request_id) != name:
                self.chooser.sent(request_id, self.chooser.read(prompt_of, pending_request), name)

        def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
            """Note the end of a request."""
            self.chooser.completed(internal_request_id, 1)  # the tokens of its prompt and who knows how many

        def _follow(self, pending_request: Any, request_id: str) -> None:
            """Note the end of a request that is cancelled while it waits: nothing else tells."""

            def done(future: Any) -> None:
                if future.cancelled():
                    self.chooser.completed(request_id, 0)

            future = getattr(pending_request, "future", None)
            if future is not None:
                future.add_done_callback(done)

        def _take_in(self, replicas: Mapping[str, Any]) -> None:
            for name, replica in replicas.items():
                stats = replica.routing_stats
                if stats and stats != self._stats.get(name):
                    self.chooser.scraped(name, gauges_of(stats))
            self._stats = {name: replica.routing_stats for name, replica in replicas.items()}

        def _publish(self) -> None:
            now_s = time.monotonic()
            if now_s - self._published_at_s >= PUBLISH_INTERVAL_S:
                self._published_at_s = now_s
                for name, count in self.chooser.counters().items():
                    self._gauge.set(count, tags={"counter": name})

    BundleRequestRouter.__module__, BundleRequestRouter.__qualname__ = __name__, "BundleRequestRouter"
    return BundleRequestRouter


def gauges_of(stats: Mapping[str, Any]) -> Gauges:
    """The gauges among a replica's routing stats; not a number where one is neither that nor absent."""
    values = []
    for name in Gauges._fields:
        value = stats.get(name, 0.0)
        values.append(float(value) if isinstance(value, int | float) else float("nan"))
    return Gauges(*values)


def prompt_of(pending_request: Any) -> Prompt:
    """The request among the arguments of a call; where there is none to be seen, one token."""
    if pending_request is None:
        return Prompt(1)
    arguments = [*pending_request.args, *pending_request.kwargs.values()]
    session = getattr(pending_request.metadata, "session_id", None)
    headers = {"x-session-id": str(session)} if session else {}
    for argument in arguments:
        if isinstance(argument, Mapping) and not {"messages", "prompt", "input"}.isdisjoint(argument):
            return of_body(argument, headers)
        named = {name: getattr(argument, name, None) for name in ("messages", "prompt", "user", "tools")}
        if named["messages"] or named["prompt"]:
            messages = named["messages"]
            if isinstance(messages, list):
                messages = [each.model_dump() if hasattr(each, "model_dump") else each for each in messages]
            return of_body({**named, "messages": messages}, headers)
    texts = [argument for argument in arguments if isinstance(argument, str)]
    return of_body({"prompt": texts[0] if texts else ""}, headers)
