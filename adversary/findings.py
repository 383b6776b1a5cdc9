"""What a robustness run found, as one plain dictionary: what ``report.json`` holds and the page shows.

All figures are means over the seeds with 95 % bootstrap intervals; comparisons are paired, seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from adversary.attack import Attack
from adversary.break_even import behind_from, is_behind, rank
from adversary.cells import CLEAN, Cell
from adversary.harm import Floats
from adversary.scenario import Scenario
from adversary.words import described
from adversary.world.threat import WorldThreat
from agents.comparison import Estimate, mean_over_seeds, relative_difference
from agents.defences.defence import is_learned
from agents.heuristics.heuristic import Heuristic
from conf.build import build

METRICS = (
    "ttft_mean_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "goodput_per_s",
    "frac_slo_met",
    "churn",
    "hot_spot",
    "num_failed",
)
DEGRADED = ("ttft_mean_s", "ttft_p95_s", "ttft_p99_s", "goodput_per_s")
"""Metrics of which the change against the clean run is told."""


def kinds(config: DictConfig) -> dict[str, str]:
    """Of each victim what it goes by: ``load``, ``session``, ``prefix``, ``learned`` or ``defended``."""
    defended = {name for names in config.defended.values() for name in names}
    found = {}
    for name, node in config.policies.items():
        policy = build(node, f"policies.{name}")
        if name in defended:
            found[name] = "defended"
        elif is_learned(policy):
            found[name] = "learned"
        else:
            found[name] = policy.kind if isinstance(policy, Heuristic) else "other"
    return found


def load_only(config: DictConfig) -> list[str]:
    """Rules that look at load alone, with which the others are compared; not those that look at nothing."""
    return [
        name
        for name, kind in kinds(config).items()
        if kind == "load" and name not in (config.reference, "random", "round_robin")
    ]


def cells_of(config: DictConfig, attacks: Sequence[Attack]) -> list[Cell]:
    """Which victim is played under which attack, and at which shares of its bounds.

    All victims in peace, under the attacks that know no victim, and under the ``transfer`` attacker's; each
    under its own; the reference under all, the rules that look at load alone in every curve's world.
    """
    victims, whole = list(config.policies), (1.0,)
    curve = tuple(sorted({*config.epsilons, 1.0}))
    levels = {name: _level(config, name) for name in config.threats}
    yardsticks = {config.reference, *load_only(config)}
    cells = [Cell(victim, CLEAN, whole) for victim in victims]
    for attack in attacks:
        in_curve = {attack.target} if attack.attacker == config.transfer and attack.target else set()
        played = set(victims) if in_curve or not attack.target else {attack.target, config.reference}
        if in_curve and levels[attack.threat] == "world":
            in_curve |= yardsticks
        for victim in victims:
            if victim in played:
                cells.append(Cell(victim, attack.name, curve if victim in in_curve else whole))
    return cells


def _level(config: DictConfig, threat: str) -> str:
    return "world" if isinstance(Scenario(config).threat(threat), WorldThreat) else "feature"


class Findings:
    """Answers questions about the cells' rows.

    Args:
        config: Of the run.
        attacks: All that were found.
        rows: As ``adversary.cells.read`` gives them.
    """

    def __init__(self, config: DictConfig, attacks: Sequence[Attack], rows: pd.DataFrame) -> None:
        self.config = config
        self.attacks = {attack.name: attack for attack in attacks}
        self.victims = list(config.policies)
        self.levels = {name: _level(config, name) for name in config.threats}
        self.load_only = load_only(config)
        self._values: dict[tuple[str, str, float], pd.DataFrame] = {
            (str(victim), str(attack), float(epsilon)): part.sort_values("seed")
            for (victim, attack, epsilon), part in rows.groupby(["victim", "attack", "epsilon"])
        }
        self.rows = rows

    def has(self, victim: str, attack: str, epsilon: float = 1.0) -> bool:
        """Whether that was played."""
        return (victim, attack, epsilon) in self._values

    def of(self, victim: str, attack: str, metric: str, epsilon: float = 1.0) -> Floats:
        """A metric's values, ``[num_seeds]``."""
        values: Floats = self._values[victim, attack, epsilon][metric].to_numpy(np.float64)
        return values

    def mean(self, victim: str, attack: str, metric: str = "ttft_mean_s", epsilon: float = 1.0) -> float:
        """Its mean over the seeds."""
        return float(self.of(victim, attack, metric, epsilon).mean())

    def estimate(
        self, victim: str, attack: str, metric: str, epsilon: float = 1.0
    ) -> dict[str, float | None]:
        """A metric with its interval."""
        return mean_over_seeds(self.of(victim, attack, metric, epsilon)).plain()

    def degradation(self, victim: str, attack: str, metric: str = "ttft_mean_s") -> dict[str, float | None]:
        """Its change for the worse against the clean run, paired by seed: of goodput, the share lost."""
        change = relative_difference(self.of(victim, attack, metric), self.of(victim, CLEAN, metric))
        if metric == "goodput_per_s":
            change = Estimate(-change.value, -change.high, -change.low)
        return change.plain()

    def relative(self, victim: str, attack: str) -> dict[str, float | None]:
        """The victim's mean TTFT against the reference's, less 1: in the same world, and never deceived."""
        return relative_difference(
            self.of(victim, attack, "ttft_mean_s"), self._of_reference(attack, 1.0)
        ).plain()

    def is_behind(self, victim: str, attack: str) -> bool:
        """Whether the victim is clearly behind the reference, in the same world and never deceived."""
        return is_behind(self.of(victim, attack, "ttft_mean_s"), self._of_reference(attack, 1.0))

    def worst(self, victim: str, level: str) -> str | None:
        """The attack on this level that harms a victim most, on the world beyond the reference router."""
        names = [
            name
            for name, attack in self.attacks.items()
            if self.levels[attack.threat] == level and self.has(victim, name)
        ]
        if level == "feature":
            return max(names, key=lambda name: rank(self.mean(victim, name)), default=None)
        names = [name for name in names if self.has(self.config.reference, name)]
        beyond = {
            name: (self._times_reference(victim, name), rank(self.mean(victim, name))) for name in names
        }
        return max(beyond, key=lambda name: beyond[name], default=None)

    def _times_reference(self, victim: str, attack: str) -> float:
        own, reference = (rank(self.mean(name, attack)) for name in (victim, self.config.reference))
        if np.isinf(reference):  # it served nobody: whoever did is ahead of it
            return float(np.isinf(own))
        return own / reference

    def curve_attack(self, threat: str, victim: str) -> str | None:
        """The attack whose curve over epsilon was played."""
        name = f"{threat}-{self.config.transfer}@{victim}"
        return name if name in self.attacks else None

    def epsilons(self) -> list[float]:
        """Of the curves, with 0 for the clean run."""
        return [0.0, *sorted({*self.config.epsilons, 1.0})]

    def curve(self, threat: str, victim: str) -> list[Floats] | None:
        """Mean TTFT, ``[num_seeds]``, at each of ``epsilons()`` under the attack found against this victim.

        None: not played.
        """
        attack = self.curve_attack(threat, victim)
        if attack is None or not all(self.has(victim, attack, each) for each in self.epsilons()[1:]):
            return None
        return [self._at(victim, attack, each) for each in self.epsilons()]

    def break_even(self, threat: str, victim: str) -> dict[str, float | None]:
        """From which share of the bounds on the victim is behind the reference, and the best load-only rule.

        On features the reference is not deceived, and every rule bears the attack found against itself; on
        the world all are in the victim's. The first of the shares played; None: at none of them.
        """
        own, attack = self.curve(threat, victim), self.curve_attack(threat, victim)
        found: dict[str, float | None] = {"round_robin": None, "load_only": None}
        if own is None or attack is None:
            return found
        for label, names in zip(found, ([self.config.reference], self.load_only), strict=True):
            beside = [self._beside(name, threat, attack) for name in names if name != victim]
            others = [curve for curve in beside if curve is not None]
            found[label] = behind_from(self.epsilons(), own, others)
        return found

    def _beside(self, name: str, threat: str, attack: str) -> list[Floats] | None:
        """The curve of a router that the victim of an attack is compared with."""
        if name == self.config.reference:
            return [self._of_reference(attack, each) for each in self.epsilons()]
        if self.levels[threat] == "world":
            return [self._at(name, attack, each) for each in self.epsilons()]
        return self.curve(threat, name)

    def _of_reference(self, attack: str, epsilon: float) -> Floats:
        is_world = self.levels[self.attacks[attack].threat] == "world"
        return self._at(self.config.reference, attack, epsilon if is_world else 0.0)

    def _at(self, victim: str, attack: str, epsilon: float) -> Floats:
        if epsilon == 0.0:
            return self.of(victim, CLEAN, "ttft_mean_s")
        return self.of(victim, attack, "ttft_mean_s", epsilon)


