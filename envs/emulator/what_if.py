"""What one instance would make of other requests: its future, tried out on a copy of its memory.

What happens on an instance follows from the requests that it is sent and from nothing on the others. So where
arrivals are known, moving one request changes two instances and leaves all else as it was, to the last bit;
and the sum of all TTFTs is a sum over instances. A search over assignments (``agents.bound``) lives on that:

    past = idle_branch(config, block_size, num_requests, hashes)  # before the first request
    change_s = try_out(past, scratch, requests, fate, trial)      # its future with a request more, or less
    send(past, requests, fate, trial, number)                     # go on: past has taken that request too

A branch is the engine's own ``State`` of one instance, with the stream's requests for slots: the request in
row ``n`` of the stream has slot ``n``, and their hashes are those of the stream, which all branches share.
All that an instance remembers but the requests and their rows of the block table lies in one piece of memory,
which is copied at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.emulator.borrow import borrowed
from envs.emulator.build import InstanceConfig, build_state
from envs.emulator.engine import advance_instance
from envs.emulator.failure import flush_cache, slow
from envs.emulator.intake import hand_over
from envs.emulator.prefix_cache import count_cached_blocks
from envs.emulator.state import EVENT_DTYPE, NONE, NUM_EVENTS, REQUEST_DTYPE, State

SLOW, FLUSH_CACHE, FAIL, ADD = 0, 1, 2, 3
"""What befalls an instance, of ``envs.world``; what does nothing to its engine is not told."""
LOST_S = 1e6
"""The TTFT of a request that its instance loses, or does not take: more than any plan is worth."""
NUM_BEFALLEN, OLDEST, NUM_PASSED = 0, 1, 2
"""What a branch's ``progress`` holds: how many disruptions have been, the oldest request that may be in
flight, and before which request in the stream it stands."""

_OUTSIDE = ("requests", "block_table", "hashes", "events", "step_log", "next_alike", "free_slots")
"""Arrays of ``State`` that a branch's memory does not hold: copied in part, shared, or of no lasting use."""


class Fate(NamedTuple):
    """What an instance is to the requests of one stream, and what it meets besides them."""

    prefill_tokens_per_s: float
    """As ``envs.cluster.InstanceTraits`` has it."""
    delay_s: float
    """One way between router and instance."""
    takes: NDArray[np.bool_]
    """``[num_requests]``: whether it serves when each is decided, and takes so long a prompt."""
    at_s: NDArray[np.float64]
    """``[num_disruptions]``, rising."""
    what: NDArray[np.int64]
    factor: NDArray[np.float64]
    """Of ``SLOW``."""
    idle: NDArray[np.int64]
    """Its memory when its engine has just started."""


class Branch(NamedTuple):
    """One instance at one moment."""

    memory: NDArray[np.int64]
    state: State
    progress: NDArray[np.int64]
    owed: NDArray[np.int64]
    """``[num_requests]``: prompt tokens that were not in its cache when a request was sent."""


class Trial(NamedTuple):
    """What is to be tried: the plan, but for one request."""

    plan: NDArray[np.int64]
    """``[num_requests]``: the instance that each goes to."""
    before_s: NDArray[np.float64]
    """``[num_requests]``: each one's TTFT so far."""
    after_s: NDArray[np.float64]
    """Written where a first token comes: what the TTFT is now."""
    instance: int
    """Which one the branch is of."""
    extra: int = NONE
    """A request that it gets besides."""
    omitted: int = NONE
    """A request that it does not get."""
    lookahead: int = 1 << 62
    """Stop after so many first tokens, the extra request's among them, and where the instance fails later not
    before that one is done."""
    most_s: float = np.inf
    """Stop where the change is more than this by then."""


def blank_requests(
    num_prompt_tokens: NDArray[np.int64],
    num_output_tokens: NDArray[np.int64],
    arrived_at_s: NDArray[np.float64],
    priority: NDArray[np.int64],
    hash_offsets: NDArray[np.int64],
) -> NDArray[np.void]:
    """Requests as an instance gets them: REQUEST_DTYPE ``[num_requests]``, in the order of the stream.

    ``hash_offsets`` ``[num_requests + 1]`` say where in the stream's hashes each one's begin.
    """
    requests = np.zeros(len(arrived_at_s), REQUEST_DTYPE)
    requests["request_id"] = np.arange(len(requests))
    requests["num_prompt_tokens"] = num_prompt_tokens
    requests["num_output_tokens"] = num_output_tokens
    requests["arrived_at_s"] = arrived_at_s
    requests["priority"] = priority
    requests["first_hash"] = hash_offsets[:-1]
    requests["num_hashes"] = np.diff(hash_offsets)
    requests["row"] = requests["last_sampling_step"] = NONE
    requests["first_token_at_s"] = np.nan
    return requests


