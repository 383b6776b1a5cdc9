"""Trains an SB3 model in segments, so that a run that was killed ends as if it had not been.

A segment is a pure function of the checkpoint before it: it builds the model anew, takes up the checkpoint,
makes new environments, seeds them and all global random number generators with (seed, number of the segment),
trains, and writes the next checkpoint. An uninterrupted run does the very same between its segments, so that
neither the state of an environment nor that of a generator has to be saved.

A segment begins with fresh episodes: where it is short against an episode, the ends of episodes are never
seen, so choose ``checkpoint_every`` of at least some episodes of each environment. ``num_episodes`` in the
reported metrics shows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.rl.checkpoint import load_checkpoint, save_checkpoint
from envs.encoded import EncodedObservation
from envs.observation import SCHEMA_HASH, Observation

MakeEnv = Callable[[int], gym.Env[Observation, np.int64]]
Progress = Callable[[int, Mapping[str, float]], None]


class Algorithm(Protocol):
    """What training in segments needs to know of an algorithm."""

    num_envs: int
    reward_scale: float
    rollout_timesteps: int
    """Timesteps that the algorithm collects, over all environments, before it updates."""
    report_timesteps: int
    """Timesteps between two reports of progress."""

    def run(self) -> Mapping[str, Any]:
        """What must not change between a run and its resumption, in plain values."""
        ...

    def build(self, envs: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """An untrained model."""
        ...

    def state(self, model: Any) -> dict[str, Any]:
        """All that a segment leaves to the next, in tensors and plain values."""
        ...

    def load_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        ...


def train(
    algorithm: Algorithm,
    make_env: MakeEnv,
    seed: int,
    directory: Path,
    total_timesteps: int,
    checkpoint_every: int,
    progress: Progress,
) -> None:
    """Train to ``total_timesteps`` from the directory's last checkpoint, or from the start.

    ``total_timesteps`` and ``checkpoint_every`` are rounded up to whole rollouts. The global random number
    generators and the number of torch's threads are left as they were found.
    """
    total = _round_up(total_timesteps, algorithm.rollout_timesteps)
    segment = _round_up(checkpoint_every, algorithm.rollout_timesteps)
    run = {
        **algorithm.run(),
        "seed": seed,
        "total_timesteps": total,
        "segment_timesteps": segment,
        "schema": SCHEMA_HASH,
    }
    done = 0
    while done < total:
        checkpoint = load_checkpoint(directory, run)
        done = checkpoint["num_timesteps"] if checkpoint else 0
        if done < total:
            done = _train_segment(
                algorithm,
                make_env,
                np.random.SeedSequence((seed, done // segment)),
                directory,
                run,
                checkpoint,
                min(segment, total - done),
                progress,
            )


def _train_segment(
    algorithm: Algorithm,
    make_env: MakeEnv,
    seeds: np.random.SeedSequence,
    directory: Path,
    run: dict[str, Any],
    checkpoint: Mapping[str, Any] | None,
    num_timesteps: int,
    progress: Progress,
) -> int:
    model_seed, env_seed = (int(word) >> 1 for word in seeds.generate_state(2))
    with _own_randomness(model_seed), _envs(algorithm, make_env) as envs:
        run = {**run, "max_instances": int(envs.observation_space["mask"].shape[0])}  # type: ignore[index]
        envs.seed(env_seed)
        model = algorithm.build(envs, run["total_timesteps"])
        if checkpoint:
            if checkpoint["run"]["max_instances"] != run["max_instances"]:
                load_checkpoint(directory, run)  # raises
            algorithm.load_state(model, checkpoint["state"])
            model.num_timesteps = checkpoint["num_timesteps"]
        report = _Report(algorithm, progress)
        model.learn(num_timesteps, report, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        save_checkpoint(directory, run, model.num_timesteps, algorithm.state(model))
        report.send()
        return model.num_timesteps


class TrainingView(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """What a deep agent sees of a step: the scaled reward, and of ``info`` nothing."""

    def __init__(self, env: gym.Env[Observation, np.int64], reward_scale: float) -> None:
        super().__init__(env)
        self.reward_scale = reward_scale

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Step."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, float(reward) * self.reward_scale, terminated, truncated, {}


class _Report(BaseCallback):
    """Tells ``progress`` of returns, in the environment's own unit, and of the model's losses."""

    def __init__(self, algorithm: Algorithm, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._every = algorithm.report_timesteps
        self._reward_scale = algorithm.reward_scale
        self._returns: NDArray[np.float64] = np.zeros(algorithm.num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(algorithm.num_envs, np.int64)
        self._episodes: list[tuple[float, int]] = []
        self._sent_at: int | None = None

    def _on_rollout_start(self) -> None:
        if self._sent_at is None:
            self._sent_at = self.model.num_timesteps
        if self.model.num_timesteps >= self._sent_at + self._every:
            self.send()

    def _on_step(self) -> bool:
        self._returns += self.locals["rewards"] / self._reward_scale
        self._lengths += 1
        for index in np.flatnonzero(self.locals["dones"]):
            self._episodes.append((float(self._returns[index]), int(self._lengths[index])))
            self._returns[index] = self._lengths[index] = 0
        return True

    def send(self) -> None:
        metrics = {"num_episodes": float(len(self._episodes))}
        if self._episodes:
            returns, lengths = np.mean(self._episodes, axis=0)
            metrics |= {"episode_return_mean": float(returns), "episode_length_mean": float(lengths)}
        for name, value in self.logger.name_to_value.items():
            if isinstance(value, int | float | np.number):
                metrics[name] = float(value)
        self._episodes = []
        self._sent_at = self.model.num_timesteps
        self._progress(self.model.num_timesteps, metrics)


@contextmanager
def _envs(algorithm: Algorithm, make_env: MakeEnv) -> Iterator[DummyVecEnv]:
    def make(rank: int) -> gym.Env[Observation, np.int64]:
        return TrainingView(EncodedObservation(make_env(rank)), algorithm.reward_scale)

    envs = DummyVecEnv([lambda rank=rank: make(rank) for rank in range(algorithm.num_envs)])  # type: ignore[misc]
    try:
        yield envs
    finally:
        envs.close()


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators, which SB3 draws from, and put them back; compute on one thread.

    One thread is the fastest for networks of this size, and makes results independent of the number of cores.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    num_threads = torch.get_num_threads()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.set_num_threads(num_threads)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
