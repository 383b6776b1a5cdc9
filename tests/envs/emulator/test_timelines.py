"""Timelines computed by hand: blocks of 4 tokens, a step of n tokens takes 10 + n ticks."""

from dataclasses import replace

import pytest

from envs.emulator.state import NEW, PREEMPTED, RESUMED, RUNNING

from .toy import TICK_S, play, request, toy_cluster


def outcomes(first_tokens, completions):
    """request id -> (first token, finish) in ticks."""
    first_at = {event.request_id: event.at_s / TICK_S for event in first_tokens}
    for done in completions:
        assert done.first_token_at_s / TICK_S == first_at[done.request_id]
    return {done.request_id: (first_at[done.request_id], done.finished_at_s / TICK_S) for done in completions}


# A log row: step, start, end, request, tokens scheduled, tokens computed before, blocks held, blocks free
# (after the whole step was scheduled), kind.


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_one_request_alone(prefix_caching):
    cluster = toy_cluster(num_blocks=5, prefix_caching=prefix_caching)
    # 6 prompt tokens fill ceil(6 / 4) = 2 blocks. The last of 3 output tokens is never computed on, so
    # the cache holds 6 + 2 = 8 tokens at most: still 2 blocks.
    first_tokens, completions, log = play(cluster, [request(7, 5, 6, 3)])
    assert log == [
        (0, 5, 5 + 16, 7, 6, 0, 2, 3, NEW),  # prefill: 10 + 6 = 16 ticks
        (1, 21, 21 + 11, 7, 1, 6, 2, 3, RUNNING),
        (2, 32, 32 + 11, 7, 1, 7, 2, 3, RUNNING),
    ]
    assert outcomes(first_tokens, completions) == {7: (21, 43)}
    (done,) = completions
    assert done.ttft_s == 16 * TICK_S
    assert done.e2e_s == 38 * TICK_S
    assert done.tpot_s == 11 * TICK_S
    assert (done.num_prompt_tokens, done.num_output_tokens, done.num_cached_tokens) == (6, 3, 0)


def test_a_chunked_prefill_shares_the_budget_with_a_decode():
    cluster = toy_cluster(num_blocks=8, max_num_batched_tokens=8)
    requests = [request(0, 0, 6, 3), request(1, 3, 10, 2)]  # the second arrives while step 0 runs
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 16, 0, 6, 0, 2, 6, NEW),
        (1, 16, 34, 0, 1, 6, 2, 4, RUNNING),  # the decode takes 1 of 8 tokens,
        (1, 16, 34, 1, 7, 0, 2, 4, NEW),  # the prefill the other 7: 10 + 8 = 18 ticks
        (2, 34, 48, 0, 1, 7, 2, 3, RUNNING),
        (2, 34, 48, 1, 3, 7, 3, 3, RUNNING),  # its last 3 prompt tokens: 10 + 4 = 14 ticks
        (3, 48, 59, 1, 1, 10, 3, 5, RUNNING),  # request 0 gave its 2 blocks back
    ]
    assert outcomes(first_tokens, completions) == {0: (16, 48), 1: (48, 59)}


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_holds_it_whole():
    cluster = toy_cluster(num_blocks=16, max_num_batched_tokens=16, chunked_prefill=False)
    requests = [request(0, 0, 6, 3), request(1, 3, 12, 2), request(2, 4, 15, 1)]
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 16, 0, 6, 0, 2, 14, NEW),
        (1, 16, 39, 0, 1, 6, 2, 11, RUNNING),
        (1, 16, 39, 1, 12, 0, 3, 11, NEW),  # 3 tokens of the budget are left, request 2 has 15
        (2, 39, 51, 0, 1, 7, 2, 10, RUNNING),  # 14 are left beside two decodes:
        (2, 39, 51, 1, 1, 12, 4, 10, RUNNING),  # with chunks request 2 would have begun in step 1
        (3, 51, 76, 2, 15, 0, 4, 12, NEW),
    ]
    assert outcomes(first_tokens, completions) == {0: (16, 51), 1: (39, 51), 2: (76, 76)}


