"""``routegym-train``: train an agent, or take up a training run that was stopped.

    python -m agents.train agent=lodestar
    python -m agents.train agent=maskable_ppo workload=mooncake seed=1

The run's directory then holds the agent's checkpoint, ``config.yaml``, ``progress.json`` (the learning curve)
and ``learning_curve.png``. A sweep (``-m``) that is started again leaves its finished runs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from agents.build_env import build_env
from agents.config import has_scenario, register
from agents.defences.defence import innermost, is_learned
from agents.files import read_json, write_json
from agents.keys import key_of, world_of
from agents.loggers.begin import begin_log
from agents.loggers.logger import Logger
from agents.online import learn_online
from agents.plots import learning_curve
from agents.policy import Trainable
from agents.program import is_in_sweep, program
from agents.recording import digest, recorder_of
from agents.run_directory import claim, files_of, finish, is_finished, plain
from conf.build import ConfigError, build
from envs.live.recorder import Recorder
from envs.routing import RoutingEnv

PROGRESS = "progress.json"
RELEVANT = (
    "seed",
    "total_timesteps",
    "checkpoint_every",
    "env",
    "world",
    "cluster",
    "workload",
    "reward",
    "agent",
)
"""Keys of the config that a run's result depends on."""

register()


class Curve:
    """The learning curve: shown as a bar, logged, and kept in ``progress.json``."""

    def __init__(self, path: Path, logger: Logger, total: int | None) -> None:
        self._path, self._logger = path, logger
        self._rows: list[dict[str, float]] = read_json(path) if path.exists() else []
        self._bar = tqdm(total=total, unit=" decisions", disable=None)

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Take what is known after ``step`` decisions; a step that is told again replaces what came of it."""
        self._bar.update(step - self._bar.n)
        if figures:
            self._rows = [row for row in self._rows if row["step"] < step]
            self._rows.append({"step": step, **{name: float(figures[name]) for name in sorted(figures)}})
            write_json(self._path, self._rows)
            self._logger.log(step, figures)

    @property
    def rows(self) -> list[dict[str, float]]:
        """``step`` and figures, in order."""
        return self._rows

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    if config.seed < 0:
        raise ConfigError(f"seed: {config.seed} is negative; give a whole number from 0")
    if config.total_timesteps is not None and config.total_timesteps < 1:
        raise ConfigError(f"total_timesteps: {config.total_timesteps} must be at least 1, or null")
    if config.checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every: {config.checkpoint_every} must be at least 1")
    if has_scenario(config) and config.scenario.split == "test":
        raise ConfigError(
            "scenario.split: 'test' holds what policies are tested on; train with scenario.split=train"
        )


def train(config: DictConfig) -> Path:
    """Train as configured; return the run's directory."""
    _check(config)
    agent = build(config.agent, "agent")
    inside = innermost(agent)
    if isinstance(inside, Trainable) and inside is not agent:
        raise ConfigError(
            f"agent: a defence cannot train {type(inside).__name__}, which has a loop of its own; train that"
            " alone, and evaluate it with the defence around it, by trained.NAME"
        )
    if not is_learned(agent):
        raise ConfigError(f"agent: {config.agent._target_} has nothing to learn; evaluate it as it is")
    if config.record and isinstance(agent, Trainable):
        raise ConfigError(
            f"record: {config.agent._target_} trains in a loop of its own, which keeps no scores and"
            " propensities; train it with record=false and record what it learned by routegym-evaluate"
        )
    with closing(build_env(config)) as env:  # a bad cluster or workload is told before anything is written
        num_envs = getattr(agent, "num_envs", 1)
        if not env.cluster.repeatable and num_envs > 1:
            raise ConfigError(
                f"agent.num_envs: {num_envs} environments would disturb each other on the same servers; set"
                " agent.num_envs=1"
            )
    directory = claim(config, RELEVANT)
    key = _key(config)
    if is_in_sweep() and is_finished(directory, key):
        print(f"trained before: {directory}")
        return directory
    logger = begin_log(config, directory)
    total = config.total_timesteps or getattr(agent, "total_timesteps", None)
    curve = Curve(directory / PROGRESS, logger, total)
    try:
        if isinstance(agent, Trainable):
            agent.learn(
                lambda rank: build_env(config),
                config.seed,
                directory,
                config.total_timesteps,
                config.checkpoint_every,
                curve,
            )
        else:
            learn_online(
                agent,
                lambda rank: build_env(config),
                config.seed,
                directory,
                config.total_timesteps,
                config.checkpoint_every,
                curve,
                _make_recorder(config, directory) if config.record else None,
            )
        learning_curve(curve.rows, directory / "learning_curve.png")
        logger.log_summary(curve.rows[-1] if curve.rows else {})
        logger.log_files("policy", files_of(directory))
    finally:
        curve.close()
        logger.finish()
    finish(directory, key)
    print(f"trained: {directory}")
    return directory


def _key(config: DictConfig) -> str:
    held = plain(config)
    return key_of({"episodes": world_of(config), **{name: held[name] for name in (*RELEVANT, "record")}})


def _make_recorder(config: DictConfig, directory: Path) -> Callable[[RoutingEnv], Recorder]:
    made_of = OmegaConf.to_container(config, resolve=True)
    assert isinstance(made_of, dict)
    name = config.agent._target_.split(".")[-2]
    version = f"{name}@{digest({key: made_of[key] for key in RELEVANT})}"
    return lambda env: recorder_of(env, directory / "recordings" / f"{name}-{config.seed}", version)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("routegym-train"):
        train(config)


if __name__ == "__main__":
    main()
