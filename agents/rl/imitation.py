"""Imitation: PPO's actor learns to choose as a teacher does, before or instead of learning from rewards.

The teacher routes first; from then on the student does, and the teacher says what it would have chosen
(DAgger, as in ``agents.distill.dagger``, which plays these episodes): so the student learns what to do in the
situations that its own mistakes lead to. A teacher that foresees, such as the clairvoyant, speaks of its own
episodes alone and routes all of them, which is behaviour cloning. After every round the network goes on
learning from all decisions so far: the less the cross entropy between the teacher's choice and the softmax of
its scores, the better.

``agents.rl.maskable_ppo`` takes up what was learned by ``warm_start``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.distill.dagger import taught
from agents.distill.lessons import Lessons, concatenate
from agents.hyperparameters import check_counts, check_positive
from agents.policy import Policy, Trainable
from agents.rl.actor import ACTOR, GAIN, IMITATION, actor_of
from agents.rl.checkpoint import load_checkpoint, save_checkpoint
from agents.rl.network import ScoreNetwork, shape_of
from agents.rl.randomness import own_randomness, seed_global_generators
from agents.rl.sb3_policy import Sb3Policy
from envs.observation import ENCODED_NAMES, SCHEMA_HASH, encode
from envs.routing import RoutingEnv


class ImitationAgent:
    """Trains by imitation; the hyperparameters are told of in ``conf/agent/imitation.yaml``."""

    def __init__(
        self,
        *,
        teacher: Policy,
        total_timesteps: int,
        round_timesteps: int,
        n_epochs: int,
        batch_size: int,
        learning_rate: float,
        instance_hidden: Sequence[int],
        head_hidden: Sequence[int],
        attention_heads: int,
    ) -> None:
        if isinstance(teacher, Trainable):
            raise ValueError(
                f"teacher is a {type(teacher).__name__}, which must be trained before: train and export it,"
                " and give the bundle as the teacher"
            )
        check_counts(
            total_timesteps=total_timesteps,
            round_timesteps=round_timesteps,
            n_epochs=n_epochs,
            batch_size=batch_size,
        )
        check_positive(learning_rate=learning_rate)
        self.total_timesteps = total_timesteps
        self._teacher = teacher
        self._network = shape_of(instance_hidden, head_hidden, attention_heads)
        self._hyperparameters: dict[str, Any] = {
            "round_timesteps": round_timesteps,
            "n_epochs": n_epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }

    def learn(
        self,
        make_env: Callable[[int], RoutingEnv],
        seed: int,
        directory: Path,
        total_timesteps: int | None,
        checkpoint_every: int,
        progress: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        """Train, from the last checkpoint in ``directory`` if there is one; episodes are whole.

        Args:
            make_env: makes the environment, of rank 0.
            seed: of weights, episodes and draws.
            directory: where ``checkpoint.pt`` lies; it holds the teacher's lessons, too.
            total_timesteps: decisions to learn from; None: as configured.
            checkpoint_every: decisions between two checkpoints.
            progress: told the number of decisions, and of each episode ``frac_agreed``: the share of its
                decisions in which the student, who has not seen them yet, chooses as the teacher; after each
                round ``loss``, the cross entropy in its last pass.
        """
        total = self.total_timesteps if total_timesteps is None else total_timesteps
        check_counts(total_timesteps=total, checkpoint_every=checkpoint_every)
        run = {
            "algorithm": IMITATION,
            "teacher": type(self._teacher).__name__,
            "seed": seed,
            "total_timesteps": total,
            "schema": SCHEMA_HASH,
            **self._network,
            **self._hyperparameters,
        }
        checkpoint = load_checkpoint(directory, run)
        if checkpoint and checkpoint["num_timesteps"] >= total:
            return
        with own_randomness(), closing(make_env(0)) as env:
            course = _Course(self._network, self._hyperparameters, seed)
            if checkpoint:
                course.load_state(checkpoint["state"])
            saved_at = course.num_decisions
            while course.num_decisions < total:
                figures = course.attend(env, self._teacher, total)
                if course.num_decisions >= min(saved_at + checkpoint_every, total):
                    saved_at = course.num_decisions
                    save_checkpoint(directory, run, saved_at, course.state())
                progress(course.num_decisions, figures)

    def policy(self, directory: Path) -> Sb3Policy:
        """The policy of the directory's last checkpoint: it chooses what the teacher most likely would."""
        return Sb3Policy(ScoreNetwork.from_state(actor_of(directory, [IMITATION])))


