"""A threat model in plain words, for people who read a report."""

from __future__ import annotations

from typing import Any

from adversary.feature.threat import FeatureThreat
from adversary.threat import Budget, Knob
from adversary.world.threat import WorldThreat


def described(name: str, threat: FeatureThreat | WorldThreat) -> dict[str, Any]:
    """A threat model as ``report.json`` has it: knobs of an instance stand there once, as ``slowdown[i]``."""
    return {
        "level": "world" if isinstance(threat, WorldThreat) else "feature",
        "title": name.replace("_", " "),
        "words": in_words(threat),
        "knobs": [
            {
                "name": knob.name.replace("[0]", "[i]"),
                "unit": knob.unit,
                "low": knob.low,
                "high": knob.high,
                "neutral": knob.neutral,
            }
            for knob in _kinds(threat)
        ],
        "budget": vars(threat.budget),
    }


def _kinds(threat: FeatureThreat | WorldThreat) -> list[Knob]:
    """The knobs, those of instances only for the first."""
    return [knob for knob in threat.knobs(2) if knob.instance in (-1, 0)]


def in_words(threat: FeatureThreat | WorldThreat) -> str:
    """What may be done, how often and how much of it."""
    if isinstance(threat, WorldThreat):
        lag_s = threat.scrape_lag_s
        told = "true" if lag_s is None else f"true, but may come up to {threat.epsilon * lag_s:g} s late"
        opening = (
            f"The world turns bad in {threat.num_windows} windows of {threat.window_s:g} s; what the router"
            f" is told of it is {told}."
        )
        step = "window"
    else:
        kinds = [_first_line(perturbation) for perturbation in threat.perturbations]
        opening = f"The world is left in peace; what the router sees of it is not true. {' '.join(kinds)}"
        step = "routing decision"
    return f"{opening} {'; '.join(map(_knob, _kinds(threat)))}. {_budget(threat.budget, step)}"


def _first_line(thing: object) -> str:
    return (type(thing).__doc__ or "").strip().split("\n")[0]


def _knob(knob: Knob) -> str:
    name = knob.name.replace("[0]", " of an instance").replace("_", " ")
    if knob.is_switch:
        return f"{name}: off or on"
    unit = "" if knob.unit == "1" else f" {knob.unit}"
    return f"{name}: {knob.low:g} to {knob.high:g}{unit}, in peace {knob.neutral:g}"


def _budget(budget: Budget, step: str) -> str:
    limits = []
    if budget.max_slope is not None:
        limits.append(
            f"each changes by at most {100 * budget.max_slope:g} % of its range per {step} in the mean over"
            f" the last {budget.window}"
        )
    if budget.max_instances is not None:
        num = budget.max_instances
        limits.append(f"at most {num} {'instance is' if num == 1 else 'instances are'} disturbed at a time")
    return f"Budget: {'; '.join(limits)}." if limits else "No budget beyond these bounds."
