"""``routegym-evaluate``: compare policies on identical request streams.

    python -m agents.evaluate experiment=heuristics

Every policy routes the stream of every seed, alone with a fresh cluster. In the run's directory then lie

* ``cells/<policy>-<seed>.parquet``: what became of every request (``agents.rollout.LEDGER_COLUMNS``); a
  run that was stopped goes on after the cells that are there;
* ``results.parquet``: one row per policy and seed (``agents.metrics.figures``);
* ``summary.json``: means over seeds, and each policy against the reference, with 95 % intervals;
* ``timing.json``: decision times on this machine (the only file that differs from run to run);
* ``table.md``, ``ttft_cdf.png``, ``ttft_over_time.png``.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from agents.config import register
from agents.files import read_json, write, write_json, write_parquet
from agents.metrics import figures
from agents.online import load_learner
from agents.plots import ttft_cdf, ttft_over_time
from agents.policy import Learner, Policy, Trainable
from agents.program import program, use_one_thread
from agents.rollout import play
from agents.run_directory import claim
from agents.summary import markdown_table, summarise
from agents.train import make_env
from conf.build import ConfigError, build

register()


def make_policy(config: DictConfig, name: str) -> Policy:
    """The policy of this name, with what it learned in its training run if it had one."""
    agent = build(config.policies[name], f"policies.{name}")
    trained = config.trained.get(name)
    if isinstance(agent, Trainable):
        if trained is None:
            raise ConfigError(
                f"policies.{name}: it must be trained before; train it and give"
                f" +trained.{name}=<directory of the training run>"
            )
        return agent.policy(Path(trained))
    if trained is None:
        policy: Policy = agent
        return policy
    if not isinstance(agent, Learner):
        raise ConfigError(f"trained.{name}: {name} learns nothing; leave it out")
    return load_learner(agent, Path(trained))


def _learns(config: DictConfig, name: str) -> bool:
    return isinstance(build(config.policies[name], f"policies.{name}"), Trainable | Learner)


def _cell(directory: Path, name: str, seed: int) -> Path:
    return directory / "cells" / f"{name}-{seed}.parquet"


def _run_cell(config: Any, directory: Path, name: str, seed: int, on_decision: Callable[[int], None]) -> None:
    config = OmegaConf.create(config)
    env = make_env(config)
    rollout = play(env, make_policy(config, name), seed, on_decision)
    path = _cell(directory, name, seed)
    decision_us = 1e6 * rollout.decision_s
    side = {
        "decision_us_mean": float(decision_us.mean()),
        "decision_us_p99": float(np.percentile(decision_us, 99)),
        "counters": dict(rollout.counters),
        "num_instances": len(env.cluster.traits),
        "workload_notes": list(env.workload.notes),
    }
    write_json(path.with_suffix(".json"), side)
    write_parquet(path, rollout.ledger)  # last: where it is, the cell is whole


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that unfinished files are removed


def _run_cell_in_process(config: Any, directory: Path, name: str, seed: int) -> None:
    use_one_thread()
    _run_cell(config, directory, name, seed, lambda number: None)


def _run_cells(config: DictConfig, directory: Path, cells: list[tuple[str, int]]) -> None:
    plain = OmegaConf.to_container(config, resolve=True)
    if config.num_workers == 1 or len(cells) == 1:
        with tqdm(cells, unit=" streams", disable=None) as bar:
            for name, seed in bar:
                bar.set_postfix_str(f"{name}, seed {seed}")
                _run_cell(plain, directory, name, seed, lambda number: None)
        return
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(config.num_workers, context, _leave_ctrl_c_to_the_parent) as pool,
        tqdm(total=len(cells), unit=" streams", disable=None) as bar,
    ):
        futures = {
            pool.submit(_run_cell_in_process, plain, directory, name, seed): name for name, seed in cells
        }
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
                bar.set_postfix_str(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()  # what it has not finished is not written
            raise


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return the summary."""
    names = list(config.policies)
    _check(config, names)
    directory = claim(config, irrelevant=("num_workers", "name"))
    cells = [(name, seed) for seed in config.seeds for name in names]
    _run_cells(config, directory, [cell for cell in cells if not _cell(directory, *cell).exists()])
    return _report(config, directory, names)


