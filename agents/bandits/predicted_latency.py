"""llm-d's predicted latency: gradient-boosted trees foretell each instance's TTFT, trained while routing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bandits.checkpoint import check_header, header, pack_rng, require_rng, unpack_rng
from agents.bandits.latency_samples import NUM_MATCHES, LatencySamples
from agents.bandits.pending import PendingDecisions
from agents.hyperparameters import check_counts, check_not_negative, check_positive, check_range
from agents.policy import Decision, valid_instances
from envs.feedback import Feedback
from envs.observation import (
    ENCODED_NAMES,
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HIT,
    NUM_IN_FLIGHT,
    NUM_WAITING,
    Observation,
    encode,
)

FEATURES = (
    "num_waiting",
    "frac_kv_cache_usage",
    "num_prompt_tokens",
    "num_in_flight",
    "num_in_flight_uncached_tokens",
    "num_in_flight_decode_tokens",
    "frac_prefix_hit",
    "num_uncached_tokens",
)
"""What llm-d's predictor of TTFT looks at, as far as text goes. Behind it come whether anything waits, and
the quarter of the prefix match. It sees no instance's name and no GPU's."""
QUEUED = len(FEATURES)
_COLUMNS = [ENCODED_NAMES.index(name) for name in FEATURES]
_WAITING, _MATCH = FEATURES.index("num_waiting"), FEATURES.index("frac_prefix_hit")
TREES = {
    "tree_method": "hist",
    "max_depth": 6,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 5,
    "gamma": 0.2,
    "reg_alpha": 0.01,
    "reg_lambda": 0.1,
    "seed": 42,
    "nthread": 1,
    "verbosity": 0,
}
"""Of training_server.py at 04e44cd; one thread, so that the same samples make the same trees."""
NUM_TREES = 200
MIN_SPLIT = 200
"""Samples on either side from which instances with a queue have a model of their own."""
MS = 1000.0
STRICT, LOOSE = 0.99, 0.80
"""Matches that the two affinity filters keep, before and after the one on headroom."""

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class PredictedLatency:
    """Predicted latency of llm-d/llm-d-router at ebab687 with llm-d/llm-d-latency-predictor at 04e44cd.

    The model: XGBoost trees with the pinball loss at a quantile, over the latest samples of each of 400
    strata; two models, of instances that have waiting requests and of others, where both have 200 samples.
    The choice, as the chart's profile has it: keep the instances that match 0.99 of the prompt, if any; of
    those whose prediction is within the SLO and those whose is not, keep the first, with a small probability
    the second; keep those that match 0.80, if any; weigh these by the headroom, SLO less prediction, scaled
    to their range (the least headroom that is left, or the least that is lacking, weighs 1.01, the other end
    0.01; of those that are late, only idle ones count where there are any); draw by weight. An affinity
    filter keeps all where the best of its instances would be more than 5 s slower than the best other. Before
    there is a model, weights are the mean of free KV cache, of what is lacking to the longest queue, and of
    the match.

    Not as there: the first model is trained once there are enough samples (there a look after 10 s, the next
    after another interval; a model made up beforehand serves until then). A tenth of the samples is held out
    there for metrics. The request's SLO is not observed: one for all, null for none. TPOT is not predicted:
    it counts in llm-d's streaming mode alone, which is off by default. Trees see encoded features, whose
    order is that of the raw ones, and the quarter of the match as a number.

    Args:
        slo_ttft_s: SLO on TTFT; null: none.
        quantile: of TTFT that is predicted.
        min_samples: from which the model is trained.
        retrain_every_s: between rounds, by the clock of the outcomes; there 1800, which deployments shorten.
        samples_per_stratum: kept.
        max_ttft_penalty_s: delay beyond which affinity is given up; 0: never.
        explore_late: probability of keeping the instances that would be late, where others are not.
        max_pending: decisions remembered while their outcome is not known.
    """

    def __init__(
        self,
        slo_ttft_s: float | None = None,
        quantile: float = 0.9,
        min_samples: int = 1000,
        retrain_every_s: float = 1800.0,
        samples_per_stratum: int = 500,
        max_ttft_penalty_s: float = 5.0,
        explore_late: float = 0.01,
        max_pending: int = 100_000,
    ) -> None:
        if slo_ttft_s is not None:
            check_positive(slo_ttft_s=slo_ttft_s)
        check_range(0.01, 0.99, quantile=quantile)
        check_counts(min_samples=min_samples, samples_per_stratum=samples_per_stratum)
        check_positive(retrain_every_s=retrain_every_s)
        check_not_negative(max_ttft_penalty_s=max_ttft_penalty_s)
        check_range(0.0, 1.0, explore_late=explore_late)
        _xgboost()
        self.slo_ttft_s, self.quantile = slo_ttft_s, quantile
        self.min_samples, self.retrain_every_s = min_samples, retrain_every_s
        self.max_ttft_penalty_s, self.explore_late = max_ttft_penalty_s, explore_late
        self.samples = LatencySamples(samples_per_stratum)
        self._trees: list[NDArray[np.uint8]] = []  # for no queue and for a queue, or one for both
        self._models: list[Any] = []  # the same, ready to predict
        self._trained_at_s, self._now_s = -math.inf, 0.0
        self._pending = PendingDecisions(max_pending)
        self._begins = True  # an episode, and with it time, at the next decision
        self._counts: Counter[str] = Counter()
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode; models and samples are kept."""
        self._rng = rng
        self._pending.reset()
        self._counts.clear()
        self._begins = True

    def act(self, observation: Observation) -> Decision:
        """Filter, weigh and draw."""
        rng, valid = require_rng(self._rng), valid_instances(observation)
        rows = encode(observation["instances"], observation["request"], observation["mask"])
        instances = observation["instances"][valid].astype(np.float64)
        if self._begins:
            self._begins, self._trained_at_s = False, self._trained_at_s - self._now_s
            self._now_s = 0.0
        if self._models:
            ttft_s = self.predict(rows[valid])
            chances, scores = self._chances(instances, ttft_s), -ttft_s
        else:
            self._counts["fallback_cold"] += 1
            scores = _composite(instances)
            kept = _sticky(_sticky(np.ones(len(valid), np.bool_), instances, STRICT), instances, LOOSE)
            chances = _shares(kept * np.round(100.0 * scores), kept)
        place = int(rng.choice(len(chances), p=chances))
        all_chances, all_scores = np.zeros(len(rows)), np.full(len(rows), -np.inf)
        all_chances[valid], all_scores[valid] = chances, scores
        instance = int(valid[place])
        self._pending.remember(instance, rows[instance])
        return Decision(instance, all_chances, all_scores)

    def predict(self, rows: NDArray[np.float32]) -> Array:
        """Predict the quantile of TTFT, seconds ``[num]``, of encoded rows ``[num, num_encoded]``."""
        features = _features(rows)
        ttft_s = np.array([model.inplace_predict(features) for model in self._models], np.float64) / MS
        queued = features[:, QUEUED] > 0.0
        predicted: Array = np.where(queued, ttft_s[-1], ttft_s[0])
        return predicted

    def _chances(self, instances: Array, ttft_s: Array) -> Array:
        penalty_s = self.max_ttft_penalty_s
        strict = _sticky(np.ones(len(instances), np.bool_), instances, STRICT, ttft_s, penalty_s)
        headroom_s = (0.0 if self.slo_ttft_s is None else self.slo_ttft_s) - ttft_s
        tiers = [strict & (headroom_s >= 0.0), strict & (headroom_s < 0.0)]
        weights = [1.0 - self.explore_late, self.explore_late]
        if not all(tier.any() for tier in tiers):
            tiers, weights = [strict], [1.0]
        chances = np.zeros(len(instances))
        for tier, weight in zip(tiers, weights, strict=True):
            kept = _sticky(tier, instances, LOOSE, ttft_s, penalty_s)
            chances += weight * _by_headroom(kept, headroom_s, instances[:, NUM_IN_FLIGHT])
        return chances

    def observe(self, completions: Sequence[Feedback]) -> None:
        """Keep each decision's own outcome; train where it is time."""
        for feedback in completions:
            row = self._pending.claim(feedback)
            if row is not None:
                self.samples.add(row, feedback.ttft_s)
                if math.isfinite(feedback.e2e_s):
                    self._now_s = max(self._now_s, feedback.arrived_at_s + feedback.e2e_s)
        if self._now_s - self._trained_at_s >= self.retrain_every_s and len(self.samples) >= self.min_samples:
            self._train()

    def _train(self) -> None:
        rows, ttft_s = self.samples.arrays()
        features = _features(rows)
        queued = features[:, QUEUED] > 0.0
        parts = [~queued, queued]
        if min(int(part.sum()) for part in parts) < MIN_SPLIT:
            parts = [np.ones(len(rows), np.bool_)]
        settings = {**TREES, "objective": "reg:quantileerror", "quantile_alpha": self.quantile}
        xgboost = _xgboost()
        models = [
            xgboost.train(settings, xgboost.DMatrix(features[part], MS * ttft_s[part]), NUM_TREES)
            for part in parts
        ]
        self._take_up([np.frombuffer(model.save_raw("ubj"), np.uint8) for model in models])
        self._trained_at_s = self._now_s
        self._counts["training_rounds"] += 1

    def _take_up(self, trees: list[NDArray[np.uint8]]) -> None:
        one_thread, booster = {"nthread": 1}, _xgboost().Booster
        self._trees = trees
        self._models = [booster(one_thread, model_file=bytearray(each.tobytes())) for each in trees]

    def counters(self) -> Mapping[str, int]:
        """Decisions before there was a model, training rounds, feedback not learned from: since reset."""
        return {"fallback_cold": 0, "training_rounds": 0, **self._counts, **self._pending.counters}

    def state(self) -> dict[str, Any]:
        """The models, samples, pending decisions, counters and random state."""
        return {
            **header("predicted_latency"),
            "trees": [trees.copy() for trees in self._trees],
            "samples": self.samples.state(),
            "trained_at_s": self._trained_at_s,
            "now_s": self._now_s,
            "pending": self._pending.state(),
            "counters": dict(self._counts),
            "rng": pack_rng(self._rng),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned."""
        check_header(state, "predicted_latency")
        self._take_up([np.array(trees, np.uint8) for trees in state["trees"]])
        self.samples.load_state(state["samples"])
        self._trained_at_s, self._now_s = float(state["trained_at_s"]), float(state["now_s"])
        self._pending.load_state(state["pending"])
        self._begins = int(state["pending"]["next_id"]) == 0
        self._counts = Counter({name: int(count) for name, count in state["counters"].items()})
        self._rng = unpack_rng(state["rng"])


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise ImportError("PredictedLatency needs xgboost: pip install 'routegym[trees]'") from error
    return xgboost


def _features(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``FEATURES`` of encoded rows, whether anything waits, and the quarter of the match."""
    chosen = rows[:, _COLUMNS]
    waits = (chosen[:, _WAITING] > 0.0).astype(np.float32)
    quarter = np.minimum(np.floor(chosen[:, _MATCH] * NUM_MATCHES), NUM_MATCHES - 1)
    return np.column_stack([chosen, waits, quarter]).astype(np.float32)


def _sticky(
    kept: Flags, instances: Array, threshold: float, ttft_s: Array | None = None, max_penalty_s: float = 0.0
) -> Flags:
    """Of the kept, those that match as much; all, where none does or they would be too slow."""
    sticky = kept & (instances[:, FRAC_PREFIX_HIT] >= np.float32(threshold))
    others = kept & ~sticky
    if not sticky.any():
        return kept
    if ttft_s is None or max_penalty_s == 0.0 or not others.any():
        return sticky
    return kept if ttft_s[sticky].min() - ttft_s[others].min() > max_penalty_s else sticky


def _by_headroom(kept: Flags, headroom_s: Array, num_in_flight: Array) -> Array:
    """Chances of the kept: the closer to the SLO, the greater; of late ones idle ones alone, if any are."""
    bucket = kept & (headroom_s >= 0.0)
    if not bucket.any():
        idle = kept & (num_in_flight == 0.0)
        bucket = idle if idle.any() else kept
    distance = np.abs(headroom_s)
    low, high = distance[bucket].min(), distance[bucket].max()
    scaled = (distance - low) / (high - low) if high - low > 1e-12 else np.full(len(kept), 0.5)
    return _shares(bucket * (np.floor(100.0 * (1.0 - scaled)) + 1.0), bucket)


def _composite(instances: Array) -> Array:
    """Mean of the free KV cache, of what is lacking to the longest queue, and of the match."""
    num_waiting = instances[:, NUM_WAITING]
    longest = num_waiting.max()
    queue = (longest - num_waiting) / longest if longest > 0.0 else np.ones(len(instances))
    scores: Array = (1.0 - instances[:, FRAC_KV_CACHE_USAGE] + queue + instances[:, FRAC_PREFIX_HIT]) / 3.0
    return scores


def _shares(weights: Array, kept: Flags) -> Array:
    """Weights as chances; where all are 0, the same for all that are kept."""
    total = weights.sum()
    shares: Array = weights / total if total > 0.0 else kept / np.count_nonzero(kept)
    return shares
