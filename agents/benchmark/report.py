"""From the cells of all scenarios to the benchmark's tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from agents import cells
from agents.benchmark import aggregate, plots
from agents.benchmark.scenario import Scenario
from agents.benchmark.speedup import fleet_of, speedups
from agents.benchmark.standings import FIGURES, Kind, standings
from agents.benchmark.table import markdown_table
from agents.cells import Cell
from agents.comparison import CONFIDENCE, NUM_RESAMPLES
from agents.files import write, write_json, write_parquet
from agents.metrics import figures, requests_of
from agents.overlap import greatest_overlap

Costs = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Policy -> scenario -> its figure over the best rule's, ``[num_seeds]``."""


def report(
    directory: Path,
    runs: Mapping[Scenario, tuple[DictConfig, list[Cell]]],
    kinds: Mapping[str, Kind],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write all that is said of a benchmark whose cells are made; return the summary.

    Args:
        directory: Where it is written.
        runs: The configs of their evaluations, whose directories hold the cells, and the cells.
        kinds: Policy -> what it is.
        about: What else the summary shall say.
    """
    tables, scenarios = [], {}
    decision_us: dict[str, list[float]] = {}
    for scenario, (run, of_run) in runs.items():
        rows, sides = [], []
        streams: dict[int, pd.DataFrame] = {}
        for cell in of_run:
            ledger, side = cells.read(Path(run.directory), cell)
            row = {"scenario": scenario.name, "load": scenario.load, "policy": cell.policy, "seed": cell.seed}
            rows.append(row | figures(ledger, side["num_instances"], run.warmup_s))
            streams.setdefault(cell.seed, requests_of(ledger))
            decision_us.setdefault(cell.policy, []).append(side["decision_us_mean"])
            sides.append(side)
        tables.append(pd.DataFrame(rows))
        overlap = greatest_overlap(streams)
        scenarios[str(scenario)] = standings(tables[-1], kinds) | {
            "workload_notes": sides[0]["workload_notes"],
            "greatest_overlap": overlap and {**overlap._asdict(), "seeds": list(overlap.seeds)},
        }
    results = pd.concat(tables, ignore_index=True)
    costs = {figure: _costs(results, scenarios, figure) for figure in FIGURES}
    by_scenario = dict(zip(scenarios, tables, strict=True))
    fleets = {str(scenario): fleet_of(run.cluster.instances) for scenario, (run, _) in runs.items()}
    reference = about["reference"]
    summary = {
        **about,
        "intervals": f"{CONFIDENCE:.0%}, percentile bootstrap over seeds, paired, {NUM_RESAMPLES} resamples",
        "overall": {figure: _overall(costs[figure], scenarios, figure, kinds) for figure in FIGURES},
        "speedups": {} if reference is None else speedups(by_scenario, fleets, reference),
        "scenarios": scenarios,
    }
    write_parquet(directory / "results.parquet", results)
    write_json(directory / "summary.json", summary)
    text = markdown_table(summary, {name: float(np.mean(times)) for name, times in decision_us.items()})
    write(directory / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    plots.profiles(costs, kinds, directory / "profiles.png")
    plots.against_best_rule(scenarios, directory / "against_best_rule.png")
    print(text)
    return summary


def _costs(results: pd.DataFrame, scenarios: Mapping[str, Mapping[str, Any]], figure: str) -> Costs:
    """What each policy costs beside the best rule; scenarios without a rule are left out."""
    costs: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (name, load), table in results.groupby(["scenario", "load"], sort=False):
        scenario = str(Scenario(name, load))
        best = scenarios[scenario][figure]["best_rule"]
        values = {
            str(policy): rows.set_index("seed")[figure]
            for policy, rows in table.groupby("policy", sort=False)
        }
        for policy, own in values.items():
            if best is not None:  # who served nobody has no figure, and is the worst
                ratios = own / values[best][own.index]
                costs.setdefault(policy, {})[scenario] = ratios.fillna(np.inf).to_numpy()
    return costs


def _overall(
    costs: Costs, scenarios: Mapping[str, Mapping[str, Any]], figure: str, kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    """Policy -> its standing over all scenarios in which it ran, the least interquartile mean first."""
    rows: dict[str, dict[str, Any]] = {}
    for name, by_scenario in costs.items():
        scores: Sequence[NDArray[np.float64]] = list(by_scenario.values())
        rows[name] = {
            "kind": kinds[name],
            "interquartile_mean": list(aggregate.interquartile_mean(scores).plain().values()),
            "probability_of_improvement": list(aggregate.probability_of_improvement(scores).plain().values()),
            "verdict": aggregate.verdict(
                {scenario: scenarios[scenario][figure]["policies"][name] for scenario in by_scenario}
            ),
        }
    means = {name: row["interquartile_mean"][0] for name, row in rows.items()}
    costly = {name: float("inf") if mean is None else float(mean) for name, mean in means.items()}
    return {name: rows[name] for name in sorted(rows, key=lambda name: costly[name])}
