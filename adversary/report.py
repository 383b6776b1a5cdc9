"""How wrong may a router's signals be, and how bad its world, before it does worse than round robin?

    python -m adversary.report experiment=robustness/report

looks for attacks on every victim, turns them on the others, and writes into the run's directory

* ``attacks/``: what was found (``adversary.attack``), and ``cells/``: what it did on held-out streams
  (``adversary.cells``); a run that was stopped goes on after what is there;
* ``report.json``: all figures; ``report.html``: one page that needs nothing else; PNGs of its pictures;
  ``table.md``: its headline.

The same config gives the same bytes.
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from adversary.attack import Attack
from adversary.cells import CLEAN, fill, read
from adversary.config import register
from adversary.config_check import check
from adversary.finding import WORLD, find_attacks, plan
from adversary.findings import Findings, cells_of, sections
from adversary.report_page import page
from adversary.report_plots import draw
from adversary.report_table import markdown_table
from adversary.scenario import Scenario
from adversary.timelines import timeline
from agents.files import read_json, write, write_json, write_parquet
from agents.program import program
from agents.run_directory import claim
from conf.build import ConfigError

PACKAGES = ("routegym", "numpy", "scipy", "torch", "stable-baselines3", "gymnasium", "numba", "cma", "plotly")
COMMAND = "python -m adversary.report "
COMMANDS = (
    "make robustness    (trains the learned routers, then makes the report)",
    "make harden    (adversarial training)",
    "make live-attack    (an attack on real vLLM servers)",
    "routegym-evaluate cluster={cluster} workload=stored workload.path={attack}/requests.parquet world=quiet"
    " world.schedule={attack}/schedule.json warmup_s=0 seeds=[{seed}]"
    "    (replays an attack on the world; add experiment=heuristics, or other routers)",
)
NOT_TESTED = (
    "Attacks found by search are not looked for anew at each share of the bounds: a break-even point is where"
    " the attack found at full strength, made weaker, breaks the router; another might break it sooner.",
    "Trained attackers and worst of N were turned on some routers only, and what others than search found was"
    " played on its target and on round robin alone; the tab of attackers shows where they found more.",
    "A router whose rule reads none of the features that a lie changes was not played under it: it fares, to"
    " the last byte, as in peace. Which features a rule reads is traced, not declared.",
    "Only the threat models described here were played. conf/adversary has more: gauges that come late, are"
    " missing, rounded, shifted or swapped; failing instances, flushed caches, longer prompts, late scrapes.",
    "Attackers see the true state of the fleet at every decision, but not the victim's weights (PGD and FGSM"
    " do); those who know less are weaker.",
    "The worst attack on a router is the worst on the streams that it is told for; its interval does not"
    " allow for that choice, nor a break-even point for the choice of the best load-only rule at each share.",
    "Mean TTFT is of the requests that were served; where instances fail, look at those that failed too.",
    "One fleet and one kind of traffic, as described below; other fleets, models and loads were not tried.",
    "Attackers that share the fleet's capacity with users by sending requests of their own are modelled only"
    " by what the knobs on the world do to the requests that there are.",
)

register()


def report(config: DictConfig) -> dict[str, Any]:
    """Make the report as configured; return what ``report.json`` holds."""
    _check(config)
    directory = claim(config, WORLD)
    attacks = find_attacks(config, directory / "attacks")
    cells = cells_of(config, attacks)
    by_name = {attack.name: attack for attack in attacks}
    fill(config, cells, by_name, directory / "cells", directory / "attacks")
    rows = read(cells, directory / "cells")
    write_parquet(directory / "results.parquet", rows)
    findings = Findings(config, attacks, rows)
    hardening = directory.parent / "hardening"
    differs = _differs(config, hardening)
    found: dict[str, Any] = {
        "title": f"Robustness report: {config.name}",
        "command": COMMAND + shlex.join(sys.argv[1:]),
        "versions": _versions(),
        "scenario": _scenario(config, findings),
        **sections(findings),
        "worst_traces": _timelines(config, findings, by_name, directory / "attacks"),
        "training": None if differs else _beside(hardening / "training.json"),
        "live": _beside(directory.parent / "live" / "live.json"),
        "not_tested": [*NOT_TESTED, *_unfit(config, directory / "attacks"), *differs],
        "commands": [COMMAND + shlex.join(sys.argv[1:]), *_commands(config, directory)],
    }
    write_json(directory / "report.json", found)
    draw(found, directory)
    html = page(found)
    write(directory / "report.html", lambda temporary: temporary.write_text(html, encoding="utf-8"))
    text = markdown_table(found)
    write(directory / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(text)
    print(f"report: {directory / 'report.html'}")
    return found


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    scenario = Scenario(config)
    check(scenario)
    if not config.epsilons or not all(0.0 < each <= 1.0 for each in config.epsilons):
        raise ConfigError(f"epsilons: {list(config.epsilons)} must be shares of the bounds, in (0, 1]")
    if config.transfer not in config.attackers:
        raise ConfigError(
            f"transfer: {config.transfer!r} is none of the attackers ({', '.join(config.attackers)})"
        )
    planned = [threat for threat, attackers in config.plan.items() if config.transfer in attackers]
    if not planned or not scenario.attacker(config.transfer).is_targeted:
        raise ConfigError(
            f"transfer: {config.transfer!r} must be in the plan of a threat and look at its victims: its"
            " attacks are turned on all routers, at every share of the bounds; choose another, such as search"
        )
    if config.num_timelines < 0:
        raise ConfigError(f"num_timelines: {config.num_timelines} must not be negative")
    for victim, names in config.defended.items():
        for name in (victim, *names):
            if name not in config.policies:
                raise ConfigError(
                    f"defended.{victim}: {name!r} is unknown; give names of {', '.join(config.policies)}"
                )


def _commands(config: DictConfig, directory: Path) -> list[str]:
    cluster = HydraConfig.get().runtime.choices["cluster"]
    attack = Path(os.path.relpath(directory), "attacks", "ATTACK")  # no one's absolute paths in a report
    told = {"cluster": cluster, "attack": attack, "seed": config.attack_seed}
    return [command.format(**told) for command in COMMANDS]


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _scenario(config: DictConfig, findings: Findings) -> dict[str, Any]:
    env = Scenario(config).env()
    names = [traits.name for traits in env.cluster.traits]
    of_kind = [name.rpartition("-")[0] or name for name in names]  # the cluster numbers them
    kinds = {name: of_kind.count(name) for name in dict.fromkeys(of_kind)}
    requests = findings.rows[findings.rows["attack"] == CLEAN]["num_requests"].mean()
    return {
        "fleet": ", ".join(f"{number} x {name}" for name, number in kinds.items()),
        "instances": names,
        "workload_notes": list(env.workload.notes),
        "seeds": list(config.seeds),
        "attack_seeds": [config.attack_seed],
        "num_requests": round(float(requests)),
        "duration_s": config.duration_s,
        "round_robin": config.reference,
        "load_only": findings.load_only,
    }


def _timelines(
    config: DictConfig, findings: Findings, attacks: dict[str, Attack], folder: Path
) -> list[dict[str, Any]]:
    """The attacks that did most beyond the reference router, one for each victim and level at most."""
    worst = []
    for victim in findings.victims:
        for level in ("feature", "world"):
            attack = findings.worst(victim, level)
            if attack is not None and victim != config.reference:
                beyond = findings.relative(victim, attack)["value"]
                worst.append((np.inf if beyond is None else beyond, victim, attack))
    worst.sort(reverse=True)
    scenario, seed = Scenario(config), config.seeds[0]
    found = []
    for _, victim, attack in worst[: config.num_timelines]:
        others = [name for name in (config.reference, *findings.load_only[:1]) if name != victim]
        found.append(timeline(scenario, victim, others, attacks[attack], seed, folder))
    return found


def _beside(path: Path) -> Any:
    """What ``adversary.harden`` or ``adversary.live`` found in the same run; None where it has not run."""
    return read_json(path) if path.exists() else None


def _differs(config: DictConfig, hardening: Path) -> list[str]:
    """Why training beside this run is not shown: it was in another world."""
    if not (hardening / "config.yaml").exists():
        return []
    held = OmegaConf.load(hardening / "config.yaml")
    keys = [key for key in WORLD if OmegaConf.select(held, key) != config[key]]
    words = f"The training against attacks in {os.path.relpath(hardening)} was in another world"
    return [f"{words} ({', '.join(keys)}): it is not shown."] if keys else []


def _unfit(config: DictConfig, folder: Path) -> list[str]:
    """Attackers that could not play, and why."""
    found: dict[str, list[str]] = {}
    for planned in plan(config):
        attack = Attack.load(folder / f"{planned.name}.json")
        if "why" in attack.how:
            found.setdefault(f"{planned.attacker} on {planned.threat}", []).append(planned.target)
    return [f"{what}: not for {', '.join(names)}, which it cannot attack." for what, names in found.items()]


@hydra.main(version_base="1.3", config_path="../conf", config_name="robustness")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("python -m adversary.report"):
        report(config)


if __name__ == "__main__":
    main()
