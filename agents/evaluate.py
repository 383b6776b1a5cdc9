"""``routegym-evaluate``: compare policies on identical request streams.

    python -m agents.evaluate experiment=heuristics

Every policy routes the stream of every seed, alone with a fresh cluster. In the run's directory then lie

* ``cells/``: what became of every request (``agents.cells``); a run that was stopped goes on after the cells
  that are there, and policies or seeds may be added;
* ``results.parquet``: one row per policy and seed (``agents.metrics.figures``);
* ``summary.json``: means over seeds, and each policy against the reference, with 95 % intervals;
* ``table.md``, ``ttft_cdf.png``, ``ttft_over_time.png`` and its numbers as Parquet.

All but the decision times in ``cells/*.json`` and ``table.md`` are the same bytes for the same config.

A sweep (``-m``) that is started again leaves its finished runs as they are; ``agents.compare`` makes one page
of them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from omegaconf import DictConfig

from agents import cells
from agents.build_env import build_env
from agents.cells import Cell, build_policy
from agents.config import check_seeds, register
from agents.defences.defence import is_learned
from agents.files import read_json, write, write_json, write_parquet
from agents.keys import key_of, world_of
from agents.loggers.begin import begin_log
from agents.loggers.logger import Logger
from agents.metrics import figures, requests_of
from agents.overlap import greatest_overlap
from agents.plots import ttft_cdf, ttft_over_time
from agents.program import is_in_sweep, program
from agents.run_directory import claim, files_of, finish, is_finished
from agents.summary import markdown_table, summarise
from conf.build import ConfigError, build

WORLD = ("env", "cluster", "workload", "world")
"""Keys of the config that all cells in a directory have in common."""

register()


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return the summary."""
    _check(config)
    directory = claim(config, WORLD)
    if is_in_sweep() and is_finished(directory, _key(config, cells.keys_of(config))):
        print(f"evaluated before: {directory}")
        before: dict[str, Any] = read_json(directory / "summary.json")
        return before
    logger = begin_log(config, directory)
    try:
        return _evaluate(config, directory, logger)
    finally:
        logger.finish()


