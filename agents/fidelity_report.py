"""A comparison of two worlds (``agents.fidelity``) for people: as a page and as a table."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from agents import markdown

_SHOWN = (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E"))


def markdown_table(report: dict[str, Any]) -> str:
    """How far the emulated figures are from the live ones, one line per policy, and what that means."""
    differences = _differences(report)
    lines = [list(differences.columns), *differences.to_numpy().tolist()]
    return "\n".join((markdown.table(lines), "", *_findings(report), ""))


def html_page(report: dict[str, Any], picture: Path) -> str:
    """The whole report in one file, with the picture inside."""
    image = base64.b64encode(picture.read_bytes()).decode()
    findings = "".join(f"<li>{escape(line)}</li>" for line in _findings(report))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>RouteGym: emulated against live</title>
<style>body{{font-family:sans-serif;max-width:70em;margin:2em auto}} table{{border-collapse:collapse}}
td,th{{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}} img{{max-width:100%}}</style></head>
<body>
<h1>Emulated against live</h1>
<ul>{findings}</ul>
<h2>Emulated over live, less 1</h2>
<p>Each request is sent to the instance that it went to live. In the last column policies decide anew in the
emulator, and soon otherwise, for they look at a cluster that is a little earlier or later.</p>
{_differences(report).to_html(index=False, border=0)}
<h2>Latencies, seconds</h2>
{_latencies(report).to_html(index=False, border=0)}
<h2>Distributions</h2>
<img alt="distribution functions, live and emulated" src="data:image/png;base64,{image}">
<h2>Policies by mean TTFT</h2>
{_rankings(report).to_html(index=False, border=0)}
<h2>What the live cluster counted</h2>
{pd.DataFrame(report["live_counters"]).T.reset_index(names="policy").to_html(index=False, border=0)}
</body></html>
"""


def _differences(report: dict[str, Any]) -> pd.DataFrame:
    """How far off the emulator is under the same decisions, and, last, under the policies' own."""
    rows = []
    for name, figures in report["policies"].items():
        row: dict[str, Any] = {"policy": name}
        for key, label in _SHOWN:
            if key not in figures["same_decisions"]["latencies"]:
                continue
            latency = figures["same_decisions"]["latencies"][key]
            row[f"{label} mean"] = f"{latency['mean']['relative']:+.1%}"
            row[f"{label} P90"] = f"{latency['p90']['relative']:+.1%}"
            row[f"{label} KS"] = f"{latency['ks']:.3f}"
        row["hit tokens"] = f"{figures['same_decisions']['prefix_hits']['relative']:+.2%}"
        own = figures["own_decisions"]["latencies"]["ttft_s"]["mean"]
        row["TTFT mean, own decisions"] = f"{own['relative']:+.1%} [{own['low']:+.1%}, {own['high']:+.1%}]"
        rows.append(row)
    return pd.DataFrame(rows)


def _latencies(report: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for name, figures in report["policies"].items():
        for decisions, compared in figures.items():
            for key, label in _SHOWN:
                for statistic, pair in compared["latencies"].get(key, {}).items():
                    if statistic != "ks":
                        rows.append(
                            {
                                "policy": name,
                                "decisions": decisions.removesuffix("_decisions"),
                                "latency": f"{label} {statistic}",
                                "live": f"{pair['real']:.4f}",
                                "emulated": f"{pair['modelled']:.4f}",
                                "relative": f"{pair['relative']:+.2%}",
                            }
                        )
    return pd.DataFrame(rows)


def _rankings(report: dict[str, Any]) -> pd.DataFrame:
    def told(rows: dict[str, list[float]]) -> list[str]:
        return [f"{name} {mean:.3f} [{low:.3f}, {high:.3f}]" for name, (mean, low, high) in rows.items()]

    ranking = report["ranking_by_mean_ttft"]
    return pd.DataFrame({"live": told(ranking["real"]), "emulated": told(ranking["modelled"])})


def _findings(report: dict[str, Any]) -> list[str]:
    ranking = report["ranking_by_mean_ttft"]
    lines = [
        f"{report['num_requests']} requests per policy over seeds {report['seeds']}, those that arrived after"
        f" {report['warmup_s']:g} s: {'; '.join(report['workload_notes'])}.",
        f"Ranking by mean TTFT: of {ranking['num_pairs']} pairs of policies {ranking['num_decided']} have"
        f" intervals over seeds that do not overlap live; the emulator orders"
        f" {ranking['num_decided'] - len(ranking['disagreements'])} of them the same way."
        f" Kendall's tau {ranking['kendall']:.2f}.",
    ]
    for one, other in ranking["disagreements"]:
        lines.append(f"The emulator picks another winner between {one} and {other}.")
    hits = [figures["same_decisions"]["prefix_hits"] for figures in report["policies"].values()]
    different, total = (sum(row[key] for row in hits) for key in ("num_different", "num_requests"))
    lines.append(
        f"{different} of {total} requests found another number of prompt tokens cached, sent to the"
        " same instances."
    )
    return lines
