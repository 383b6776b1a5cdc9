"""What a policy's decisions can depend on, read off its plan."""

import pytest

from agents.defences.median import Median
from agents.export.plan import columns_read
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HIT,
    INSTANCE_FEATURES,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_UNCACHED_TOKENS,
    NUM_WAITING,
)
from tests.agents.export.exported import KINDS, LEARNED

READ = {
    "round_robin": set(),
    "least_in_flight": {NUM_IN_FLIGHT},
    "cache_aware": {NUM_IN_FLIGHT, FRAC_PREFIX_HIT},
    "llmd_weighted": {NUM_WAITING, FRAC_KV_CACHE_USAGE, FRAC_PREFIX_HIT},
    "llmd_affinity": {NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS, FRAC_PREFIX_HIT},
}


@pytest.mark.parametrize("name", READ)
def test_rules_read_what_their_docstrings_say(name):
    assert columns_read(KINDS[name]()) == READ[name]


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_reads_everything(name):
    assert columns_read(KINDS[name]()) == set(range(len(INSTANCE_FEATURES)))


def test_what_cannot_be_looked_into_may_read_everything():
    assert columns_read(Median(KINDS["least_in_flight"]())) == set(range(len(INSTANCE_FEATURES)))
