"""What must hold of the emulator's memory between any two steps."""

from collections import Counter

from envs.emulator.state import CACHED, LOOSE, NO_HASH, NONE, TWIN, YOUNGER


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
    cached = state.cached_blocks[first : first + num]
    table = state.cache_slots[first_slot : first_slot + int(instance["cache_slot_mask"]) + 1].tolist()
    kinds = [block[2] for block in blocks]
    seen = {}  # block -> hash

    def see(oldest, parent, block_hash):
        """A ring, and those of its first child and what follows it."""
        while oldest != NONE:
            record = cached[oldest - first]
            assert not kinds[oldest - first] & YOUNGER
            assert record["parent"] == parent
            seen[oldest] = block_hash
            if kinds[oldest - first] & TWIN:
                block, successor = oldest, int(state.twins["next"][oldest])
                assert successor != oldest
                while successor != oldest:
                    assert state.twins["prev"][successor] == block
                    block, successor = successor, int(state.twins["next"][successor])
                    assert kinds[block - first] - CACHED == TWIN | YOUNGER
                    assert block not in seen
                    seen[block] = block_hash
            parent, oldest = oldest, int(record["child"])
            block_hash = int(cached[oldest - first]["block_hash"]) if oldest != NONE else None
            assert oldest == NONE or not kinds[oldest - first] & LOOSE

    for block_hash, oldest in table:
        if block_hash != NO_HASH:
            see(oldest, NONE, block_hash)
    assert seen == {
        first + index: int(cached[index]["block_hash"]) for index in range(num) if kinds[index] >= CACHED
    }
    roots = [oldest for block_hash, oldest in table if block_hash != NO_HASH]
    num_loose = sum(bool(kinds[oldest - first] & LOOSE) for oldest in roots)
    assert num_loose == instance["num_loose_blocks"]
    assert num_loose or not instance["may_have_orphans"]


def check_idle(state):
    """Assert that nothing is in flight and every block is free."""
    for name in ("num_running", "num_waiting"):
        assert not state.instances[name].any()
    assert (state.instances["num_free_blocks"] == state.instances["num_blocks"]).all()
