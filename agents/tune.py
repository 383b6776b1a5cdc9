"""``python -m agents.tune``: a rule's constants, or an agent's hyperparameters, for a fleet and its requests.

    python -m agents.tune agent=aibrix_prefix workload=mooncake workload.part=train workload.start=random
    python -m agents.tune -m agent=aibrix_prefix,dynamo_cost,llmd_affinity ... hydra/launcher=local

What may change is said by ``conf/space/<agent>.yaml``. All trials play the streams of the same tuning seeds
(``agents.tuning.study``); an agent that is trained beforehand is trained anew in each, on other streams. What
policies are tested on is never seen: a workload that has parts must be at ``part=train``, and a scenario of
the benchmark at ``scenario.split=tune``.

In the run's directory then lie

* ``study.journal``: every trial; the same command goes on after what is there, also with more ``num_trials``;
* ``tuned.json``: the settings found, how they fared, and what was tried (``agents.tuning.tuned``);
* ``trials.parquet``: one row per trial.

The same config gives the same ``tuned.json`` and ``trials.parquet``.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents.build_env import build_env
from agents.cells import build_policy
from agents.comparison import relative_difference
from agents.config import check_seeds, has_scenario, register
from agents.defences.defence import innermost
from agents.files import write_json, write_parquet
from agents.keys import digest, key_of, world_of
from agents.loggers.begin import begin_log
from agents.metrics import LATENCIES, PERCENTILES, figures
from agents.policy import Trainable
from agents.program import is_in_sweep, program
from agents.rollout import play
from agents.run_directory import claim, files_of, finish, is_finished, plain
from agents.tuning import tuned
from agents.tuning.space import Settings, Space, defaults, space_of, with_settings
from agents.tuning.study import Search, Tried
from conf.build import ConfigError, build

RELEVANT = (
    "seed",
    "seeds",
    "warmup_s",
    "objective",
    "total_timesteps",
    "checkpoint_every",
    "env",
    "world",
    "cluster",
    "workload",
    "reward",
    "agent",
    "space",
)
"""Keys of the config that all trials in a directory have in common."""
STATISTICS = ("mean", *(f"p{percentile}" for percentile in PERCENTILES))
OBJECTIVES = [f"{latency}_{statistic}_s" for latency in LATENCIES for statistic in STATISTICS]
WARMUP_S = 60.0
"""Where neither the config nor a scenario says: requests that arrive before are routed and not counted."""

register()


def tune(config: DictConfig) -> dict[str, Any]:
    """Tune as configured; return what ``tuned.json`` holds."""
    if config.warmup_s is None:
        config.warmup_s = config.scenario.warmup_s if has_scenario(config) else WARMUP_S
    space = _check(config)
    directory = claim(config, RELEVANT)
    key = _key(config)
    if is_in_sweep() and is_finished(directory, key):
        print(f"tuned before: {directory}")
        return tuned.load(directory / tuned.NAME)
    search = Search(directory / "study.journal", space, defaults(config, space), config.seeds, config.seed)
    logger = begin_log(config, directory)
    try:
        with closing(_Player(config, directory)) as player:
            while (number := len(search.tried())) < config.num_trials:
                each = search.run(player.objective)
                print(f"trial {number}: {_words(each, config.objective)}")
                logger.log(number, {"relative": each.relative, "num_seeds": float(len(each.values))})
        tried = search.tried()[: config.num_trials]
        found, trials = _found(config, tried), _table(tried)
        write_parquet(directory / "trials.parquet", trials)
        write_json(directory / tuned.NAME, found)
        logger.log_table("trials", trials)
        logger.log_summary(found)
        logger.log_files("tuned", files_of(directory))
    finally:
        logger.finish()
    finish(directory, key)
    print(f"tuned: {directory / tuned.NAME}")
    return found


def _check(config: DictConfig) -> Space:
    """Refuse what would only fail after a while, or see what policies are tested on."""
    if config.objective not in OBJECTIVES:
        raise ConfigError(f"objective: {config.objective!r} is none of {', '.join(OBJECTIVES)}")
    if config.num_trials < 2 or not config.warmup_s >= 0 or config.checkpoint_every < 1:
        raise ConfigError(
            f"num_trials ({config.num_trials}) must be at least 2, warmup_s ({config.warmup_s}) not negative"
            f" and checkpoint_every ({config.checkpoint_every}) at least 1"
        )
    check_seeds(config.seeds)
    _check_split(config)
    with closing(build_env(config)) as env:
        if not env.cluster.repeatable:
            raise ConfigError("cluster: trials are compared on the same streams, so tune on an emulated one")
    build(config.agent, "agent")
    return space_of(config)


def _check_split(config: DictConfig) -> None:
    """Refuse to see what policies are tested on."""
    scenario = config.scenario
    if not has_scenario(config):
        if config.workload.get("part", "train") != "train":
            raise ConfigError(
                f"workload.part: {config.workload.part!r} holds what policies are tested on; tune with"
                " workload.part=train"
            )
        return
    if scenario.split != "tune":
        raise ConfigError(f"scenario.split: {scenario.split!r}; tune with scenario.split=tune")
    if seen := set(config.seeds) & set(scenario.seeds.test):
        raise ConfigError(f"seeds: {sorted(seen)} are those that policies are tested on; tune on others")
    if config.warmup_s != scenario.warmup_s:
        raise ConfigError(
            f"warmup_s: {config.warmup_s}, and the scenario's is {scenario.warmup_s}; take that"
        )


def _tuned_for(config: DictConfig) -> str:
    """The name of the fleet and its requests; of a scenario, as the benchmark calls it."""
    if config.tuned_for is not None:
        return str(config.tuned_for)
    choices: Any = HydraConfig.get().runtime.choices
    if has_scenario(config):
        return f"{choices.experiment.rpartition('/')[2]}@{config.scenario.load}"
    return str(choices.workload)


def _key(config: DictConfig) -> str:
    held = plain(config)
    relevant = {name: held[name] for name in (*RELEVANT, "num_trials", "tuned_for")}
    return key_of({"config": relevant, "world": world_of(config)})


class _Player:
    """Plays the agent, with the settings of a trial, on the streams of the seeds."""

    def __init__(self, config: DictConfig, directory: Path) -> None:
        self._config, self._directory = config, directory
        self._env = build_env(config)

    def objective(self, settings: Settings, seed: int) -> float:
        """The objective, of requests that were served, on the stream of a seed.

        Raises ``ValueError`` where settings do not fit together, or nobody was served.
        """
        node = with_settings(self._config.agent, settings)
        inside = innermost(build(node, "agent"))
        trained = {}
        if isinstance(inside, Trainable):
            folder = self._directory / "trained" / digest(*sorted(settings.items()))[:16]
            config = self._config
            inside.learn(  # returns at once where it was trained before
                lambda rank: build_env(config),
                config.seed,
                folder,
                config.total_timesteps,
                config.checkpoint_every,
                lambda step, told: None,
            )
            trained["tuned"] = str(folder)
        policy = build_policy(OmegaConf.create({"policies": {"tuned": node}, "trained": trained}), "tuned")
        ledger = play(self._env, policy, seed).ledger
        held = figures(ledger, len(self._env.cluster.traits), self._config.warmup_s)
        value = held[self._config.objective]
        if not np.isfinite(value):
            raise ValueError(f"no request was served on the stream of seed {seed}")
        return value

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _words(each: Tried, objective: str) -> str:
    settings = ", ".join(f"{name}={_short(value)}" for name, value in each.settings.items())
    if each.state == "refused":
        return f"{settings} refused: {each.refusal}"
    given_up = f", given up after {len(each.values)} seeds" if each.state == "pruned" else ""
    return f"{settings}: {each.relative:.3f} of the default's {objective}{given_up}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _found(config: DictConfig, tried: list[Tried]) -> dict[str, Any]:
    """What ``tuned.json`` holds: the best of what was played on all seeds."""
    default = tried[0]
    best = min((each for each in tried if each.state == "whole"), key=lambda each: each.relative)
    return {
        "tuned_for": _tuned_for(config),
        "agent": config.agent_name,
        "settings": best.settings,
        "default": default.settings,
        "objective": config.objective,
        "relative": relative_difference(best.values, default.values).plain(),
        "seeds": list(config.seeds),
        "num_trials": dict(Counter(each.state for each in tried)),
        "world": key_of(world_of(config)),
    }


def _table(tried: list[Tried]) -> pd.DataFrame:
    rows = [
        {
            "trial": number,
            "state": each.state,
            "relative": each.relative,
            "num_seeds": len(each.values),
            "refusal": each.refusal,
            **each.settings,
        }
        for number, each in enumerate(tried)
    ]
    return pd.DataFrame(rows)


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("python -m agents.tune"):
        tune(config)


if __name__ == "__main__":
    main()
