"""Recordings written decision by decision."""

from __future__ import annotations

import numpy as np

from envs.cluster import InstanceTraits, Request
from envs.feedback import Feedback
from envs.live.recorder import Recorder
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

TRAITS = [InstanceTraits(name, 100, 16, 8, 512, 2048, True, 1000.0, 0.01) for name in ("a", "b")]
EVEN = (0.5, 0.5)


def look(number):
    """What decision ``number`` saw: all alike but for the number, in the first feature of either instance."""
    instances = np.zeros((2, len(INSTANCE_FEATURES)), np.float32)
    instances[:, 0] = number
    return {
        "instances": instances,
        "request": np.ones(len(REQUEST_FEATURES), np.float32),
        "mask": np.ones(2, np.int8),
    }


def outcome(number, **changes):
    plain = Feedback(number, 0.5, number % 2, 17, 1, 16, 0, 0.5 * number, 0.25, 0.125, 1.0, True, 1, "")
    return plain._replace(**changes)


def write(
    directory, outcomes, num, propensities=EVEN, requests=None, routers=None, traits=TRAITS, episodes=1
):
    """A recording of ``num`` decisions per episode, in turn on either instance, of the same probabilities.

    ``outcomes`` are all told at its end; ``requests`` and ``routers`` are those of each decision.
    """
    with Recorder(directory, traits, len(traits), "it@1") as recorder:
        for seed in range(episodes):
            recorder.begin_episode(seed)
            for number in range(num):
                recorder.decided(
                    Request(requests[number] if requests else number, 0.5 * number, 17, 1),
                    look(number),
                    number % 2,
                    np.array(propensities, np.float64),
                    np.zeros(2),
                    0.5 * number,
                    routers[number] if routers else 0,
                )
            recorder.learned(outcomes, 0.5 * num, True)
    return directory