def _check(config: DictConfig, names: list[str]) -> None:
    """Refuse what would only fail after a while."""
    if not names:
        raise ConfigError("policies: there are none; add one with +agent@policies.NAME=OPTION")
    if config.reference not in names:
        raise ConfigError(f"reference: {config.reference!r} is none of the policies ({', '.join(names)})")
    if len(set(config.seeds)) != len(config.seeds) or not config.seeds or min(config.seeds) < 0:
        raise ConfigError(f"seeds: {list(config.seeds)} must be different whole numbers from 0, at least one")
    if config.num_workers < 1 or not config.window_s > 0 or not config.warmup_s >= 0:
        raise ConfigError(
            f"num_workers ({config.num_workers}) must be at least 1, window_s ({config.window_s}) more than 0"
            f" and warmup_s ({config.warmup_s}) not negative"
        )
    for name in config.trained:
        if name not in names:
            raise ConfigError(f"trained.{name}: {name} is none of the policies ({', '.join(names)})")
    make_env(config)
    for name in names:
        make_policy(config, name)


def _same_streams(ledgers: dict[int, pd.DataFrame]) -> str:
    """Say which seeds brought the same requests, if any: then the seeds are no sample of streams."""
    seen: dict[bytes, int] = {}
    for seed, ledger in ledgers.items():
        stream = ledger[["arrived_at_s", "num_prompt_tokens"]].to_numpy().tobytes()
        if stream in seen:
            return (
                f"seeds {seen[stream]} and {seed} brought the same requests, so the intervals say nothing of"
                " other streams: set workload.start=random and a num_requests below the trace's"
            )
        seen[stream] = seed
    return ""


def _report(config: DictConfig, directory: Path, names: Iterable[str]) -> dict[str, Any]:
    rows, curves, timing = [], [], []
    ttft_s: dict[str, Any] = {}
    counters: dict[str, dict[str, int]] = {}
    notes: list[str] = []
    ledgers: dict[int, pd.DataFrame] = {}
    for name in names:
        pooled = []
        for seed in config.seeds:
            path = _cell(directory, name, seed)
            ledger, side = pd.read_parquet(path), read_json(path.with_suffix(".json"))
            ledgers[seed], notes = ledger, side["workload_notes"]
            row = figures(ledger, side["num_instances"], config.warmup_s)
            rows.append({"policy": name, "seed": seed, **row})
            timing.append(
                {
                    "policy": name,
                    "seed": seed,
                    **{key: side[key] for key in ("decision_us_mean", "decision_us_p99")},
                }
            )
            for counter, number in side["counters"].items():
                counters.setdefault(name, {}).setdefault(counter, 0)
                counters[name][counter] += number
            window = (ledger["arrived_at_s"] // config.window_s) * config.window_s
            whole = window + config.window_s <= max(ledger["arrived_at_s"].max(), config.window_s)
            means = ledger[whole].groupby(window[whole])["ttft_s"].mean()
            curves.append(
                pd.DataFrame(
                    {
                        "policy": name,
                        "seed": seed,
                        "window_begins_at_s": means.index.to_numpy(),
                        "ttft_mean_s": means.to_numpy(),
                    }
                )
            )
            pooled.append(ledger.loc[ledger["arrived_at_s"] >= config.warmup_s, "ttft_s"].dropna().to_numpy())
        ttft_s[name] = np.concatenate(pooled)
    results = pd.DataFrame(rows)
    write_parquet(directory / "results.parquet", results)
    write_parquet(directory / "ttft_over_time.parquet", pd.concat(curves, ignore_index=True))
    write_json(directory / "timing.json", timing)
    summary = summarise(results, config.reference)
    warning = _same_streams(ledgers) if len(ledgers) > 1 else ""
    summary |= {"warnings": [warning] if warning else []}
    summary |= {"counters": counters, "workload_notes": notes, "warmup_s": config.warmup_s}
    write_json(directory / "summary.json", summary)
    table = markdown_table(summary, pd.DataFrame(timing))
    write(directory / "table.md", lambda temporary: temporary.write_text(table, encoding="utf-8"))
    order = list(summary["policies"])
    learned = [name for name in order if _learns(config, name)]
    ttft_cdf({name: ttft_s[name] for name in order}, learned, directory / "ttft_cdf.png")
    ttft_over_time(pd.concat(curves, ignore_index=True), order, learned, directory / "ttft_over_time.png")
    print(table)
    if warning:
        print(f"warning: {warning}")
    print(f"results: {directory}")
    return summary


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("routegym-evaluate"):
        evaluate(config)


if __name__ == "__main__":
    main()
