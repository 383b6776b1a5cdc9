"""The pictures of the robustness report as PNG files, for papers and READMEs; the page holds the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from adversary.page.attackers import Comparison, comparisons, title_of
from adversary.page.attacks import CLEAN, SHOWN
from adversary.page.overview import SERIES
from adversary.page.sweeps import crossing
from adversary.page.traces import MAX_KNOBS, positions, thinned
from adversary.page.training import set_in_words
from adversary.page.verdict import Report, yardstick
from adversary.page.wording import ATTACKERS, LEVELS
from agents.files import write
from agents.page.palette import COLOURS, GREY, HEAT, MARKERS, doublings, luminance, styles
from agents.page.wording import change, percent, value

LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
POINTS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "x": "x",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
    "diamond": "D",
}


def draw(report: Report, directory: Path) -> list[Path]:
    """Write a PNG of everything that the report holds, and return their paths.

    ``overview.png``, ``sweep_<threat>.png``, ``attacks_<metric>.png``, ``transfer_<level>.png``,
    ``trace_<place>.png``, ``attackers_<threat>_<evaluations>.png``, ``defences.png`` and ``training.png``.
    The same report gives the same bytes.
    """
    figures: dict[str, Figure] = {}
    if report.get("headline"):
        figures["overview"] = _overview(report["headline"])
    for name, sweep in (report.get("epsilon") or {}).items():
        title = ((report.get("threats") or {}).get(name) or {}).get("title") or name
        figures[f"sweep_{name}"] = _sweep(sweep, title, yardstick(report))
    figures |= _attacks(report.get("cells") or ())
    for level in LEVELS:
        if held := (report.get("transfer") or {}).get(level):
            targets, victims = held["targets"], held["victims"]
            values = [[value(row[place]) for row in held["degradation"]] for place in range(len(victims))]
            title = f"attacks on {LEVELS[level]}, by whom they were made against: rise of mean TTFT"
            figures[f"transfer_{level}"] = _heat_map(title, victims, targets, values, False)
    for place, trace in enumerate(report.get("worst_traces") or ()):
        figures[f"trace_{place}"] = _trace(report, thinned(trace))
    for held in comparisons(report.get("attackers") or ()):
        title = title_of(report, held.threat)
        figures[f"attackers_{held.threat}_{held.num_evaluations}"] = _attackers(held, title)
    if rows := report.get("defences") or ():
        labels = [f"{row['victim']} + {row['defence']}, {row['attack']}" for row in rows]
        figures["defences"] = _pairs(
            labels, [(row["without"], row["with"]) for row in rows], "without", "with"
        )
    if rows := (report.get("training") or {}).get("rows") or ():
        labels = [f"{row['policy']}, {set_in_words(row['set'])}" for row in rows]
        figures["training"] = _pairs(
            labels, [(row["before"], row["after"]) for row in rows], "before", "after"
        )
    return [_save(figure, directory, name) for name, figure in figures.items()]


def _new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, directory: Path, name: str) -> Path:
    # Ids may hold slashes. No date and no version in the file: the same results give the same bytes.
    path = directory / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
    write(path, lambda temporary: figure.savefig(temporary, format="png", metadata={"Software": None}))
    return path


def _numbers(series: Sequence[Any]) -> list[float]:
    return [np.nan if held is None else held for held in map(value, series)]


def _beside(axis: Any) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def _write_out(axis: Any) -> None:
    """Give a logarithmic axis plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    axis.set_minor_formatter(NullFormatter())


