"""Several routers: where requests land, and that each knows only what it saw itself."""

from collections import Counter

import numpy as np
import pytest

from envs import observation as columns
from envs.cluster import Request
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import sessions

from .test_routing import Requests

FLEET = {"h100": {"count": 4, "profile": "h100_llama-3.1-8b", "max_model_len": 131072}}


def routed(workload, scrape_interval_s=1.0, **options):
    return RoutingEnv(cluster(FLEET, scrape_interval_s=scrape_interval_s), workload, **options)


def decisions(env, choose, seed=0):
    """Play an episode; return (request, router, observation, instance) of every decision."""
    observation, _ = env.reset(seed=seed)
    made, done = [], False
    while not done:
        instance = choose(observation)
        made.append((env._request, env.router, observation, instance))
        observation, _, done, *_ = env.step(instance)
    return made


def first(observation):
    return 0


def test_requests_land_evenly_and_by_the_seed():
    def landings(seed):
        env = routed(
            Requests([Request(number, 0.01 * number, 16, 1) for number in range(2000)]), num_routers=4
        )
        return [router for _, router, _, _ in decisions(env, first, seed)]

    counts = Counter(landings(0))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 430  # of 500; 3.6 standard deviations
    assert landings(0) == landings(0) != landings(1)


def test_a_session_stays_with_its_router():
    workload = sessions.workload(
        num_sessions=30, sessions_per_s=5.0, turns_median=4, new_max=500, output_median=20, output_max=50
    )
    made = decisions(routed(workload, num_routers=4, router_affinity="session"), first)
    routers = {}
    for request, router, _, _ in made:
        routers.setdefault(request.session_id, set()).add(router)
    assert len(routers) == 30
    assert all(len(used) == 1 for used in routers.values())
    assert set.union(*routers.values()) == {0, 1, 2, 3}
    made = decisions(routed(workload, num_routers=4), first)
    assert any(
        len({router for request, router, _, _ in made if request.session_id == session}) > 1
        for session in routers
    )


def test_each_router_sees_its_own_requests_and_scrapes():
    hashes = np.arange(1, 129)  # all have the same prompt
    requests = [Request(number, 0.05 * number, 2048, 3000, hashes) for number in range(40)]
    made = decisions(routed(Requests(requests), num_routers=4), first)
    num_sent = [0] * 4
    for number, (request, router, observation, _) in enumerate(made):
        row = observation["instances"][0]
        assert row[columns.NUM_IN_FLIGHT] == num_sent[router]
        assert (row[columns.FRAC_PREFIX_HIT] > 0) == (num_sent[router] > 0)
        num_sent[router] += 1
        # Router r scrapes at r / 4 s past each second; before its first scrape it knows what was at time 0.
        now_s = request.arrived_at_s
        scraped_at_s = max(np.floor(now_s - router / 4 + 1e-9) + router / 4, 0.0)
        assert row[columns.SNAPSHOT_AGE_S] == pytest.approx(now_s - scraped_at_s, abs=1e-6)
        submitted = sum(earlier.arrived_at_s < scraped_at_s - 1e-9 for earlier, *_ in made[:number])
        assert row[columns.NUM_RUNNING] + row[columns.NUM_WAITING] == submitted
    assert min(num_sent) > 0


def endless(num=40):
    """Requests every 1/16 s, none of which ends."""
    return Requests([Request(number, number / 16, 2048, 3000) for number in range(num)])


def test_routers_that_share_see_what_the_others_had_sent_when_they_last_did():
    interval_s = 1 / 8
    made = decisions(routed(endless(), num_routers=4, share_interval_s=interval_s), first)
    for number, (request, router, observation, _) in enumerate(made):
        shared_at_s = request.arrived_at_s // interval_s * interval_s
        own = sum(other == router for _, other, _, _ in made[:number])
        others = sum(other != router and sent.arrived_at_s < shared_at_s for sent, other, _, _ in made)
        row = observation["instances"][0]
        assert row[columns.NUM_IN_FLIGHT] == own + others
        assert row[columns.NUM_TOKENS_SENT_SINCE_SCRAPE] <= 2048 * (own + others)
        in_flight = row[columns.NUM_IN_FLIGHT_PREFILL_TOKENS] + row[columns.NUM_IN_FLIGHT_DECODE_TOKENS]
        assert in_flight == 2048 * (own + others)


def test_routers_that_share_all_the_time_count_as_one_does():
    def counted(**options):
        own = (columns.NUM_IN_FLIGHT, columns.NUM_IN_FLIGHT_PREFILLS, columns.NUM_IN_FLIGHT_DECODE_TOKENS)
        made = decisions(routed(endless(), **options), lambda seen: int(seen["instances"][:, 5].argmin()))
        return np.array([[*seen["instances"][:, own].ravel(), instance] for _, _, seen, instance in made])

    np.testing.assert_array_equal(counted(num_routers=4, share_interval_s=1 / 64), counted())


def test_what_was_shared_is_forgotten_with_the_episode():
    env = routed(endless(), num_routers=4, share_interval_s=0.1)
    first_looks = [decisions(env, first)[0][2] for _ in range(2)]
    np.testing.assert_array_equal(first_looks[0]["instances"], first_looks[1]["instances"])


def test_rates_add_up():
    *_, (_, _, shared, _) = decisions(routed(endless(), num_routers=4, share_interval_s=1 / 64), first)
    *_, (_, _, alone, _) = decisions(routed(endless()), first)
    assert shared["request"][columns.ARRIVALS_PER_S] == pytest.approx(
        alone["request"][columns.ARRIVALS_PER_S], rel=1e-3
    )


def test_odd_intervals_share_and_go_on():
    """Multiples of a third are rounded: none may be shared at for ever."""
    made = decisions(routed(endless(), num_routers=2, share_interval_s=1 / 3 / 16), first)
    assert len(made) == 40


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan")])
def test_intervals_that_are_none(interval_s):
    with pytest.raises(ValueError, match=r"share_interval_s is .*, it must be more than 0, or null"):
        routed(endless(), num_routers=2, share_interval_s=interval_s)


def test_routers_that_share_know_each_others_prefixes():
    hashes = np.arange(1, 129)  # all have the same prompt
    requests = [Request(number, number / 16, 2048, 3000, hashes) for number in range(40)]
    made = decisions(routed(Requests(requests), num_routers=4, share_interval_s=1 / 64), first)
    hits = [observation["instances"][0, columns.FRAC_PREFIX_HIT] > 0 for _, _, observation, _ in made]
    assert hits == [False, *[True] * 39]


def test_recent_ttft_is_the_mean_over_all_routers():
    requests = [Request(number, number / 4, 2048, 2) for number in range(40)]
    shared = decisions(routed(Requests(requests), num_routers=4, share_interval_s=1 / 64), first)
    alone = decisions(routed(Requests(requests)), first)
    np.testing.assert_allclose(
        [seen["instances"][0, columns.RECENT_TTFT_S] for _, _, seen, _ in shared],
        [seen["instances"][0, columns.RECENT_TTFT_S] for _, _, seen, _ in alone],
        rtol=1e-5,
    )