def sections(findings: Findings) -> dict[str, Any]:
    """The parts of the report that follow from the cells and the attacks."""
    config, scenario = findings.config, Scenario(findings.config)
    return {
        "threats": {name: described(name, scenario.threat(name)) for name in findings.levels},
        "victims": {
            name: {"kind": kind, "words": _words(config, name)} for name, kind in kinds(config).items()
        },
        "attacks": {
            name: {
                "threat": attack.threat,
                "attacker": attack.attacker,
                "target": attack.target or None,
                "epsilon": 1.0,
                "num_evaluations": len(attack.curve),
                "harm": attack.harm,
            }
            for name, attack in findings.attacks.items()
        },
        "headline": [_headline(findings, victim) for victim in findings.victims],
        "cells": _cells(findings),
        "transfer": _transfer(findings),
        "epsilon": _curves(findings),
        "attackers": [
            {
                "threat": attack.threat,
                "victim": attack.target,
                "attacker": attack.attacker,
                "harm": attack.harm,
                "num_evaluations": len(attack.curve),
            }
            for attack in findings.attacks.values()
            if attack.target and attack.harm is not None
        ],
        "defences": _defences(findings),
        "validated": {
            "num_steps": int(findings.rows.get("num_steps", pd.Series(dtype=float)).sum()),
            "num_violations": int(findings.rows.get("num_violations", pd.Series(dtype=float)).sum()),
        },
    }


