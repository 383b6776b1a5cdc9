"""Scrapes what instances say of themselves, for hosts that hand a plug no statistics.

``parse`` reads the few gauges of vLLM's ``/metrics`` that a policy looks at, under their present and former
names (``kv_cache_usage_perc`` was ``gpu_cache_usage_perc``); a server of several engines is one instance.
"""

from __future__ import annotations

import math
import threading
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from agents.plugs.view import Gauges

MAX_BYTES = 1 << 23
"""Of one scrape."""
WAITING = ("vllm:num_requests_waiting",)
RUNNING = ("vllm:num_requests_running",)
USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
HITS = (
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
)
QUERIES = tuple(name.replace("hits", "queries") for name in HITS)


def parse(text: str) -> Gauges:
    """Read the gauges.

    Raises:
        ValueError: One of them is missing or cannot be; nothing of such metrics is to be relied on.
    """
    values: dict[str, list[float]] = {}  # metric -> of each engine
    for line in text.splitlines():
        if line.startswith("vllm:"):
            head, brace, tail = line.rpartition("}")
            name = head.partition("{")[0] if brace else line.partition(" ")[0]
            if name in _READ:
                said = tail if brace else line.partition(" ")[2]
                values.setdefault(name, []).append(_number(name, said.split()[:1]))
    usage = _of(values, USAGE)
    hits, queries = sum(_of(values, HITS, [0.0])), sum(_of(values, QUERIES, [0.0]))
    if max(usage) > 1.0 or hits > queries:
        raise ValueError(f"KV cache use is {max(usage):g} and {hits:g} of {queries:g} tokens were hits")
    return Gauges(
        num_waiting=sum(_of(values, WAITING)),
        num_running=sum(_of(values, RUNNING)),
        frac_kv_cache_usage=sum(usage) / len(usage),
        frac_prefix_hits=hits / queries if queries else 0.0,
    )


class Scraper:
    """Scrapes in a background thread; a failure is counted and otherwise seen by the scrape's growing age.

    Args:
        urls: Called before each round: name -> url of the server, without ``/metrics``.
        scraped: Called with each instance's name and gauges.
        interval_s: Between two rounds.
        timeout_s: Of one scrape.
    """

    def __init__(
        self,
        urls: Callable[[], Mapping[str, str]],
        scraped: Callable[[str, Gauges], None],
        interval_s: float = 1.0,
        timeout_s: float = 1.0,
    ) -> None:
        if not (interval_s > 0 and timeout_s > 0):
            raise ValueError(f"interval_s ({interval_s}) and timeout_s ({timeout_s}) must be above 0")
        self._urls, self._scraped = urls, scraped
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._stopped = threading.Event()
        self.num_failures = 0
        self._thread = threading.Thread(target=self._run, name="routegym-scraper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Scrape no more."""
        self._stopped.set()
        self._thread.join(timeout=self._timeout_s + 1.0)

    def _run(self) -> None:
        with ThreadPoolExecutor(max_workers=16, thread_name_prefix="routegym-scrape") as pool:
            while not self._stopped.is_set():
                try:
                    list(pool.map(self._scrape, *zip(*self._urls().items(), strict=True)))
                except Exception:  # no urls as yet, or a host that cannot tell them
                    self.num_failures += 1
                self._stopped.wait(self._interval_s)

    def _scrape(self, name: str, url: str) -> None:
        try:
            with _OPENER.open(f"{url.rstrip('/')}/metrics", timeout=self._timeout_s) as response:
                text = response.read(MAX_BYTES).decode(errors="replace")
            self._scraped(name, parse(text))
        except Exception:
            self.num_failures += 1


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # instances are not behind a proxy
_READ = frozenset((*WAITING, *RUNNING, *USAGE, *HITS, *QUERIES))


def _number(name: str, said: list[str]) -> float:
    try:
        value = float(said[0])
    except (ValueError, IndexError):
        raise ValueError(f"{name} is {said}, it must be a number") from None
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} is {value:g}, it must be a finite number from 0")
    return value


def _of(
    values: Mapping[str, list[float]], names: tuple[str, ...], absent: list[float] | None = None
) -> list[float]:
    for name in names:
        if name in values:
            return values[name]
    if absent is None:
        raise ValueError(f"{names[0]} is missing")
    return absent
