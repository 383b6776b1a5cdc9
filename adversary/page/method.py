"""The tab on how it was done: threats in words, the scenario, commands, versions, what was not tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from adversary.page.verdict import Report
from adversary.page.wording import KINDS, LEVELS
from agents.page.markup import Row, absent, element, folded, heading, paragraph, table
from agents.page.wording import NOTHING, change, interval, plain, seconds, value


def tab(report: Report) -> str:
    """Everything that a reader needs to judge the figures, or to make them again."""
    return "".join(
        [
            heading(3, "Threat models"),
            _threats(report.get("threats") or {}),
            heading(3, "Routers"),
            _victims(report.get("victims") or {}),
            heading(3, "The scenario"),
            _scenario(report.get("scenario") or {}),
            heading(3, "On live vLLM"),
            _live(report.get("live")),
            heading(3, "What was not tested"),
            _items(report.get("not_tested") or (), "Nothing is said about what was not tested."),
            heading(3, "How to make it again"),
            _commands(report),
            heading(3, "Versions"),
            _versions(report.get("versions") or {}),
        ]
    )


def _items(texts: Iterable[str], nothing: str) -> str:
    held = [element("li", escape(text)) for text in texts]
    return element("ul", *held) if held else paragraph(nothing, class_="absent")


def _threats(threats: Mapping[str, Any]) -> str:
    if not threats:
        return absent("A threat model is")
    parts = []
    for name, threat in threats.items():
        level = LEVELS.get(threat.get("level", ""), threat.get("level", ""))
        parts += [
            heading(4, threat.get("title") or name),
            paragraph(f"On {level}. {threat.get('words') or ''}"),
            folded(f"Knobs of {threat.get('title') or name}", _knobs(threat)) if threat.get("knobs") else "",
        ]
    return "".join(parts)


def _knobs(threat: Mapping[str, Any]) -> str:
    """One row for each knob; those of an instance stand there once."""
    rows = [
        Row([knob["name"], knob["unit"], *(plain(knob[key]) for key in ("low", "high", "neutral"))])
        for knob in threat["knobs"]
    ]
    title = threat.get("title") or "threat"
    caption = f"Knobs of {title}; with [i], one for each instance"
    return table(caption, ["knob", "unit", "from", "to", "neutral"], rows)


def _victims(victims: Mapping[str, Any]) -> str:
    if not victims:
        return absent("A list of routers is")
    rows = [
        Row(
            [name, KINDS.get(held.get("kind", ""), held.get("kind") or NOTHING), held.get("words") or NOTHING]
        )
        for name, held in victims.items()
    ]
    return table("The routers", ["router", "kind", "what it does"], rows)


def _scenario(scenario: Mapping[str, Any]) -> str:
    if not scenario:
        return absent("A description of the scenario is")
    held = {
        "fleet": scenario.get("fleet"),
        "instances": ", ".join(scenario.get("instances") or ()),
        "requests per episode": scenario.get("num_requests"),
        "length of an episode": f"{plain(value(scenario.get('duration_s')))} s",
        "seeds of the evaluation": ", ".join(map(str, scenario.get("seeds") or ())),
        "seeds that attackers saw": ", ".join(map(str, scenario.get("attack_seeds") or ())),
        "round robin": scenario.get("round_robin"),
        "rules that look at load only": ", ".join(scenario.get("load_only") or ()),
    }
    rows = [Row([name, str(text)]) for name, text in held.items() if text not in (None, "", f"{NOTHING} s")]
    notes = scenario.get("workload_notes") or ()
    return table("The scenario", ["what", "value"], rows) + (_items(notes, "") if notes else "")


def _live(live: Mapping[str, Any] | None) -> str:
    if not live:
        return absent("A replay on live vLLM is")
    rows: Sequence[Mapping[str, Any]] = live.get("rows") or ()
    words = paragraph(live["words"]) if live.get("words") else ""
    if not rows:
        return words or absent("A replay on live vLLM is")
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines = [Row([_held(key, row.get(key)) for key in header]) for row in rows]
    return words + table("Replayed on live vLLM", [name.replace("_", " ") for name in header], lines)


def _held(key: str, held: Any) -> str:
    if held is None or isinstance(held, str):
        return held or NOTHING
    return interval(held, change if key == "change" else seconds)


def _commands(report: Report) -> str:
    commands = list(
        dict.fromkeys(
            [*([report["command"]] if report.get("command") else []), *(report.get("commands") or ())]
        )
    )
    if not commands:
        return absent("The commands are")
    text = escape("\n".join(commands))
    return element("pre", element("code", text), tabindex=0, role="region", aria_label="Commands")


def _versions(versions: Mapping[str, str]) -> str:
    if not versions:
        return absent("Versions are")
    return table(
        "Versions", ["package", "version"], [Row([name, str(held)]) for name, held in versions.items()]
    )
