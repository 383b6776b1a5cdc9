"""A no-regret floor: about as good as the best of a few rules in hindsight, whatever the world does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bandits.checkpoint import check_header, header, pack_rng, require_rng, unpack_rng
from agents.hyperparameters import check_counts, check_positive, check_range
from agents.policy import Decision, Learner, Policy
from envs.feedback import Feedback
from envs.observation import Observation

KIND = "rule_mixture"


class RuleMixture:
    """Draws an instance from a mixture of rules whose weights are learned: EXP4, or optimistic FTRL.

    Every rule gives its probabilities ξ of the instances. The mixture's are p = (1 - γ) Σ w ξ + γ / n over
    the n instances that may be chosen. An outcome at instance i says of a rule's loss, without bias,
    ``ξ_i / p_i * min(ttft / max_ttft, 1)`` (EXP4: Auer, Cesa-Bianchi, Freund and Schapire 2002). A request
    that failed, or never had a first token, counts as the greatest loss: left out it would be no loss at all,
    and the mixture would turn to the rule whose requests fail. The weights are those of follow the
    regularised leader with entropy, ``w ∝ exp(-η (L + m))``, L being the sum of all losses so far and m a
    guess of the next one: 0, as in EXP4, or the last one (optimistic FTRL: Rakhlin and Sridharan 2013).
    Outcomes come late, so that regret grows with the delay; and a rule is judged on a fleet that the mixture
    has loaded, not on the one that it would have made.

    Args:
        rules: Heuristics, by name.
        learning_rate: η.
        exploration: γ.
        optimism: Share of the last loss that is expected again: 0: EXP4, 1: optimistic FTRL.
        max_ttft_s: The greatest loss.
        max_pending: Decisions remembered while their outcome is not known.
    """

    def __init__(
        self,
        rules: Mapping[str, Policy],
        learning_rate: float = 0.05,
        exploration: float = 0.01,
        optimism: float = 0.0,
        max_ttft_s: float = 15.0,
        max_pending: int = 100_000,
    ) -> None:
        if not rules:
            raise ValueError("rules is empty, it must name at least one heuristic")
        for name, rule in rules.items():
            if isinstance(rule, Learner):
                raise ValueError(f"rules: {name} is a learner: give heuristics, since they get no feedback")
        check_positive(learning_rate=learning_rate, max_ttft_s=max_ttft_s)
        check_range(0, 1, exploration=exploration, optimism=optimism)
        check_counts(max_pending=max_pending)
        self.rules = dict(rules)
        self.learning_rate, self.exploration, self.optimism = learning_rate, exploration, optimism
        self.max_ttft_s, self.max_pending = max_ttft_s, max_pending
        self._losses, self._last = np.zeros(len(rules)), np.zeros(len(rules))
        self._rng: np.random.Generator | None = None
        self._forget()

    def _forget(self) -> None:
        self._next_id = 0
        # decision_id -> instance, ξ / p of each rule there
        self._pending: dict[int, tuple[int, NDArray[np.float64]]] = {}
        self._counters = dict.fromkeys(
            ("failed_feedback", "unknown_feedback", "redirected_feedback", "forgotten_decisions"), 0
        )

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; the losses are kept."""
        self._rng = rng
        for rule, own_rng in zip(self.rules.values(), rng.spawn(len(self.rules)), strict=True):
            rule.reset(own_rng)
        self._forget()

    @property
    def weights(self) -> NDArray[np.float64]:
        """The mixture, ``[num_rules]``, adding up to 1."""
        expected = self._losses + self.optimism * self._last
        weights = np.exp(-self.learning_rate * (expected - expected.min()))
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def act(self, observation: Observation) -> Decision:
        """Draw from the mixture."""
        rng = require_rng(self._rng)
        chances = np.stack([rule.act(observation).propensities for rule in self.rules.values()])
        valid = np.asarray(observation["mask"], np.bool_)
        propensities = (1.0 - self.exploration) * (self.weights @ chances)
        propensities[valid] += self.exploration / np.count_nonzero(valid)
        propensities /= propensities.sum()
        instance = int(rng.choice(len(propensities), p=propensities))
        if len(self._pending) == self.max_pending:
            del self._pending[next(iter(self._pending))]
            self._counters["forgotten_decisions"] += 1
        self._pending[self._next_id] = instance, chances[:, instance] / propensities[instance]
        self._next_id += 1
        return Decision(instance, propensities, np.where(valid, propensities, -np.inf))

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Charge each rule for its share of what came of each decision."""
        for feedback in completions:
            instance, ratios = self._pending.pop(feedback.decision_id, (-1, None))
            if ratios is None:
                self._counters["unknown_feedback"] += 1
            elif feedback.instance != instance:
                self._counters["redirected_feedback"] += 1
            else:
                is_failed = bool(feedback.failure) or not np.isfinite(feedback.ttft_s)
                self._counters["failed_feedback"] += is_failed
                self._last = ratios * (1.0 if is_failed else min(feedback.ttft_s / self.max_ttft_s, 1.0))
                self._losses += self._last

    def counters(self) -> Mapping[str, int]:
        """Feedback of failed requests or that was not learned from, and decisions forgotten, since reset."""
        return dict(self._counters)

    def state(self) -> dict[str, Any]:
        """The losses, pending decisions and random state."""
        ratios = [ratios for _, ratios in self._pending.values()]
        return {
            **header(KIND),
            "rules": list(self.rules),
            "losses": self._losses.copy(),
            "last": self._last.copy(),
            "pending": {
                "next_id": self._next_id,
                "ids": np.array(list(self._pending), np.int64),
                "instances": np.array([instance for instance, _ in self._pending.values()], np.int64),
                "ratios": np.array(ratios).reshape(len(ratios), len(self.rules)),
            },
            "counters": dict(self._counters),
            "rng": pack_rng(self._rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned.

        The rules are reset. Their own draws are not used, but of a rule with a memory (round robin) that
        memory begins anew.
        """
        check_header(state, KIND)
        if list(state["rules"]) != list(self.rules):
            raise ValueError(f"state: rules are {list(state['rules'])}, they must be {list(self.rules)}")
        self._losses = np.array(state["losses"], np.float64)
        self._last = np.array(state["last"], np.float64)
        pending = state["pending"]
        self._next_id = int(pending["next_id"])
        self._pending = {
            int(decision_id): (int(instance), np.array(ratios, np.float64))
            for decision_id, instance, ratios in zip(
                pending["ids"], pending["instances"], pending["ratios"], strict=True
            )
        }
        self._counters = {name: int(count) for name, count in state["counters"].items()}
        self._rng = unpack_rng(state["rng"])
        if self._rng is not None:
            for number, rule in enumerate(self.rules.values()):
                rule.reset(np.random.default_rng(number))
