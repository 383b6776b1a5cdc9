"""The emulated twin of a live cluster: as many instances, as large, of the profiles that endpoints name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import DisturbedCluster
from envs.emulator.profile import load
from envs.live import fleet
from envs.world import World


def cluster(
    endpoints: str | Mapping[str, Any],
    scrape_interval_s: float = 0.1,
    world: World | None = None,
) -> EmulatedCluster:
    """Build what ``conf/cluster/twin.yaml`` describes; the servers are asked for their sizes.

    Half of what a profile says that a request has on top of its steps is spent on each way, where the world
    has no network delay of its own.

    Args:
        endpoints: As of ``envs.live.fleet.cluster``; each must name a profile.
        scrape_interval_s: How often the gauges are read.
        world: What goes wrong.

    Raises:
        ValueError: An endpoint cannot be reached, or names no profile.
    """
    live = fleet.cluster(endpoints, speed_factor=1.0)
    configs, delays_s = [], []
    for endpoint, traits in zip(live.endpoints, live.traits, strict=True):
        if endpoint.profile is None:
            raise ValueError(
                f"{endpoint}: its twin needs a profile; name a shipped one, or measure it with"
                f" python -m envs.live.calibrate url={endpoint.url}"
            )
        profile = load(endpoint.profile)
        delays_s.append(profile.request_overhead_s / 2)
        configs.append(
            InstanceConfig(
                profile,
                num_blocks=traits.num_blocks,
                max_num_seqs=traits.max_num_seqs,
                max_num_batched_tokens=traits.max_num_batched_tokens,
                max_model_len=min(traits.max_model_len, traits.num_blocks * traits.block_size),
                prefix_caching=traits.prefix_caching,
                async_scheduling=endpoint.async_scheduling,
            )
        )
    if any(delays_s) and (world is None or not world.network_delay_s):
        world = replace(world or World(), network_delay_s=delays_s)
    block_size = live.traits[0].block_size
    if world is not None:
        return DisturbedCluster(configs, world, block_size, scrape_interval_s, gauges_at_steps=True)
    return EmulatedCluster(configs, block_size, scrape_interval_s, gauges_at_steps=True)
