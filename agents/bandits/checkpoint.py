"""What the states of all bandits have in common: kind, feature table, random generator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.observation import SCHEMA_HASH


def header(kind: str) -> dict[str, Any]:
    """Entries that say whose state it is and which feature table it was learned on."""
    return {"kind": kind, "schema_hash": SCHEMA_HASH}


def check_header(state: Mapping[str, Any], kind: str) -> None:
    """Raise ``ValueError`` unless ``state`` is of this kind and of this feature table."""
    for name, expected in header(kind).items():
        if state.get(name) != expected:
            raise ValueError(f"state: {name} is {state.get(name)!r}, it must be {expected!r}")


def pack_rng(rng: np.random.Generator | None) -> str:
    """The generator's state as JSON (its integers are too long for most formats); empty for None."""
    return "" if rng is None else json.dumps(rng.bit_generator.state, default=lambda value: value.tolist())


def unpack_rng(packed: str) -> np.random.Generator | None:
    """A generator that goes on where the packed one stood."""
    if not packed:
        return None
    state = json.loads(packed)
    bit_generator = getattr(np.random, state["bit_generator"])()
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def require_rng(rng: np.random.Generator | None) -> np.random.Generator:
    """``rng``, or ``RuntimeError`` where the policy was never reset."""
    if rng is None:
        raise RuntimeError("call reset(rng) before act or observe: the policy has no random generator yet")
    return rng
