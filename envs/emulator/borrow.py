"""Arrays without an owner inside compiled code.

Numba counts references to every array that a compiled function takes out of a tuple, with atomic
instructions, and in the engine's loops that is a good part of the time. A borrowed array has no count: it
must not outlive the array it was made from, so a compiled entry point borrows the state it was called with
and never returns any of it.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.extending import intrinsic

from envs.emulator.state import State


def _without_owner(context: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        view.meminfo = view.meminfo.type(None)  # null
        return view._getvalue()

    return array(array), generate


_borrowed_array: Any = intrinsic(_without_owner)


@njit(cache=True, forceinline=True)
def borrowed(state: State) -> State:
    """The same memory, for use within the calling compiled function."""
    return State(
        _borrowed_array(state.instances),
        _borrowed_array(state.requests),
        _borrowed_array(state.blocks),
        _borrowed_array(state.free_queue),
        _borrowed_array(state.cached_blocks),
        _borrowed_array(state.twins),
        _borrowed_array(state.cache_slots),
        _borrowed_array(state.block_table),
        _borrowed_array(state.running),
        _borrowed_array(state.next_alike),
        _borrowed_array(state.free_rows),
        _borrowed_array(state.free_slots),
        _borrowed_array(state.hashes),
        _borrowed_array(state.events),
        _borrowed_array(state.step_log),
        _borrowed_array(state.wakes_at_s),
        _borrowed_array(state.counts),
    )