def test_prefix_hits():
    cluster = toy_cluster(num_blocks=8)
    requests = [
        request(0, 0, 10, 2, (11, 12)),
        request(1, 40, 10, 1, (11, 12)),  # hits both full blocks, computes 2 tokens
        request(2, 60, 8, 1, (11, 12)),  # all 8 tokens cached: the last block is computed anew
        request(3, 80, 10, 1, (11, 12)),  # these two hold the same two blocks at once:
        request(4, 80, 10, 1, (11, 12)),  # 2 shared + 1 + 1 of 8 are in use
        request(5, 100, 10, 1, (11, 99)),  # shares the first block only
    ]
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 20, 0, 10, 0, 3, 5, NEW),
        (1, 20, 31, 0, 1, 10, 3, 5, RUNNING),
        (2, 40, 52, 1, 2, 8, 3, 5, NEW),  # 10 + 2 = 12 ticks
        (3, 60, 74, 2, 4, 4, 2, 6, NEW),  # 10 + 4 = 14 ticks
        (4, 80, 94, 3, 2, 8, 3, 4, NEW),  # 10 + 2 + 2 = 14 ticks
        (4, 80, 94, 4, 2, 8, 3, 4, NEW),
        (5, 100, 116, 5, 6, 4, 3, 5, NEW),  # 10 + 6 = 16 ticks
    ]
    assert outcomes(first_tokens, completions) == {
        0: (20, 31),
        1: (52, 52),
        2: (74, 74),
        3: (94, 94),
        4: (94, 94),
        5: (116, 116),
    }
    assert [done.num_cached_tokens for done in completions] == [0, 8, 4, 8, 8, 4]
    # Gauges: 10 + 10 + 8 + 10 + 10 + 10 = 58 prompt tokens asked for, 32 of them found.
    cluster.advance_to(1.0)
    assert cluster.snapshot().frac_prefix_hits == 32 / 58


def test_prefix_hit_within_one_step():
    cluster = toy_cluster(num_blocks=8)
    requests = [request(0, 0, 10, 1, (11, 12)), request(1, 0, 10, 1, (11, 12))]
    _, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 22, 0, 10, 0, 3, 4, NEW),
        (0, 0, 22, 1, 2, 8, 3, 4, NEW),  # blocks are cached as they are allocated
    ]
    assert [done.num_cached_tokens for done in completions] == [0, 8]


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_preemption_and_resumption(prefix_caching):
    cluster = toy_cluster(num_blocks=4, prefix_caching=prefix_caching)
    first_tokens, completions, log = play(cluster, [request(0, 0, 6, 5), request(1, 0, 6, 4)])
    common = [
        (0, 0, 22, 0, 6, 0, 2, 0, NEW),  # both prompts: 10 + 12 = 22 ticks, all 4 blocks
        (0, 0, 22, 1, 6, 0, 2, 0, NEW),
        (1, 22, 34, 0, 1, 6, 2, 0, RUNNING),
        (1, 22, 34, 1, 1, 6, 2, 0, RUNNING),
        (2, 34, 46, 0, 1, 7, 2, 0, RUNNING),
        (2, 34, 46, 1, 1, 7, 2, 0, RUNNING),
        # The 9th token of request 0 needs a third block: request 1 loses its two, one of them is taken.
        (3, 46, 57, 1, 0, 0, 0, 1, PREEMPTED),
        (3, 46, 57, 0, 1, 8, 3, 1, RUNNING),
        # Request 1 has 6 + 3 = 9 tokens to compute, in 3 blocks: it waits while 1 is free.
        (4, 57, 68, 0, 1, 9, 3, 1, RUNNING),
    ]
    # Its blocks were freed tail first, so that request 0 took the second: the first is still cached.
    hit = (5, 68, 83, 1, 5, 4, 3, 1, RESUMED)  # 10 + 5 = 15 ticks
    no_hit = (5, 68, 87, 1, 9, 0, 3, 1, RESUMED)  # 10 + 9 = 19 ticks
    resumed = hit if prefix_caching else no_hit
    assert log == [*common, resumed]
    assert outcomes(first_tokens, completions) == {0: (22, 68), 1: (22, resumed[2])}
    assert [done.num_preemptions for done in completions] == [0, 1]
    assert [done.num_cached_tokens for done in completions] == [0, 0]  # at first admission


