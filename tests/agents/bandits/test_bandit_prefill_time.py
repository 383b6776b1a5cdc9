import numpy as np

from agents.bandits.held_tokens import held_tokens_of
from agents.bandits.prefill_time import NUM_OWN, TERMS, load_of, terms_of
from envs import observation as table


def instance(**features):
    row = np.zeros((1, len(table.INSTANCE_FEATURES)))
    for name, value in features.items():
        row[0, table.INSTANCE_NAMES.index(name)] = value
    return row


def terms(instances, num_prompt_tokens, num_cached_tokens):
    values = terms_of(load_of(instances, held_tokens_of(instances), num_prompt_tokens, num_cached_tokens))
    return {name: float(np.ravel(value)[0]) for name, value in zip(TERMS, values, strict=True)}


def test_terms_computed_by_hand():
    busy = instance(
        prefill_tokens_per_s=10_000,
        num_in_flight_uncached_tokens=4000,
        num_in_flight_prefill_tokens=8000,
        num_in_flight_prefills=2,
        num_in_flight_decode_tokens=50_000,
        num_kv_cache_tokens=90_000,
        frac_kv_cache_usage=0.6,
        num_tokens_sent_since_scrape=2000,
        recent_tokens_per_s=2000,
        num_waiting=5,
        num_sent_since_scrape=1,
        snapshot_age_s=1.0,
        decode_step_s=0.02,
    )
    found = terms(busy, 40_000.0, 10_000.0)
    expected = {
        "own": 3.0,
        "own_attention": 6e-5 * 3.0 * 25_000,
        "own_beside": 30_000 / 2048 * 0.02 * 50_000 / 32_768,
        "ahead": 0.3,  # the first of two is half done
        "ahead_attention": 6e-5 * 0.3 * 6000 / 2,
        "ahead_beside": 3000 / 2048 * 0.02 * 50_000 / 32_768,
        "room": 5000 / 2000,  # 54,000 + 2,000 in use and 30,000 to come, of 81,000
        "others": (5 - 1) / 2 * (4000 + 30_000) / 3 / 10_000,  # one of its own two waited there then
        "step": 0.02,
        "floor": 1.0,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name)
    assert TERMS[:NUM_OWN] == ("own", "own_attention", "own_beside")


def test_an_idle_instance_has_own_work_only():
    idle = instance(prefill_tokens_per_s=1000, num_kv_cache_tokens=1e6)
    found = terms(idle, 500.0, 0.0)
    assert found["own"] == 0.5
    assert all(found[name] == 0.0 for name in TERMS if name not in ("own", "own_attention", "floor"))


def test_what_is_cached_is_not_computed():
    idle = instance(prefill_tokens_per_s=1000, num_kv_cache_tokens=1e6)
    cold, warm = terms(idle, 500.0, 0.0), terms(idle, 500.0, 400.0)
    assert warm["own"] == 0.1
    # The attention of the last 100 tokens to 400 and to themselves.
    np.testing.assert_allclose(warm["own_attention"] / cold["own_attention"], 100 * 450 / (500 * 250))
