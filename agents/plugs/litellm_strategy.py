"""LiteLLM: a custom routing strategy that asks a bundle's policy which deployment serves a request.

With the bundle's folder on ``PYTHONPATH``, in LiteLLM's Python SDK::

    from litellm import Router
    from plugs.litellm_strategy import install

    router = Router(model_list=[
        {"model_name": "llama", "litellm_params": {"model": "hosted_vllm/llama", "api_base": "http://10.0.0.1:8000/v1"},
         "model_info": {"id": "one"}},
        ...
    ])
    strategy = install(router, profiles={"one": {"decode_step_s": 0.012}})

Deployments go by ``model_info.id``. Settings are the arguments of ``chooser.Chooser``, and
``scrape_interval_s`` (1; None: no scrapes) at which ``/metrics`` beside each deployment's ``api_base`` is
read. LiteLLM's own filters (cooldowns, health, tags, context windows) come first; the policy chooses among
what they leave, and where they leave nothing LiteLLM raises as ever.

What it sees: messages, prompt or input, its own requests in flight, and what it scrapes. First tokens of
streams are those that LiteLLM notes as ``completion_start_time``; output tokens are those of the response's
usage.

Limits: LiteLLM's proxy has no supported place for a custom strategy (litellm#6143, #25297), and its Router
forgets the strategy when its settings change: install it again. A stream that is left by its reader is told
to nobody; such a request counts as in flight for ``max_flight_s``, here 600 s, LiteLLM's own time limit.
Requests for one ``specific_deployment`` are not decided, but counted. Each process counts its own requests.
Tested with litellm 1.106.2.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from agents.plugs.chooser import Chooser
from agents.plugs.metrics import Scraper
from agents.plugs.prompt import Prompt, of_body

OWN = "routegym-"
"""Begin of the call ids that are given here."""
MAX_FLIGHT_S = 600.0
MAX_WAITING = 10_000
"""Streams whose first token is waited for."""


class Deployments:
    """Chooses among deployments and follows their requests by call id; LiteLLM is not needed for that."""

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self._lock = threading.Lock()
        self._waiting: dict[
            str, Mapping[str, Any]
        ] = {}  # call id -> its details, which LiteLLM goes on to fill

    def choose(
        self, deployments: Any, messages: Any, text: Any, request_kwargs: dict[str, Any] | None
    ) -> Any:
        """One of the deployments, which may be one alone."""
        self._see_first_tokens()
        call_id = None if request_kwargs is None else _call_id(request_kwargs)
        prompt = self.chooser.read(_prompt, messages, text, request_kwargs or {})
        if isinstance(deployments, Mapping):  # a specific one was asked for
            if call_id is not None:
                self.chooser.sent(call_id, prompt, _name(deployments))
            return deployments
        by_name = {_name(each): each for each in deployments}
        return by_name[self.chooser.choose(prompt, list(by_name), call_id).name]

    def started(self, details: Any) -> None:
        """A call is being sent."""
        if isinstance(details, Mapping) and details.get("stream"):
            with self._lock:
                self._waiting[str(details.get("litellm_call_id"))] = details
                if len(self._waiting) > MAX_WAITING:
                    del self._waiting[next(iter(self._waiting))]

    def ended(self, details: Any, response: Any) -> None:
        """An answer is whole, or there will be none (``response`` None)."""
        if not isinstance(details, Mapping):
            return
        call_id = details.get("litellm_call_id")
        self._see_first_tokens()
        with self._lock:
            self._waiting.pop(str(call_id), None)
        self.chooser.completed(call_id, 0 if response is None else self.chooser.guard(_num_tokens, response))

    def _see_first_tokens(self) -> None:
        with self._lock:
            found = [
                (call_id, (datetime.now(at.tzinfo) - at).total_seconds())
                for call_id, details in self._waiting.items()
                if isinstance(at := details.get("completion_start_time"), datetime)
            ]
            for call_id, _ in found:
                del self._waiting[call_id]
        for call_id, ago_s in found:
            self.chooser.first_token(call_id, max(ago_s, 0.0))


def install(router: Any, scrape_interval_s: float | None = 1.0, **settings: Any) -> Any:
    """Make a Router of LiteLLM route by a bundle's policy; return the strategy, whose ``chooser`` counts.

    Raises:
        ImportError: LiteLLM is not installed.
        ValueError: The bundle or a setting cannot be.
    """
    try:
        import litellm
        from litellm.integrations.custom_logger import CustomLogger
        from litellm.types.router import CustomRoutingStrategyBase
    except ImportError as error:
        raise ImportError("this plug needs LiteLLM: pip install litellm") from error
    found = Deployments(Chooser(**{"max_flight_s": MAX_FLIGHT_S, **settings}))

    class BundleStrategy(CustomRoutingStrategyBase, CustomLogger):
        """Chooses deployments, and is told what becomes of their requests."""

        deployments = found
        chooser = found.chooser
        scraper: Scraper | None = None

        async def async_get_available_deployment(
            self,
            model: str,
            messages: Any = None,
            input: Any = None,
            specific_deployment: bool | None = False,
            request_kwargs: dict[str, Any] | None = None,
        ) -> Any:
            healthy = await router.async_get_healthy_deployments(
                model=model,
                request_kwargs={} if request_kwargs is None else request_kwargs,
                messages=messages,
                input=input,
                specific_deployment=specific_deployment,
            )
            return self.deployments.choose(healthy, messages, input, request_kwargs)

        def get_available_deployment(
            self,
            model: str,
            messages: Any = None,
            input: Any = None,
            specific_deployment: bool | None = False,
            request_kwargs: dict[str, Any] | None = None,
        ) -> Any:
            what = model, messages, input, specific_deployment, request_kwargs
            with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
                return thread.submit(lambda: asyncio.run(self.async_get_available_deployment(*what))).result()

        def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
            self.deployments.started(kwargs)

        async def async_log_success_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self.deployments.ended(kwargs, response_obj)

        async def async_log_failure_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self.deployments.ended(kwargs, None)

        async def async_post_call_failure_deployment_hook(
            self, request_data: Any, exception: Any, call_type: Any, fallback_depth: int | None = None
        ) -> None:
            self.deployments.ended(request_data, None)

        def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            self.deployments.ended(kwargs, response_obj)

        def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            self.deployments.ended(kwargs, None)

    strategy = BundleStrategy()
    if scrape_interval_s is not None:
        strategy.scraper = Scraper(lambda: urls(router.model_list), found.chooser.scraped, scrape_interval_s)
    router.set_custom_routing_strategy(strategy)
    litellm.callbacks.append(strategy)
    return strategy


def urls(model_list: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where the servers of deployments are, by id; of those that name an ``api_base``."""
    found = {}
    for deployment in model_list:
        base = deployment["litellm_params"].get("api_base")
        if base:
            found[_name(deployment)] = str(base).rstrip("/").removesuffix("/v1")
    return found


def _name(deployment: Mapping[str, Any]) -> str:
    return str(deployment["model_info"]["id"])


def _call_id(request_kwargs: dict[str, Any]) -> str:
    """The call's id, by which it is known until its end; each further attempt gets one of its own."""
    call_id = request_kwargs.get("litellm_call_id")
    if not isinstance(call_id, str) or call_id.startswith(OWN):
        call_id = request_kwargs["litellm_call_id"] = f"{OWN}{uuid.uuid4()}"
    return call_id


def _prompt(messages: Any, text: Any, request_kwargs: Mapping[str, Any]) -> Prompt:
    body = {name: request_kwargs.get(name) for name in ("prompt", "tools", "user", "session_id")}
    metadata = request_kwargs.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("session_id"):
        body["session_id"] = metadata["session_id"]
    if isinstance(messages, list):
        messages = [each.model_dump() if hasattr(each, "model_dump") else each for each in messages]
    return of_body({**body, "messages": messages, "input": text})


def _num_tokens(response: Any) -> int:
    usage = response.get("usage") if isinstance(response, Mapping) else getattr(response, "usage", None)
    held = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return max(int(held or getattr(usage, "completion_tokens", None) or 1), 1)
