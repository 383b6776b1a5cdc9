"""The first half of a robustness run: attacks are looked for, each a job that leaves a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from adversary.attack import NONE, Attack
from adversary.scenario import Scenario
from adversary.world import files
from adversary.world.threat import WorldThreat
from agents.keys import key_of, made_of
from agents.processes import run_jobs

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
    built = {name: scenario.attacker(name) for name in config.attackers}
    planned = []
    for threat, attackers in config.plan.items():
        for attacker in attackers:
            if not built[attacker].is_targeted:
                planned.append(Planned(threat, attacker, ""))
                continue
            targets = config.only.get(attacker, list(config.policies))
            planned += [Planned(threat, attacker, target) for target in targets]
    return sorted(planned, key=lambda each: -getattr(built[each.attacker], "num_evaluations", 0))


def find_attacks(config: DictConfig, folder: Path) -> list[Attack]:
    """Look for the attacks that are not there yet; return all that there are."""
    planned = plan(config)
    keys = _keys(config, planned)
    missing = [each for each in planned if _held_key(folder, each) != keys[each]]
    plain = OmegaConf.to_container(config, resolve=True)
    for _ in run_jobs(
        _find, [(plain, folder, each, keys[each]) for each in missing], config.num_workers, "attacks"
    ):
        pass
    attacks = [Attack.load(folder / f"{each.name}.json") for each in planned]
    scenario = Scenario(config)
    for attack in attacks:
        if attack.how["kind"] != NONE and not (folder / attack.name).exists():
            _write_down(attack, scenario, folder)
    return [attack for attack in attacks if attack.how["kind"] != NONE]


def ingredients(config: DictConfig) -> dict[str, dict[str, Any]]:
    """Policy -> plain values that its episodes follow from, but for attack and seed."""
    common = {"reward": OmegaConf.to_container(config.reward, resolve=True), "duration_s": config.duration_s}
    return {policy: made | common for policy, made in made_of(config).items()}


def _keys(config: DictConfig, planned: Sequence[Planned]) -> dict[Planned, str]:
    made = ingredients(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    common = {
        "spared": [made[name] for name in (config.harm_reference, config.reference)],
        "harm": plain["harm"],
        "attack_seed": config.attack_seed,
    }
    keys = {}
    for each in planned:
        own = {"target": made.get(each.target), "threat": plain["threats"][each.threat]}
        own["attacker"] = plain["attackers"][each.attacker]
        keys[each] = key_of(common | own)
    return keys


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
        _write_down(attack, scenario, folder)
    attack.save(folder)


def _write_down(attack: Attack, scenario: Scenario, folder: Path) -> None:
    """An attack on the world as it was on the stream it was found on: files that replay anywhere."""
    threat = scenario.threat(attack.threat)
    if isinstance(threat, WorldThreat):
        seed = int(scenario.config.attack_seed)
        values = attack.values(threat, scenario.num_instances, seed)
        files.save(
            folder / attack.name, *files.materialise(scenario.open_env().workload, threat, values, seed)
        )
