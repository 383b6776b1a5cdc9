"""Adversarial training: does an agent trained under attack bear attacks better, and what does it cost?

    python -m adversary.harden experiment=robustness/harden

trains the agent in peace, then in rounds: attacks are looked for against the last policy and added to a pool,
and the agent is trained anew with ``frac_attacked`` of its episodes under attacks of the pool (RARL's
alternation, with all attackers so far as opponents, so that what was learned against the first is not
forgotten). At last attacks are looked for against the result too. ``training.json`` and ``training.md`` tell
how both policies fare in peace, under random attacks, on other kinds of traffic and under the worst attack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from adversary.attack import FGSM, PGD, Attack
from adversary.break_even import rank
from adversary.cells import CLEAN, Cell, fill, read
from adversary.config import register
from adversary.config_check import check
from adversary.finding import WORLD, find_attacks
from adversary.scenario import Scenario
from agents.comparison import mean_over_seeds, relative_difference
from agents.defences.defence import is_learned
from agents.files import write, write_json
from agents.markdown import table
from agents.page.wording import interval
from agents.program import program
from agents.run_directory import claim
from agents.train import train
from conf.build import ConfigError, build

BEFORE = "before"
RELEVANT = (
    "agent",
    "train_workload",
    "train_seed",
    "total_timesteps",
    "frac_attacked",
    "rounds",
    "threats",
    "attackers",
    "plan",
    "harm",
    "attack_seed",
    "harm_reference",
    "policies",
)
"""Keys of the config that the trainings depend on, with those of ``WORLD``."""
METRIC = "ttft_mean_s"

register()


def harden(config: DictConfig) -> dict[str, Any]:
    """Train and compare as configured; return what ``training.json`` holds."""
    _check(config)
    directory = claim(config, (*WORLD, *RELEVANT))
    folder = directory / "attacks"
    names = [BEFORE, *(f"round_{number}" for number in range(1, config.rounds + 1))]
    pool: list[Attack] = []
    trained: dict[str, str] = {}
    for name in names:
        trained[name] = str(_train(config, directory / name, pool, folder))
        pool += _find(config, name, trained, folder)
    after = names[-1]
    of_both = [attack for attack in pool if attack.target in (BEFORE, after)]
    under = {"random": [attack for attack in pool if not attack.target], "adversarial": of_both}
    for threat in config.plan if len(config.plan) > 1 else ():
        under[f"adversarial, {threat}"] = [attack for attack in of_both if attack.threat == threat]
    rows = {kind: _rows(config, trained, [], directory, kind) for kind in ("clean", *config.sets)}
    for name, attacks in under.items():
        if attacks:
            rows[name] = _rows(config, trained, attacks, directory, "attacked")
    agent = _agent(config)
    result = {
        "rows": [{"policy": agent, "set": name} | _compared(found, after) for name, found in rows.items()],
        "words": _words(config, len(of_both)),
        "notes": {name: list(build(node, f"sets.{name}").notes) for name, node in config.sets.items()},
    }
    write_json(directory / "training.json", result)
    text = _markdown(result)
    write(directory / "training.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(text)
    print(f"results: {directory}")
    return result


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    if config.rounds < 1 or not 0.0 < config.frac_attacked <= 1.0:
        raise ConfigError(
            f"rounds ({config.rounds}) must be at least 1, frac_attacked ({config.frac_attacked}) in (0, 1]"
        )
    scenario = Scenario(config)
    check(scenario)
    looking = {attacker for attackers in config.plan.values() for attacker in attackers}
    if not any(scenario.attacker(attacker).is_targeted for attacker in looking):
        raise ConfigError(f"plan: {', '.join(looking)} look at no victim; plan one that does, such as search")
    if not is_learned(build(config.agent, "agent")):
        raise ConfigError(f"agent: {config.agent._target_} has nothing to learn; harden one that does")
    for name, node in config.sets.items():
        build(node, f"sets.{name}")


def _train(config: DictConfig, directory: Path, pool: list[Attack], folder: Path) -> Path:
    """Train anew, with a share of the episodes under attacks of the pool."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    kept = [attack for attack in pool if attack.target and attack.how["kind"] not in (FGSM, PGD)]
    env = plain["env"] | {
        "_target_": "adversary.mixed.AttackedRoutingEnv",
        "attacks": [str(folder / f"{attack.name}.json") for attack in kept],
        "threats": plain["threats"],
        "duration_s": config.duration_s,
        "frac_attacked": config.frac_attacked if kept else 0.0,
    }
    parts = {name: plain[name] for name in ("cluster", "world", "reward", "agent")}
    settings = {
        "name": config.name,
        "directory": str(directory),
        "seed": config.train_seed,
        "total_timesteps": config.total_timesteps,
        "checkpoint_every": config.checkpoint_every,
        "env": env,
        "workload": plain["train_workload"],
        "logger": {"_target_": "agents.loggers.silent.Silent"},
        "record": False,
    }
    return train(OmegaConf.create(parts | settings))


