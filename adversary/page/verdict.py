"""How wrong may a router's signals be before it is worse than round robin? The answer, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from adversary.page.wording import LEVELS, reach
from agents.page.wording import change, interval, listed, seconds, value

Report = Mapping[str, Any]


class Verdict(NamedTuple):
    """What the headline says of a victim."""

    victim: str
    answer: str
    """The most that its signals may be wrong by, in a few words."""
    meaning: str
    """What happens then, and which threat it is."""
    tone: str
    """``good``: never clearly behind round robin in what was tried, ``weak``: once it is misled enough,
    ``bad``: on true signals too, ``none``: not measured."""
    epsilon: float | None
    """The lowest share of the bounds at which it is clearly behind, under any threat to what it sees; None:
    there is none."""
    threat: str | None
    world: str = ""
    """How bad its world may turn, in a sentence; empty: not measured."""


def verdicts(report: Report) -> list[Verdict]:
    """A verdict per victim, the most robust first; what was not swept comes last."""
    found = [_verdict(report, row) for row in report.get("headline") or ()]
    order = {"good": 0, "weak": 1, "bad": 2, "none": 3}
    return sorted(
        found, key=lambda held: (order[held.tone], -(1.0 if held.epsilon is None else held.epsilon))
    )


def _verdict(report: Report, row: Mapping[str, Any]) -> Verdict:
    victim, threats = row["victim"], report.get("threats") or {}
    if victim == yardstick(report):
        return Verdict(victim, "yardstick", "what the others are compared with", "none", None, None)
    world = in_words_of_the_world(report, row)
    swept = swept_at(report, row, "feature")
    if not swept:
        meaning = "how far it can be misled was not measured"
        return Verdict(victim, "not swept", meaning, "none", None, None, world)
    reached = {name: at for name, at in swept.items() if at is not None}
    if not reached:
        worst = row.get("worst_feature") or {}
        if worst.get("is_behind"):
            return Verdict(victim, "behind at worst", f"under: {worst['attack']}", "weak", None, None, world)
        meaning = f"in {len(swept)} {'sweep' if len(swept) == 1 else 'sweeps'}"
        return Verdict(victim, "never clearly behind", meaning, "good", None, None, world)
    name, epsilon = min(reached.items(), key=lambda item: item[1])
    if epsilon <= 0.0:
        return Verdict(victim, "already behind", "even on true signals", "bad", 0.0, name, world)
    meaning = f"under: {threats[name]['title']}"
    return Verdict(victim, reach(threats[name], epsilon), meaning, "weak", epsilon, name, world)


def swept_at(report: Report, row: Mapping[str, Any], level: str) -> dict[str, float | None]:
    """Break-even against round robin under each threat of a level over which a victim was swept."""
    threats = report.get("threats") or {}
    return {
        name: at.get("round_robin")
        for name, at in (row.get("break_even") or {}).items()
        if threats.get(name, {}).get("level") == level
    }


def in_words_of_the_world(report: Report, row: Mapping[str, Any]) -> str:
    """How bad a victim's world may turn before it is worse than round robin there; empty: not measured."""
    swept = swept_at(report, row, "world")
    reached = {name: at for name, at in swept.items() if at is not None}
    if reached:
        name, epsilon = min(reached.items(), key=lambda item: item[1])
        title, words = report["threats"][name]["title"], reach(report["threats"][name], epsilon)
        return f"{title}: {f'behind from {words}' if epsilon > 0.0 else 'behind in peace already'}"
    worst = row.get("worst_world") or {}
    if swept and not worst.get("is_behind"):
        return f"{listed([report['threats'][name]['title'] for name in swept])}: never clearly behind"
    relative = value(worst.get("relative"))
    if relative is None:
        return "Worst world: nobody was served" if worst.get("is_behind") else ""
    return f"Worst world: {change(relative)} against round robin there"


def _is_behind_in_its_world(report: Report, row: Mapping[str, Any]) -> bool | None:
    swept, worst = swept_at(report, row, "world"), row.get("worst_world") or {}
    if not swept and not worst:
        return None
    return bool(worst.get("is_behind")) or any(at is not None for at in swept.values())


