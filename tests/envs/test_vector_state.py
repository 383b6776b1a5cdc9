"""The memory of many worlds: put back to time 0, it is as the emulator's own ``clear`` leaves it."""

import numpy as np

from envs.emulator.build import build_state
from envs.emulator.fleet import cluster
from envs.vector_worlds import RoutingWorlds
from envs.workload import generator


def test_restored_is_cleared():
    fleet = cluster({"l": {"count": 2, "profile": "l40s_llama-3.1-8b", "num_blocks": 2048}})
    workload = generator.workload(num_generated=200, rate_per_s=5.0, max_model_len=32768)
    worlds = RoutingWorlds(2, cluster=fleet, workload=workload)
    everyone, rng = np.ones(2, np.bool_), np.random.default_rng(0)
    worlds.begin(everyone, [0, 1])
    while not worlds.is_over.any():
        worlds.step(everyone, rng.integers(0, 2, 2), np.zeros(2))
    state, clean = worlds._worlds.state, build_state(fleet.configs, 16)
    assert state.cache_slots["block_hash"].any()
    assert (state.instances[0]["num_finished"] > 0).any()
    worlds.begin(np.array([True, False]), [None, None])
    for name in ("instances", "blocks", "free_queue", "free_rows", "free_slots", "counts"):
        assert (getattr(state, name)[0] == getattr(clean, name)).all(), name
    for name, field in (("cache_slots", "block_hash"), ("requests", "num_hashes")):
        assert not getattr(state, name)[0][field].any(), name
    assert state.cache_slots[1]["block_hash"].any()
