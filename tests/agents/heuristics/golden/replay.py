"""Our rules, given what a real router was given: would they have chosen what it chose?"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import chisquare

from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.dynamo_cost import DynamoCost
from agents.heuristics.dynamo_two_tier import DynamoTwoTier
from agents.heuristics.heuristic import Candidates
from agents.heuristics.power_of_two import PowerOfTwo
from agents.heuristics.round_robin import RoundRobin
from agents.heuristics.smg_cache_aware import SmgCacheAware
from agents.heuristics.sticky_least_loaded import StickyLeastLoaded
from envs import observation as columns
from tests.agents.heuristics.golden.sequences import BLOCK, BLOCK_RUNS, NUM_BACKENDS, RUNS

TOKENS_WITHOUT_REPORT = 1024
"""What smg counts for a request in flight of an instance that reports nothing."""


@dataclass
class Found:
    """How a rule fared on a run."""

    num_choices: int = 0
    num_decisive: int = 0
    """Of them, those where the rule leaves nothing to chance."""
    differ: list = field(default_factory=list)
    """Requests that the rule would never have sent where they went."""

    def add(self, number, chances, chosen):
        self.num_choices += 1
        self.num_decisive += bool(chances.max() == 1.0)
        if chances[chosen] == 0.0:
            self.differ.append(number)


def candidates(request=None, **features):
    """Instances whose columns are given by name, one value each."""
    rows = np.zeros((NUM_BACKENDS, len(columns.INSTANCE_FEATURES)), np.float32)
    for name, values in features.items():
        rows[:, getattr(columns, name.upper())] = values
    entries = np.zeros(len(columns.REQUEST_FEATURES), np.float32)
    entries[columns.SESSION_KEY] = -1
    for name, value in (request or {}).items():
        entries[getattr(columns, name.upper())] = value
    return Candidates(rows.astype(np.float64), entries, np.arange(NUM_BACKENDS))


def chances_of(policy, looked):
    return policy.chances(policy.costs(looked), looked)


def in_common(one, other):
    """How much of two sequences is the same from the beginning on."""
    for place, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return place
    return min(len(one), len(other))


def texts(name, choices, policy, by_order=True):
    """A rule that goes by text matched and requests in flight.

    The first three requests of a run find all alike and are held: they tell the order of a router that takes
    the first of equals.
    """
    order = choices[:NUM_BACKENDS] if by_order else list(range(NUM_BACKENDS))
    assert sorted(order) == list(range(NUM_BACKENDS)), order
    sent, load, where, found = [[] for _ in order], np.zeros(NUM_BACKENDS), {}, Found()
    policy.reset(np.random.default_rng(0))
    chosen = iter(choices)
    for number, prompt, _ in RUNS[name].events:
        if prompt is None:
            load[where[number]] -= 1
            continue
        matched = [max((in_common(prompt, other) for other in others), default=0) for others in sent]
        looked = candidates(
            {"num_prompt_tokens": len(prompt)},
            num_in_flight=load,
            num_tokens_sent_since_scrape=TOKENS_WITHOUT_REPORT * load,
            frac_prefix_hit=np.array(matched) / len(prompt),
            num_uncached_tokens=len(prompt) - np.array(matched),
        )
        place = order.index(next(chosen))
        found.add(number, chances_of(policy, looked), place)
        policy.chose(looked, place)
        where[number] = place
        load[place] += 1
        sent[place].append(prompt)
    return found


def sticky(name, choices):
    """Sessions: for a new one any that has the fewest is right, whatever the hash says."""
    policy, found, chosen = StickyLeastLoaded(), Found(), iter(choices)
    policy.reset(np.random.default_rng(0))
    known = {}
    for number, prompt, session in RUNS[name].events:
        if prompt is None:
            continue
        key, place = int(session.split("-")[1]), next(chosen)
        found.add(number, chances_of(policy, candidates({"session_key": key if key in known else -1})), place)
        policy.chose(candidates({"session_key": key}), place)
        known[key] = place
    return found


def turns_taken(name, choices):
    """Round robin from wherever it began."""
    policy, found = RoundRobin(), Found()
    policy.reset(np.random.default_rng(0))
    for number, chosen in enumerate(choices):
        looked = candidates()
        looked = looked._replace(memory=policy.recall(looked))
        found.add(number, chances_of(policy, looked), choices[:NUM_BACKENDS].index(chosen))
    return found


def drawn(name, choices):
    """Draws with the same in flight at each: as many of each instance as their chances say."""
    num_held = next(place for place, event in enumerate(RUNS[name].events) if event[1] is None) - 1
    load = np.bincount(choices[:num_held], minlength=NUM_BACKENDS)
    policy, found = PowerOfTwo(), Found()
    chances = chances_of(policy, candidates(num_in_flight=load))
    probes = Counter(choices[num_held:])
    for number, chosen in enumerate(choices[num_held:]):
        found.add(number, chances, chosen)
    possible = np.flatnonzero(chances)
    expected = chances[possible] * probes.total()
    p_value = (
        chisquare([probes[place] for place in possible.tolist()], expected).pvalue
        if len(possible) > 1
        else 1.0
    )
    assert p_value > 1e-4, (load.tolist(), probes, chances)
    return found


def blocks(name, choices, policy):
    """Dynamo's rules, from whole blocks that were sent where and are in flight there."""
    found, chosen = Found(), iter(choices)
    policy.reset(np.random.default_rng(0))
    sent = [[] for _ in range(NUM_BACKENDS)]
    flights = {}  # number -> [place, tokens, uncached tokens, whether it has its first token]
    for event in BLOCK_RUNS[name]:
        if event.what == "first":
            flights[event.number][3] = True
        elif event.what == "end":
            del flights[event.number]
        else:
            num_tokens = BLOCK * len(event.blocks)
            matched = [
                max((in_common(event.blocks, other) for other in others), default=0) for others in sent
            ]
            held, uncached, waiting, decoding = np.zeros((4, NUM_BACKENDS))
            for place, num, num_uncached, has_first in flights.values():
                held[place] += 1
                uncached[place] += 0 if has_first else num_uncached
                waiting[place] += 0 if has_first else num
                decoding[place] += num if has_first else 0
            looked = candidates(
                {"num_prompt_tokens": num_tokens},
                num_in_flight=held,
                num_in_flight_uncached_tokens=uncached,
                num_in_flight_prefill_tokens=waiting,
                num_in_flight_decode_tokens=decoding,
                frac_prefix_hit=np.array(matched) / len(event.blocks),
            )
            place = next(chosen)
            costs = policy.costs(looked).round(3)  # shares of float32 are put right: costs are whole blocks
            found.add(event.number, policy.chances(costs, looked), place)
            flights[event.number] = [place, num_tokens, num_tokens - BLOCK * matched[place], False]
            sent[place].append(event.blocks)
    return found


RULES = {
    "cache_aware_vllm": lambda name, choices: texts(name, choices, CacheAware(imbalance=3)),
    "cache_aware_sglang": lambda name, choices: texts(name, choices, CacheAware(imbalance=3)),
    "cache_aware_smg": lambda name, choices: texts(name, choices, SmgCacheAware(spill_requests=3), False),
    "cache_aware_smg_defaults": lambda name, choices: texts(name, choices, SmgCacheAware(), False),
    "sticky_least_loaded_vllm": sticky,
    "round_robin_vllm": turns_taken,
    "round_robin_smg": turns_taken,
    "power_of_two_vllm": drawn,
    "power_of_two_smg": drawn,
    "dynamo_apart": lambda name, choices: blocks(name, choices, DynamoCost(block_size=BLOCK)),
    "dynamo_shared": lambda name, choices: blocks(name, choices, DynamoCost(block_size=BLOCK)),
    "dynamo_two_tier": lambda name, choices: blocks(name, choices, DynamoTwoTier(imbalance=2)),
}
"""Run -> what holds our rule against it."""
MAY_DIFFER = {"dynamo_shared": 79}
"""Choices that a rule would not have made, for what it is not told: which blocks in flight requests share."""
