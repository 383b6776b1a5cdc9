"""The first half of a robustness run: attacks are looked for, each a job that leaves a file of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from adversary.attack import NONE, Attack
from adversary.scenario import Scenario
from agents.processes import run_jobs
from conf.build import build

WORLD = ("env", "cluster", "world", "workload", "reward", "duration_s")
"""Keys of the config that every episode depends on."""


class Planned(NamedTuple):
    """An attack that is to be looked for."""

    threat: str
    attacker: str
    target: str
    """Empty: none in particular."""

    @property
    def name(self) -> str:
        """Of the attack."""
        return Attack(*self, how={}).name


def plan(config: DictConfig) -> list[Planned]:
    """All attacks that the config asks for; the costly ones first, so that no worker ends with one alone."""
    scenario = Scenario(config)
    planned = []
    for threat, attackers in config.plan.items():
        for attacker in attackers:
            if not scenario.attacker(attacker).is_targeted:
                planned.append(Planned(threat, attacker, ""))
                continue
            targets = config.only.get(attacker, list(config.policies))
            planned += [Planned(threat, attacker, target) for target in targets]
    cost = {each: getattr(scenario.attacker(each.attacker), "num_evaluations", 0) for each in planned}
    return sorted(planned, key=lambda each: -cost[each])


def find_attacks(config: DictConfig, folder: Path) -> list[Attack]:
    """Look for the attacks that are not there yet; return all that there are."""
    planned = plan(config)
    keys = {each: _key(config, each) for each in planned}
    missing = [each for each in planned if _held_key(folder, each) != keys[each]]
    plain = OmegaConf.to_container(config, resolve=True)
    for _ in run_jobs(
        _find, [(plain, folder, each, keys[each]) for each in missing], config.num_workers, "attacks"
    ):
        pass
    attacks = [Attack.load(folder / f"{each.name}.json") for each in planned]
    return [attack for attack in attacks if attack.how["kind"] != NONE]


def made_of(config: DictConfig, policy: str) -> dict[str, Any]:
    """Plain values that say what a policy's episodes follow from, but for the attack."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    held = {name: plain[name] for name in WORLD}
    if plain["world"] is not None:
        held["world"] = repr(build(plain["world"], "world"))  # with what its schedule's file holds
    path = Path(str(plain["workload"].get("path") or ""))
    if path.is_file():
        held["requests"] = hashlib.sha256(path.read_bytes()).hexdigest()
    if policy:
        held["policy"] = plain["policies"][policy]
        if policy in plain["trained"]:
            folder = Path(plain["trained"][policy])
            files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".pt"))
            held["trained"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return held


def digest(values: Any) -> str:
    """A name of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _key(config: DictConfig, planned: Planned) -> str:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return digest(
        {
            **made_of(config, planned.target),
            "spared": [made_of(config, name) for name in (config.harm_reference, config.reference)],
            "threat": plain["threats"][planned.threat],
            "attacker": plain["attackers"][planned.attacker],
            "harm": plain["harm"],
            "attack_seed": config.attack_seed,
        }
    )


def _held_key(folder: Path, planned: Planned) -> str:
    path = folder / f"{planned.name}.json"
    return Attack.load(path).key if path.exists() else ""


def _find(plain: Any, folder: Path, planned: Planned, key: str) -> None:
    config = OmegaConf.create(plain)
    scenario = Scenario(config)
    attacker = scenario.attacker(planned.attacker)
    game = scenario.game(planned.threat, planned.target or config.reference)
    if why := attacker.unfit(game):
        attack = Attack(*planned, how={"kind": NONE, "why": why}, key=key)
    else:
        model_file = folder / f"{planned.name}.zip"
        folder.mkdir(parents=True, exist_ok=True)
        how, harm, curve = attacker.find(game, config.attack_seed, model_file)
        attack = Attack(*planned, how=how, harm=harm, curve=list(curve), key=key)
    attack.save(folder)
