"""``python -m agents.benchmark``: RouteBench, policies against the best rule of each scenario.

    python -m agents.benchmark policy=[llmd_token_load,dynamo_cost,linucb] scenarios=[equal@80,prefix_*]

Every policy routes the streams of every seed of every scenario, alone with a fresh cluster. In the run's
directory then lie

* ``<scenario>@<load>/cells/``: what became of every request (``agents.cells``); a benchmark that was stopped
  goes on after the cells that are there, and policies, scenarios or seeds may be added;
* ``results.parquet``: one row per scenario, policy and seed (``agents.metrics.figures``);
* ``summary.json``: each scenario's ``agents.benchmark.standings``, and all of them together
  (``agents.benchmark.aggregate``);
* ``table.md``, ``profiles.png``, ``against_best_rule.png``; ``config.yaml``.

Several slices of one benchmark share their cells: with ``report=NAME`` all but the cells lies in that folder,
each scenario's ``config.yaml`` too, by which ``agents.compare`` tells its world.

Rules are all policies that do not learn, but for one named ``clairvoyant``, which is the bound. A scenario
whose trace is not there is left out, and said to be. All but the decision times in ``cells/*.json`` and
``table.md`` are the same bytes for the same config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from agents import cells
from agents.benchmark import tuned
from agents.benchmark.report import report
from agents.benchmark.scenario import Scenario, patterns_of, select
from agents.benchmark.standings import Kind
from agents.cells import Cell, build_policy
from agents.config import check_seeds, register_policy_group
from agents.defences.defence import innermost, is_learned
from agents.evaluate import WORLD
from agents.policy import Trainable
from agents.processes import run_jobs
from agents.program import program
from agents.run_directory import claim
from conf.build import ConfigError, build

BOUND = "clairvoyant"
"""Name of the policy that knows the future: no router could be it."""
FOLDER = re.compile(r"[\w-]+")


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Run as configured; return the summary."""
    if not config.policies:
        raise ConfigError("policy: there is none; give policy=NAME, or +agent@policies.NAME=OPTION for more")
    if set(config.policies) == {BOUND}:
        raise ConfigError(f"policy: {BOUND} is the bound, of others; add some by policy=NAME")
    if config.num_workers < 1:
        raise ConfigError(f"num_workers: {config.num_workers} must be at least 1")
    if config.reference is not None and config.reference not in config.policies:
        raise ConfigError(f"reference: {config.reference} is none of {', '.join(config.policies)}")
    for setting, everywhere in (("bound_seeds", None), ("bound_scenarios", "all")):
        if config[setting] != everywhere and BOUND not in config.policies:
            raise ConfigError(f"{setting}: there is no policy {BOUND}; leave it out, or add that")
    if config.seeds is not None:
        check_seeds(config.seeds)
    if config.report is not None and not FOLDER.fullmatch(config.report):
        raise ConfigError(f"report: {config.report!r} must be a folder's name, of letters, digits, - and _")
    files = _files_of(config)
    runs: dict[Scenario, DictConfig] = {}
    left_out: dict[str, str] = {}
    scenarios = select(config.scenarios)
    bounded = _bounded(config, scenarios)
    for scenario in scenarios:
        run = _run_of(config, scenario, files)
        if reason := _missing_trace(run):
            left_out[str(scenario)] = reason
            print(f"{scenario} is left out: {reason}")
        else:
            runs[scenario] = run
    if not runs:
        raise ConfigError(f"scenarios: nothing is left to run: {next(iter(left_out.values()))}")
    kinds: dict[str, Kind] = {}
    for run in runs.values():
        for name in run.policies:
            build_policy(run, name)  # refuses what would only fail after a while
            if name not in kinds:
                kinds[name] = _kind(run, name)
    asked = {scenario: _asked_of(config, run, scenario in bounded) for scenario, run in runs.items()}
    reported = config.copy()
    reported.directory = str(Path(config.directory) / (config.report or ""))
    told = claim(reported, ())
    whole = config.report is None
    jobs = []
    for scenario, run in runs.items():
        jobs += cells.missing(run, claim(run, WORLD, keep=not whole), asked[scenario])
        if not whole:  # the config beside the cells is of the report that lies above them
            own = run.copy()
            own.directory = str(told / str(scenario))
            claim(own, ())
    for _ in run_jobs(cells.make, jobs, config.num_workers, "streams"):
        pass
    without = {
        tuned.listed_as(str(name), word): [
            str(each) for each in runs if tuned.constants_of(constants, each, name) is None
        ]
        for word, constants in files.items()
        for name in config.policies
        if kinds[name] == "rule"
    }
    about = {
        "version": int(next(iter(runs.values())).scenario.version),
        "split": config.split,
        "reference": config.reference,
        "bound_seeds": None if config.bound_seeds is None else list(config.bound_seeds),
        "without_bound": [str(each) for each in runs if BOUND in config.policies and each not in bounded],
        "left_out": left_out,
        "without_tuned_constants": {name: scenarios for name, scenarios in without.items() if scenarios},
    }
    summary = report(told, {each: (runs[each], asked[each]) for each in runs}, kinds, about)
    print(f"results: {told}")
    return summary


