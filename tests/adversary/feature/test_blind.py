"""A router that reads nothing of what is lied about fares as in peace: that need not be played."""

import pytest

from adversary.feature.episodes import Episodes
from adversary.feature.random_liar import RandomLiar
from adversary.feature.scale import Scale
from adversary.feature.threat import FeatureThreat
from adversary.threat import Budget
from agents.export.plan import columns_read
from agents.heuristics.aibrix_prefix import AibrixPrefix
from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.least_kv_cache import LeastKVCache
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.smg_least_load import SmgLeastLoad
from tests.adversary.toy_victim import toy_env

GAUGES = FeatureThreat([Scale(0.5)], Budget())
BLIND = [AibrixPrefix, CacheAware, DynamoCost, LeastInFlight, LlmdTokenLoad, RoundRobin]


@pytest.mark.parametrize("rule", [*BLIND, LeastKVCache, SmgLeastLoad])
def test_the_blind_fare_as_in_peace(rule):
    episodes = Episodes(toy_env(num_requests=150), rule())
    is_blind = GAUGES.columns.isdisjoint(columns_read(rule()))
    assert is_blind == (rule in BLIND)
    liar = RandomLiar(episodes.knobs(GAUGES), seed=1)
    _, trace, rollout = episodes.attacked_alone(GAUGES, liar, 3)
    assert trace.values.std() > 0.1
    if is_blind:
        assert rollout.ledger.equals(episodes.clean_rollout(3).ledger)