def _with(config: DictConfig, trained: dict[str, str], **changes: Any) -> DictConfig:
    """The config with these policies as its victims, beside those that attacks compare with."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    policies = {**plain["policies"], **dict.fromkeys(trained, plain["agent"])}
    return OmegaConf.create({**plain, "policies": policies, "trained": trained, **changes})


def _find(config: DictConfig, name: str, trained: dict[str, str], folder: Path) -> list[Attack]:
    only = {attacker: [name] for attacker in config.attackers}
    attacks = find_attacks(_with(config, trained, only=only), folder)
    return [attack for attack in attacks if attack.target or name == BEFORE]


def _rows(
    config: DictConfig, trained: dict[str, str], attacks: list[Attack], directory: Path, kind: str
) -> pd.DataFrame:
    """First and last policy under these attacks, or in peace on the traffic of this kind."""
    ends = {name: trained[name] for name in (BEFORE, list(trained)[-1])}
    changes = {"workload": config.sets[kind]} if kind in config.sets else {}
    changed = _with(config, ends, **changes)
    names = [attack.name for attack in attacks] or [CLEAN]
    cells = [Cell(policy, attack, (1.0,)) for policy in ends for attack in names]
    folder = directory / "cells" / kind
    fill(changed, cells, {attack.name: attack for attack in attacks}, folder, directory / "attacks")
    return read(cells, folder)


def _compared(rows: pd.DataFrame, after: str) -> dict[str, Any]:
    """Each policy under the attack that is worst for it, by its mean over the seeds."""
    found = {}
    for policy in (BEFORE, after):
        own = rows[rows["victim"] == policy]
        worst = own.groupby("attack")[METRIC].mean().map(rank).idxmax()
        found[policy] = (
            str(worst),
            own[own["attack"] == worst].sort_values("seed")[METRIC].to_numpy(np.float64),
        )
    change = relative_difference(found[after][1], found[BEFORE][1])
    return {
        "before": mean_over_seeds(found[BEFORE][1]).plain(),
        "after": mean_over_seeds(found[after][1]).plain(),
        "change": change.plain(),
        "worst_before": found[BEFORE][0],
        "worst_after": found[after][0],
    }


def _agent(config: DictConfig) -> str:
    return str(config.agent._target_).rpartition(".")[2]


def _words(config: DictConfig, num_attacks: int) -> str:
    return (
        f"{_agent(config)}, {config.total_timesteps} decisions of training each;"
        f" {config.rounds} rounds with {100 * config.frac_attacked:g} % of the episodes attacked. Mean TTFT"
        f" over seeds {list(config.seeds)} that neither training nor attackers saw, 95 % intervals, paired."
        f" Adversarial: under the worst, for either, of {num_attacks} attacks found against one or the other;"
        " those against the first were in the training of the last."
    )


def _markdown(result: dict[str, Any]) -> str:
    lines = [["set", "before, s", "after, s", "change", "worst attack before", "after"]]
    for row in result["rows"]:
        lines.append(
            [
                row["set"],
                interval(row["before"], "{:.3f}".format),
                interval(row["after"], "{:.3f}".format),
                interval(row["change"], "{:+.1%}".format),
                row["worst_before"],
                row["worst_after"],
            ]
        )
    notes = "\n".join(f"{name}: {'; '.join(held)}." for name, held in result["notes"].items())
    return f"{table(lines)}\n\n{result['words']}\n{notes}\n"


@hydra.main(version_base="1.3", config_path="../conf", config_name="harden")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("python -m adversary.harden"):
        harden(config)


if __name__ == "__main__":
    main()
