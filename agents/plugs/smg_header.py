"""smg: names the worker that a bundle's policy chose in the request header that smg obeys.

smg (and so SGLang's model gateway) sends a request with ``X-SMG-Target-Worker: 2`` to the third worker of its
registry. Whatever stands before it, a gateway or a client, asks this plug for that header::

    python -m smg launch --worker-urls http://10.0.0.1:8000 http://10.0.0.2:8000 \
        --policy consistent_hashing --disable-circuit-breaker --port 30000

    plug = SmgHeader("http://127.0.0.1:30000", profiles={"http://10.0.0.1:8000": {"decode_step_s": 0.012}})
    call = plug.route(body, headers)                # of one request
    ... send it to smg with {**headers, **call.headers} ...
    call.answered(response_headers)                 # when the answer begins
    call.first_token()                              # of a stream
    call.ended(num_output_tokens)                   # always, 0 if it failed

Workers go by their URLs. Settings are the arguments of ``chooser.Chooser``, and ``interval_s`` (1) at which
the workers and their ``/metrics`` are read.

The index is that of smg's registry, neither of the command line nor of the URLs in order, and changes from
start to start: it is read from ``GET /workers``, whose order it has. smg counts the workers that are
available, so unhealthy ones are left out here too; a worker whose circuit breaker is open is left out by
smg but not shown to be, hence ``--disable-circuit-breaker``. Each answer names its worker
(``x-smg-routed-worker-id``). Where that is another one than was meant, it is counted (``misrouted``), and no
header is given until the workers have been read again: smg then decides by itself. It also does where the
workers are not known. An index beyond the workers is answered by 503, so ask again without the header.

What it sees: the body, its own requests, and what it scrapes. Regular HTTP workers only (no prefill and
decode pairs, no gRPC). Tested with smg 1.13.0.
"""

from __future__ import annotations

import json
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from agents.plugs.chooser import Chooser
from agents.plugs.metrics import MAX_BYTES, Scraper
from agents.plugs.prompt import Prompt, of_body

HEADER, ROUTED_HEADER = "X-SMG-Target-Worker", "x-smg-routed-worker-id"
TIMEOUT_S = 2.0


class Worker(NamedTuple):
    """One worker of smg's registry."""

    url: str
    models: frozenset[str]
    available: bool


def workers_of(answer: Any) -> list[Worker]:
    """The regular HTTP workers in an answer of ``GET /workers``, in its order.

    Raises:
        ValueError: It is no such answer.
    """
    held = answer.get("workers") if isinstance(answer, Mapping) else None
    if not isinstance(held, list):
        raise ValueError("smg's /workers holds no list of workers")
    workers = []
    for each in held:
        if not isinstance(each, Mapping) or not isinstance(each.get("url"), str):
            raise ValueError(f"smg's /workers holds {str(each)[:60]}, which has no url")
        if each.get("worker_type", "regular") != "regular" or each.get("connection_mode", "http") != "http":
            continue
        listed = each.get("models")
        models = {each.get("model_id")}
        models |= {model.get("id") for model in (listed if isinstance(listed, list) else ())}
        names = frozenset(str(name) for name in models if name)
        workers.append(Worker(each["url"], names, bool(each.get("is_healthy", True))))
    return workers


class Call:
    """One request: its header, and what becomes of it."""

    def __init__(self, plug: SmgHeader, key: str, prompt: Prompt, meant: str | None, index: int) -> None:
        self._plug, self._key, self._prompt, self.url = plug, key, prompt, meant
        self.headers = {} if meant is None else {HEADER: str(index)}

    def answered(self, headers: Mapping[str, str]) -> None:
        """The answer's headers came."""
        routed = {str(name).lower(): value for name, value in headers.items()}.get(ROUTED_HEADER)
        if self.url is not None and routed is not None and str(routed) != self.url:
            self._plug.misrouted(self._key, self._prompt, str(routed))

    def first_token(self) -> None:
        """The answer's first token came."""
        self._plug.chooser.first_token(self._key)

    def ended(self, num_output_tokens: int) -> None:
        """The answer is whole, or failed (0)."""
        self._plug.chooser.completed(self._key, num_output_tokens)


class SmgHeader:
    """Follows one smg and chooses among its workers. May be used from any thread.

    Args:
        url: Of smg.
        interval_s: Between two readings of its workers, and of their metrics.
        api_key: Where smg wants one for ``/workers``.
        settings: The arguments of ``chooser.Chooser``.

    Raises:
        ValueError: The bundle or a setting cannot be.
    """

    def __init__(
        self, url: str, interval_s: float = 1.0, api_key: str | None = None, **settings: Any
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}, it must begin with http:// or https://")
        self.chooser = Chooser(**settings)
        self._request = urllib.request.Request(f"{url.rstrip('/')}/workers")
        if api_key is not None:
            self._request.add_header("Authorization", f"Bearer {api_key}")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._lock, self._counts = threading.Lock(), Counter[str]()
        self._workers: list[Worker] = []
        self.refresh()
        self._scraper = Scraper(self._urls, self.chooser.scraped, interval_s)

    def stop(self) -> None:
        """Read no more."""
        self._scraper.stop()

    def route(self, body: Any, headers: Mapping[str, str] | None = None) -> Call:
        """Choose the worker of a request; without any that is known, smg does."""
        lower = {str(name).lower(): str(value) for name, value in (headers or {}).items()}
        prompt, key = self.chooser.read(of_body, body, lower), uuid.uuid4().hex
        model = body.get("model") if isinstance(body, Mapping) else None
        with self._lock:
            workers = self._workers
        candidates = [
            worker.url
            for worker in workers
            if worker.available and (not model or not worker.models or str(model) in worker.models)
        ]
        if not candidates:
            self._count("without_header")
            return Call(self, key, prompt, None, 0)
        chosen = self.chooser.choose(prompt, candidates, key).name
        return Call(self, key, prompt, chosen, candidates.index(chosen))

    def misrouted(self, key: str, prompt: Prompt, url: str) -> None:
        """A request went to another worker than was meant: the order is not what it was."""
        self._count("misrouted")
        self.chooser.sent(key, prompt, url)
        with self._lock:
            self._workers = []

    def refresh(self) -> bool:
        """Read the workers now; return whether they could be read. Else none are known."""
        try:
            with self._opener.open(self._request, timeout=TIMEOUT_S) as answer:
                workers = workers_of(json.loads(answer.read(MAX_BYTES)))
        except Exception:
            self._count("unread")
            workers = []
        with self._lock:
            self._workers = workers
        return bool(workers)

    def counters(self) -> dict[str, int]:
        """What was done."""
        with self._lock:
            counts = dict(self._counts)
        return {**self.chooser.counters(), **counts}

    def _urls(self) -> dict[str, str]:
        self.refresh()
        with self._lock:
            return {worker.url: worker.url for worker in self._workers}

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
