"""From the outcomes of several runs to a table, ratios and the bars that RouteGym is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Outcome = Mapping[str, Any]
"""What a simulator's process printed (``peers/outcome.py``), and ``whole_s``, its wall seconds in all."""

OURS = "bare"
LIKE = {
    "vidur": "bare_unhashed",
    "vidur_quiet": "bare_unhashed",
    "dynamo_round_robin_64": "bare_64",
    "dynamo_kv_router_64": "bare_64",
}
"""Simulator -> our row that is given what it is given, where that is not the bare loop: Vidur has no prefix
caching and gets no hashes, the mocker's own blocks are of 64 tokens."""
MIN_REQUESTS_PER_S = 270_000 / 3
"""Of the bare loop, exact and with prefix caching: within three times of the 270,000 that we aim at."""
MIN_RATIOS = {"vidur": 600.0, "dynamo_round_robin_64": 20.0, "dynamo_kv_router_64": 20.0}
"""Simulator, as it comes -> how many times as many requests per wall second our row like it is to serve."""

HEAD = (
    "simulator",
    "requests",
    "requests/s: best",
    "median [worst]",
    "output tokens/s",
    "whole process",
    "peak MiB",
    "simulated s",
    "TTFT ms: mean, P50, P99",
    "TPOT ms: mean, P50, P99",
)


@dataclass(frozen=True)
class Row:
    """One simulator's repeats, or why there are none."""

    name: str
    title: str
    models: str
    outcomes: Sequence[Outcome] = ()
    failure: str = ""

    @property
    def rates(self) -> list[float]:
        """Requests per wall second of the simulation itself, the best first."""
        return sorted((o["num_requests"] / o["simulate_s"] for o in self.outcomes), reverse=True)

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table, as texts in the order of ``HEAD``."""
        if not self.outcomes:
            return (self.title, f"did not run: {self.failure}")
        last = self.outcomes[-1]
        whole = max(o["num_requests"] / o["whole_s"] for o in self.outcomes)
        return (
            self.title,
            f"{last['num_requests']:,}",
            f"{self.rates[0]:,.0f}",
            f"{median(self.rates):,.0f} [{self.rates[-1]:,.0f}]",
            f"{self.rates[0] * last['num_output_tokens'] / last['num_requests']:,.0f}",
            f"{whole:,.0f}",
            f"{max(o['peak_rss_mib'] for o in self.outcomes):,.0f}",
            f"{last['simulated_s']:,.1f}",
            _milliseconds(last["ttft_s"]),
            _milliseconds(last["tpot_s"]),
        )


@dataclass(frozen=True)
class Bar:
    """A promise, the figure that was measured (None: it was not) and the least that it may be."""

    text: str
    value: float | None
    at_least: float

    @property
    def met(self) -> bool:
        """Whether it was measured and holds."""
        return self.value is not None and self.value >= self.at_least

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:,.0f}"
        return f"{'met    ' if self.met else 'NOT MET'}  {self.text}: {value} (bar: {self.at_least:,.0f})"


def markdown(rows: Sequence[Row]) -> str:
    """The table, and under it what each simulator models."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        lines.append(f"| {' | '.join(row.cells + ('',) * (len(HEAD) - len(row.cells)))} |")
    notes = [
        f"- {row.title}: {row.models}"
        + (f" (a later run failed: {row.failure})" if row.outcomes and row.failure else "")
        for row in rows
    ]
    return "\n".join([*lines, "", *notes])


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Simulator -> requests per second of our row like it over its own, best against best."""
    best = {row.name: row.rates[0] for row in rows if row.outcomes}
    ours = {name: LIKE.get(name, OURS) for name in best}
    return {
        name: best[ours[name]] / rate
        for name, rate in best.items()
        if ours[name] in best and name not in {OURS, *LIKE.values()}
    }


def bars(rows: Sequence[Row]) -> list[Bar]:
    """What is promised, with what was measured."""
    ours = next((row.rates[0] for row in rows if row.name == OURS and row.outcomes), None)
    measured = ratios(rows)
    return [
        Bar("bare loop, requests/s", ours, MIN_REQUESTS_PER_S),
        *(
            Bar(f"{LIKE.get(name, OURS)} / {name}", measured.get(name), least)
            for name, least in MIN_RATIOS.items()
        ),
    ]


def _milliseconds(spread: Mapping[str, float]) -> str:
    return ", ".join(f"{1e3 * spread[name]:.1f}" for name in ("mean", "p50", "p99"))
