"""An attacked world, played window by window: against a world without attack, and against its own files."""

import numpy as np
import pytest

from adversary.threat import Projector
from adversary.validate import require_valid
from adversary.world import files
from adversary.world.episode import FAILURE_S, WorldEpisode
from agents.bandits.linucb import LinUCB
from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.random import Random
from agents.heuristics.round_robin import RoundRobin
from agents.policy import Decision
from agents.rollout import play
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import sessions, stored
from envs.world import World

from .worlds import FLEET, WORLD, requests, routing_env, threat, wanted


def projected(each, seed):
    values = Projector(each.knobs(4), each.budget).project(
        wanted(np.random.default_rng(seed), each.knobs(4), each.num_windows)
    )
    require_valid(each.knobs(4), each.budget, values)
    return values


def played(episode, values, seed):
    """Its losses ``[num_windows]``, and what came of it."""
    episode.begin(seed)
    found = [episode.play_window(row) for row in values]
    rest_s = episode.finish()
    return np.array([waited_s for _, waited_s in found] + [rest_s]), episode.rollout()


def test_an_attack_that_does_nothing_changes_nothing():
    each = threat(window_s=2.0, num_windows=5)
    episode = WorldEpisode(routing_env(), LeastInFlight(), each)
    losses, rollout = played(episode, each.neutral(4), 1)
    num = len(rollout.ledger[~rollout.ledger["is_retried"]])
    same = play(routing_env(workload=HeadOf(num)), LeastInFlight(), 1)
    assert rollout.ledger.equals(same.ledger)
    assert losses.sum() == pytest.approx(same.ledger["ttft_s"].sum(), rel=1e-9)


