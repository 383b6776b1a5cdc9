"""What must hold of the emulator's memory between any two steps."""

from collections import Counter

from envs.emulator.state import IN_TABLE, NO_HASH, NONE


def check_memory(state):
    """Assert that blocks, free queues, cache tables and running lists of every instance agree."""
    for instance in state.instances:
        _check_instance(state, instance)


def _check_instance(state, instance):
    first, num = int(instance["first_block"]), int(instance["num_blocks"])
    blocks = state.blocks[first : first + num].tolist()  # place, num_refs, kind
    first_row = int(instance["first_row"])
    held = Counter()
    running = state.running[first_row : first_row + int(instance["num_running"])].tolist()
    rows = state.requests["row"][running].tolist()
    free_rows = state.free_rows[first_row : first_row + int(instance["num_free_rows"])].tolist()
    every_row = list(range(first_row, first_row + int(instance["max_num_seqs"])))
    assert sorted(rows + free_rows) == every_row
    for slot, row in zip(running, rows, strict=True):
        held.update(state.block_table[row, : int(state.requests["num_held_blocks"][slot])].tolist())
    assert [block[1] for block in blocks] == [held[first + index] for index in range(num)]

    queue, first_place = [], int(instance["first_place"])
    assert instance["free_tail"] - instance["free_head"] <= instance["place_mask"] + 1
    for number in range(int(instance["free_head"]), int(instance["free_tail"])):
        place = first_place + (number & int(instance["place_mask"]))
        block = int(state.free_queue[place])
        if block != NONE:
            assert blocks[block - first][0] == place
            queue.append(block)
    assert len(queue) == int(instance["num_free_blocks"])
    assert sorted(queue) == [first + index for index in range(num) if blocks[index][1] == 0]

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
    kinds = [block[2] for block in blocks]
    assert in_table == {first + index: cached[index][0] for index in range(num) if kinds[index] == IN_TABLE}


def check_idle(state):
    """Assert that nothing is in flight and every block is free."""
    for name in ("num_running", "num_waiting"):
        assert not state.instances[name].any()
    assert (state.instances["num_free_blocks"] == state.instances["num_blocks"]).all()