def _furthest(report: Report, threat: str) -> str:
    epsilons = ((report.get("epsilon") or {}).get(threat) or {}).get("epsilons") or [1.0]
    return reach(report["threats"][threat], max(epsilons))


def yardstick(report: Report) -> str:
    """Name of the round robin that victims are compared with; empty where there is none."""
    return str((report.get("scenario") or {}).get("round_robin") or "")


def kind_of(report: Report, victim: str) -> str:
    """Kind of a victim; empty where the report does not say."""
    return str(((report.get("victims") or {}).get(victim) or {}).get("kind") or "")


def summary(report: Report, found: list[Verdict]) -> str:
    """The whole in a few sentences."""
    judged = [held for held in found if held.tone != "none"]
    if not judged:
        return "No victim was swept over the size of an attack, so there is no break-even to tell."
    fallen = [held for held in judged if held.tone == "weak"]
    behind = [held.victim for held in judged if held.tone == "bad"]
    standing = [held.victim for held in judged if held.tone == "good"]
    text = (
        f"Of {len(judged)} routers, {len(fallen) or 'none'} {'does' if len(fallen) == 1 else 'do'} clearly"
        " worse than round robin once what they see is wrong enough, within what was tried."
    )
    if fallen:
        first, last = (
            [held for held in fallen if held.epsilon == end.epsilon] for end in (fallen[-1], fallen[0])
        )
        text += f" First to fall: {_answers(first)}"
        text += f"; last: {_answers(last)}." if last != first else "."
    if behind:
        text += f" Worse even on true signals: {listed(behind)}."
    if standing:
        text += f" Never clearly worse: {listed(standing)}."
    rows = [row for row in report["headline"] if row["victim"] != yardstick(report)]
    worlds = [held for row in rows if (held := _is_behind_in_its_world(report, row)) is not None]
    if worlds:
        num = sum(worlds) or "none"
        verb = "does" if num == 1 else "do"
        text += f" In a hostile world, {num} of {len(worlds)} {verb} clearly worse than it does there."
    return text


def _answers(held: list[Verdict]) -> str:
    return listed([f"{each.victim} ({each.answer})" for each in held])


def details(report: Report, row: Mapping[str, Any]) -> list[str]:
    """What else the headline says of a victim, a sentence each."""
    threats, attacks = report.get("threats") or {}, report.get("attacks") or {}
    said = [f"Without an attack: mean TTFT {interval(row.get('clean'), seconds)}."]
    for name, at in (row.get("break_even") or {}).items():
        if name not in threats or row["victim"] == yardstick(report):
            continue
        said.append(f"{threats[name]['title']}: {_against(report, name, at)}.")
    for level, words in LEVELS.items():
        worst = row.get(f"worst_{level}")
        if not worst:
            continue
        text = (
            f"Worst attack on {words}: {worst['attack']}, mean TTFT"
            f" {interval(worst.get('ttft_mean_s'), seconds)}, {_rise(value(worst.get('degradation')))}"
        )
        target = (attacks.get(worst["attack"]) or {}).get("target")
        if target and target != row["victim"]:
            text += f"; it was made against {target}"
        relative = value(worst.get("relative"))
        if relative is not None:
            where = "in the same world" if level == "world" else "in peace"
            text += f"; against round robin {where} {interval(worst['relative'], change)}"
        said.append(text + ".")
    return said


def _rise(degradation: float | None) -> str:
    return "unknown against no attack" if degradation is None else f"{change(degradation)} against no attack"


def _against(report: Report, threat: str, at: Mapping[str, float | None]) -> str:
    said = []
    for key, words in (("round_robin", "round robin"), ("load_only", "the best load-only rule")):
        if key not in at:
            continue
        epsilon = at[key]
        if epsilon is None:
            said.append(f"never clearly behind {words}, up to {_furthest(report, threat)}")
        elif epsilon <= 0.0:
            said.append(f"behind {words} in peace already")
        else:
            said.append(f"clearly behind {words} from {reach(report['threats'][threat], epsilon)}")
    return ", ".join(said) or "not compared"
