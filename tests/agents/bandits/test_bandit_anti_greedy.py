import numpy as np
import pytest

from agents.bandits.anti_greedy import AntiGreedy
from envs import observation as table


def kept(matches, usage, num_prompt_tokens=1000, **settings):
    instances = np.zeros((len(matches), len(table.INSTANCE_FEATURES)), np.float32)
    instances[:, table.FRAC_PREFIX_HIT] = matches
    instances[:, table.FRAC_KV_CACHE_USAGE] = usage
    request = np.zeros(len(table.REQUEST_FEATURES), np.float32)
    request[table.NUM_PROMPT_TOKENS] = num_prompt_tokens
    return AntiGreedy(**settings).kept(instances, request).tolist()


def test_full_caches_confine_a_request_to_its_longest_matches():
    assert kept([0.5, 0.0, 0.75, 0.25], 0.9) == [True, False, True, False]
    assert kept([0.5, 0.0, 0.75, 0.25], 0.9, num_candidates=1) == [False, False, True, False]


@pytest.mark.parametrize(
    ("matches", "usage", "num_prompt_tokens"),
    [
        ([0.5, 0.0, 0.75, 0.25], 0.7, 1000),  # caches have room
        ([0.5, 0.0, 0.75, 0.25], [1.0, 1.0, 0.6, 0.4], 1000),  # on the mean
        ([0.5, 0.0, 0.75, 0.25], 0.9, 100),  # 75 tokens are cached at most
        ([0.5, 0.0, 0.0, 0.0], 0.9, 1000),  # one holds it, so another may
    ],
)
def test_everything_else_is_left_alone(matches, usage, num_prompt_tokens):
    assert kept(matches, usage, num_prompt_tokens) == [True] * 4


def test_equal_matches_are_kept_together_and_few_instances_all():
    assert kept([0.5, 0.75, 0.5, 0.25], 0.9) == [True, True, True, False]
    assert kept([0.5], 0.9) == [True]


def test_refuses_bad_settings_by_name():
    for settings in ({"num_candidates": 0}, {"max_kv_cache_usage": 1.5}, {"min_hit_tokens": -1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            AntiGreedy(**settings)
