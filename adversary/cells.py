"""The second half of a robustness run: every victim under every attack that concerns it, on held-out streams.

A cell is a victim under an attack, at some shares of the threat's bounds, on the streams of all seeds; its
figures lie in ``cells/<victim>~<attack>.json``, a row per share and seed. ``clean`` stands for no attack.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from adversary.attack import Attack
from adversary.feature.episodes import Episodes
from adversary.feature.threat import FeatureThreat
from adversary.finding import ingredients
from adversary.metrics import robustness_figures
from adversary.scenario import Scenario
from adversary.trace import AttackTrace
from adversary.validate import violations
from adversary.world.episode import WorldEpisode
from adversary.world.threat import WorldThreat
from agents.export.plan import columns_read
from agents.files import read_json, write_json
from agents.keys import key_of
from agents.policy import Policy
from agents.processes import run_jobs
from agents.rollout import Rollout

CLEAN = "clean"


class Cell(NamedTuple):
    """A victim under an attack."""

    victim: str
    attack: str
    """Its name; ``clean``: none."""
    epsilons: tuple[float, ...]
    """Shares of the threat's bounds."""

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.victim}~{self.attack}.json"


class Played(NamedTuple):
    """An episode under an attack, and what was done."""

    rollout: Rollout
    trace: AttackTrace | None
    """None of a clean one."""


def play(
    scenario: Scenario, victim: str, attack: Attack | None, epsilon: float, seed: int, folder: Path
) -> Played:
    """Let a victim route the stream of a seed under an attack.

    Args:
        scenario: The world.
        victim: Its name.
        attack: None: in peace.
        epsilon: Share of its threat's bounds.
        seed: Of the stream.
        folder: Where the attacks lie.
    """
    policy = scenario.policy(victim)
    if attack is None:
        return Played(Episodes(scenario.env(), policy).clean_rollout(seed), None)
    threat = scenario.threat(attack.threat, epsilon)
    if isinstance(threat, FeatureThreat):
        episodes = Episodes(scenario.env(), policy)
        liar = attack.liar(threat, episodes.num_instances, scenario.policy, folder, victim)
        _, trace, rollout = episodes.attacked_alone(threat, liar, seed)
        return Played(rollout, trace)
    return _play_world(scenario, policy, attack, threat, seed)


def is_blind_to(scenario: Scenario, victim: str, attack: Attack) -> bool:
    """Whether a router's decisions cannot depend on what the attack changes: it fares as in peace."""
    threat = scenario.threat(attack.threat)
    return isinstance(threat, FeatureThreat) and threat.columns.isdisjoint(
        columns_read(scenario.policy(victim))
    )


def _play_world(scenario: Scenario, policy: Policy, attack: Attack, threat: WorldThreat, seed: int) -> Played:
    episode = WorldEpisode(scenario.open_env(), policy, threat)
    values = attack.values(threat, scenario.num_instances, seed)
    episode.begin(seed)
    for row in values:
        episode.play_window(row)
    episode.finish()
    about = {"attack": attack.name}
    trace = AttackTrace("world", episode.knobs, threat.budget, values, threat.window_s, about)
    return Played(episode.rollout(), trace)


def fill(
    config: DictConfig, cells: list[Cell], attacks: dict[str, Attack], folder: Path, attacks_folder: Path
) -> None:
    """Make the cells that are not there yet."""
    plain = OmegaConf.to_container(config, resolve=True)
    made = ingredients(config)
    keys = {cell: _key(made[cell.victim], config, cell, attacks.get(cell.attack)) for cell in cells}
    missing = [cell for cell in cells if _held_key(cell.path(folder)) != keys[cell]]
    jobs = [(plain, folder, attacks_folder, cell, attacks.get(cell.attack), keys[cell]) for cell in missing]
    for _ in run_jobs(_fill, jobs, config.num_workers, "cells"):
        pass


def read(cells: list[Cell], folder: Path) -> pd.DataFrame:
    """All rows: victim, attack, epsilon, seed, and the figures of ``robustness_figures``."""
    rows = [
        {"victim": cell.victim, "attack": cell.attack} | row
        for cell in cells
        for row in _held(cell.path(folder))["rows"]
    ]
    return pd.DataFrame(rows)


def _fill(
    plain: Any, folder: Path, attacks_folder: Path, cell: Cell, attack: Attack | None, key: str
) -> None:
    config = OmegaConf.create(plain)
    scenario = Scenario(config)
    if attack is not None and is_blind_to(scenario, cell.victim, attack):
        attack = None
    rows = []
    for epsilon in cell.epsilons:
        for seed in config.seeds:
            played = play(scenario, cell.victim, attack, epsilon, seed, attacks_folder)
            row: dict[str, Any] = {"epsilon": epsilon, "seed": seed}
            row |= robustness_figures(
                played.rollout.ledger, scenario.num_instances, config.churn_window_s, config.warmup_s
            )
            if played.trace is not None:
                trace = played.trace
                row["num_steps"] = len(trace.values)
                row["num_violations"] = len(violations(trace.knobs, trace.budget, trace.values))
            rows.append({name: _plain(value) for name, value in row.items()})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(cell.path(folder), {"key": key, "rows": rows})


def _plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _key(made: Mapping[str, Any], config: DictConfig, cell: Cell, attack: Attack | None) -> str:
    values = {
        **made,
        "attack": attack.key if attack else "",
        "cell": list(cell),
        "seeds": list(config.seeds),
        "warmup_s": config.warmup_s,
        "churn_window_s": config.churn_window_s,
    }
    return key_of(values)


def _held_key(path: Path) -> str:
    return str(_held(path)["key"]) if path.exists() else ""


def _held(path: Path) -> dict[str, Any]:
    held = read_json(path)
    if not isinstance(held, dict) or not {"key", "rows"} <= set(held) or not isinstance(held["rows"], list):
        raise ValueError(f"{path}: no results of a router under an attack; delete it to have them made anew")
    return held