def idle_branch(
    config: InstanceConfig, block_size: int, num_requests: int, hashes: NDArray[np.int64]
) -> Branch:
    """An instance that has just started, at time 0."""
    state = build_state([config], block_size, num_slots=1)
    kept = {name: array for name, array in state._asdict().items() if name not in _OUTSIDE}
    offsets = np.cumsum([0, *(-(-array.nbytes // 64) * 64 for array in kept.values())]).tolist()
    memory = np.zeros(offsets[-1] // 8, np.int64)  # whole words are copied faster than bytes
    views = {}
    for (name, array), offset in zip(kept.items(), offsets, strict=False):
        part = memory.view(np.uint8)[offset : offset + array.nbytes]
        views[name] = part.view(array.dtype).reshape(array.shape)
        views[name][...] = array
    requests = np.zeros(num_requests, REQUEST_DTYPE)
    requests["request_id"] = NONE
    events = np.zeros(2 * num_requests, EVENT_DTYPE)
    state = state._replace(**views, requests=requests, events=events, hashes=hashes)
    return Branch(memory, state, np.zeros(3, np.int64), np.zeros(num_requests, np.int64))


@njit(cache=True)
def copy_branch(source: Branch, target: Branch) -> None:
    """Put ``target``, a branch of a like instance, where ``source`` is."""
    target.memory[:] = source.memory
    target.progress[:] = source.progress
    one, other = borrowed(source.state), borrowed(target.state)
    for number in range(source.progress[OLDEST], source.progress[NUM_PASSED]):
        other.requests[number] = one.requests[number]
    for at in range(one.instances[0].num_running):
        request = one.requests[one.running[at]]
        for place in range(request.num_held_blocks):
            other.block_table[request.row, place] = one.block_table[request.row, place]


@njit(cache=True)
def _run_to(state: State, until_s: float) -> None:
    advance_instance(state, 0, until_s)  # inlined: compiled once, here


@njit(cache=True)
def _is_in_flight(state: State, number: int) -> bool:
    request = state.requests[number]
    return request.request_id != NONE and request.num_generated_tokens < request.num_output_tokens


@njit(cache=True)
def _settle(branch: Branch, fate: Fate, trial: Trial) -> tuple[float, int]:
    """Note the first tokens; return by how much they change the sum of TTFTs, and how many there are."""
    state = branch.state
    change_s, num_seen = 0.0, 0
    for place in range(state.counts[NUM_EVENTS]):
        event = state.events[place]
        if not event.is_completion:
            number = event.slot
            trial.after_s[number] = event.at_s + fate.delay_s - state.requests[number].arrived_at_s
            change_s += trial.after_s[number]
            if number != trial.extra:
                change_s -= trial.before_s[number]
            num_seen += 1
    state.counts[NUM_EVENTS] = 0
    return change_s, num_seen


@njit(cache=True)
def _lose_all(branch: Branch, fate: Fate, trial: Trial) -> float:
    """Start the engine anew; return by how much what is lost with it changes the sum of TTFTs."""
    state, progress = branch.state, branch.progress
    change_s = 0.0
    for number in range(progress[OLDEST], progress[NUM_PASSED]):
        if _is_in_flight(state, number):
            if state.requests[number].num_generated_tokens > 0:
                change_s -= trial.after_s[number]
            elif number != trial.extra:
                change_s -= trial.before_s[number]
            change_s += LOST_S
            trial.after_s[number] = LOST_S
            state.requests[number].request_id = NONE
    slowdown = state.instances[0].slowdown
    branch.memory[:] = fate.idle
    state.instances[0].slowdown = slowdown
    return change_s


@njit(cache=True)
def _pass_time(branch: Branch, fate: Fate, trial: Trial, until_s: float) -> tuple[float, int]:
    """Let an instance run, and what befalls it happen; return what ``_settle`` does."""
    state, progress = branch.state, branch.progress
    change_s, num_seen = 0.0, 0
    while progress[NUM_BEFALLEN] < fate.at_s.shape[0] and fate.at_s[progress[NUM_BEFALLEN]] <= until_s:
        place = progress[NUM_BEFALLEN]
        progress[NUM_BEFALLEN] += 1
        now_s, what = fate.at_s[place], fate.what[place]
        _run_to(state, now_s)
        settled = _settle(branch, fate, trial)
        change_s += settled[0]
        num_seen += settled[1]
        if what == SLOW:
            slow(state, 0, fate.factor[place], now_s)
        elif what == FLUSH_CACHE:
            flush_cache(state, 0)
        elif what == FAIL or state.instances[0].num_running + state.instances[0].num_waiting == 0:
            change_s += _lose_all(branch, fate, trial)
    if state.wakes_at_s[0] <= until_s:
        _run_to(state, until_s)
        settled = _settle(branch, fate, trial)
        change_s += settled[0]
        num_seen += settled[1]
    return change_s, num_seen


@njit(cache=True)
def _send(branch: Branch, requests: NDArray[np.void], fate: Fate, trial: Trial, number: int) -> float:
    """Hand a request over, if the instance takes it; return by how much it changes the sum if not."""
    branch.progress[NUM_PASSED] = number + 1
    if fate.takes[number]:
        branch.state.requests[number] = requests[number]
        hand_over(branch.state, number, 0, requests[number].arrived_at_s + fate.delay_s)
        return 0.0
    trial.after_s[number] = LOST_S
    return LOST_S - (0.0 if number == trial.extra else trial.before_s[number])


@njit(cache=True)
def _is_safe(branch: Branch, fate: Fate, number: int) -> bool:
    """Whether a request, if there is one, cannot be lost any more, or is."""
    if number == NONE or not _is_in_flight(branch.state, number):
        return True
    for place in range(branch.progress[NUM_BEFALLEN], fate.at_s.shape[0]):  # noqa: SIM110 (compiles fast)
        if fate.what[place] == FAIL:
            return False
    return True


@njit(cache=True)
def try_out(past: Branch, scratch: Branch, requests: NDArray[np.void], fate: Fate, trial: Trial) -> float:
    """Let an instance's future happen on a copy.

    Args:
        past: The instance after the last request that is not to be changed; left as it is.
        scratch: A branch of a like instance, to be used up.
        requests: The stream, as by ``blank_requests``.
        fate: The instance's.
        trial: What it is sent.

    Returns:
        By how much the sum of the TTFTs of the requests that the instance is sent is more than before: of all
        that come if ``trial`` sets no end, else of those that came by then; infinite where that of the extra
        request alone is more than ``most_s``. The TTFT of the extra request counts, that of the omitted one
        is not subtracted.
    """
    copy_branch(past, scratch)
    change_s, num_seen, is_out = 0.0, 0, trial.extra == NONE
    for number in range(past.progress[NUM_PASSED], requests.shape[0]):
        if number != trial.extra and (trial.plan[number] != trial.instance or number == trial.omitted):
            scratch.state.requests[number].request_id = NONE  # whatever an earlier trial left there
            continue
        now_s = requests[number].arrived_at_s + fate.delay_s
        if not is_out and number > trial.extra:
            late_at_s = requests[trial.extra].arrived_at_s + trial.most_s
            passed = _pass_time(scratch, fate, trial, min(now_s, late_at_s))
            change_s += passed[0]
            num_seen += passed[1]
            is_out = scratch.state.requests[trial.extra].num_generated_tokens > 0
            if not is_out and late_at_s <= now_s:
                return np.inf
        passed = _pass_time(scratch, fate, trial, now_s)
        change_s += passed[0]
        num_seen += passed[1]
        if change_s > trial.most_s:
            return change_s
        if num_seen >= trial.lookahead and is_out and _is_safe(scratch, fate, trial.extra):
            return change_s
        change_s += _send(scratch, requests, fate, trial, number)
        is_out = is_out or (not fate.takes[number] and number == trial.extra)
    return change_s + _pass_time(scratch, fate, trial, np.inf)[0]


@njit(cache=True)
def _num_uncached_tokens(branch: Branch, requests: NDArray[np.void], number: int) -> int:
    """Prompt tokens of a request that the instance's cache does not hold."""
    state, request, num_blocks = branch.state, requests[number], np.empty(1, np.int64)
    block_size = state.instances[0].block_size
    usable = min((request.num_prompt_tokens - 1) // block_size, request.num_hashes)
    first = request.first_hash
    count_cached_blocks(state, state.hashes[first : first + usable], num_blocks)
    return request.num_prompt_tokens - num_blocks[0] * block_size


@njit(cache=True)
def expected_ttft_s(past: Branch, requests: NDArray[np.void], fate: Fate, trial: Trial, number: int) -> float:
    """About what a request's TTFT would be there: the prompt tokens to be computed until then, at full speed.

    ``past`` is let run until the request comes.
    """
    state = past.state
    _pass_time(past, fate, trial, requests[number].arrived_at_s + fate.delay_s)
    num_tokens = _num_uncached_tokens(past, requests, number)
    for other in range(past.progress[OLDEST], past.progress[NUM_PASSED]):
        ahead = state.requests[other]
        if _is_in_flight(state, other) and ahead.num_generated_tokens == 0:
            num_tokens += min(past.owed[other], ahead.num_prompt_tokens - ahead.num_computed_tokens)
    return num_tokens * state.instances[0].slowdown / fate.prefill_tokens_per_s + 2.0 * fate.delay_s


@njit(cache=True)
def send(past: Branch, requests: NDArray[np.void], fate: Fate, trial: Trial, number: int) -> None:
    """Let time pass on an instance until a request reaches it, and hand that over."""
    _pass_time(past, fate, trial, requests[number].arrived_at_s + fate.delay_s)
    past.owed[number] = _num_uncached_tokens(past, requests, number)
    _send(past, requests, fate, trial, number)
    oldest = past.progress[OLDEST]
    while oldest < number and not _is_in_flight(past.state, oldest):
        oldest += 1
    past.progress[OLDEST] = oldest
