"""Figures and names in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

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
NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
FIXED = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def value(estimate: Any, bound: str = "value") -> float | None:
    """The figure (or a bound) of ``{"value", "low", "high"}``; None where there is none."""
    held = estimate.get(bound) if isinstance(estimate, Mapping) else estimate
    return float(held) if isinstance(held, int | float) and isfinite(held) else None


def seconds(number: float | None) -> str:
    """A duration, in three digits at most."""
    if number is None:
        return NOTHING
    if abs(number) < 0.1:
        return f"{1000 * number:.0f}{FIXED}ms"
    digits = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:.{digits}f}{FIXED}s"


def plain(number: float | None) -> str:
    """A number, in three digits at most."""
    if number is None:
        return NOTHING
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def percent(number: float | None) -> str:
    """A share."""
    return NOTHING if number is None else f"{100 * number:.0f}{FIXED}%"


def change(number: float | None) -> str:
    """By how much something grew; from ten times on as a factor."""
    if number is None:
        return NOTHING
    if number >= 9.0:
        return f"{TIMES}{1 + number:.0f}"
    if abs(number) < 0.0005:
        return f"0{FIXED}%"
    digits = 1 if abs(number) < 0.0995 else 0
    return f"{100 * number:+.{digits}f}{FIXED}%".replace("-", MINUS)


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


def interval(estimate: Any, form: Callable[[float | None], str] = plain) -> str:
    """A figure and its interval: ``0.41 s [0.38 s, 0.45 s]``."""
    low, high = value(estimate, "low"), value(estimate, "high")
    text = form(value(estimate))
    return text if low is None or high is None or text == NOTHING else f"{text} [{form(low)}, {form(high)}]"


def is_clear(estimate: Any) -> bool:
    """Whether the interval leaves out zero."""
    low, high = value(estimate, "low"), value(estimate, "high")
    return low is not None and high is not None and (low > 0.0 or high < 0.0)


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


def listed(names: list[str]) -> str:
    """Names in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
