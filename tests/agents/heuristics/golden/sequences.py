"""The requests that real routers and our rules are given, and what the rules are called.

The standard library alone: it is read where nothing of ours is installed.
"""

import random
from typing import NamedTuple

LETTERS = "abcdefghijklmnopqrstuvwxyz "
BALANCE = ("--cache-threshold", "0.3", "--balance-abs-threshold", "3", "--balance-rel-threshold", "1.5")
NUM_BACKENDS = 3


class Run(NamedTuple):
    """What one router is given."""

    program: str
    policy: str
    options: tuple
    events: list
    """``[number, prompt or None, session or None]`` each; no prompt: the request of this number ends."""


def text(rng, length):
    return "".join(rng.choice(LETTERS) for _ in range(length))


def conversations(seed, num_requests):
    """Requests of which some begin alike, sent and ended in a random order; some pile up."""
    rng = random.Random(seed)
    stems = [text(rng, 120 + 60 * number) for number in range(4)]
    events, held = [], []
    for number in range(num_requests):
        if number >= 3:  # the first three tell in which order the router has the backends
            while held and rng.random() < (0.35 if number % 40 < 20 else 0.6):
                events.append([held.pop(rng.randrange(len(held))), None, None])
        stem = rng.choice(stems)[: rng.choice([40, 120, 1000])] if number >= 3 and rng.random() < 0.8 else ""
        events.append([number, stem + text(rng, rng.choice([10, 60, 200])), None])
        held.append(number)
    return events


def sessions(seed, num_requests):
    rng = random.Random(seed)
    events, held = [], []
    for number in range(num_requests):
        while held and rng.random() < 0.5:
            events.append([held.pop(rng.randrange(len(held))), None, None])
        events.append([number, text(rng, 20), f"session-{rng.randrange(num_requests // 3)}"])
        held.append(number)
    return events


def held_and_probed(loads, num_probes):
    """Requests that are sent one by one while so many others are held; the first ones fill the backends."""
    events = [[number, f"hold {number}", None] for number in range(sum(loads))]
    for number in range(sum(loads), sum(loads) + num_probes):
        events += [[number, f"probe {number}", None], [number, None, None]]
    return events


RUNS = {
    "cache_aware_vllm": Run("vllm-router", "cache_aware", BALANCE, conversations(1, 150)),
    "cache_aware_sglang": Run("sglang-router", "cache_aware", BALANCE, conversations(2, 150)),
    "cache_aware_smg": Run("smg", "cache_aware", BALANCE, conversations(3, 150)),
    "cache_aware_smg_defaults": Run("smg", "cache_aware", (), conversations(5, 150)),
    "sticky_least_loaded_vllm": Run("vllm-router", "sticky_least_loaded", (), sessions(4, 90)),
    "round_robin_vllm": Run("vllm-router", "round_robin", (), held_and_probed((), 10)),
    "round_robin_smg": Run("smg", "round_robin", (), held_and_probed((), 10)),
    "power_of_two_vllm": Run("vllm-router", "power_of_two", (), held_and_probed((4,), 150)),
    "power_of_two_smg": Run("smg", "power_of_two", (), held_and_probed((4,), 150)),
}


BLOCK = 16
"""Tokens of a block."""


class BlockEvent(NamedTuple):
    """One thing that happens to a request whose prompt is whole blocks."""

    number: int
    what: str
    """``send``, ``first`` (its first token came) or ``end``."""
    blocks: tuple = ()
    """Of the prompt, each a number that stands for its tokens."""


def turns(seed, num_requests, num_stems, shared):
    """Conversations of blocks, each with its own beginning, or (shared) all with the same.

    Unless shared, none is at two turns at once, so that no block is in flight twice.
    """
    rng = random.Random(seed)
    histories = [list(range(1000 * (stem + 1), 1000 * (stem + 1) + 4)) for stem in range(num_stems)]
    if shared:
        histories = [[*range(6), *history] for history in histories]
    events, states = [], {}  # number -> (stem, whether it has its first token)
    while sum(event.what == "send" for event in events) < num_requests:
        busy = {stem for stem, _ in states.values()}
        free = [stem for stem in range(num_stems) if shared or stem not in busy]
        if states and (not free or rng.random() < 0.55):
            number = rng.choice(sorted(states))
            stem, has_first = states[number]
            if has_first:
                del states[number]
                events.append(BlockEvent(number, "end"))
            else:
                states[number] = stem, True
                events.append(BlockEvent(number, "first"))
            continue
        stem, number = rng.choice(free), sum(event.what == "send" for event in events)
        start = 1000 * (stem + 1) + 10 + 20 * number
        histories[stem] += range(start, start + rng.randrange(1, 9))
        events.append(BlockEvent(number, "send", tuple(histories[stem])))
        states[number] = stem, False
    return events


BLOCK_RUNS = {
    "dynamo_apart": turns(6, 150, 12, shared=False),
    "dynamo_shared": turns(7, 150, 12, shared=True),
    "dynamo_two_tier": turns(8, 150, 12, shared=True),
}
