"""What a router tells of itself: to its status page, and to whoever runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

from agents.router.router import Router

NUM_POINTS = 600
"""Seconds of history that are kept."""


class History:
    """Figures of the last minutes, a point each second."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.points: deque[dict[str, float | None]] = deque(maxlen=NUM_POINTS)
        self._before = self._totals()

    def add(self, at_s: float) -> None:
        """Take a point; called once a second."""
        totals, before = self._totals(), self._before
        self._before = totals
        losses = self._router.desk.guard.breaker.losses
        self.points.append(
            {
                "at_s": at_s,
                "requests_per_s": totals["requests"] - before["requests"],
                "by_heuristic_per_s": totals["by_heuristic"] - before["by_heuristic"],
                "in_flight": self._router.proxy.num_in_flight,
                "policy_loss_s": losses["policy"].mean if len(losses["policy"]) else None,
                "heuristic_loss_s": losses["heuristic"].mean if len(losses["heuristic"]) else None,
            }
        )

    def _totals(self) -> dict[str, int]:
        router = self._router
        return {
            "requests": sum(router.proxy.statuses.values()),
            "by_heuristic": sum(router.desk.guard.counters().values()),
        }


def status(router: Router) -> dict[str, Any]:
    """The present state, in plain values."""
    desk, proxy, guard, fleet = router.desk, router.proxy, router.desk.guard, router.fleet
    snapshot, now_s = fleet.snapshot(), fleet.clock.now_s
    learning = router.learning
    return {
        "state": router.state,
        "up_s": now_s,
        "policy": None
        if guard.policy is None
        else {"name": guard.policy.name, "version": guard.policy.version},
        "heuristic": type(guard.heuristic).__name__,
        "breaker": guard.breaker.state(now_s),
        "is_shadow": guard.settings.is_shadow,
        "last_error": guard.last_error,
        "in_flight": proxy.num_in_flight,
        "peers": desk.num_peers,
        "statuses": {str(number): count for number, count in sorted(proxy.statuses.items())},
        "retries": proxy.counts["num_retries"],
        "broken_off": proxy.counts["num_broken_off"],
        "decisions": {"policy": guard.counts[""], **guard.counters()},
        "decision_p50_s": _number(desk.timings.percentile_s(50)),
        "decision_p99_s": _number(desk.timings.percentile_s(99)),
        "instances": [
            {
                "name": instance.endpoint.name,
                "url": instance.endpoint.url,
                "models": list(instance.models),
                "is_up": bool(snapshot.healthy[instance.number]),
                "is_leaving": instance.is_leaving,
                "in_flight": instance.num_in_flight,
                "waiting": int(snapshot.num_waiting[instance.number]),
                "running": int(snapshot.num_running[instance.number]),
                "kv_cache_usage": float(snapshot.frac_kv_cache_usage[instance.number]),
                "age_s": float(snapshot.age_s[instance.number]),
                "served": instance.num_served,
                "failed": instance.num_failed,
            }
            for instance in fleet
        ],
        "notices": [
            {"instance": name, "reason": reason, "times": times}
            for (name, reason), times in sorted(fleet.notices.counts().items(), key=lambda item: -item[1])[
                :20
            ]
        ],
        "learning": None
        if learning is None
        else {
            "version": learning.version,
            "is_pinned": learning.is_pinned,
            "versions": learning.versions,
            "curve": learning.curve,
            "counts": dict(learning.counts),
        },
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if value != value else value