def _words(config: DictConfig, name: str) -> str:
    """The first line of a policy's own description."""
    policy = build(config.policies[name], f"policies.{name}")
    return (type(policy).__doc__ or "").strip().split("\n")[0]


def _headline(findings: Findings, victim: str) -> dict[str, Any]:
    row: dict[str, Any] = {"victim": victim, "clean": findings.estimate(victim, CLEAN, "ttft_mean_s")}
    worst_of_all = CLEAN
    for level in ("feature", "world"):
        attack = findings.worst(victim, level)
        row[f"worst_{level}"] = None
        if attack is None:
            continue
        row[f"worst_{level}"] = {
            "attack": attack,
            "ttft_mean_s": findings.estimate(victim, attack, "ttft_mean_s"),
            "degradation": findings.degradation(victim, attack),
            "relative": findings.relative(victim, attack),
            "is_behind": findings.is_behind(victim, attack),
        }
        if rank(findings.mean(victim, attack)) > rank(findings.mean(victim, worst_of_all)):
            worst_of_all = attack
    swept = [threat for threat in findings.levels if findings.curve(threat, victim) is not None]
    row["break_even"] = {threat: findings.break_even(threat, victim) for threat in swept}
    for metric in ("churn", "hot_spot"):
        row[metric] = {
            "clean": findings.estimate(victim, CLEAN, metric),
            "worst": findings.estimate(victim, worst_of_all, metric),
        }
    return row


def _cells(findings: Findings) -> list[dict[str, Any]]:
    found = []
    for attack in (CLEAN, *findings.attacks):
        for victim in findings.victims:
            if not findings.has(victim, attack):
                continue
            metrics = {metric: findings.estimate(victim, attack, metric) for metric in METRICS}
            degradation = {metric: findings.degradation(victim, attack, metric) for metric in DEGRADED}
            found.append(
                {
                    "victim": victim,
                    "attack": attack,
                    "metrics": metrics,
                    "degradation": {} if attack == CLEAN else degradation,
                }
            )
    return found


def _transfer(findings: Findings) -> dict[str, Any]:
    """Target times victim, on the first threat model of each level that was searched against victims."""
    found: dict[str, Any] = {}
    for threat, level in findings.levels.items():
        targets = [victim for victim in findings.victims if findings.curve_attack(threat, victim)]
        if level in found or not targets:
            continue
        estimates = [
            [
                findings.degradation(victim, f"{threat}-{findings.config.transfer}@{target}")
                for victim in findings.victims
            ]
            for target in targets
        ]
        found[level] = {
            "threat": threat,
            "targets": targets,
            "victims": findings.victims,
            "degradation": [[each["value"] for each in row] for row in estimates],
            "low": [[each["low"] for each in row] for row in estimates],
            "high": [[each["high"] for each in row] for row in estimates],
        }
    return found


def _curves(findings: Findings) -> dict[str, Any]:
    found = {}
    for threat in findings.levels:
        victims = {}
        for victim in findings.victims:
            attack = findings.curve_attack(threat, victim)
            if attack is None or findings.curve(threat, victim) is None:
                continue
            clean = findings.estimate(victim, CLEAN, "ttft_mean_s")
            rest = [
                findings.estimate(victim, attack, "ttft_mean_s", each) for each in findings.epsilons()[1:]
            ]
            victims[victim] = {"ttft_mean_s": [clean, *rest]}
        if victims:
            found[threat] = {
                "epsilons": findings.epsilons(),
                "victims": victims,
                "break_even": {victim: findings.break_even(threat, victim) for victim in victims},
            }
    return found


def _defences(findings: Findings) -> list[dict[str, Any]]:
    """Each defence under the attack found against the bare victim, and under its own, in seconds."""
    found = []
    for victim, names in findings.config.defended.items():
        for defence in names:
            for threat in findings.levels:
                for target in (victim, defence):
                    attack = findings.curve_attack(threat, target)
                    if attack is None or not findings.has(defence, attack):
                        continue
                    found.append(
                        {
                            "victim": victim,
                            "defence": defence,
                            "attack": attack,
                            "without": findings.estimate(victim, attack, "ttft_mean_s"),
                            "with": findings.estimate(defence, attack, "ttft_mean_s"),
                            "change": _change(findings, defence, victim, attack),
                            "clean_change": _change(findings, defence, victim, CLEAN),
                        }
                    )
    return found


def _change(findings: Findings, defence: str, victim: str, attack: str) -> dict[str, float | None]:
    """What a defence changes of mean TTFT: with it against without it, less 1, paired by seed."""
    with_s, without_s = (findings.of(name, attack, "ttft_mean_s") for name in (defence, victim))
    return relative_difference(with_s, without_s).plain()