def _files_of(config: DictConfig) -> dict[str, tuned.Constants]:
    """What the files of tuned constants hold."""
    given = config.tuned
    plain: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    return tuned.files_of(plain)


def _run_of(config: DictConfig, scenario: Scenario, files: Mapping[str, tuned.Constants]) -> DictConfig:
    """The config of a scenario's evaluation, with the policies that are to run."""
    run = scenario.config(config.split, config.settings)
    run.directory = str(Path(config.directory) / str(scenario))
    nodes = {str(name): OmegaConf.to_container(node) for name, node in config.policies.items()}
    run.policies = tuned.with_tuned(nodes, files, scenario)
    run.reference = next(iter(run.policies))
    run.num_workers = config.num_workers
    run.trained = _trained_of(config, run, scenario, list(files))
    if config.seeds is not None:
        run.seeds = list(config.seeds)
    return run


def _trained_of(
    config: DictConfig, run: DictConfig, scenario: Scenario, words: Sequence[str]
) -> dict[str, str]:
    """Policy -> directory of its training run for a scenario; ``words`` as of ``tuned.files_of``.

    What is tuned and goes on learning begins with what was learned by the default constants, unless it has a
    run of its own; one whose training was tuned must have one.
    """
    folders = {
        str(name): folder.replace("SCENARIO", scenario.name).replace("LOAD", str(scenario.load))
        for name, folder in config.trained.items()
    }
    known = {
        *config.policies,
        *(tuned.listed_as(str(name), word) for name in config.policies for word in words),
    }
    for name in folders:
        if name not in known:
            raise ConfigError(
                f"trained.{name}: {name} is none of the policies ({', '.join(config.policies)})"
            )
    for name, word in product(list(folders), words):
        node = run.policies.get(listed := tuned.listed_as(name, word))
        if node is not None and not isinstance(innermost(build(node, f"policies.{name}")), Trainable):
            folders.setdefault(listed, folders[name])
    return {name: folder for name, folder in folders.items() if name in run.policies}


def _bounded(config: DictConfig, scenarios: Sequence[Scenario]) -> set[Scenario]:
    """Those of the scenarios that the bound is played in; a pattern without a load fits all loads."""
    patterns = patterns_of(config.bound_scenarios)
    found = [{each for each in scenarios if each.fits(pattern)} for pattern in patterns]
    if not all(found) or not found:
        raise ConfigError(
            f"bound_scenarios: {config.bound_scenarios} must be some of the scenarios,"
            f" {', '.join(map(str, scenarios))}"
        )
    return set.union(*found)


def _asked_of(config: DictConfig, run: DictConfig, is_bounded: bool) -> list[Cell]:
    """The cells of a scenario: all policies on all seeds, but for the bound; that where it is asked for."""
    few = config.bound_seeds
    if few is not None and (not few or not set(few) <= set(run.seeds)):
        raise ConfigError(f"bound_seeds: {list(few)} must be some of the seeds, {list(run.seeds)}")
    of_bound = set(run.seeds if few is None else few) if is_bounded else set()
    return [cell for cell in cells.wanted(run) if cell.policy != BOUND or cell.seed in of_bound]


def _missing_trace(run: DictConfig) -> str:
    """Why a scenario's requests are not there; empty where they are."""
    try:
        build(run.workload, "workload")
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return str(error)
        raise
    return ""


def _kind(run: DictConfig, name: str) -> Kind:
    if name == BOUND:
        return "bound"
    return "learned" if is_learned(build(run.policies[name], f"policies.{name}")) else "rule"


@hydra.main(version_base="1.3", config_path="../../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.benchmark"):
        benchmark(config)


if __name__ == "__main__":
    register_policy_group()  # of this program alone: in another, policy= may be something else
    main()
