"""The tab on how large an attack must be: TTFT over epsilon, and where each router falls behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adversary.page.verdict import Report, kind_of, yardstick
from adversary.page.wording import KINDS, LEVELS, reach
from agents.page.markup import (
    Cell,
    Row,
    absent,
    choice,
    element,
    figure,
    filters,
    folded,
    heading,
    paragraph,
    table,
)
from agents.page.palette import styles
from agents.page.wording import NOTHING, interval, seconds, value


def tab(report: Report) -> str:
    """A figure and a table per threat, and the break-even of every router under every threat."""
    swept = report.get("epsilon") or {}
    if not swept:
        return absent("A sweep over the size of attacks is")
    threats = report.get("threats") or {}
    titles = {name: (threats.get(name) or {}).get("title") or name for name in swept}
    victims = list(dict.fromkeys(name for sweep in swept.values() for name in sweep.get("victims") or {}))
    kinds = {kind: KINDS.get(kind, kind) for name in victims if (kind := kind_of(report, name))}
    others = {name: name for name in victims if name != yardstick(report)}
    parts = [
        paragraph(
            "ε is the share of a threat's bounds that the attack may use: 0 is no attack, 1 all that the"
            " threat model allows. Ringed: the first share played at which a router is clearly behind round"
            " robin, the thick grey line: its mean TTFT is higher, and the paired 95 % interval of the"
            " difference over the seeds leaves out zero."
        ),
        filters(
            choice("threat", "Threat", titles),
            choice("kind", "Routers", kinds, "all kinds"),
            choice("victim", "Router", others, "all"),
        ),
    ]
    for name, sweep in swept.items():
        threat = threats.get(name) or {}
        level = LEVELS.get(threat.get("level", ""), "")
        parts.append(
            element(
                "div",
                heading(3, titles[name]),
                paragraph(f"{threat.get('words') or ''} (An attack on {level}.)" if level else ""),
                _figure(report, name, titles[name], sweep),
                folded("Numbers", _table(report, name, titles[name], sweep)),
                tags={"threat": name},
            )
        )
    parts += [heading(3, "Break-even under every threat"), _break_evens(report, titles, victims)]
    return "".join(parts)


def crossing(epsilons: Any, curve: Any, epsilon: float) -> float | None:
    """Height of a curve at a break-even; between two of its points where there is no figure."""
    known = [(x, y) for x, y in zip(epsilons, curve, strict=True) if y is not None]
    if not known:
        return None
    xs, ys = np.array(known, np.float64).T
    return float(np.interp(epsilon, xs, ys))


def _figure(report: Report, threat: str, title: str, sweep: Mapping[str, Any]) -> str:
    epsilons = sweep["epsilons"]
    curves = {name: held["ttft_mean_s"] for name, held in sweep["victims"].items()}
    drawn = styles(curves, yardstick(report))
    data: list[dict[str, Any]] = []
    for name, curve in curves.items():
        style = drawn[name]
        meta = {} if name == yardstick(report) else {"victim": name, "kind": kind_of(report, name)}
        ys = [value(estimate) for estimate in curve]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "meta": meta,
                "x": epsilons,
                "y": ys,
                "text": [interval(estimate, seconds) for estimate in curve],
                "hovertemplate": f"{name}<br>ε = %{{x}}: %{{text}}<extra></extra>",
                "line": {"color": style.colour, "dash": style.dash, "width": style.width},
                "marker": {"symbol": style.marker, "size": 7},
            }
        )
        at = (sweep.get("break_even") or {}).get(name, {}).get("round_robin")
        if at is not None and name != yardstick(report):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{name}: break-even",
                    "legendgroup": name,
                    "showlegend": False,
                    "meta": meta,
                    "x": [at],
                    "y": [crossing(epsilons, ys, at)],
                    "hovertemplate": f"{name} falls behind round robin<br>at ε = %{{x:.2f}}<extra></extra>",
                    "marker": {
                        "symbol": "circle-open",
                        "size": 16,
                        "color": style.colour,
                        "line": {"width": 3},
                    },
                }
            )
    words = (
        [reach(report["threats"][threat], at) if at else "none" for at in epsilons]
        if threat in (report.get("threats") or {})
        else []
    )
    short = bool(words) and max(map(len, words)) <= 8
    layout = {
        "xaxis": {
            "title": {"text": "ε, share of the bounds"},
            "tickvals": epsilons,
            "ticktext": [
                f"{at:g}" + (f"<br>{word}" if short else "")
                for at, word in zip(epsilons, words or [""] * len(epsilons), strict=True)
            ],
        },
        "yaxis": {"type": "log", "title": {"text": "mean TTFT, s"}},
        "height": 520,
    }
    last = [(y, name) for name, curve in curves.items() if (y := value(curve[-1])) is not None]
    alt = f"{title}: mean TTFT of {len(curves)} routers over ε."
    if last:
        (least, best), (most, worst) = min(last), max(last)
        alt += f" At ε = {epsilons[-1]:g}, {best} has {seconds(least)}, {worst} {seconds(most)}."
    return figure(
        f"{title}: mean TTFT over the size of the attack (logarithmic).",
        alt,
        {"data": data, "layout": layout},
    )


def _table(report: Report, threat: str, title: str, sweep: Mapping[str, Any]) -> str:
    header = ["router", *(f"ε = {at:g}" for at in sweep["epsilons"])]
    rows = [
        Row(
            [name, *(interval(estimate, seconds) for estimate in held["ttft_mean_s"])],
            {"victim": name, "kind": kind_of(report, name)} if name != yardstick(report) else {},
        )
        for name, held in sweep["victims"].items()
    ]
    return table(f"{title}: mean TTFT over ε", header, rows)


def _break_evens(report: Report, titles: Mapping[str, str], victims: list[str]) -> str:
    header: list[str | Cell] = ["router"]
    for title in titles.values():
        header += [f"{title}: round robin", f"{title}: best load-only rule"]
    rows = []
    for victim in victims:
        cells = [victim]
        for threat in titles:
            at = (report["epsilon"][threat].get("break_even") or {}).get(victim)
            at = None if victim == yardstick(report) else at
            cells += [_place(report, threat, at, key) for key in ("round_robin", "load_only")]
        rows.append(Row(cells, {"kind": kind_of(report, victim), "victim": victim}))
    return table(
        "The first ε played at which a router is clearly worse than round robin, or than the best rule that"
        " looks at load only",
        header,
        rows,
    )


def _place(report: Report, threat: str, at: Mapping[str, Any] | None, key: str) -> str:
    if at is None or key not in at:
        return NOTHING
    epsilon = at[key]
    if epsilon is None:
        return "never clearly"
    if epsilon <= 0.0:
        return "in peace already"
    words = reach(report["threats"][threat], epsilon) if threat in (report.get("threats") or {}) else ""
    return f"{epsilon:.2f} ({words})" if words and "bounds" not in words else f"{epsilon:.2f}"
