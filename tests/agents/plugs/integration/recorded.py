"""Notes what a plug's policy saw and decided, and holds it against the bundle's own ``policy.py``."""

import threading

import numpy as np

from plugs.chooser import BUNDLE, Chooser, load_policy


def record():
    """Note all decisions of this process from now on, as (observation, decision)."""
    decide, seen, lock = Chooser.decide, [], threading.Lock()

    def noting(self, observation):
        decision = decide(self, observation)
        with lock:
            seen.append(({name: values.copy() for name, values in observation.items()}, decision))
        return decision

    Chooser.decide = noting
    return seen


def check(seen, least):
    """Fail unless there were so many decisions and the bundle decides all of them alike."""
    assert len(seen) >= least, f"{len(seen)} decisions, {least} were expected"
    policy = load_policy(BUNDLE)
    policy.reset(np.random.default_rng(0))
    for observation, decision in seen:
        expected = policy.act(observation)
        assert np.abs(expected.propensities - decision.propensities).max() <= 1e-9
        assert decision.propensities[decision.instance] > 0.0
        valid = np.isfinite(expected.scores)
        assert np.abs(expected.scores[valid] - decision.scores[valid]).max() <= 1e-5
    print(f"{len(seen)} decisions, all as the bundle's")