def _evaluate(config: DictConfig, directory: Path, logger: Logger) -> dict[str, Any]:
    made = cells.run(config, directory)
    loaded, results, curves = {}, [], []
    for cell in made:
        row = {"policy": cell.policy, "seed": cell.seed}
        ledger, side = cells.read(directory, cell)
        results.append(row | figures(ledger, side["num_instances"], config.warmup_s))
        requests = requests_of(ledger)
        curves.append(_over_time(requests, config.window_s).assign(**row))
        loaded[cell] = requests, side
    table, curve = pd.DataFrame(results), pd.concat(curves, ignore_index=True)
    if not table["num_retries"].any():  # as where none are allowed
        table = table.drop(columns="num_retries")
    write_parquet(directory / "results.parquet", table)
    write_parquet(directory / "ttft_over_time.parquet", curve)
    summary = summarise(table, config.reference) | _circumstances(config, loaded)
    write_json(directory / "summary.json", summary)
    timing = pd.DataFrame(
        {"policy": cell.policy, "decision_us_mean": side["decision_us_mean"]}
        for cell, (_, side) in loaded.items()
    )
    text = markdown_table(summary, timing)
    write(directory / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    order = list(summary["policies"])
    learned = [name for name in order if _learns(config, name)]
    ttft_cdf({name: _ttft_s(config, loaded, name) for name in order}, learned, directory / "ttft_cdf.png")
    ttft_over_time(curve, order, learned, directory / "ttft_over_time.png")
    logger.log_table("results", table)
    logger.log_table("ttft_over_time", curve)
    of_policies = summary["policies"].items()
    logger.log_summary({name: {key: row[0] for key, row in rows.items()} for name, rows in of_policies})
    logger.log_files("results", files_of(directory))
    finish(directory, _key(config, {cell: side["key"] for cell, (_, side) in loaded.items()}))
    print(text)
    print(f"results: {directory}")
    return summary


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    names = list(config.policies)
    if not names:
        raise ConfigError("policies: there are none; add one with +agent@policies.NAME=OPTION")
    if config.reference not in names:
        raise ConfigError(f"reference: {config.reference!r} is none of the policies ({', '.join(names)})")
    check_seeds(config.seeds)
    if config.num_workers < 1 or not config.window_s > 0 or not config.warmup_s >= 0:
        raise ConfigError(
            f"num_workers ({config.num_workers}) must be at least 1, window_s ({config.window_s}) more than 0"
            f" and warmup_s ({config.warmup_s}) not negative"
        )
    for name in config.trained:
        if name not in names:
            raise ConfigError(f"trained.{name}: {name} is none of the policies ({', '.join(names)})")
    with closing(build_env(config)) as env:
        if not env.cluster.repeatable and config.num_workers > 1:
            raise ConfigError(
                f"num_workers: {config.num_workers} streams at once would disturb each other on the same"
                " servers; set num_workers=1"
            )
    for name in names:
        build_policy(config, name)


def _key(config: DictConfig, of_cells: Mapping[Cell, str]) -> str:
    """The key of the whole run."""
    shown = {name: config[name] for name in ("warmup_s", "window_s", "reference", "record")}
    return key_of({"cells": {f"{cell.policy}-{cell.seed}": key for cell, key in of_cells.items()}, **shown})


def _learns(config: DictConfig, name: str) -> bool:
    return is_learned(build(config.policies[name], f"policies.{name}"))


def _over_time(ledger: pd.DataFrame, window_s: float) -> pd.DataFrame:
    """Mean TTFT of the requests that arrived in each whole window and were served."""
    begins_at_s = (ledger["arrived_at_s"] // window_s) * window_s
    whole = begins_at_s + window_s <= max(ledger["arrived_at_s"].max(), window_s)
    whole &= ledger["failure"] == ""
    means = ledger[whole].groupby(begins_at_s[whole])["ttft_s"].mean()
    return pd.DataFrame({"window_begins_at_s": means.index.to_numpy(), "ttft_mean_s": means.to_numpy()})


def _ttft_s(config: DictConfig, loaded: Any, name: str) -> Any:
    """TTFT of a policy's requests that arrived after the warm-up and were served, over all seeds."""
    ledgers = [ledger for cell, (ledger, _) in loaded.items() if cell.policy == name]
    served = [ledger[ledger["failure"] == ""] for ledger in ledgers]
    return np.concatenate(
        [ledger.loc[ledger["arrived_at_s"] >= config.warmup_s, "ttft_s"] for ledger in served]
    )


def _circumstances(config: DictConfig, loaded: Any) -> dict[str, Any]:
    """What a reader of the figures must know."""
    first = next(iter(config.policies))
    overlap = greatest_overlap({seed: loaded[Cell(first, seed)][0] for seed in config.seeds})
    counters: dict[str, dict[str, int]] = {name: {} for name in config.policies}
    of_cluster: dict[str, dict[str, float]] = {}
    for cell, (_, side) in loaded.items():
        for counter, number in side["counters"].items():
            counters[cell.policy][counter] = counters[cell.policy].get(counter, 0) + number
        if of_cell := side.get("cluster_counters"):  # absent where an earlier version made the cell
            cells.add_counters(of_cluster.setdefault(cell.policy, {}), of_cell)
    live = {"cluster_counters": of_cluster} if of_cluster else {}  # an emulated cluster has none
    return live | {
        "world": key_of(world_of(config)),
        "warmup_s": config.warmup_s,
        "workload_notes": loaded[Cell(first, config.seeds[0])][1]["workload_notes"],
        "greatest_overlap": overlap._asdict() if overlap else None,
        "counters": counters,
    }


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("routegym-evaluate"):
        evaluate(config)


if __name__ == "__main__":
    main()
