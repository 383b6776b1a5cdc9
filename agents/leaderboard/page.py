"""A board as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

from agents.comparison import Estimate
from agents.leaderboard.board import RANKED, Column, Standing, differing, least, overall, overall_notes
from agents.leaderboard.table import INTERVALS
from agents.page.document import document
from agents.page.markup import (
    Row,
    choice,
    element,
    figure,
    filters,
    folded,
    heading,
    paragraph,
    table,
)
from agents.page.matrix import Matrix, show
from agents.page.palette import COLOURS, Style, styles
from agents.page.wording import NOTHING, change, interval, percent, seconds, value

WORDS = {"ttft_mean_s": "mean TTFT", "ttft_p99_s": "P99 of TTFT"}


def page(columns: Sequence[Column], command: str) -> str:
    """The whole page.

    Args:
        columns: The board.
        command: That made it.
    """
    tabs = {
        "worlds": ("World by world", _worlds(columns)),
        "compared": ("What was compared", _compared(columns)),
    }
    if len(columns) > 1:
        tabs = {"overall": ("All worlds", _overall(columns))} | tabs
    opening = element("section", paragraph(_summary(columns), class_="summary"), aria_label="Summary")
    return document("Leaderboard", command, opening, tabs)


def _summary(columns: Sequence[Column]) -> str:
    """Who leads, in a sentence."""
    if len(columns) == 1:
        (column,) = columns
        best = column.standings[0]
        text = f"{best.policy} leads with a mean TTFT of {_told(best.means['ttft_mean_s'], seconds)}"
        if len(column.standings) > 1:
            text += f"; next is {column.standings[1].policy}"
        return f"{text}. {len(column.standings)} policies, {len(column.seeds)} request streams each."
    found = overall(columns)
    text = f"{len(columns)} worlds, each with streams of its own: compare within a column."
    if found:
        policy, (mean, num_best, worst) = next(iter(found.items()))
        text += (
            f" Of the policies that are in all, {policy} comes closest to the best of each: {mean:.2f} times"
            f" its mean TTFT in the mean, {worst:.2f} times at worst, best in {num_best}."
        )
    return text


# --- all worlds ---


def _overall(columns: Sequence[Column]) -> str:
    found = overall(columns)
    present = dict.fromkeys(each.policy for column in columns for each in column.standings)
    policies = [*found, *(policy for policy in present if policy not in found)]
    parts = [
        paragraph(
            "Each column is a world, in which all policies met the same request streams; figures of two"
            " columns are of different streams. A cell says how much longer a policy takes than the best of"
            " its column."
        )
    ]
    parts += [paragraph(note, class_="note") for note in overall_notes(columns)]
    parts += [_heat_map(columns, policies, name) for name in RANKED]
    rows = [
        Row([policy, f"{mean:.3f}", f"{num_best} of {len(columns)}", f"{worst:.3f}"])
        for policy, (mean, num_best, worst) in found.items()
    ]
    header = ["policy", "mean TTFT over the best's", "best in", "at worst"]
    parts.append(table("Policies that are in all worlds; the mean over worlds is geometric", header, rows))
    return "".join(parts)


def _heat_map(columns: Sequence[Column], policies: Sequence[str], name: str) -> str:
    held = [{each.policy: each.means[name].value for each in column.standings} for column in columns]
    best = [least(column, name) for column in columns]
    values = [
        [
            value(of_column.get(policy, nan) / of_best - 1.0)
            for of_column, of_best in zip(held, best, strict=True)
        ]
        for policy in policies
    ]
    matrix = Matrix(
        f"{WORDS[name]}, against the best of each world",
        f"Heat map of {len(policies)} policies by {len(columns)} worlds: {WORDS[name]} against the best.",
        "policy",
        "world",
        {policy: {} for policy in policies},
        {column.name: {} for column in columns},
        values,
        [[change(at) for at in row] for row in values],
    )
    return show(matrix, {})


# --- a world ---


def _worlds(columns: Sequence[Column]) -> str:
    parts = [
        filters(choice("world", "World", {_slug(place): column.name for place, column in enumerate(columns)}))
    ]
    for place, column in enumerate(columns):
        inside = [heading(3, column.name), paragraph(f"Requests: {column.world['requests']}.")]
        inside += [paragraph(note, class_="note") for note in column.notes]
        inside += [_dots(column), _table(column)]
        if not column.over_time.empty:
            inside.append(_over_time(column))
        parts.append(element("div", *inside, tags={"world": _slug(place)}))
    return "".join(parts)


def _slug(place: int) -> str:
    return f"world-{place}"


def _dots(column: Column) -> str:
    names = [each.policy for each in column.standings]
    drawn = {"ttft_mean_s": (COLOURS[0], "circle"), "ttft_p99_s": (COLOURS[1], "diamond")}
    data = [_markers(column.standings, name, colour, symbol) for name, (colour, symbol) in drawn.items()]
    layout = {
        "xaxis": {"type": "log", "title": {"text": "time to first token, s"}},
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "meta": {"rows": {name: {} for name in names}, "row_height": 30},
    }
    best, last = column.standings[0], column.standings[-1]
    least, most = (_told(each.means["ttft_mean_s"], seconds) for each in (best, last))
    alt = f"Mean and P99 of TTFT of {len(names)} policies. {best.policy} has a mean of {least}, "
    alt += f"{last.policy} {most}."
    caption = f"Mean and P99 of TTFT (logarithmic). Bars: {INTERVALS}."
    return figure(caption, alt, {"data": data, "layout": layout})


def _markers(standings: Sequence[Standing], name: str, colour: str, symbol: str) -> dict[str, Any]:
    estimates = [each.means[name] for each in standings]
    xs = [value(each.value) for each in estimates]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": WORDS[name],
        "x": xs,
        "y": [each.policy for each in standings],
        "text": [_told(each, seconds) for each in estimates],
        "hovertemplate": "%{y}<br>%{text}",
        "marker": {"color": colour, "symbol": symbol, "size": 10},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_length(each.high - each.value) for each in estimates],
            "arrayminus": [_length(each.value - each.low) for each in estimates],
            "thickness": 1.5,
            "width": 3,
        },
    }


def _length(length: float) -> float:
    """Of an error bar; none where there is no interval."""
    return value(length) or 0.0


def _table(column: Column) -> str:
    against = f"against {column.yardstick}"
    header = [
        "policy",
        "mean TTFT",
        against,
        "P99 of TTFT",
        against,
        "P50",
        "P90",
        "TPOT",
        "E2E",
        "SLO met",
        "prefix hits",
    ]
    rows = []
    for each in column.standings:
        cells = [each.policy]
        for name in RANKED:
            is_it = each.policy == column.yardstick
            cells += [
                _told(each.means[name], seconds),
                "is it" if is_it else _told(each.against[name], change),
            ]
        for name in ("ttft_p50_s", "ttft_p90_s", "tpot_mean_s", "e2e_mean_s"):
            cells.append(seconds(value(each.shown[name])))
        cells += [percent(value(each.shown[name])) for name in ("frac_slo_met", "frac_prefix_hits")]
        rows.append(Row(cells))
    return table(
        f"Means over seeds {', '.join(map(str, column.seeds))}; in brackets {INTERVALS}", header, rows
    )


def _over_time(column: Column) -> str:
    order = [each.policy for each in column.standings]
    curves = dict(iter(column.over_time.groupby("policy", sort=False)))
    drawn = styles(order, column.yardstick)
    data = [_line(policy, curves[policy], drawn[policy]) for policy in order if policy in curves]
    layout = {
        "xaxis": {"title": {"text": "simulated minutes since a cold start"}},
        "yaxis": {"type": "log", "title": {"text": "mean TTFT, s"}},
        "height": 480,
    }
    caption = "Mean TTFT of the requests that arrived in each window, mean over seeds (logarithmic)."
    return figure(caption, f"Mean TTFT of {len(data)} policies over time.", {"data": data, "layout": layout})


def _line(policy: str, rows: Any, style: Style) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": policy,
        "x": [at_s / 60.0 for at_s in rows["window_begins_at_s"]],
        "y": [value(each) for each in rows["ttft_mean_s"]],
        "hovertemplate": f"{policy}<br>%{{x:.1f}} min: %{{y:.3g}} s<extra></extra>",
        "line": {"color": style.colour, "dash": style.dash, "width": style.width},
        "marker": {"symbol": style.marker, "size": 6},
    }


# --- what was compared ---


def _compared(columns: Sequence[Column]) -> str:
    parts = []
    if len(columns) > 1:
        told = differing([column.world for column in columns])
        rows = [Row([column.name, *(_value(column.world.get(name)) for name in told)]) for column in columns]
        parts += [
            paragraph(
                "The worlds differ in these settings, so that their request streams, or what serves them, are"
                " not the same. No figure of one is compared with a figure of another."
            ),
            table("What tells the worlds apart", ["world", *told], rows),
        ]
    rows = [
        Row([column.name, ", ".join(map(str, column.seeds)), "; ".join(column.runs)]) for column in columns
    ]
    parts.append(table("Runs", ["world", "seeds compared", "directories"], rows))
    for column in columns:
        lines = [Row([name, _value(held)]) for name, held in column.world.items()]
        parts.append(
            folded(column.name, table("All that its streams follow from", ["setting", "value"], lines))
        )
    parts.append(
        paragraph(
            f"Intervals: {INTERVALS}. With few seeds they are a little too narrow; the best of many policies"
            " is flattered by having been chosen on these very streams.",
            class_="note",
        )
    )
    return "".join(parts)


def _value(held: Any) -> str:
    return NOTHING if held is None else str(held)


def _told(estimate: Estimate, form: Any) -> str:
    return interval(estimate.plain(), form)
