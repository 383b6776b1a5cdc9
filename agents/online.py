"""Let a learner learn while it routes, episode after episode, in a run that can be taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from agents import checkpoint
from agents.policy import Learner
from agents.rollout import finish, policy_rng, replay
from agents.warm_up import warm_up
from envs.live.recorder import Recorder
from envs.routing import RoutingEnv

CHECKPOINT = "learner.npz"

Progress = Callable[[int, Mapping[str, float]], None]


def learn_online(
    learner: Learner,
    make_env: Callable[[int], RoutingEnv],
    seed: int,
    directory: Path,
    total_timesteps: int | None,
    checkpoint_every: int,
    progress: Progress,
    make_recorder: Callable[[RoutingEnv], Recorder] | None = None,
) -> None:
    """Route whole episodes until ``total_timesteps`` decisions are made (null: one episode).

    Every episode follows from ``seed`` and its number. A checkpoint, after each ``checkpoint_every``
    decisions and each episode, holds the learner and the episode's decisions so far: a killed run replays
    those, goes on from there and ends in the same bytes. (On a live cluster nothing can be replayed: it
    begins the episode anew, with what was learned.) ``progress`` is told the number of decisions made, with
    the episode's figures at its end and nothing in between. Where decisions are recorded, those
    before a checkpoint are on disk before it is.
    """
    with closing(make_env(0)) as env, ExitStack() as stack:
        warm_up(env)
        recorder = stack.enter_context(make_recorder(env)) if make_recorder is not None else None
        run = _Run(learner, env, seed, directory / CHECKPOINT, checkpoint_every, progress, recorder)
        while run.num_episodes == 0 or run.num_decisions < (total_timesteps or 0):
            run.play_episode()


class _Run:
    def __init__(
        self,
        learner: Learner,
        env: RoutingEnv,
        seed: int,
        path: Path,
        every: int,
        progress: Progress,
        recorder: Recorder | None,
    ) -> None:
        self.learner, self.env, self.seed = learner, env, seed
        self.path, self.every, self.progress, self.recorder = path, every, progress, recorder
        self.num_episodes = self.num_decisions = 0  # those of whole episodes
        self.instances: Sequence[int] = ()  # chosen in the episode that was under way
        self.propensities: Sequence[float] = ()
        if path.exists():
            saved = checkpoint.load(path)
            self.num_episodes, self.num_decisions = saved["num_episodes"], saved["num_decisions"]
            self.instances = saved["instances"].tolist()
            self.propensities = saved["propensities"].tolist()
            learner.load_state(saved["learner"])
            progress(self.num_decisions + len(self.instances), {})
            if not env.cluster.repeatable:
                self.instances = self.propensities = ()

    def play_episode(self) -> None:
        episode_seed = int(np.random.SeedSequence((self.seed, self.num_episodes)).generate_state(1)[0])
        if not self.instances:  # else the learner's state is of within the episode
            self.learner.reset(policy_rng(episode_seed))
        begun = replay(self.env, episode_seed, self.instances, self.propensities)
        if self.recorder is not None:
            self.recorder.begin_episode(episode_seed, len(self.instances))
        num_learned = self.num_decisions
        rollout = finish(self.env, self.learner, begun, self._after_decision, self.recorder, num_learned)
        self.num_episodes += 1
        self.num_decisions += len(rollout.ledger)
        self._save((), ())
        self.instances = self.propensities = ()
        figures = {"ttft_mean_s": float(rollout.ledger["ttft_s"].mean())}
        counters = {name: float(number) for name, number in rollout.counters.items()}
        self.progress(self.num_decisions, figures | counters)

    def _after_decision(self, instances: Sequence[int], propensities: Sequence[float]) -> None:
        if len(instances) % self.every == 0:
            self._save(instances, propensities)
        self.progress(self.num_decisions + len(instances), {})

    def _save(self, instances: Sequence[int], propensities: Sequence[float]) -> None:
        if self.recorder is not None:
            self.recorder.flush()
        state = {
            "num_episodes": self.num_episodes,
            "num_decisions": self.num_decisions,
            "instances": np.array(instances, np.int64),
            "propensities": np.array(propensities, np.float64),
            "learner": self.learner.state(),
        }
        checkpoint.save(self.path, state)


def load_learner(learner: Learner, directory: Path) -> Learner:
    """Give a learner what it learned in a training run.

    Raises ``FileNotFoundError`` or ``ValueError`` where nothing whole was trained there.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: train first, or give the directory of a training run"
        )
    learner.load_state(checkpoint.load(path)["learner"])
    return learner