def test_max_num_seqs():
    cluster = toy_cluster(num_blocks=8, max_num_seqs=2)
    requests = [request(0, 0, 4, 2), request(1, 0, 4, 3), request(2, 0, 4, 1)]
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 18, 0, 4, 0, 1, 6, NEW),
        (0, 0, 18, 1, 4, 0, 1, 6, NEW),
        (1, 18, 30, 0, 1, 4, 2, 4, RUNNING),
        (1, 18, 30, 1, 1, 4, 2, 4, RUNNING),
        (2, 30, 45, 1, 1, 5, 2, 5, RUNNING),  # request 0 left its place at 30
        (2, 30, 45, 2, 4, 0, 1, 5, NEW),
    ]
    assert outcomes(first_tokens, completions) == {0: (18, 30), 1: (18, 45), 2: (45, 45)}


def test_head_of_line_blocking():
    cluster = toy_cluster(num_blocks=6, max_model_len=24)
    # Request 1 needs ceil(18 / 4) = 5 blocks; request 2 would fit beside request 0 but stands behind it.
    requests = [request(0, 0, 8, 3), request(1, 1, 18, 1), request(2, 1, 4, 1)]
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 18, 0, 8, 0, 2, 4, NEW),
        (1, 18, 29, 0, 1, 8, 3, 3, RUNNING),
        (2, 29, 40, 0, 1, 9, 3, 3, RUNNING),
        (3, 40, 72, 1, 18, 0, 5, 0, NEW),  # 10 + 18 + 4 = 32 ticks
        (3, 40, 72, 2, 4, 0, 1, 0, NEW),
    ]
    assert outcomes(first_tokens, completions) == {0: (18, 40), 1: (72, 72), 2: (72, 72)}


# Asynchronous: a step is chosen while the one before it runs, and runs when that has ended.


def test_async_one_request_alone():
    cluster = toy_cluster(num_blocks=5, async_scheduling=True)
    first_tokens, completions, log = play(cluster, [request(7, 5, 6, 3)])
    assert log == [
        (0, 5, 21, 7, 6, 0, 2, 3, NEW),
        (1, 21, 32, 7, 1, 6, 2, 3, RUNNING),  # chosen at 5 too, the first token pending
        (2, 32, 43, 7, 1, 7, 2, 3, RUNNING),  # chosen at 21
    ]
    assert outcomes(first_tokens, completions) == {7: (21, 43)}
    assert cluster.state.instances["num_steps"] == 4  # the step chosen at 32 held no token


def test_async_newcomers_wait_for_a_step_to_be_chosen():
    cluster = toy_cluster(num_blocks=8, max_num_batched_tokens=8, async_scheduling=True)
    requests = [request(0, 0, 6, 3), request(1, 3, 10, 2)]  # steps 0 and 1 are chosen at 0
    first_tokens, completions, log = play(cluster, requests)
    assert log == [
        (0, 0, 16, 0, 6, 0, 2, 6, NEW),
        (1, 16, 27, 0, 1, 6, 2, 6, RUNNING),
        (2, 27, 45, 0, 1, 7, 2, 4, RUNNING),  # chosen at 16, when step 0 ends: 10 + 8 = 18 ticks
        (2, 27, 45, 1, 7, 0, 2, 4, NEW),
        # Chosen at 27. Request 0 needs no more steps; it holds its blocks until its last token is out.
        (3, 45, 58, 1, 3, 7, 3, 3, RUNNING),
        (4, 58, 69, 1, 1, 10, 3, 5, RUNNING),  # chosen at 45
    ]
    assert outcomes(first_tokens, completions) == {0: (16, 45), 1: (58, 69)}


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_async_a_request_is_done_while_it_waits(prefix_caching):
    cluster = toy_cluster(num_blocks=4, async_scheduling=True, prefix_caching=prefix_caching)
    first_tokens, completions, log = play(cluster, [request(0, 0, 6, 5), request(1, 0, 6, 3)])
    assert log == [
        (0, 0, 22, 0, 6, 0, 2, 0, NEW),
        (0, 0, 22, 1, 6, 0, 2, 0, NEW),
        (1, 22, 34, 0, 1, 6, 2, 0, RUNNING),  # chosen at 0
        (1, 22, 34, 1, 1, 6, 2, 0, RUNNING),
        (2, 34, 46, 0, 1, 7, 2, 0, RUNNING),  # chosen at 22: the last tokens that 4 blocks can hold
        (2, 34, 46, 1, 1, 7, 2, 0, RUNNING),
        # Chosen at 34: request 0 needs a third block. Request 1 loses its two, though step 2, which brings
        # its last token, is about to begin.
        (3, 46, 57, 1, 0, 0, 0, 1, PREEMPTED),
        (3, 46, 57, 0, 1, 8, 3, 1, RUNNING),
        (4, 57, 68, 0, 1, 9, 3, 1, RUNNING),  # chosen at 46
    ]
    assert outcomes(first_tokens, completions) == {0: (22, 68), 1: (22, 46)}
    assert {done.request_id: done.num_preemptions for done in completions} == {0: 0, 1: 1}


