"""The view of a cache against a cache that is played beside it."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from envs.live.cache_view import CacheView

BLOCK = 4


def stored(hashes: list[int], parent: int | None, tokens: list[int], **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": BLOCK,
        "medium": "GPU",
        "group_idx": 0,
        **more,
    }


def removed(*hashes: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", "group_idx": 0}


def view_of(*batches: list[Any]) -> CacheView:
    view = CacheView(BLOCK)
    for sequence, events in enumerate(batches):
        view.take(sequence, [0.0, events, 0])
    return view


PROMPT = list(range(13))


def test_what_cannot_be_read_is_told() -> None:
    told: list[tuple[str, str]] = []
    view = CacheView(BLOCK, lambda reason, detail: told.append((reason, detail)))
    view.take(0, [0.0, [stored([1], None, PROMPT[:4])], 0])
    assert not told
    view.take(1, [0.0, [stored([2], 1, PROMPT[4:8], block_size=32)], 0])
    assert told == [("malformed KV events", f"ValueError: blocks of 32 tokens, not {BLOCK}")]
    assert view.num_hit_tokens(PROMPT) == 0


def test_whole_blocks_in_a_row_are_hits_and_the_last_token_never_is() -> None:
    view = view_of([stored([7, 8, 9], None, PROMPT[:12])])
    assert view.num_hit_tokens(PROMPT) == 12
    assert view.num_hit_tokens(PROMPT[:12]) == 8  # the last token is computed anew, so is its block
    assert view.num_hit_tokens([*PROMPT[:5], 99, *PROMPT[6:]]) == 4
    view.take(1, [0.0, [removed(8)], 0])
    assert view.num_hit_tokens(PROMPT) == 4
    view.take(2, [0.0, [stored([8], 7, PROMPT[4:8])], 0])
    assert view.num_hit_tokens(PROMPT) == 12
    view.take(3, [0.0, [{"type": "AllBlocksCleared"}], 0])
    assert view.num_hit_tokens(PROMPT) == 0
    assert not any(view.counters().values())


def test_a_block_held_twice_is_gone_when_both_are() -> None:
    view = view_of([stored([7], None, PROMPT[:4])], [stored([7], None, PROMPT[:4])], [removed(7)])
    assert view.num_hit_tokens(PROMPT) == 4
    view.take(3, [0.0, [removed(7)], 0])
    assert view.num_hit_tokens(PROMPT) == 0


def test_salts_are_caches_of_their_own() -> None:
    view = view_of([stored([7], None, PROMPT[:4], extra_keys=[["salt"]])])
    assert view.num_hit_tokens(PROMPT, "salt") == 4
    assert view.num_hit_tokens(PROMPT, "other") == view.num_hit_tokens(PROMPT) == 0


def test_what_is_not_in_the_engines_own_memory_is_passed_over() -> None:
    assert view_of([stored([7], None, PROMPT[:4], medium="DISK")]).num_hit_tokens(PROMPT) == 0
    assert view_of([stored([7], None, PROMPT[:4], group_idx=1)]).num_hit_tokens(PROMPT) == 0


def test_a_lost_batch_is_counted_and_leaves_nothing() -> None:
    view = view_of([stored([7], None, PROMPT[:4])])
    view.take(3, [0.0, [stored([8], 7, PROMPT[4:8])], 0])
    assert view.num_hit_tokens(PROMPT) == 0
    assert view.counters()["num_kv_event_gaps"] == 1
    assert view.counters()["num_kv_blocks_without_parent"] == 1


def test_a_restarted_server_begins_with_nothing() -> None:
    view = view_of([stored([7], None, PROMPT[:4])], [])
    view.take(0, [0.0, [], 0])
    assert view.num_hit_tokens(PROMPT) == 0
    assert not any(view.counters().values())


def test_events_as_arrays_are_read_too() -> None:
    view = view_of([["BlockStored", [7, 8], None, PROMPT[:8], BLOCK, None, "GPU"]])
    assert view.num_hit_tokens(PROMPT) == 8
    view.take(1, [0.0, [["BlockRemoved", [8], "GPU"], ["AllBlocksCleared"]], 0])
    assert view.num_hit_tokens(PROMPT) == 0


def test_what_cannot_be_read_is_counted() -> None:
    for batch in (None, [0.0], [0.0, [3]], [0.0, [{"type": "BlockStored"}]]):
        view = view_of([stored([7], None, PROMPT[:4])])
        view.take(1, batch)
        assert view.counters()["num_malformed_kv_events"] == 1
        assert view.num_hit_tokens(PROMPT) == 0
    assert view_of([stored([7], None, [0] * 8, block_size=8)]).counters()["num_malformed_kv_events"] == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 3)), max_size=40))
def test_any_history_of_chains(history: list[tuple[bool, int, int]]) -> None:
    """Three prompts of three blocks, of which the first is common to all; blocks come and go at random."""
    prompts = [[0, 1, 2, 3, *[10 * chain + 4] * 9] for chain in range(3)]

    def name(chain: int, place: int) -> int:
        return 1000 if place == 0 else 100 * chain + place

    view, held, sequence = CacheView(BLOCK), Counter[int](), 0
    for adds, chain, place in history:
        block = name(chain, place - 1)
        if adds and (place == 1 or held[name(chain, place - 2)]):
            parent = None if place == 1 else name(chain, place - 2)
            event = stored([block], parent, prompts[chain][BLOCK * (place - 1) : BLOCK * place])
            held[block] += 1
        elif not adds and held[block]:
            event = removed(block)
            held[block] -= 1
        else:
            continue
        view.take(sequence, [0.0, [event], 0])
        sequence += 1
        for number, prompt in enumerate(prompts):
            expected = 0
            while expected < 3 and held[name(number, expected)]:
                expected += 1
            assert view.num_hit_tokens(prompt) == BLOCK * expected
