"""The vectorised environment refuses what it cannot do, by name, and does nothing then."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs.emulator.fleet import cluster
from envs.routing import MaskedActionError, NoInstanceError
from envs.vector import RoutingVectorEnv
from envs.workload import sessions
from envs.workload.replay import Replay
from envs.workload.trace import Trace
from envs.world import World

from .test_vector import H100, assert_same, options_of, pair, reset_both, stream


class Remote:
    """A cluster that is not emulated here."""

    def __init__(self, inner):
        self.traits = inner.traits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": Remote(cluster({"h": H100}))}, "the cluster is a Remote, not an EmulatedCluster"),
        (
            {"cluster": cluster({"h": H100}, world=World())},
            "the cluster is a DisturbedCluster, not an Emulated",
        ),
        ({"num_routers": 2}, "num_routers is 2, and worlds that are stacked have one router each"),
        ({"workload": sessions.workload(num_sessions=3)}, "the workload is a Sessions, not a Replay"),
        ({"render_mode": "ansi"}, "render_mode is 'ansi'"),
    ],
)
def test_other_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=rf'{message}.*vectorization_mode="sync"'):
        RoutingVectorEnv(2, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0, it must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"half_life_s": 0.0}, "half_life_s is 0.0"),
        ({"autoreset_mode": "never"}, "never"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RoutingVectorEnv(**{"num_envs": 2, **changes})


def test_bad_actions_are_named_and_nothing_is_stepped():
    singles, many = pair("mixed", AutoresetMode.DISABLED)
    for early in (lambda: many.step([0, 0, 0]), many.action_masks):
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            early()
    reset_both(singles, many, seed=0)
    for actions in ([0, 0], [[0], [0], [0]], [0.0, 1.0, np.nan], 0, [True, True, True]):
        with pytest.raises(ValueError, match=r"they must be whole numbers of shape \(3,\)"):
            many.step(actions)
    for instance in (3, 5, -1, 2**40):  # row 3 is an instance that is not there
        with pytest.raises(
            MaskedActionError, match=rf"env 1: instance {instance} is masked for request 0 \("
        ):
            many.step([0, instance, 0])
    with pytest.raises(ValueError, match=r"propensities have shape \(2,\)"):
        many.declare_propensities([0.5, 0.5])
    assert_same(singles.step(np.array([0, 1, 0])), many.step([0, 1, 0]))
    with pytest.raises(gymnasium.error.UnsupportedMode):
        many.render()


def test_bad_resets_are_named():
    many = RoutingVectorEnv(3, **options_of("mixed"))
    with pytest.raises(ValueError, match="there are 2 seeds for 3 environments"):
        many.reset(seed=[0, 1])
    for mask in (np.zeros(3, np.bool_), np.ones(2, np.bool_), np.ones(3)):
        with pytest.raises(ValueError, match="reset_mask is"):
            many.reset(options={"reset_mask": mask})


def test_after_the_end_a_reset_is_needed():
    many = RoutingVectorEnv(2, autoreset_mode="Disabled", **options_of("mixed") | {"workload": stream(1)})
    many.reset(seed=0)
    assert many.step([0, 0])[2].all()
    many.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match="env 1 has no request: call reset"):
        many.step([0, 0])


def test_request_that_fits_nowhere_is_named():
    trace = Trace(np.array([0.0, 1.0]), np.array([100, 200_000]), np.array([5, 5]))
    many = RoutingVectorEnv(2, cluster=cluster({"h": H100}), workload=Replay(trace))
    many.reset(seed=0)
    with pytest.raises(NoInstanceError, match=r"env 0: request 1 \(200000 prompt tokens\) can go to no"):
        many.step([0, 0])
