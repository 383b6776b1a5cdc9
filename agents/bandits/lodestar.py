"""Lodestar (arXiv 2606.00946): an MLP that predicts each instance's TTFT, trained anew while it routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bandits.anti_greedy import AntiGreedy
from agents.bandits.buffers import (
    FifoBuffer,
    concatenate,
    gradient_coreset,
    load_samples,
    no_samples,
)
from agents.bandits.checkpoint import check_header, header, pack_rng, require_rng, unpack_rng
from agents.bandits.choice import best_instances, pick, share_of_best
from agents.bandits.pending import PendingDecisions
from agents.bandits.predictor import Predictor, Training, load_predictor
from agents.bandits.prefix_freshness import with_freshness
from agents.heuristics.heuristic import least
from agents.hyperparameters import check_counts, check_positive, check_range
from agents.policy import Decision, Judgement, Learner, Look, Policy, valid_instances
from envs.feedback import Feedback
from envs.observation import ENCODED_NAMES, Observation, encode

TIE_TOLERANCE = 1e-6


class Lodestar:
    """Chooses the instance of the shortest predicted TTFT; ``fallback`` decides where it cannot know.

    The fallback decides before the first training round (counted ``fallback_cold``) and where a feature lies
    outside of what the training buffer held (``fallback_out_of_range``). Otherwise, with probability epsilon,
    any instance is chosen (``explored``, even where that is the best one); where the KV caches are full, the
    best of those that ``AntiGreedy`` keeps (``confined``). Propensities are exact.

    Training is synchronous: it happens inside ``observe``, where virtual time stands still; about a second
    per round. The model is replaced between two decisions, never within one.

    Args:
        fallback: a heuristic. It sees only the decisions that it makes and gets no feedback.
        training: how the predictor is trained.
        first_training: samples before the first round; at most ``fifo_size``.
        retrain_every: samples between rounds.
        fifo_size: recent samples kept to train on.
        replay_size: older samples kept to train on, a coreset of those that left the recent ones.
        epsilon: probability of exploration at the first decision of the model, it decays from there.
        epsilon_decay: factor per decision of the model.
        min_epsilon: where the decay ends.
        max_ttft_s: samples of longer TTFT are not learned from, but counted (``filtered_feedback``).
        range_check: ``chosen``: fall back where the row of the best instance is out of range. ``any``: where
            the row of any instance is. Buffers hold chosen instances only, so that under ``any`` the most
            loaded instance keeps the model out.
        freshness_half_life_s: of the feature that ``with_freshness`` adds; None: it is not added.
        num_candidates: instances that the anti-greedy filter keeps (``AntiGreedy``); 0: there is no filter.
        max_kv_cache_usage: mean KV usage beyond which it filters.
        min_hit_tokens: longest match, in tokens, beyond which it does.
        max_pending: decisions remembered while their outcome is not known.
    """

    def __init__(
        self,
        fallback: Policy,
        training: Training,
        first_training: int = 5000,
        retrain_every: int = 1000,
        fifo_size: int = 5000,
        replay_size: int = 5000,
        epsilon: float = 0.3,
        epsilon_decay: float = 0.995,
        min_epsilon: float = 0.05,
        max_ttft_s: float = 15.0,
        range_check: str = "chosen",
        freshness_half_life_s: float | None = 15.0,
        num_candidates: int = 2,
        max_kv_cache_usage: float = 0.8,
        min_hit_tokens: float = 100.0,
        max_pending: int = 100_000,
    ) -> None:
        if isinstance(fallback, Learner):
            raise ValueError("fallback is a learner: give a heuristic, since it gets no feedback")
        if not 1 < first_training <= fifo_size:
            raise ValueError(f"first_training is {first_training}, it must be in 2..fifo_size ({fifo_size})")
        check_counts(retrain_every=retrain_every)
        if replay_size < 0:
            raise ValueError(f"replay_size is {replay_size}, it must not be negative")
        if not 0 <= min_epsilon <= epsilon <= 1:
            raise ValueError(
                f"epsilon is {epsilon} and min_epsilon is {min_epsilon}, they must be"
                " 0 <= min_epsilon <= epsilon <= 1"
            )
        check_range(0, 1, epsilon_decay=epsilon_decay)
        check_positive(max_ttft_s=max_ttft_s)
        if range_check not in ("chosen", "any"):
            raise ValueError(f"range_check is {range_check!r}, it must be 'chosen' or 'any'")
        if freshness_half_life_s is not None:
            check_positive(freshness_half_life_s=freshness_half_life_s)
        self.fallback, self.training = fallback, training
        self.first_training, self.retrain_every, self.replay_size = first_training, retrain_every, replay_size
        self.epsilon, self.epsilon_decay, self.min_epsilon = epsilon, epsilon_decay, min_epsilon
        self.max_ttft_s, self.range_check = max_ttft_s, range_check
        self.freshness_half_life_s = freshness_half_life_s
        self.num_features = len(ENCODED_NAMES) + (freshness_half_life_s is not None)
        self.anti_greedy = (
            AntiGreedy(max_kv_cache_usage, min_hit_tokens, num_candidates) if num_candidates else None
        )
        self.predictor: Predictor | None = None
        self.num_rounds = 0
        self._epsilon = epsilon
        self._num_new_samples = 0
        self._fifo = FifoBuffer(fifo_size, self.num_features)
        self._replay = no_samples(self.num_features)
        self._pending = PendingDecisions(max_pending)
        self._rng: np.random.Generator | None = None
        self._fallback_rng: np.random.Generator | None = None
        self._reset_counters()

    def _reset_counters(self) -> None:
        self._counters = dict.fromkeys(
            (
                "fallback_cold",
                "fallback_out_of_range",
                "explored",
                "confined",
                "filtered_feedback",
                "training_rounds",
            ),
            0,
        )

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the model, the buffers and the decayed epsilon are kept."""
        self._rng = rng
        self._fallback_rng = np.random.default_rng(rng.integers(2**63))
        self.fallback.reset(self._fallback_rng)
        self._pending.reset()
        self._reset_counters()

    def act(self, observation: Observation) -> Decision:
        """Choose the instance of the greatest predicted reward, explore, or leave it to the fallback."""
        rng = require_rng(self._rng)
        valid = valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        if self.predictor is None:
            self._counters["fallback_cold"] += 1
            return self._fall_back(observation, rows)
        scores = np.full(len(rows), -np.inf)
        features = self._features(rows)
        scores[valid] = self.predictor.predict(features)[valid]
        kept = valid
        if self.anti_greedy is not None:
            kept = valid[self.anti_greedy.kept(observation["instances"][valid], observation["request"])]
        best = best_instances(scores, kept, TIE_TOLERANCE)
        if self.predictor.out_of_range(features[best if self.range_check == "chosen" else valid]):
            self._counters["fallback_out_of_range"] += 1
            return self._fall_back(observation, rows)

        epsilon = self._epsilon
        self._epsilon = max(self.min_epsilon, epsilon * self.epsilon_decay)
        propensities = np.zeros(len(rows))
        propensities[valid] = epsilon / len(valid)
        propensities[best] += (1.0 - epsilon) / len(best)
        if rng.random() < epsilon:
            self._counters["explored"] += 1
            instance = pick(valid, rng)
        else:
            self._counters["confined"] += len(kept) < len(valid)
            instance = pick(best, rng)
        self._pending.remember(instance, rows[instance])
        return Decision(instance, propensities, scores)

    def _fall_back(self, observation: Observation, rows: NDArray[np.float32]) -> Decision:
        decision = self.fallback.act(observation)
        self._pending.remember(decision.instance, rows[decision.instance])
        return decision

    def _features(self, rows: Any) -> Any:
        """What the predictor reads of encoded rows, ``[num_rows, num_features]``; rows may be traced."""
        return (
            rows if self.freshness_half_life_s is None else with_freshness(rows, self.freshness_half_life_s)
        )

    def export(self, look: Look) -> Judgement:
        """Judge traced instances; see ``agents.policy.Exportable``. Raises ``ValueError`` while cold."""
        if self.predictor is None:
            raise ValueError(
                f"Lodestar has no model before it has learned {self.first_training} samples: train it longer"
            )
        features = self._features(look.encoded)
        scores = self.predictor.predict(features).astype(np.float64)
        eligible = scores
        if self.anti_greedy is not None:
            kept = self.anti_greedy.kept(look.instances, look.request)
            eligible = np.where(kept, scores, least(scores) - 1.0)
        shares = share_of_best(eligible, TIE_TOLERANCE)
        outside = self.predictor.outside(features)
        if self.range_check == "chosen":
            outside = outside & (shares > 0.0)[:, None]
        return Judgement(scores, shares, outside.any())

    @property
    def exploration(self) -> float:
        """Probability of exploration at the next decision of the model."""
        return self._epsilon

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Buffer each decision's own outcome; train where enough are new."""
        for feedback in completions:
            row = self._pending.claim(feedback)
            if row is not None:
                self.learn(row, feedback.ttft_s)

    def learn(self, row: NDArray[np.float32], ttft_s: float) -> bool:
        """Buffer an outcome; train where enough are new. See ``agents.policy.Teachable``."""
        if ttft_s > self.max_ttft_s:
            self._counters["filtered_feedback"] += 1
            return False
        self._fifo.add(self._features(row[None])[0], ttft_s)
        self._num_new_samples += 1
        due = self.first_training if self.predictor is None else self.retrain_every
        if self._num_new_samples < due:
            return False
        self._train()
        return True

    def _train(self) -> None:
        seed = int(require_rng(self._rng).integers(2**63))
        self._replay_evicted()
        self.predictor = self.training.train(concatenate(self._replay, self._fifo.samples()), seed)
        self._num_new_samples = 0
        self.num_rounds += 1
        self._counters["training_rounds"] += 1

    def _replay_evicted(self) -> None:
        """Take what left the recent samples into the replay buffer; keep a coreset by the outgoing model."""
        candidates = concatenate(self._replay, self._fifo.take_evicted())
        if len(candidates) > self.replay_size:
            # first_training <= fifo_size: nothing is evicted before there is a model.
            assert self.predictor is not None
            hidden = self.predictor.hidden(candidates.rows)
            residuals = self.predictor.head(hidden) - self.training.targets(candidates.ttft_s)
            candidates = candidates.take(gradient_coreset(hidden, residuals, self.replay_size))
        self._replay = candidates

    def counters(self) -> Mapping[str, int]:
        """Decisions not by the model's rule, feedback not learned from, training rounds: since reset."""
        return {**self._counters, **self._pending.counters}

    def state(self) -> dict[str, Any]:
        """The model, buffers, pending decisions, counters and random states."""
        return {
            **header("lodestar"),
            "target": self.training.target,
            "predictor": {} if self.predictor is None else self.predictor.state(),
            "num_rounds": self.num_rounds,
            "epsilon": self._epsilon,
            "num_new_samples": self._num_new_samples,
            "fifo": self._fifo.samples().state(),
            "evicted": self._fifo.evicted().state(),
            "replay": self._replay.state(),
            "pending": self._pending.state(),
            "counters": dict(self._counters),
            "rng": pack_rng(self._rng),
            "fallback_rng": pack_rng(self._fallback_rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned.

        The fallback is reset with its random state: of a fallback with a memory of its own (round robin),
        that memory begins anew.
        """
        check_header(state, "lodestar")
        if state["target"] != self.training.target:
            raise ValueError(f"state: target is {state['target']!r}, it must be {self.training.target!r}")
        layer_sizes = self.training.layer_sizes(self.num_features)
        predictor = load_predictor(state["predictor"], layer_sizes) if state["predictor"] else None
        fifo = load_samples(state["fifo"], "fifo", self.num_features, self._fifo.capacity)
        evicted = load_samples(state["evicted"], "evicted", self.num_features, 2**31)
        replay = load_samples(state["replay"], "replay", self.num_features, self.replay_size)
        self._pending.load_state(state["pending"])
        self.predictor, self._replay = predictor, replay
        self._fifo.fill(fifo, evicted)
        self.num_rounds = int(state["num_rounds"])
        self._epsilon = float(state["epsilon"])
        self._num_new_samples = int(state["num_new_samples"])
        self._counters = {name: int(count) for name, count in state["counters"].items()}
        self._rng = unpack_rng(state["rng"])
        self._fallback_rng = unpack_rng(state["fallback_rng"])
        if self._fallback_rng is not None:
            self.fallback.reset(self._fallback_rng)