def _upside_down(axis: Any, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    _write_out(axis.xaxis)
    axis.set_xlabel("mean time to first token, s")


def _overview(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _new(9, 1.5 + 0.32 * len(rows))
    axis = figure.subplots()
    for key, name, colour, symbol in SERIES:
        held = [row.get(key) if key == "clean" else (row.get(key) or {}).get("ttft_mean_s") for row in rows]
        xs = np.array(_numbers(held))
        bounds = np.array([[value(at, "low"), value(at, "high")] for at in held], np.float64)
        spread = np.nan_to_num(np.abs(bounds.T - xs))
        axis.errorbar(
            xs,
            range(len(rows)),
            xerr=spread,
            linestyle="",
            capsize=2,
            color=colour,
            marker=POINTS[symbol],
            label=name,
        )
    _upside_down(axis, [row["victim"] for row in rows])
    _beside(axis)
    return figure


def _sweep(sweep: Mapping[str, Any], title: str, reference: str) -> Figure:
    figure = _new(9, 5)
    axis = figure.subplots()
    drawn = styles(sweep["victims"], reference)
    for name, held in sweep["victims"].items():
        style, curve = drawn[name], held["ttft_mean_s"]
        axis.plot(
            sweep["epsilons"],
            _numbers(curve),
            label=name,
            color=style.colour,
            linestyle=LINES[style.dash],
            linewidth=style.width * 0.75,
            marker=POINTS[style.marker],
            markersize=4,
        )
        low, high = ([value(at, bound) for at in curve] for bound in ("low", "high"))
        axis.fill_between(
            sweep["epsilons"], _numbers(low), _numbers(high), color=style.colour, alpha=0.08, linewidth=0
        )
        at = (sweep.get("break_even") or {}).get(name, {}).get("round_robin")
        if at is not None and name != reference:
            height = crossing(sweep["epsilons"], [value(point) for point in curve], at)
            axis.plot([at], _numbers([height]), "o", markersize=11, mfc="none", mec=style.colour)
    axis.set_yscale("log")
    _write_out(axis.yaxis)
    axis.set_title(f"{title} (ringed: first clearly behind round robin)", fontsize=9)
    axis.set_xlabel("ε, share of the bounds that the attack may use")
    axis.set_ylabel("mean time to first token, s")
    _beside(axis)
    return figure


def _attacks(cells: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    held = {(cell["victim"], cell["attack"]): cell.get("degradation") or {} for cell in cells}
    victims = list(dict.fromkeys(victim for victim, _ in held))
    attacks = list(dict.fromkeys(attack for _, attack in held if attack != CLEAN))
    figures = {}
    for metric, title in SHOWN.items():
        values = [[value(held.get((name, attack), {}).get(metric)) for attack in attacks] for name in victims]
        if any(at is not None for row in values for at in row):
            is_share = metric == "goodput_per_s"
            figures[f"attacks_{metric}"] = _heat_map(title, victims, attacks, values, is_share)
    return figures


def _heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    is_share: bool,
) -> Figure:
    figure = _new(3 + 0.75 * len(columns), 1.8 + 0.36 * len(rows))
    axis = figure.subplots()
    places = [
        [np.nan if at is None else max(at, 0.0) if is_share else doublings(at) for at in row]
        for row in values
    ]
    most = 1.0 if is_share else max(float(np.nanmax(places, initial=0.0)), 1.0)
    image = axis.imshow(places, cmap=HEAT, vmin=0.0, vmax=most, aspect="auto")
    for (i, j), place in np.ndenumerate(places):
        red, green, blue, _ = image.cmap(float(place) / most)
        paper = "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))
        ink = "black" if luminance(paper) > 0.18 or np.isnan(place) else "white"
        text = percent(values[i][j]) if is_share else change(values[i][j])
        axis.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_title(title, fontsize=9)
    bar = figure.colorbar(image, ax=axis)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else [float(at) for at in range(int(most) + 1)]
    bar.set_ticks(ticks, labels=[percent(at) if is_share else change(2.0**at - 1.0) for at in ticks])
    bar.ax.tick_params(labelsize=7)
    return figure


def _trace(report: Report, trace: Mapping[str, Any]) -> Figure:
    routers, times = trace["routers"], trace["time_s"]
    figure = _new(9, 1.8 * (3 + len(routers)))
    axes = figure.subplots(3 + len(routers), 1, sharex=True)
    threat = (report.get("threats") or {}).get(trace.get("threat")) or {}
    placed = dict(list(positions(threat, trace["knobs"]).items())[:MAX_KNOBS])
    for name, style in styles(placed).items():
        marks = {"label": name, "color": style.colour, "linestyle": LINES[style.dash]}
        axes[0].step(times, _numbers(placed[name]), where="post", **marks)
    axes[0].set_ylabel("knobs, of bounds", fontsize=7)
    instances = (report.get("scenario") or {}).get("instances") or ()
    for axis, (name, held) in zip(axes[1:], routers.items(), strict=False):
        shares = [np.nan_to_num(_numbers(series)) for series in held["share"]]
        labels = [instances[at] if at < len(instances) else f"instance {at}" for at in range(len(shares))]
        colours = [COLOURS[at % len(COLOURS)] for at in range(len(shares))]
        axis.stackplot(times, shares, labels=labels, colors=colours)
        axis.set_ylabel(f"{name}\nshares", fontsize=7)
        axis.set_ylim(0.0, 1.0)
    for name, style in styles(routers, yardstick(report)).items():
        for axis, key in zip(axes[-2:], ("waiting", "ttft_s"), strict=True):
            marks = {"label": name, "color": style.colour, "linestyle": LINES[style.dash]}
            axis.plot(times, _numbers(routers[name][key]), **marks)
    axes[-2].set_ylabel("requests waiting", fontsize=7)
    axes[-1].set_ylabel("mean TTFT, s", fontsize=7)
    axes[-1].set_yscale("log")
    _write_out(axes[-1].yaxis)
    axes[-1].set_xlabel("seconds since the attack began")
    axes[0].set_title(trace["title"], fontsize=9)
    for axis in axes:
        if axis.get_legend_handles_labels()[1]:
            _beside(axis)
    return figure


def _attackers(held: Comparison, title: str) -> Figure:
    figure = _new(9, 1.5 + 0.32 * len(held.victims))
    axis = figure.subplots()
    for place, name in enumerate(held.attackers):
        axis.plot(
            _numbers([held.harms.get((victim, name)) for victim in held.victims]),
            range(len(held.victims)),
            linestyle="",
            marker=POINTS[MARKERS[place % len(MARKERS)]],
            color=COLOURS[place % len(COLOURS)],
            label=ATTACKERS.get(name, name),
        )
    axis.set_yticks(range(len(held.victims)), held.victims, fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(f"harm found; evaluations of the victim: {held.num_evaluations}")
    _beside(axis)
    return figure


def _pairs(labels: Sequence[str], held: Sequence[tuple[Any, Any]], first: str, second: str) -> Figure:
    figure = _new(9, 1.5 + 0.3 * len(labels))
    axis = figure.subplots()
    before, after = (_numbers([pair[place] for pair in held]) for place in (0, 1))
    axis.hlines(range(len(labels)), before, after, color=GREY)
    axis.plot(before, range(len(labels)), "o", markerfacecolor="none", color=COLOURS[1], label=first)
    axis.plot(after, range(len(labels)), "o", color=COLOURS[0], label=second)
    _upside_down(axis, labels)
    _beside(axis)
    return figure
