"""What a policy's decisions can depend on, read off its plan."""

import pytest

from agents.defences.median import Median
from agents.export.plan import columns_read, trace
from agents.export.tracing import CannotExportError
from envs.observation import (
    DECODE_STEP_S,
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HIT,
    INSTANCE_FEATURES,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_IN_FLIGHT_PREFILL_TOKENS,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_IN_FLIGHT_UNCACHED_TOKENS,
    NUM_KV_CACHE_TOKENS,
    NUM_RUNNING,
    NUM_SENT_SINCE_SCRAPE,
    NUM_TOKENS_SENT_SINCE_SCRAPE,
    NUM_UNCACHED_TOKENS,
    NUM_WAITING,
    PREFILL_TOKENS_PER_S,
    PREFIX_AGE_S,
    PREFIX_CACHING,
    RECENT_TOKENS_PER_S,
    SNAPSHOT_AGE_S,
)
from tests.agents.export.exported import KINDS, LEARNED, RULES
from tests.agents.heuristics.test_conformance import CONFIGS, make

READ = {
    "round_robin": set(),
    "least_in_flight": {NUM_IN_FLIGHT},
    "cache_aware": {NUM_IN_FLIGHT, FRAC_PREFIX_HIT},
    "llmd_weighted": {NUM_WAITING, FRAC_KV_CACHE_USAGE, FRAC_PREFIX_HIT},
    "llmd_affinity": {NUM_IN_FLIGHT_UNCACHED_TOKENS, NUM_UNCACHED_TOKENS, FRAC_PREFIX_HIT},
    "marginal_delay": {
        DECODE_STEP_S,
        FRAC_KV_CACHE_USAGE,
        NUM_IN_FLIGHT,
        NUM_IN_FLIGHT_DECODE_TOKENS,
        NUM_IN_FLIGHT_PREFILL_TOKENS,
        NUM_IN_FLIGHT_PREFILLS,
        NUM_IN_FLIGHT_UNCACHED_TOKENS,
        NUM_KV_CACHE_TOKENS,
        NUM_RUNNING,
        NUM_SENT_SINCE_SCRAPE,
        NUM_TOKENS_SENT_SINCE_SCRAPE,
        NUM_UNCACHED_TOKENS,
        NUM_WAITING,
        PREFILL_TOKENS_PER_S,
        PREFIX_AGE_S,
        PREFIX_CACHING,
        RECENT_TOKENS_PER_S,
        SNAPSHOT_AGE_S,
    },
}


@pytest.mark.parametrize("name", READ)
def test_they_read_what_their_docstrings_say(name):
    assert columns_read(KINDS[name]()) == READ[name]


@pytest.mark.parametrize("name", sorted(set(LEARNED) - set(READ)))
def test_what_is_learned_reads_everything(name):
    assert columns_read(KINDS[name]()) == set(range(len(INSTANCE_FEATURES)))


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(RULES)))
def test_a_rule_that_keeps_what_it_goes_by_cannot_be_exported(name):
    with pytest.raises(CannotExportError, match="cannot be exported: it goes by what it keeps"):
        trace(make(name), None, None, max_instances=8)


def test_what_cannot_be_looked_into_may_read_everything():
    assert columns_read(Median(KINDS["least_in_flight"]())) == set(range(len(INSTANCE_FEATURES)))
