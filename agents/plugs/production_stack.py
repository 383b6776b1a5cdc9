"""vLLM production-stack: its router with a bundle's policy as routing logic.

The router has no flag for a logic of one's own, so it is started through this file, which takes the place of
its ``prefixaware`` logic and else leaves it as it is. With the bundle's folder on ``PYTHONPATH``, in the
router's environment (which has NumPy)::

    python -m plugs.production_stack \
        --plug '{"profiles": {"http://10.0.0.1:8000": {"decode_step_s": 0.012}}}' \
        --service-discovery static --static-backends http://10.0.0.1:8000,http://10.0.0.2:8000 \
        --static-models llama,llama --port 8801

What follows ``--plug`` are the arguments of ``chooser.Chooser`` in JSON, and ``scrape_interval_s`` (1);
instances go by their URLs. All other arguments are the router's own; ``--routing-logic`` is set here.

What it sees: the request's body and headers, and its own requests from the moment they are sent until their
last byte, so in flight, first tokens (of streams) and output tokens (as the answer's ``usage`` says, else
one per event of a stream). It scrapes ``/metrics`` itself: the router's own scraper does so every 30 s
and reads names of vLLM v0, which vLLM v1 no longer has.

Limits: one router process (several do not know of each other's requests). Endpoints that the router itself
takes out (other models, asleep) are not shown to the policy. Where a request is tried again elsewhere
(``--max-instance-failover-reroute-attempts``), each attempt is a request. Its counters are
``routegym_plug`` on the router's ``/metrics``.

Written for and tested with a6c01db (2026-08-05), from source: it is not among Python's packages, where the
name vllm-router is another project's. It needs Python 3.12.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from agents.plugs.chooser import Chooser
from agents.plugs.metrics import Scraper
from agents.plugs.prompt import Prompt, of_body

TAIL = 4096
"""Bytes of an answer's end in which its usage is looked for."""
_USAGE = re.compile(rb'"completion_tokens":\s*(\d{1,9})')
_ROUTED: ContextVar[Prompt | None] = ContextVar("routegym_prompt", default=None)
"""The prompt that this task has just routed: its request is sent in the same task."""


class Answer:
    """What is read off an answer's bytes as they pass."""

    def __init__(self, is_stream: bool) -> None:
        self.is_stream = is_stream
        self._num_events, self._tail = 0, b""

    def add(self, chunk: bytes) -> None:
        """Take in a piece."""
        if self.is_stream:
            self._num_events += chunk.count(b"data: {")
        self._tail = (self._tail + chunk)[-TAIL:]

    def num_output_tokens(self) -> int:
        """As the answer itself says, else its events, else 0."""
        said = _USAGE.findall(self._tail)
        return int(said[-1]) if said else self._num_events


def watched(
    process_request: Callable[..., AsyncGenerator[Any, None]], chooser: Chooser
) -> Callable[..., AsyncGenerator[Any, None]]:
    """The router's ``process_request``, with a chooser that is told what becomes of each request."""

    async def process(
        request: Any, body: Any, backend_url: str, request_id: str, *rest: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        key = (request_id, uuid.uuid4().hex)  # clients choose the first
        prompt = _ROUTED.get() or chooser.read(lambda: of_body(json.loads(body)))
        _ROUTED.set(None)
        chooser.sent(key, prompt, backend_url)
        num_output_tokens = 0
        try:
            async with aclosing(
                process_request(request, body, backend_url, request_id, *rest, **options)
            ) as stream:
                headers, status = await anext(stream)
                yield headers, status
                answer = Answer("event-stream" in headers.get("content-type", ""))
                is_first = answer.is_stream and status < 400
                async for chunk in stream:
                    if is_first:
                        chooser.first_token(key)
                        is_first = False
                    answer.add(chunk)
                    yield chunk
                num_output_tokens = answer.num_output_tokens() if status < 400 else 0
        finally:
            chooser.completed(key, num_output_tokens)

    return process


async def route(chooser: Chooser, endpoints: Sequence[Any], request: Any, request_json: Any) -> str:
    """The URL of the endpoint that serves a request."""
    prompt = chooser.read(lambda: of_body(request_json, dict(request.headers)))
    _ROUTED.set(prompt)
    return chooser.choose(prompt, list(dict.fromkeys(endpoint.url for endpoint in endpoints))).name


def install(settings: Mapping[str, Any]) -> Chooser:
    """Put a bundle's policy into the router of this process, before it starts.

    Args:
        settings: As ``--plug`` says.

    Raises:
        ImportError: The router is not on the path.
        ValueError: The bundle or a setting cannot be.
    """
    try:
        from vllm_router.routers import routing_logic
        from vllm_router.service_discovery import get_service_discovery
        from vllm_router.services.request_service import request as service
    except ImportError as error:
        raise ImportError(
            "this plug needs the router of vLLM production-stack and its requirements: clone"
            " vllm-project/production-stack and put its src on PYTHONPATH"
        ) from error
    scrape_interval_s = float(settings.get("scrape_interval_s", 1.0))
    chooser = Chooser(**{name: value for name, value in settings.items() if name != "scrape_interval_s"})

    def urls() -> dict[str, str]:
        return {each.url: each.url for each in get_service_discovery().get_endpoint_info()}

    class BundleRouter(routing_logic.PrefixAwareRouter):
        """Asks the policy. Being of this class, it is shown the request's body."""

        def __init__(self, prefix_min_match_length: int | None = None) -> None:
            if not hasattr(self, "_scraper"):
                self._scraper = Scraper(urls, chooser.scraped, scrape_interval_s)

        async def route_request(
            self, endpoints: Any, engine_stats: Any, request_stats: Any, request: Any, request_json: Any
        ) -> str:
            return await route(chooser, endpoints, request, request_json)

        def close(self) -> None:
            self._scraper.stop()

    routing_logic.PrefixAwareRouter = BundleRouter
    service.process_request = watched(service.process_request, chooser)
    _publish(chooser)
    return chooser


def _publish(chooser: Chooser) -> None:
    import prometheus_client
    from prometheus_client.core import GaugeMetricFamily

    class Counters:
        def collect(self) -> Any:
            family = GaugeMetricFamily("routegym_plug", "What the plug did.", labels=["counter"])
            for name, count in chooser.counters().items():
                family.add_metric([name], count)
            yield family

    prometheus_client.REGISTRY.register(Counters())


def main() -> None:
    """Start the router."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--plug", type=json.loads, default={})
    given, others = parser.parse_known_args()
    install(given.plug)
    from vllm_router import app

    sys.argv[1:] = [*others, "--routing-logic", "prefixaware"]
    module: ModuleType = app
    module.main()


if __name__ == "__main__":
    main()
