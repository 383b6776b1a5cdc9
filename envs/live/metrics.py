"""What a server's ``/metrics`` say, in Prometheus' text format, under vLLM's current and former names.

A server of several engines (data parallel) lists each with a label; here they are one instance: counts are
added, the KV cache use is the mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from typing import NamedTuple

RUNNING = ("vllm:num_requests_running",)
WAITING = ("vllm:num_requests_waiting",)
USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
HITS = (
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_hits",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits",
)
QUERIES = tuple(name.replace("hits", "queries") for name in HITS)
CACHE_CONFIG = "vllm:cache_config_info"
MAX_COUNT = 2.0**53
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class BadMetricsError(ValueError):
    """Metrics that cannot be; the message is the reason, in a few words."""


class Metrics(NamedTuple):
    """One scrape of one instance. The last two count tokens since the server started."""

    num_waiting: int = 0
    num_running: int = 0
    frac_kv_cache_usage: float = 0.0
    num_hit_tokens: float = 0.0
    num_queried_tokens: float = 0.0


def parse(text: str) -> Metrics:
    """Read what a router looks at.

    Raises:
        BadMetricsError: A value is missing, not a number, negative, infinite or a fraction above 1. Nothing
            of such metrics can be relied on.
    """
    values: dict[str, list[float]] = {}  # metric -> of each engine
    for line in text.splitlines():
        if line.startswith("vllm:"):
            name, value = _name_and_value(line)
            if name in _READ:
                values.setdefault(name, []).append(_checked(name, value))
    usage = _of(values, USAGE)
    if max(usage) > 1.0:
        raise BadMetricsError(f"{_name_in(values, USAGE)} is {max(usage):g}")
    hits, queries = _of(values, HITS, [0.0]), _of(values, QUERIES, [0.0])
    if sum(hits) > sum(queries):
        raise BadMetricsError(f"{_name_in(values, HITS)} is more than was queried")
    return Metrics(
        num_waiting=round(sum(_of(values, WAITING))),
        num_running=round(sum(_of(values, RUNNING))),
        frac_kv_cache_usage=sum(usage) / len(usage),
        num_hit_tokens=sum(hits),
        num_queried_tokens=sum(queries),
    )


def cache_config(text: str) -> dict[str, str]:
    """The labels of ``cache_config_info``, of the first engine: ``block_size``, ``num_gpu_blocks``, ..."""
    for line in text.splitlines():
        if line.startswith(CACHE_CONFIG + "{"):
            return dict(_LABEL.findall(line))
    return {}


_READ = frozenset((*RUNNING, *WAITING, *USAGE, *HITS, *QUERIES))


def _name_and_value(line: str) -> tuple[str, str]:
    head, brace, tail = line.rpartition("}")  # no value holds one, some labels may
    name, rest = (
        (head.partition("{")[0], tail) if brace else line.split(" ", 1) if " " in line else (line, "")
    )
    return name, rest.strip().split(" ", 1)[0]  # an instant may follow


def _checked(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise BadMetricsError(f"{name} is {value[:20]!r}") from None
    if not isfinite(number) or not 0.0 <= number <= MAX_COUNT:
        raise BadMetricsError(f"{name} is {number:g}")
    return number


def _name_in(values: dict[str, list[float]], names: tuple[str, ...]) -> str | None:
    present: Iterator[str] = (name for name in names if name in values)
    return next(present, None)


def _of(
    values: dict[str, list[float]], names: tuple[str, ...], absent: list[float] | None = None
) -> list[float]:
    name = _name_in(values, names)
    if name is not None:
        return values[name]
    if absent is None:
        raise BadMetricsError(f"{names[0]} is missing")
    return absent
