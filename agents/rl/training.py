"""Trains an SB3 model in segments, so that a run that was killed ends as if it had not been.

Between two checkpoints lies a segment. It builds the model anew, takes up the checkpoint before it, seeds all
global random number generators with (seed, number of the segment), trains, and writes the next checkpoint;
an uninterrupted run does the very same, so that no state of a generator has to be saved.

Nor is the state of an environment. Each episode is seeded with (seed, rank, number of the episode), and a
checkpoint holds the actions of the episodes under way: a resumed run plays them again, sees that it comes to
the same observations, and goes on. This asks of an environment what Gymnasium does: that an episode follows
from the seed of its reset and from the actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.hyperparameters import check_counts
from agents.rl.checkpoint import NAME, load_checkpoint, save_checkpoint
from agents.rl.randomness import own_randomness, seed_global_generators
from envs.cluster import Cluster
from envs.encoded import EncodedObservation
from envs.observation import SCHEMA_HASH, Observation

MakeEnv = Callable[[int], gym.Env[Observation, np.int64]]
Progress = Callable[[int, Mapping[str, float]], None]


class Algorithm(Protocol):
    """What training in segments needs to know of an algorithm."""

    num_envs: int
    reward_scale: float
    reward_limit: float
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
    begin: Callable[[Any], None] | None = None,
) -> None:
    """Train to ``total_timesteps`` from the directory's last checkpoint, or from the start.

    ``begin`` is given the untrained model before it learns anything. ``total_timesteps`` and
    ``checkpoint_every`` are rounded up to whole rollouts. On a live cluster, where nothing can be replayed, a
    run that is taken up goes on in a new episode. The global random number generators and the number of
    torch's threads are left as they were found.
    """
    check_counts(total_timesteps=total_timesteps, checkpoint_every=checkpoint_every)
    total = _round_up(total_timesteps, algorithm.rollout_timesteps)
    segment = _round_up(checkpoint_every, algorithm.rollout_timesteps)
    run = {
        **algorithm.run(),
        "seed": seed,
        "total_timesteps": total,
        "segment_timesteps": segment,
        "schema": SCHEMA_HASH,
    }
    checkpoint = load_checkpoint(directory, run)
    done = checkpoint["num_timesteps"] if checkpoint else 0
    if done >= total:
        return
    histories = checkpoint["state"]["histories"] if checkpoint else [None] * algorithm.num_envs
    with own_randomness(), _envs(algorithm, make_env, seed, histories) as envs:
        space: Any = envs.observation_space
        run["max_instances"] = space["mask"].shape[0]
        checkpoint = load_checkpoint(directory, run)
        observations: Any = envs.reset()
        if checkpoint and _repeatable(envs.envs[0]):
            _check_observations(directory, checkpoint["state"]["observations"], observations)
        while done < total:
            seed_global_generators(np.random.SeedSequence((seed, done // segment)))
            model = algorithm.build(envs, total)
            if checkpoint:
                algorithm.load_state(model, checkpoint["state"]["model"])
            elif begin is not None:
                begin(model)
            model.num_timesteps = done
            model._last_obs = observations  # SB3 goes on from there instead of resetting
            model._last_episode_starts = np.ones(algorithm.num_envs, np.bool_)
            report = _Report(algorithm, progress)
            num_timesteps = min(segment, total - done)
            model.learn(num_timesteps, report, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            done, observations = model.num_timesteps, model._last_obs
            state = {
                "model": algorithm.state(model),
                "histories": envs.env_method("history"),
                "observations": {name: torch.from_numpy(array) for name, array in observations.items()},
            }
            save_checkpoint(directory, run, done, state)
            report.send()
            checkpoint = load_checkpoint(directory, run)


class TrainingView(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """What a deep agent sees: scaled, limited rewards; of ``info`` an episode's return and length.

    Args:
        env: the environment.
        reward_scale: what rewards are multiplied by.
        reward_limit: where they are then cut, above and below: one overload's rewards are thousands of times
            the usual, and would outweigh all else in a rollout.
        seeds: each episode is seeded with these and its number.
        history: of the episode to take up, as ``history`` told it; None: begin with episode 0.
    """

    def __init__(
        self,
        env: gym.Env[Observation, np.int64],
        reward_scale: float,
        reward_limit: float,
        seeds: tuple[int, ...],
        history: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(env)
        self._reward_scale, self._reward_limit = reward_scale, reward_limit
        self._seeds = seeds
        self._episode: int = history["episode"] - 1 if history else -1
        self._to_replay: list[int] = history["actions"].tolist() if history else []

    def history(self) -> dict[str, Any]:
        """The number of the episode under way, and its actions so far."""
        return {"episode": self._episode, "actions": torch.tensor(self._actions, dtype=torch.int32)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode, by a seed of its own; the first time, take up the history."""
        self._episode += 1
        self._actions: list[int] = []
        self._return = 0.0
        seeds = np.random.SeedSequence((*self._seeds, self._episode))
        observation, _ = self.env.reset(seed=int(seeds.generate_state(1)[0] >> 1), options=options)
        replayed, self._to_replay = self._to_replay, []
        for action in replayed:
            observation, *_ = self.step(np.int64(action))
        return observation, {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Step."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self._actions.append(int(action))
        self._return += float(reward)
        info = {"episode_return": self._return, "episode_length": len(self._actions)}
        return (
            observation,
            min(max(float(reward) * self._reward_scale, -self._reward_limit), self._reward_limit),
            terminated,
            truncated,
            info if terminated or truncated else {},
        )


class _Report(BaseCallback):
    """Tells ``progress`` of rewards as cut, in the environment's own unit, and of the model's losses."""

    def __init__(self, algorithm: Algorithm, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._every = algorithm.report_timesteps
        self._reward_scale = algorithm.reward_scale
        self._rewards: list[float] = []
        self._episodes: list[tuple[float, int]] = []
        self._sent_at: int | None = None

    def _on_rollout_start(self) -> None:
        if self._sent_at is None:
            self._sent_at = self.model.num_timesteps
        if self.model.num_timesteps >= self._sent_at + self._every:
            self.send()

    def _on_step(self) -> bool:
        self._rewards += (self.locals["rewards"] / self._reward_scale).tolist()
        self._episodes += [
            (info["episode_return"], info["episode_length"])
            for info in self.locals["infos"]
            if "episode_return" in info
        ]
        return True

    def send(self) -> None:
        """Tell what happened since the last time."""
        if not self._rewards:
            return
        metrics = {"reward_mean": float(np.mean(self._rewards)), "num_episodes": float(len(self._episodes))}
        if self._episodes:
            returns, lengths = np.mean(self._episodes, axis=0)
            metrics |= {"episode_return_mean": float(returns), "episode_length_mean": float(lengths)}
        for name, value in self.logger.name_to_value.items():
            if isinstance(value, int | float | np.number):
                metrics[name] = float(value)
        self._rewards, self._episodes = [], []
        self._sent_at = self.model.num_timesteps
        self._progress(self.model.num_timesteps, metrics)


@contextmanager
def _envs(
    algorithm: Algorithm, make_env: MakeEnv, seed: int, histories: Sequence[Mapping[str, Any] | None]
) -> Iterator[DummyVecEnv]:
    def make(rank: int) -> gym.Env[Observation, np.int64]:
        env = make_env(rank)
        history = histories[rank]
        if not _repeatable(env):
            history = None
            if algorithm.num_envs > 1:
                raise ValueError(
                    f"num_envs is {algorithm.num_envs}, and these environments would disturb each other on"
                    " the same servers: train with num_envs=1 there"
                )
        encoded = EncodedObservation(env)
        return TrainingView(encoded, algorithm.reward_scale, algorithm.reward_limit, (seed, rank), history)

    envs = DummyVecEnv([partial(make, rank) for rank in range(algorithm.num_envs)])
    try:
        yield envs
    finally:
        envs.close()


def _repeatable(env: gym.Env[Any, Any]) -> bool:
    """Whether episodes can be played again: not so on live servers."""
    cluster: Cluster | None = getattr(env.unwrapped, "cluster", None)
    return cluster is None or cluster.repeatable


def _check_observations(directory: Path, saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, array in saved.items():
        if not np.array_equal(array.numpy(), found[name]):
            raise ValueError(
                f"{directory / NAME}: playing its episodes again does not lead to the observations that it"
                " holds, so these are other environments: set cluster, workload and versions back, or"
                " train in another directory"
            )


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
