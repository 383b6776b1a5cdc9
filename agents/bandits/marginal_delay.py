"""Least delay for everybody: the request's own first token, and what it costs those that come after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bandits.checkpoint import check_header, header, pack_rng, require_rng, unpack_rng
from agents.bandits.choice import best_instances, pick, share_of_best
from agents.bandits.held_tokens import held_tokens_of
from agents.bandits.nonnegative_model import NonnegativeModel
from agents.bandits.pace import Pace
from agents.bandits.pending import PendingDecisions
from agents.bandits.prefill_time import NUM_OWN, TERMS, load_of, share_seen_of, terms_of
from agents.bandits.survival import Survival, turnovers_of
from agents.hyperparameters import check_not_negative, check_positive
from agents.policy import Decision, Judgement, Look, valid_instances
from envs.feedback import Feedback
from envs.observation import (
    ARRIVALS_PER_S,
    ENCODED_NAMES,
    INSTANCE_FEATURES,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_PROMPT_TOKENS,
    NUM_UNCACHED_TOKENS,
    PREFILL_TOKENS_PER_S,
    PREFIX_CACHING,
    Observation,
    decode,
    encode,
)

KIND = "marginal_delay"
PRIOR: Mapping[str, float] = MappingProxyType(
    {
        "own": 0.87,
        "own_attention": 1.0,
        "own_beside": 0.2,
        "ahead": 0.87,
        "ahead_attention": 0.9,
        "ahead_beside": 0.2,
        "room": 1.0,
        "others": 1.0,
        "step": 1.0,
        "floor": 0.02,
    }
)
"""Weights of the terms about where learning in emulation ends."""
TIE_TOLERANCE = 1e-6
_NUM_PROMPT_TOKENS = ENCODED_NAMES.index("num_prompt_tokens")


class MarginalDelay:
    """Chooses where the request adds the least to the sum of all TTFTs, by a model that it learns.

    TTFT is a wait W and the request's own work S (``prefill_time.TERMS``, weights learned from every outcome
    and never negative), with what is still cached of its prefix learned too (``Survival``), and how slow the
    instance is of late (``Pace``). While the instance works through W + S, λ requests per second come to it
    that all wait S longer than they would: those of the time W by S, those of the time S by half of it on
    average, so that the request costs ::

        W + S + externality * λ * (W S + S² / 2)

    with λ how many come there. Were it the instance's share of all arrivals, by its speed, long prompts would
    be spread evenly, and delay many short ones wherever there is a queue. But few come to an instance whose
    queue is of few long prompts. So λ is what the queue tells, the m prompts that came within W, beside
    ``prior_arrivals`` at that share (the mean of λ under a Gamma prior and Poisson arrivals)::

        λ = (m + prior_arrivals) / (W + prior_arrivals / share)

    Under overload long prompts then gather on a few instances and short ones pass them by; with next to no
    queue λ is the share.

    Whoever can avoids a queue. So of the arrivals an instance gets the less the longer its wait: the share is
    that of ``speed * exp(-avoidance_per_s * (W - least W))``. The more this is taken for granted, the cheaper
    is it to queue where a queue is, and the sooner some instances are left to long prompts. That is how
    heavy-tailed work is best split among many servers (Harchol-Balter, Crovella, Murta: On Choosing a Task
    Assignment Policy for a Distributed Server System, 1999), the mean being bought with the tail; of eight
    instances there are too few for it, of 64 there are not.

    A prefix that is computed anew elsewhere also takes up cache there a second time, and prefixes that are
    spread thus push each other out until none is found. So an instance that holds a prefix, or would hold it
    had its cache been turned over ``home_memory`` times more slowly, has a credit of ``home`` times the
    (linear) work that the match saves. Of several homes the one that was used last has the most, so that
    prefixes that were spread gather again; and what comes again far too late to be found has none. Where
    there is no prefix caching nothing is pushed out: the credit is that of the best home. And where other
    routers send as well, who gather elsewhere, the credit is the share of the requests that this one sends.

    The weights' prior is what they end at in emulation, so that it decides sensibly from the first request.

    Args:
        prior: Weight of each term of ``TERMS`` before the first sample.
        ridge: Weight of that prior, in samples.
        forgetting: Weight of the past per sample, in (0, 1]; 1 remembers all.
        grain_s: TTFTs far below this one count alike, those above by their relative error.
        externality: Weight of the others' delay; 0: a selfish request, 1: their sum as it is.
        prior_arrivals: Requests by which the queue must be long to tell who comes there; many: even shares.
        avoidance_per_s: By what rate a wait turns those away who come; 0: they come all the same.
        home: Credit of where the prefix was sent before, in units of the work that its match saves.
        home_memory: How many times longer than what is cached a prefix's home is remembered.
        half_turnovers: See ``Survival``.
        slope: See ``Survival``.
        pace_memory: See ``Pace``; 0: all instances are taken to be as their profiles say.
        max_ttft_s: Longer TTFTs are learned as this one.
        max_pending: Decisions remembered while their outcome is not known.
    """

    def __init__(
        self,
        prior: Mapping[str, float] = PRIOR,
        ridge: float = 30.0,
        forgetting: float = 0.999,
        grain_s: float = 0.2,
        externality: float = 1.0,
        prior_arrivals: float = 10.0,
        avoidance_per_s: float = 0.0,
        home: float = 8.0,
        home_memory: float = 4.0,
        half_turnovers: float = 2.0,
        slope: float = 2.0,
        pace_memory: float = 30.0,
        max_ttft_s: float = 60.0,
        max_pending: int = 100_000,
    ) -> None:
        if prior.keys() != set(TERMS):
            raise ValueError(f"prior has the terms {', '.join(prior)}, they must be {', '.join(TERMS)}")
        check_not_negative(
            externality=externality, avoidance_per_s=avoidance_per_s, home=home, pace_memory=pace_memory
        )
        check_positive(max_ttft_s=max_ttft_s, prior_arrivals=prior_arrivals, home_memory=home_memory)
        self.externality, self.prior_arrivals = externality, prior_arrivals
        self.avoidance_per_s, self.max_ttft_s = avoidance_per_s, max_ttft_s
        self.home, self.home_memory = home, home_memory
        self.model = NonnegativeModel([prior[name] for name in TERMS], ridge, forgetting, grain_s)
        self.survival = Survival(half_turnovers, slope)
        self._pace = Pace(pace_memory) if pace_memory else None
        self._pending = PendingDecisions(max_pending)
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; what was learned of all instances together is kept."""
        self._rng = rng
        self._pending.reset()
        if self._pace is not None:
            self._pace.reset()

    def act(self, observation: Observation) -> Decision:
        """Choose the instance of the least cost."""
        rng, valid = require_rng(self._rng), valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        pace = 1.0 if self._pace is None else self._pace.of(valid)
        instances = observation["instances"][valid].astype(np.float64)
        scores, propensities = np.full(len(rows), -np.inf), np.zeros(len(rows))
        scores[valid] = -self._costs(instances, observation["request"].astype(np.float64), pace)
        best = best_instances(scores, valid, TIE_TOLERANCE)
        propensities[best] = 1.0 / len(best)
        instance = pick(best, rng)
        self._pending.remember(instance, rows[instance])
        return Decision(instance, propensities, scores)

    def export(self, look: Look) -> Judgement:
        """Judge traced instances, all as their profiles say; see ``agents.policy.Exportable``."""
        request = look.request.astype(np.float64)
        scores = -self._costs(look.instances.astype(np.float64), request, 1.0)
        return Judgement(scores, share_of_best(scores, TIE_TOLERANCE))

    def _costs(self, instances: Any, request: Any, pace: Any) -> Any:
        """What the request costs everybody on each instance, seconds, ``[num_valid]``."""
        matched = request[NUM_PROMPT_TOKENS] - instances[:, NUM_UNCACHED_TOKENS]
        held = held_tokens_of(instances)
        turnovers = turnovers_of(instances, held)
        cached = matched * self.survival.share(turnovers)
        terms = terms_of(load_of(instances, held, request[NUM_PROMPT_TOKENS], cached))
        parts = [weight * term for weight, term in zip(self.model.weights.tolist(), terms, strict=True)]
        own_s, wait_s = pace * sum(parts[:NUM_OWN]), pace * sum(parts[NUM_OWN:])
        speed = np.maximum(instances[:, PREFILL_TOKENS_PER_S], 1.0) / pace
        pull = speed * np.exp(-self.avoidance_per_s * (wait_s - wait_s.min()))
        share_per_s = request[ARRIVALS_PER_S] * pull / pull.sum()
        num_seen = instances[:, NUM_IN_FLIGHT_PREFILLS] + self.prior_arrivals
        arrivals_per_s = num_seen * share_per_s / (wait_s * share_per_s + self.prior_arrivals)
        others_s = arrivals_per_s * own_s * (wait_s + 0.5 * own_s)
        home_s = (
            self.survival.share(turnovers / self.home_memory) * matched * float(self.model.weights[0]) / speed
        )
        home_s = home_s + (1.0 - instances[:, PREFIX_CACHING]) * home_s.max()
        return wait_s + own_s + self.externality * others_s - self.home * share_seen_of(instances) * home_s

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Learn from each decision's own outcome."""
        for feedback in completions:
            row = self._pending.claim(feedback)
            if row is not None:
                self._learn(row, feedback.ttft_s, feedback)

    def learn(self, row: NDArray[np.float32], ttft_s: float) -> bool:
        """Learn an outcome of which no more is known. See ``agents.policy.Teachable``."""
        self._learn(row, ttft_s, None)
        return True

    def _learn(self, row: NDArray[np.float32], ttft_s: float, feedback: Feedback | None) -> None:
        values = decode(row)
        instance, num_prompt_tokens = values[None, : len(INSTANCE_FEATURES)], values[_NUM_PROMPT_TOKENS]
        matched = max(num_prompt_tokens - instance[0, NUM_UNCACHED_TOKENS], 0.0)
        held = held_tokens_of(instance)
        turnovers = float(turnovers_of(instance, held)[0])
        if feedback is None:
            cached = matched * float(self.survival.share(np.float64(turnovers)))
        else:
            cached = float(feedback.num_cached_tokens)
            if matched >= 1.0:
                self.survival.update(turnovers, min(cached / matched, 1.0))
        terms = terms_of(load_of(instance, held, num_prompt_tokens, cached))
        terms_s = np.array([np.ravel(term)[0] for term in terms])
        ttft_s = min(ttft_s, self.max_ttft_s)
        if feedback is not None and self._pace is not None:
            parts_s = self.model.weights * terms_s
            expected_s, own_s = float(parts_s.sum()), float(parts_s[:NUM_OWN].sum())
            pace = float(self._pace.of(np.array([feedback.instance]))[0])
            grain_s = self.model.grain_s
            share = (own_s + grain_s) / (expected_s + grain_s)  # a wait tells of a burst as well
            self._pace.update(feedback.instance, expected_s + grain_s, ttft_s + grain_s, share)
            terms_s *= pace
        self.model.update(terms_s, ttft_s)

    def counters(self) -> Mapping[str, int]:
        """Feedback that was not learned from and decisions forgotten, since reset."""
        return dict(self._pending.counters)

    def state(self) -> dict[str, Any]:
        """The model, pending decisions and random state."""
        return {
            **header(KIND),
            "model": self.model.state(),
            "survival": self.survival.state(),
            "pace": {} if self._pace is None else self._pace.state(),
            "pending": self._pending.state(),
            "rng": pack_rng(self._rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        check_header(state, KIND)
        self.model.load_state(state["model"])
        self.survival.load_state(state["survival"])
        if self._pace is not None and state["pace"]:
            self._pace.load_state(state["pace"])
        self._pending.load_state(state["pending"])
        self._rng = unpack_rng(state["rng"])
