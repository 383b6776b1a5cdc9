"""A plug sees what RouterView sees, whatever happens in whatever order; and it forgets what it must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.plugs.prompt import Prompt
from agents.plugs.view import INSTANCE_COLUMNS, REQUEST_COLUMNS, Gauges, Profile, View
from envs.cluster import ClusterSnapshot, InstanceTraits, Request
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from envs.prefix_index import PrefixIndex
from envs.router_view import RouterView

SCHEMA = {"instance_features": INSTANCE_FEATURES, "request_features": REQUEST_FEATURES}
NUM_INSTANCES, BLOCK_SIZE, TOKENS_PER_KEY = 3, 16, 32
NAMES = [f"i{number}" for number in range(NUM_INSTANCES)]
TRAITS = [
    InstanceTraits(
        name=name,
        num_blocks=100 * (1 + number),
        block_size=BLOCK_SIZE,
        max_num_seqs=8,
        max_num_batched_tokens=2048,
        max_model_len=300,
        prefix_caching=number != 1,
        prefill_tokens_per_s=1000.0 + number,
        decode_step_s=0.01 * (1 + number),
    )
    for number, name in enumerate(NAMES)
]
PROFILES = {
    trait.name: Profile(
        trait.prefill_tokens_per_s,
        trait.decode_step_s,
        trait.num_blocks * trait.block_size,
        trait.prefix_caching,
        trait.max_model_len,
    )
    for trait in TRAITS
}
"""Of each instance: the same said to both."""
COMMON = np.arange(1, 40, dtype=np.int64) * 7919
"""Block hashes of which prompts share a beginning."""

gaps = st.sampled_from([0.0, 1e-3, 0.3, 5.0, 40.0])
requests = st.tuples(
    st.just("request"),
    gaps,
    st.integers(0, NUM_INSTANCES - 1),  # where it is sent
    st.integers(1, 320),  # prompt tokens
    st.integers(0, 20),  # blocks shared with others
    st.integers(-1, 3),  # session
    st.integers(0, 3),  # tenant
)
scrapes = st.tuples(
    st.just("scrape"),
    gaps,
    st.lists(st.floats(0.0, 1.0), min_size=NUM_INSTANCES, max_size=NUM_INSTANCES),
    st.lists(st.floats(0.0, 2.0), min_size=NUM_INSTANCES, max_size=NUM_INSTANCES),  # ages
)
firsts = st.tuples(st.just("first"), gaps, st.integers(0, 50))
ends = st.tuples(st.just("end"), gaps, st.integers(0, 50), st.integers(0, 200))


def make_views(capacity=6, max_age_s=30.0, **limits):
    index = PrefixIndex(NUM_INSTANCES, BLOCK_SIZE, TOKENS_PER_KEY, capacity, max_age_s)
    theirs = RouterView(TRAITS, NUM_INSTANCES, index, half_life_s=20.0)
    ours = View(
        SCHEMA,
        PROFILES,
        half_life_s=20.0,
        tokens_per_key=TOKENS_PER_KEY,
        prefix_capacity=capacity,
        prefix_max_age_s=max_age_s,
        **limits,
    )
    ours.look(Prompt(1), NAMES, 0.0)  # it knows them from the start, as the other does
    return theirs, ours


def make_request(number, now_s, num_tokens, num_shared, session, tenant):
    num_blocks = num_tokens // BLOCK_SIZE + 2  # two of the answer
    own = np.arange(num_blocks, dtype=np.int64) + 1_000_003 * (number + 1)
    hashes = np.where(np.arange(num_blocks) < num_shared, COMMON[:num_blocks], own)
    return Request(number, now_s, num_tokens, 5, hashes, session, turn=1 + number % 3, tenant=tenant)


def prompt_of(request):
    blocks = request.block_hashes[: request.num_prompt_tokens // BLOCK_SIZE]
    per_key = TOKENS_PER_KEY // BLOCK_SIZE
    return Prompt(
        request.num_prompt_tokens,
        blocks[per_key - 1 :: per_key].tolist(),
        request.session_id,
        request.turn,
        request.tenant,
    )


@settings(max_examples=150, deadline=None)
@given(events=st.lists(st.one_of(requests, requests, scrapes, firsts, ends), max_size=60))
def test_the_same_events_are_seen_the_same(events):
    theirs, ours = make_views()
    now_s, in_flight, started, number = 0.0, [], set(), 0
    for kind, gap_s, *what in events:
        now_s += gap_s
        if kind == "request":
            instance, num_tokens, num_shared, session, tenant = what
            request = make_request(number, now_s, num_tokens, num_shared, session, tenant)
            number += 1
            expected = theirs.look(request, now_s)
            seen = ours.look(prompt_of(request), NAMES, now_s)
            for part in ("instances", "request", "mask"):
                assert seen[part].dtype == expected[part].dtype
                np.testing.assert_allclose(seen[part], expected[part], rtol=2e-6, atol=1e-6)
            theirs.sent(request, instance, now_s)
            ours.sent(request.request_id, prompt_of(request), NAMES[instance], now_s, request.arrived_at_s)
            in_flight.append(request.request_id)
        elif kind == "scrape":
            values, ages = (np.array(each) for each in what)
            healthy = np.ones(NUM_INSTANCES, np.bool_)  # hosts ask about healthy instances alone
            counts = np.round(values * 10).astype(np.int64)
            theirs.scraped(ClusterSnapshot(counts, counts + 1, values, values, ages, healthy), now_s)
            for place, name in enumerate(NAMES):
                gauges = Gauges(counts[place], counts[place] + 1, values[place], values[place])
                ours.scraped(name, gauges, now_s - ages[place])
        elif kind == "first":
            waiting = [each for each in in_flight if each not in started]
            if waiting:
                request_id = waiting[what[0] % len(waiting)]
                started.add(request_id)
                theirs.first_token(request_id, now_s)
                ours.first_token(request_id, now_s)
        elif in_flight:
            request_id = in_flight.pop(what[0] % len(in_flight))
            num_tokens = what[1] if request_id in started else 0
            theirs.completed(request_id, num_tokens, now_s)
            ours.completed(request_id, num_tokens, now_s)
    assert ours.sizes()["flights"] == len(in_flight)


def test_columns_are_those_of_the_table():
    assert tuple(feature.name for feature in INSTANCE_FEATURES) == INSTANCE_COLUMNS
    assert tuple(feature.name for feature in REQUEST_FEATURES) == REQUEST_COLUMNS


def test_other_features_are_refused():
    with pytest.raises(ValueError, match="not those of its plugs"):
        View({**SCHEMA, "request_features": REQUEST_FEATURES[1:]})


@pytest.mark.parametrize("limit", ["half_life_s", "max_known", "max_tenants", "max_flights", "max_flight_s"])
def test_limits_that_cannot_be(limit):
    with pytest.raises(ValueError, match=limit):
        View(SCHEMA, **{limit: 0})
    with pytest.raises(ValueError, match="prefix_capacity"):
        View(SCHEMA, prefix_capacity=0)


def test_memory_is_bounded():
    view = View(SCHEMA, max_known=4, max_tenants=5, max_flights=6, prefix_capacity=7)
    for number in range(500):
        prompt = Prompt(640, [(number, key) for key in range(10)], tenant=number)
        view.look(prompt, [f"{number % 9}"], float(number))
        view.sent(number, prompt, f"{number % 9}", float(number))
    sizes = view.sizes()
    assert sizes["instances"] == 4
    assert sizes["tenants"] == 5
    assert sizes["flights"] <= 6
    assert sizes["keys"] <= 4 * 7
    assert all(view.num_in_flight(f"{number}") >= 0 for number in range(9))


def column(view, name, now_s):
    row = view.look(Prompt(64), ["a"], now_s)["instances"][0]
    return row[INSTANCE_COLUMNS.index(name)]


def test_requests_whose_end_is_never_told():
    view = View(SCHEMA, max_flight_s=100.0)
    view.sent("one", Prompt(64), "a", 0.0)
    view.sent("two", Prompt(64), "a", 50.0)
    assert column(view, "num_in_flight", 99.0) == 2
    assert column(view, "num_in_flight", 100.0) == 1
    assert column(view, "num_in_flight_prefill_tokens", 149.0) == 64
    assert column(view, "num_in_flight", 150.0) == 0


def test_an_id_that_is_used_twice_is_one_request():
    view = View(SCHEMA)
    view.sent("one", Prompt(64), "a", 0.0)
    view.sent("one", Prompt(64), "b", 1.0)  # tried again elsewhere
    assert (view.num_in_flight("a"), view.num_in_flight("b")) == (0, 1)


def test_events_of_requests_that_are_not_known():
    view = View(SCHEMA)
    view.first_token("nobody", 1.0)
    view.completed("nobody", 5, 1.0)
    assert view.sizes()["flights"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_gauges_that_cannot_be(value):
    with pytest.raises(ValueError, match="num_running is"):
        View(SCHEMA).scraped("a", Gauges(num_running=value), 1.0)


def test_an_instance_that_is_first_seen_by_its_scrape():
    view = View(SCHEMA)
    view.scraped("a", Gauges(num_waiting=3.0), 5.0)
    assert column(view, "num_waiting", 7.0) == 3.0
    assert column(view, "snapshot_age_s", 7.0) == 2.0