def test_the_least_priority_is_preempted():
    cluster = toy_cluster(num_blocks=4, policy="priority")
    least = replace(request(0, 0, 6, 5), priority=1)
    first_tokens, completions, log = play(cluster, [least, request(1, 0, 6, 4)])
    assert log == [
        (0, 0, 22, 1, 6, 0, 2, 0, NEW),
        (0, 0, 22, 0, 6, 0, 2, 0, NEW),
        (1, 22, 34, 1, 1, 6, 2, 0, RUNNING),
        (1, 22, 34, 0, 1, 6, 2, 0, RUNNING),
        (2, 34, 46, 1, 1, 7, 2, 0, RUNNING),
        (2, 34, 46, 0, 1, 7, 2, 0, RUNNING),
        (3, 46, 57, 0, 0, 0, 0, 1, PREEMPTED),
        (3, 46, 57, 1, 1, 8, 3, 1, RUNNING),
        # Its first block is still cached. It has 6 + 3 tokens and comes back with 9 - 4 = 5 of them to do.
        (4, 57, 72, 0, 5, 4, 3, 1, RESUMED),
        (5, 72, 83, 0, 1, 9, 3, 1, RUNNING),
    ]
    assert outcomes(first_tokens, completions) == {0: (22, 83), 1: (22, 57)}


def steps_of_a_request_that_is_its_own_victim(**options):
    """Request 0 comes first and has the least priority; request 1 runs behind it in the list."""
    cluster = toy_cluster(num_blocks=4, policy="priority", **options)
    least = replace(request(0, 0, 7, 3), priority=1)
    return play(cluster, [least, request(1, 3, 6, 2)])


def test_its_own_victim_ends_the_step():
    _, _, log = steps_of_a_request_that_is_its_own_victim()
    assert log == [
        (0, 0, 17, 0, 7, 0, 2, 2, NEW),
        (1, 17, 34, 0, 1, 7, 2, 0, RUNNING),
        (1, 17, 34, 1, 6, 0, 2, 0, NEW),
        (2, 34, 34, 0, 0, 0, 0, 2, PREEMPTED),  # and nobody else's turn comes: no token, no time
        (3, 34, 45, 1, 1, 6, 2, 2, RUNNING),
        (4, 45, 56, 0, 1, 8, 3, 1, RESUMED),  # both its blocks are still cached: 1 of its 9 tokens is left
    ]


def test_its_own_victim_does_not_end_the_step_of_later_versions():
    _, _, log = steps_of_a_request_that_is_its_own_victim(continue_after_self_preemption=True)
    assert log[3:] == [
        (2, 34, 45, 0, 0, 0, 0, 2, PREEMPTED),
        (2, 34, 45, 1, 1, 6, 2, 2, RUNNING),
        (3, 45, 56, 0, 1, 8, 3, 1, RESUMED),
    ]