class HeadOf:
    """The first requests of the trace, from the same random start."""

    closed_loop = False
    notes = ()
    block_size = 16

    def __init__(self, num):
        self._base, self.num_requests = requests(), num

    def reset(self, rng):
        self._base.reset(rng)
        self._num_left = self.num_requests

    @property
    def exhausted(self):
        return self._num_left == 0

    def next_arrival_at_s(self):
        return self._base.next_arrival_at_s() if self._num_left else np.inf

    def pop(self):
        self._num_left -= 1
        return self._base.pop()

    def observe(self, completion):
        pass


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (LeastInFlight, {}),
        (RoundRobin, {"num_routers": 3}),
        (Random, {"router_affinity": "session", "num_routers": 2}),
        (CacheAware, {"prefix_hits": "exact"}),
        (LinUCB, {}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_files_of_an_attack_replay_to_the_same_bytes(make, options, seed, tmp_path):
    each = threat()
    values = projected(each, 10 + seed)
    episode = WorldEpisode(routing_env(**options), make(), each)
    losses, rollout = played(episode, values, seed)

    files.save(tmp_path, *files.materialise(requests(), each, values, seed))
    world = World(
        schedule=str(tmp_path / "schedule.json"),
        cold_start_s=WORLD.cold_start_s,
        network_delay_s=WORLD.network_delay_s,
        network_jitter_s=WORLD.network_jitter_s,
        frac_scrapes_lost=WORLD.frac_scrapes_lost,
    )
    env = RoutingEnv(
        cluster(FLEET, world=world),
        stored.workload(str(tmp_path / "requests.parquet")),
        max_retries=3,
        **options,
    )
    again = play(env, make(), seed)
    assert rollout.ledger.to_csv() == again.ledger.to_csv()
    assert rollout.counters == again.counters
    ledger = rollout.ledger
    assert len(world.events) > 5
    assert (ledger["failure"] != "").any() <= any(event.what == "fail" for event in world.events)
    done = ledger[ledger["failure"] == ""]
    num_lost = ((ledger["failure"] != "") & ~ledger["is_retried"]).sum()
    assert losses.sum() >= (done["ttft_s"].sum() + num_lost * FAILURE_S) * (1 - 1e-9)
    held, schedule = files.load(tmp_path)
    assert schedule.events == world.events
    assert len(held) == len(ledger[~ledger["is_retried"]])


def test_losses_sum_to_the_ttfts_where_nothing_fails():
    each = threat(failures=False)
    episode = WorldEpisode(routing_env(), LeastInFlight(), each)
    losses, rollout = played(episode, projected(each, 3), 0)
    assert (losses > 0.0).all()
    assert losses.sum() == pytest.approx(rollout.ledger["ttft_s"].sum(), rel=1e-9)


def test_a_router_that_lets_requests_fail_does_not_look_good():
    """Killed, instance 0 refuses at once what it is sent, and so looks idle until the scrapes tell."""
    each = threat(slowdown=None)
    losses = {}
    for failure_s in (0.0, 30.0):
        episode = WorldEpisode(routing_env(max_retries=0), LeastInFlight(), each, failure_s)
        values = each.neutral(4)
        names = [knob.name for knob in episode.knobs]
        values[1:, names.index("failed[0]")] = 1.0
        values[:, names.index("scrape_lag_s[0]")] = 2.0
        total, rollout = played(episode, values, 0)
        num_lost = ((rollout.ledger["failure"] != "") & ~rollout.ledger["is_retried"]).sum()
        losses[failure_s] = total.sum(), num_lost
    assert losses[0.0][1] == losses[30.0][1] > 5
    assert losses[30.0][0] == pytest.approx(losses[0.0][0] + 30.0 * losses[30.0][1])
    with pytest.raises(ValueError, match="failure_s is -1"):
        WorldEpisode(routing_env(), LeastInFlight(), each, -1.0)


def test_episodes_are_the_same_whatever_was_played_before():
    each = threat()
    env = routing_env()
    first, other = WorldEpisode(env, LinUCB(), each), WorldEpisode(env, LeastInFlight(), each)
    values = projected(each, 4)
    losses, rollout = played(first, values, 2)
    played(other, projected(each, 5), 3)
    other.begin(1)
    other.play_window(values[0])  # and broken off
    losses_again, again = played(first, values, 2)
    assert losses.tobytes() == losses_again.tobytes()
    assert rollout.ledger.equals(again.ledger)
    elsewhere, _ = played(WorldEpisode(routing_env(), LinUCB(), each), values, 2)
    assert losses.tobytes() == elsewhere.tobytes()
    assert played(first, values, 3)[0].tobytes() != losses.tobytes()
    assert env.cluster.world is not None
    assert env.cluster.world.schedule is None


def test_each_window_is_known_only_when_it_is_played():
    """What comes later changes nothing of what was."""
    each = threat()
    episode = WorldEpisode(routing_env(), LeastInFlight(), each)
    one, other = projected(each, 6), projected(each, 7)
    other[:2] = one[:2]
    found = []
    for values in (one, other):
        episode.begin(0)
        found.append([episode.play_window(row) for row in values])
        with pytest.raises(ValueError, match="all 5 windows were given"):
            episode.play_window(values[0])
        episode.finish()
    assert found[0][:2] == found[1][:2]
    assert found[0][2:] != found[1][2:]


def test_every_instance_knob_harms():
    """A slow, flushed or unseen fleet is worse than one that is not."""
    each = threat(failures=False, num_windows=5)
    episode = WorldEpisode(routing_env(), LeastInFlight(), each)
    quiet = played(episode, each.neutral(4), 0)[0].sum()
    names = [knob.name for knob in episode.knobs]
    for kind in ("slowdown", "cache_flushed"):
        values = each.neutral(4)
        for place, name in enumerate(names):
            if name.startswith(kind):
                values[:, place] = episode.knobs[place].high
        assert played(episode, values, 0)[0].sum() > 1.02 * quiet


class Bad:
    """Gives what no policy may."""

    def __init__(self, score, instance):
        self.score, self.instance = score, instance

    def reset(self, rng):
        pass

    def act(self, observation):
        scores = np.zeros(4)
        scores[0] = self.score
        return Decision(self.instance, np.full(4, 0.25), scores)

    def observe(self, completions):
        pass

    def counters(self):
        return {}


@pytest.mark.parametrize(("score", "instance"), [(np.nan, 1), (0.0, 4), (0.0, -1)])
def test_a_bad_victim_is_named(score, instance):
    episode = WorldEpisode(routing_env(), Bad(score, instance), threat())
    episode.begin(0)
    message = f"the victim, Bad, chose instance {instance} at decision 0 with the scores"
    with pytest.raises(ValueError, match=message):
        episode.play_window(threat().neutral(4)[0])


def test_what_cannot_be_attacked_is_named():
    for env, message in (
        (routing_env(None), "the cluster is a EmulatedCluster: attacks of the world need"),
        (routing_env(workload=sessions.workload()), "the workload is a Sessions"),
    ):
        with pytest.raises(ValueError, match=message):
            WorldEpisode(env, LeastInFlight(), threat())
    episode = WorldEpisode(routing_env(), LeastInFlight(), threat())
    for ask in (episode.rollout, episode.finish, lambda: episode.observation):
        episode.begin(0)
        with pytest.raises(RuntimeError, match="nothing was played"):
            ask()
    episode.play_window(threat().neutral(4)[0])
    with pytest.raises(RuntimeError, match="1 of 5 windows were played"):
        episode.finish()


def test_attacks_that_cannot_be_laid_down_are_named():
    values = threat().neutral(4)
    values[0, 1] = 0.9
    with pytest.raises(ValueError, match=r"breaks its threat model .* frac_unshared breaks bounds"):
        files.materialise(requests(), threat(), values, 0)
    base = requests()
    base.slo = base.slo._replace(ttft_s=1.0)
    pop = type(base).pop
    object.__setattr__(base, "pop", lambda: pop(base).__class__(0, 0.0, 5, 5, model="m"))
    with pytest.raises(ValueError, match="request 0 of the attack has a model"):
        files.materialise(base, threat(), threat().neutral(4), 0)
