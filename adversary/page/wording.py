"""Names of what attacks do, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agents.page.wording import FIXED, NOTHING, TIMES, percent, plain, seconds

KINDS = {
    "load": "looks at load",
    "prefix": "knows prefixes",
    "session": "keeps sessions",
    "learned": "learned",
    "defended": "defended",
}
LEVELS = {"feature": "what the router sees", "world": "what happens"}
ATTACKERS = {
    "random": "random",
    "worst_of": "worst of many random",
    "search": "black-box search",
    "fgsm": "gradient, one step (FGSM)",
    "pgd": "gradient, many steps (PGD)",
    "rl": "reinforcement learning (PPO)",
    "rl_short": "reinforcement learning (PPO), fewer evaluations",
}
METRICS = {
    "ttft_mean_s": "mean TTFT",
    "ttft_p95_s": "P95 of TTFT",
    "ttft_p99_s": "P99 of TTFT",
    "goodput_per_s": "goodput",
    "frac_slo_met": "within objective",
    "churn": "decision churn",
    "hot_spot": "hot-spot factor",
    "num_failed": "failed requests",
}
FORMS: dict[str, Callable[[float | None], str]] = {
    "ttft_mean_s": seconds,
    "ttft_p95_s": seconds,
    "ttft_p99_s": seconds,
    "goodput_per_s": lambda number: plain(number) + ("" if number is None else f"{FIXED}/s"),
    "frac_slo_met": percent,
    "churn": percent,
    "hot_spot": lambda number: NOTHING if number is None else f"{number:.2f}",
    "num_failed": plain,
}


def knob_kind(name: str) -> str:
    """What a knob turns, without the instance that it turns it at: ``slowdown[3]`` -> ``slowdown``."""
    return name.partition("[")[0]


def reach(threat: Mapping[str, Any], epsilon: float) -> str:
    """How far a threat goes at a share ``epsilon`` of its bounds: ``±30 %``, ``up to 3 s``, ..."""
    ranges = {
        tuple(knob[key] for key in ("unit", "low", "high", "neutral"))
        for knob in threat.get("knobs", ())
        if not knob.get("is_switch") and knob["unit"] != "on"
    }
    if len(ranges) != 1:  # knobs of many kinds, or switches, which are on or off
        return f"{100 * epsilon:.0f}{FIXED}% of its bounds"
    unit, low, high, neutral = next(iter(ranges))
    low, high = (neutral + epsilon * (bound - neutral) for bound in (low, high))
    is_share = unit in ("", "1", "factor", "share")
    if is_share and neutral == 1.0:
        if abs((high - 1.0) - (1.0 - low)) < 1e-9:
            return f"±{_short(100 * (high - 1.0))}{FIXED}%"
        return f"{TIMES}{low:.2g} to {TIMES}{high:.2g}" if low < 1.0 else f"up to {TIMES}{high:.2g}"
    if is_share:
        low, high, unit = 100 * low, 100 * high, "%"
    if neutral == low:
        return f"up to {_short(high)}{FIXED}{unit}"
    if abs(low + high) < 1e-9:
        return f"±{_short(high)}{FIXED}{unit}"
    return f"{_short(low)} to {_short(high)}{FIXED}{unit}"


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 10 else f"{number:.2g}"
