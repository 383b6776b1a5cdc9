"""Nothing is lost, made up or served twice, whatever the workload."""

from collections import defaultdict
from itertools import groupby

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.cluster import Request
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.state import NEW, PREEMPTED, RESUMED, RUNNING

from .invariants import check_idle, check_memory
from .toy import TICK_S, toy_instance

NUM_EXAMPLES = 1000
MAX_MODEL_LEN = 48


@st.composite
def instance_configs(draw, block_size, max_model_len):
    longest = -(-max_model_len // block_size)
    num_blocks = longest + draw(st.integers(0, 2 * longest))
    max_num_seqs = draw(st.integers(1, 6))
    max_num_batched_tokens = draw(st.sampled_from([1, 5, 16, 40, 200]))
    return toy_instance(
        max_model_len=max_model_len,
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_caching=draw(st.integers(0, 3)) > 0,
        chunked_prefill=max_num_batched_tokens < max_model_len or draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 7])),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.2])),
        scheduler_reserve_full_isl=draw(st.booleans()),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
        continue_after_self_preemption=draw(st.booleans()),
    )


@st.composite
def scenarios(draw, max_model_len=MAX_MODEL_LEN, max_output=30):
    """A cluster, and requests with the instance that each is sent to."""
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    configs = draw(st.lists(instance_configs(block_size, max_model_len), min_size=1, max_size=3))
    fields = st.tuples(
        st.sampled_from([0, 0, 1, 10, 60]),  # ticks since the request before
        st.one_of(st.integers(1, max_model_len - 1), st.integers(1, 3)),
        st.integers(1, max_output),
        st.integers(0, 2),  # whose prefix it shares
        st.integers(0, max_model_len),  # tokens of that prefix
        st.integers(0, 1),  # whether its own content has hashes, which go on through the answer
        st.integers(0, len(configs) - 1),
        st.integers(0, 2),  # priority
    )
    submissions, tick = [], 0
    rows = draw(st.lists(fields, min_size=1, max_size=14))
    for number, (gap, prompt, output, family, num_shared, is_hashed, index, priority) in enumerate(rows):
        tick += gap
        num_tokens = prompt + output if is_hashed else min(prompt, num_shared)
        hashes = [
            1 + 1000 * family + at if (at + 1) * block_size <= num_shared else 10**6 * (number + 1) + at
            for at in range(num_tokens // block_size)
        ]
        request = Request(
            number, tick * TICK_S, prompt, output, np.array(hashes, np.int64), priority=priority
        )
        submissions.append((request, index))
    return configs, block_size, submissions


def run(cluster, submissions, num_pieces=1):
    """Events of the whole run; with several pieces, memory is checked after each."""
    seen = ([], [])

    def take(events):
        for kept, new in zip(seen, events, strict=True):
            kept.extend(new)

    for request, index in submissions:
        start_s = cluster.now_s
        for piece in range(1, num_pieces):
            take(cluster.advance_to(start_s + (request.arrived_at_s - start_s) * piece / num_pieces))
            check_memory(cluster.state)
        take(cluster.advance_to(request.arrived_at_s))
        cluster.submit(request, index)
    if num_pieces == 1:
        take(cluster.drain())
    while cluster.num_in_flight:
        take(cluster.advance_to(cluster.now_s + 37 * TICK_S))
        check_memory(cluster.state)
    return *seen, cluster.take_step_log()


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(scenarios(), st.integers(2, 5))
def test_conservation(scenario, num_pieces):
    configs, block_size, submissions = scenario
    cluster = EmulatedCluster(configs, block_size, step_log_rows=20_000)
    first_tokens, completions, log = run(cluster, submissions)
    check_idle(cluster.state)
    check_memory(cluster.state)
    # The last output token is handed out, not computed on; answers are cut at max_model_len.
    owed = {
        request.request_id: min(request.num_prompt_tokens + request.num_output_tokens, MAX_MODEL_LEN) - 1
        for request, _ in submissions
    }
    for index, config in enumerate(configs):
        check_steps(log[log["instance"] == index], config, block_size, owed)
    check_requests(log, submissions, configs, block_size, owed, first_tokens, completions)
    for events, name in ((first_tokens, "at_s"), (completions, "finished_at_s")):
        instants = [getattr(event, name) for event in events]
        assert instants == sorted(instants)

    cluster.reset()
    again = run(cluster, submissions)
    assert again[:2] == (first_tokens, completions)
    assert again[2].tobytes() == log.tobytes()

    cluster.reset()
    in_pieces = run(cluster, submissions, num_pieces)
    assert in_pieces[:2] == (first_tokens, completions)
    order = np.argsort(in_pieces[2]["instance"], kind="stable")
    assert in_pieces[2][order].tobytes() == log[np.argsort(log["instance"], kind="stable")].tobytes()


def check_steps(log, config, block_size, owed):
    """What each step of one instance owes to its options."""
    in_turn = config.policy == "fcfs" and not config.async_scheduling
    last_step, ended_at_s, scheduled_at_s = -1, 0.0, 0.0
    held = {}  # request -> blocks, of those that are running
    done_at_s = {}  # request -> when it is, of those whose last token is on its way
    for step, rows in groupby(log, key=lambda row: row["step"]):
        rows = list(rows)
        assert step == last_step + 1 if in_turn else step > last_step
        last_step = step
        served = [row for row in rows if row["kind"] != PREEMPTED]
        num_tokens = sum(int(row["num_scheduled_tokens"]) for row in served)
        assert int(in_turn) <= num_tokens <= config.max_num_batched_tokens
        num_ticks = 10 + num_tokens if num_tokens else 0
        starts_at_s = max(float(rows[0]["scheduled_at_s"]), ended_at_s)
        ends_at_s = starts_at_s + num_ticks * TICK_S
        assert {(row["scheduled_at_s"], row["starts_at_s"], row["ends_at_s"]) for row in rows} == {
            (rows[0]["scheduled_at_s"], starts_at_s, ends_at_s)
        }
        if not config.async_scheduling:
            assert rows[0]["scheduled_at_s"] == starts_at_s
        assert rows[0]["scheduled_at_s"] >= scheduled_at_s
        scheduled_at_s, ended_at_s = rows[0]["scheduled_at_s"], ends_at_s
        for name in [name for name, at_s in done_at_s.items() if at_s <= scheduled_at_s]:
            del held[name], done_at_s[name]
        if len(served) < len(rows):
            assert all(row["kind"] in (PREEMPTED, RUNNING) for row in rows)  # nobody is admitted then
        if len(served) > 1 and config.long_prefill_token_threshold:
            assert all(row["num_scheduled_tokens"] <= config.long_prefill_token_threshold for row in served)
        for row in rows:
            name = int(row["request_id"])
            num_computed = int(row["num_computed_before"] + row["num_scheduled_tokens"])
            assert row["num_held_blocks"] == -(-num_computed // block_size)
            assert (name in held) == (row["kind"] in (RUNNING, PREEMPTED))
            held[name] = int(row["num_held_blocks"])
            if row["kind"] == PREEMPTED:
                del held[name]
                done_at_s.pop(name, None)
        assert len(held) <= config.max_num_seqs
        num_used = config.num_blocks - int(rows[0]["num_free_blocks"])
        assert max(held.values(), default=0) <= num_used <= min(config.num_blocks, sum(held.values()))
        if not config.prefix_caching:
            assert num_used == sum(held.values())
        for row in served:
            if row["num_scheduled_tokens"] + row["num_computed_before"] == owed[int(row["request_id"])]:
                done_at_s[int(row["request_id"])] = ends_at_s


def check_requests(log, submissions, configs, block_size, owed, first_tokens, completions):
    """Follow each request through the log: what it computed, when its tokens came, how often it lost all."""
    rows_of = defaultdict(list)
    for row in log:
        rows_of[int(row["request_id"])].append(row)
    assert sorted(rows_of) == sorted(owed)
    first_at = {event.request_id: event for event in first_tokens}
    done_of = {event.request_id: event for event in completions}
    assert len(first_at) == len(first_tokens) == len(owed) == len(done_of) == len(completions)
    last_admitted = {}  # instance -> start of the step that admitted a request last
    for request, index in submissions:
        name, done = request.request_id, done_of[request.request_id]
        rows = rows_of[name]
        num_known, num_computed, token_ends_at_s = request.num_prompt_tokens, None, []
        for row in rows:
            assert row["instance"] == index
            if row["kind"] == PREEMPTED:
                assert num_computed is not None
                num_computed = None
                continue
            if num_computed is None:  # it comes in, with what the cache holds of it
                assert row["kind"] == (NEW if row is rows[0] else RESUMED)
                num_computed = int(row["num_computed_before"])
                assert num_computed % block_size == 0
                assert num_computed < num_known
            else:
                assert row["kind"] == RUNNING
            assert row["num_computed_before"] == num_computed
            assert row["num_scheduled_tokens"] >= 1
            num_computed += int(row["num_scheduled_tokens"])
            assert num_computed <= num_known
            if num_computed == num_known:
                num_known += 1
                token_ends_at_s.append(row["ends_at_s"])
        if num_computed is None:  # preempted while its last token was on its way
            assert configs[index].async_scheduling
            num_computed = num_known - 1
        assert num_computed == num_known - 1 == owed[name]
        num_preemptions = sum(row["kind"] == PREEMPTED for row in rows)
        if num_preemptions == 0:
            num_scheduled = sum(int(row["num_scheduled_tokens"]) for row in rows)
            assert num_scheduled == owed[name] - done.num_cached_tokens
        assert done.num_preemptions == num_preemptions
        assert done.num_cached_tokens == rows[0]["num_computed_before"]
        assert done.num_prompt_tokens == request.num_prompt_tokens
        assert done.num_output_tokens == len(token_ends_at_s)
        assert done.arrived_at_s == request.arrived_at_s <= rows[0]["starts_at_s"]
        assert done.instance_index == first_at[name].instance_index == index
        assert first_at[name].at_s == done.first_token_at_s == token_ends_at_s[0]
        assert done.finished_at_s == token_ends_at_s[-1]
        if configs[index].policy == "fcfs":
            assert last_admitted.get(index, -1.0) <= rows[0]["starts_at_s"]
        last_admitted[index] = rows[0]["starts_at_s"]