class _Course:
    """The student and all that it was taught."""

    def __init__(self, network: Mapping[str, Any], hyperparameters: Mapping[str, Any], seed: int) -> None:
        self._seed, self._settings = seed, hyperparameters
        seed_global_generators(np.random.SeedSequence(seed))
        self._network = ScoreNetwork(len(ENCODED_NAMES), **network, gain=GAIN)
        self._optimizer = torch.optim.Adam(self._network.parameters(), hyperparameters["learning_rate"])
        self._lessons: list[Lessons] = []  # one for each episode
        self._num_rounds = self._num_learned = 0
        self.num_decisions = 0

    def attend(self, env: RoutingEnv, teacher: Policy, total: int) -> dict[str, float]:
        """Play one episode, and learn where a round or all are full; return the figures of the curve."""
        seeds = np.random.SeedSequence((self._seed, len(self._lessons)))
        seed = int(seeds.generate_state(1)[0] >> 1)
        acting = Sb3Policy(self._network) if self._num_rounds else None
        lessons = taught(env, deepcopy(teacher), acting, seed)
        self._lessons.append(lessons)
        self.num_decisions += len(lessons)
        figures = {"frac_agreed": self._agreement(lessons)}
        is_full = self.num_decisions >= self._num_learned + self._settings["round_timesteps"]
        if is_full or self.num_decisions >= total:
            figures["loss"] = self._learn()
        return figures

    def _agreement(self, lessons: Lessons) -> float:
        batch = _batch_of(lessons)
        with torch.no_grad():
            best = self._log_probabilities(batch).argmax(dim=1, keepdim=True)
        return float((batch.choice.gather(1, best) > 0).float().mean())

    def _log_probabilities(self, batch: _Batch) -> Tensor:
        scores: Tensor = self._network(batch.encoded, batch.mask)
        masked = scores.masked_fill(batch.mask == 0, torch.finfo(scores.dtype).min)
        return torch.log_softmax(masked, dim=1)

    def _learn(self) -> float:
        """Go on learning, from all lessons; return the mean loss of the last pass over them."""
        everything = _batch_of(concatenate(self._lessons))
        rng = np.random.default_rng((self._seed, self._num_rounds))
        loss_sum = 0.0
        for _ in range(self._settings["n_epochs"]):
            loss_sum = 0.0
            order = torch.from_numpy(rng.permutation(self.num_decisions))
            for places in torch.split(order, self._settings["batch_size"]):
                batch = _Batch(*(tensor[places] for tensor in everything))
                loss = -(batch.choice * self._log_probabilities(batch)).sum(dim=1).mean()
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                loss_sum += loss.item() * len(places)
        self._num_rounds += 1
        self._num_learned = self.num_decisions
        return loss_sum / self.num_decisions

    def state(self) -> dict[str, Any]:
        """All that goes on after an interruption, in tensors and plain values."""
        return {
            "model": {
                "policy": {f"{ACTOR}{name}": held for name, held in self._network.state_dict().items()},
                "optimizer": self._optimizer.state_dict(),
            },
            "num_rounds": self._num_rounds,
            "num_learned": self._num_learned,
            "lessons": [[torch.from_numpy(part) for part in _parts(each)] for each in self._lessons],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        weights = state["model"]["policy"]
        self._network.load_state_dict({name.removeprefix(ACTOR): weights[name] for name in weights})
        self._optimizer.load_state_dict(state["model"]["optimizer"])
        self._num_rounds, self._num_learned = state["num_rounds"], state["num_learned"]
        self._lessons = [Lessons(*(part.numpy() for part in parts)) for parts in state["lessons"]]
        self.num_decisions = sum(len(each) for each in self._lessons)


def _parts(lessons: Lessons) -> tuple[Any, ...]:
    return lessons.instances, lessons.scores, lessons.requests, lessons.num_instances


class _Batch(NamedTuple):
    """Decisions, each with as many rows as the widest has."""

    encoded: Tensor
    """``[num_decisions, num_rows, num_encoded]``."""
    mask: Tensor
    """1 where there is an instance, ``[num_decisions, num_rows]``."""
    choice: Tensor
    """Probability that the teacher chooses it, ``[num_decisions, num_rows]``."""


def _batch_of(lessons: Lessons) -> _Batch:
    rows = lessons.decision, np.arange(len(lessons.decision)) - lessons.starts[lessons.decision]
    shape = len(lessons), int(lessons.num_instances.max())
    instances = np.zeros((*shape, lessons.instances.shape[1]), np.float32)
    mask, choice = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    instances[rows], mask[rows], choice[rows] = lessons.instances, 1.0, lessons.choice
    encoded = encode(instances, lessons.requests, mask)
    return _Batch(*(torch.from_numpy(array) for array in (encoded, mask, choice)))
