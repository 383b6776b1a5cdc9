"""Stable-Baselines3 draws from global random number generators: let it, and put them back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_randomness() -> Iterator[None]:
    """Put the global generators, which SB3 draws from, back in the end; compute on one thread.

    One thread is the fastest for networks of this size, and makes results independent of the number of cores.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.set_num_threads(num_threads)


def seed_global_generators(seeds: np.random.SeedSequence) -> None:
    """Seed them all; within ``own_randomness``."""
    seed = int(seeds.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
