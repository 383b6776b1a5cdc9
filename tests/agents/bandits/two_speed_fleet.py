"""A fleet whose best instance is known: TTFT is linear in what the bandits see, outcomes come late.

Half of the instances are slow. A shared model can tell the two types only by the columns of their profile, so
TTFT is linear in the encoded waiting count, uncached tokens and prefill speed; requests in flight, which the
fallback goes by, say nothing.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from agents.policy import Decision, valid_instances
from envs import observation as table
from envs.feedback import Feedback
from envs.observation import ENCODED_NAMES, encode

NUM_INSTANCES = 8
TTFT_WEIGHTS = {"num_waiting": 0.3, "num_uncached_tokens": 0.2, "prefill_tokens_per_s": -0.25}
_WEIGHTS = np.array([TTFT_WEIGHTS.get(name, 0.0) for name in ENCODED_NAMES])


class FewestInFlight:
    """A fallback that knows nothing of speed, with random ties."""

    def __init__(self):
        self.rng = None

    def reset(self, rng):
        self.rng = rng

    def act(self, observation):
        valid = valid_instances(observation)
        load = observation["instances"][valid, table.NUM_IN_FLIGHT]
        best = valid[load == load.min()]
        propensities = np.zeros(len(observation["mask"]))
        propensities[best] = 1 / len(best)
        scores = np.where(observation["mask"], -observation["instances"][:, table.NUM_IN_FLIGHT], -np.inf)
        return Decision(int(self.rng.choice(best)), propensities, scores)

    def observe(self, completions):
        raise AssertionError("the fallback gets no feedback")

    def counters(self):
        return {}


def look(rng, num_instances=NUM_INSTANCES, num_masked=0):
    """One observation: half of the instances are slow."""
    instances = np.zeros((num_instances, len(table.INSTANCE_FEATURES)), np.float32)
    instances[:, table.NUM_WAITING] = rng.integers(0, 20, num_instances)
    instances[:, table.NUM_IN_FLIGHT] = rng.integers(0, 20, num_instances)
    instances[:, table.FRAC_PREFIX_HIT] = rng.integers(0, 5, num_instances) / 4
    instances[:, table.PREFILL_TOKENS_PER_S] = np.where(np.arange(num_instances) % 2, 4000, 30000)
    num_prompt_tokens = 512 * rng.integers(1, 9)
    instances[:, table.NUM_UNCACHED_TOKENS] = num_prompt_tokens * (1 - instances[:, table.FRAC_PREFIX_HIT])
    request = np.zeros(len(table.REQUEST_FEATURES), np.float32)
    request[table.NUM_PROMPT_TOKENS] = num_prompt_tokens
    mask = np.ones(num_instances, np.int8)
    mask[rng.permutation(num_instances)[:num_masked]] = 0
    return {"instances": instances, "request": request, "mask": mask}


def mean_ttft_s(observation):
    """Expected TTFT of each instance."""
    rows = encode(observation["instances"], observation["request"], observation["mask"])
    return 1.2 + rows @ _WEIGHTS


def outcome(decision_id, decision, ttft_s, failure=""):
    return Feedback(
        decision_id=decision_id,
        propensity=decision.propensity,
        instance=decision.instance,
        num_prompt_tokens=100,
        num_output_tokens=10,
        num_cached_tokens=0,
        num_preemptions=0,
        arrived_at_s=0.0,
        ttft_s=ttft_s,
        tpot_s=0.01,
        e2e_s=ttft_s + 0.1,
        slo_met=True,
        tenant=0,
        failure=failure,
    )


class Fleet:
    """Asks a policy for decisions and tells it each outcome ``delay`` decisions later."""

    def __init__(self, seed, delay=30, noise_s=0.05, num_masked=0):
        self.rng = np.random.default_rng(seed)
        self.delay, self.noise_s, self.num_masked = delay, noise_s, num_masked
        self.num_decisions = 0
        self.on_the_way = deque()

    def run(self, policy, num_decisions):
        """Decisions, and the share of them that were within 1 ms of the best."""
        decisions, optimal = [], 0
        for _ in range(num_decisions):
            observation = look(self.rng, num_masked=self.num_masked)
            decision = policy.act(observation)
            ttft_s = mean_ttft_s(observation)
            valid = observation["mask"].astype(bool)
            assert valid[decision.instance]
            assert np.isclose(decision.propensities.sum(), 1)
            assert not decision.propensities[~valid].any()
            assert np.isneginf(decision.scores[~valid]).all()
            assert np.isfinite(decision.scores[valid]).all()
            assert decision.propensity > 0
            optimal += ttft_s[decision.instance] <= ttft_s[valid].min() + 1e-3
            noise_s = self.noise_s * self.rng.uniform(-1, 1)
            self.on_the_way.append(
                outcome(self.num_decisions, decision, float(ttft_s[decision.instance]) + noise_s)
            )
            self.num_decisions += 1
            if len(self.on_the_way) > self.delay:
                policy.observe([self.on_the_way.popleft()])
            decisions.append(decision)
        return decisions, optimal / num_decisions
