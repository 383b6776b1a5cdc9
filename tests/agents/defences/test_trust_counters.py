import pytest

from agents.defences.trust_counters import TrustCounters

from .look import Witness, begun, column, look

LIED = {  # instance 1 has 9 requests in flight, 1 sent since the scrape, and says that it has none
    "num_waiting": [1, 0, 0],
    "num_running": [3, 0, 2],
    "frac_kv_cache_usage": [0.3, 0.0, 0.2],
    "num_in_flight": [4, 9, 2],
    "num_in_flight_prefills": [1, 6, 0],
    "num_in_flight_decode_tokens": [2000, 5000, 1000],
    "num_sent_since_scrape": [0, 1, 0],
}


def shown(defence, **instance_columns):
    begun(defence).act(look(**instance_columns))
    return {
        name: column(defence.policy.seen, name)
        for name in ("num_waiting", "num_running", "frac_kv_cache_usage")
    }


def test_a_liar_is_replaced_by_what_was_sent_there():
    defence = TrustCounters(Witness())
    seen = shown(defence, **LIED)
    assert seen["num_waiting"] == [1, 5, 0]  # 6 without a first token, 1 of them sent since
    assert seen["num_running"] == [3, 3, 2]  # the rest of 9 - 1
    assert seen["frac_kv_cache_usage"] == pytest.approx([0.3, 0.05, 0.2])  # 5000 of 100,000 tokens
    assert defence.distrusted.tolist() == [False, True, False]
    assert defence.counters()["distrusted"] == 1


def test_honest_reports_pass_as_they_are():
    honest = LIED | {"num_waiting": [1, 5, 0], "num_running": [3, 3, 2]}
    defence = TrustCounters(Witness(), max_below=0, max_above=0)
    seen = shown(defence, **honest)
    assert seen["num_waiting"] == [1, 5, 0]
    assert defence.counters()["distrusted"] == 0
    assert not defence.distrusted.any()


@pytest.mark.parametrize(
    ("reported", "distrusted"), [(5, True), (6, False), (8, False), (11, False), (12, True)]
)
def test_tolerances_are_requests(reported, distrusted):
    defence = TrustCounters(Witness(), max_below=2, max_above=3)
    shown(defence, num_running=[reported, 0, 0], num_in_flight=[8, 0, 0])
    assert defence.distrusted[0] == distrusted


def test_other_routers_requests_are_no_lie():
    defence = TrustCounters(Witness(), max_above=None, num_routers=4)
    seen = shown(defence, num_running=[500, 0, 2], num_in_flight=[1, 5, 1])
    assert seen["num_running"] == [500, 20, 2]
    with pytest.raises(ValueError, match=r"max_above is 8.0 and num_routers 4: .* set max_above to null"):
        TrustCounters(Witness(), num_routers=4)


def test_a_masked_liar_is_not_counted():
    defence = TrustCounters(Witness())
    shown(defence, **LIED, mask=[1, 0, 1])
    assert defence.counters()["distrusted"] == 0


def test_more_sent_since_than_in_flight_is_none_at_the_scrape():
    defence = TrustCounters(Witness(), max_above=0)
    shown(defence, num_in_flight=1, num_sent_since_scrape=3)  # two of them were served meanwhile
    assert not defence.distrusted.any()


@pytest.mark.parametrize("bad", [{"max_below": -1}, {"max_above": -0.5}, {"num_routers": 0}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is"):
        TrustCounters(Witness(), **bad)
