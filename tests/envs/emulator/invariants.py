"""What must hold of the emulator's memory between any two steps."""

from collections import Counter

from envs.emulator.state import IN_TABLE, NO_HASH, NONE


def check_memory(state):
    """Assert that blocks, free queues, cache tables and running lists of every instance agree."""
    for instance in state.instances:
        _check_instance(state, instance)


def _check_instance(state, instance):
    first, num = int(instance["first_block"]), int(instance["num_blocks"])
    blocks = state.blocks[first : first + num].tolist()  # prev_free, next_free, num_refs, kind
    first_row = int(instance["first_row"])
    held = Counter()
    running = state.running[first_row : first_row + int(instance["num_running"])].tolist()
    rows = state.requests["row"][running].tolist()
    free_rows = state.free_rows[first_row : first_row + int(instance["num_free_rows"])].tolist()
    every_row = list(range(first_row, first_row + int(instance["max_num_seqs"])))
    assert sorted(rows + free_rows) == every_row
    for slot, row in zip(running, rows, strict=True):
        held.update(state.block_table[row, : int(state.requests["num_held_blocks"][slot])].tolist())
    assert [block[2] for block in blocks] == [held[first + index] for index in range(num)]

    queue, before, block = [], NONE, int(instance["free_head"])
    while block != NONE:
        assert blocks[block - first][0] == before
        queue.append(block)
        assert len(queue) <= num
        before, block = block, blocks[block - first][1]
    assert before == int(instance["free_tail"])
    assert len(queue) == int(instance["num_free_blocks"])
    assert sorted(queue) == [first + index for index in range(num) if blocks[index][2] == 0]

    first_slot = int(instance["first_cache_slot"])
    cached = state.cached_blocks[first : first + num].tolist()  # block_hash, prev_twin, next_twin
    table = state.cache_slots[first_slot : first_slot + int(instance["cache_slot_mask"]) + 1].tolist()
    in_table = {}  # block -> hash
    for block_hash, oldest in table:
        if block_hash != NO_HASH:
            block = oldest
            while True:
                assert block not in in_table
                in_table[block] = block_hash
                successor = cached[block - first][2]
                assert cached[successor - first][1] == block
                block = successor
                if block == oldest:
                    break
    kinds = [block[3] for block in blocks]
    assert in_table == {first + index: cached[index][0] for index in range(num) if kinds[index] == IN_TABLE}


def check_idle(state):
    """Assert that nothing is in flight and every block is free."""
    for name in ("num_running", "num_waiting"):
        assert not state.instances[name].any()
    assert (state.instances["num_free_blocks"] == state.instances["num_blocks"]).all()
