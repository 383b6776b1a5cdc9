"""How much of the same trace the request streams of different seeds are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import pandas as pd


class Overlap(NamedTuple):
    """The two seeds whose streams have most in common."""

    frac_shared: float
    """Share of the one's requests that are the other's too."""
    seeds: tuple[int, int]


def greatest_overlap(ledgers: Mapping[int, pd.DataFrame]) -> Overlap | None:
    """Compare the streams of all pairs of seeds; None where there is but one.

    A request is known again by its lengths and the next one's prompt.

    Args:
        ledgers: Seed -> a ledger of that seed's stream.
    """
    requests = {seed: _requests(ledger) for seed, ledger in ledgers.items()}
    pairs = [
        Overlap(len(requests[one] & requests[other]) / max(len(requests[one]), 1), (one, other))
        for one, other in combinations(requests, 2)
    ]
    return max(pairs, default=None)


def _requests(ledger: pd.DataFrame) -> set[tuple[int, int, int]]:
    prompts, outputs = ledger["num_prompt_tokens"].tolist(), ledger["num_output_tokens"].tolist()
    return set(zip(prompts, outputs, prompts[1:], strict=False))
