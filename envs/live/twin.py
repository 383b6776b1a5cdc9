"""The emulated twin of a live cluster: as many instances, as large, of the profiles that endpoints name."""

from __future__ import annotations

from collections.abc import Mapping
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
    network_delay_s: float = 0.0,
    world: World | None = None,
) -> EmulatedCluster:
    """Build what ``conf/cluster/twin.yaml`` describes; the servers are asked for their sizes.

    Args:
        endpoints: As of ``envs.live.fleet.cluster``; each must name a profile.
        scrape_interval_s: How often the gauges are read.
        network_delay_s: What a request and its tokens take on their way beside the engine's steps, each way:
            half of what ``envs.live.calibrate`` calls the overhead of a request.
        world: What goes wrong; it brings its own network delay.

    Raises:
        ValueError: An endpoint cannot be reached, or names no profile; or there are both a world and a delay.
    """
    live = fleet.cluster(endpoints)
    configs = []
    for endpoint, traits in zip(live.endpoints, live.traits, strict=True):
        if endpoint.profile is None:
            raise ValueError(
                f"{endpoint}: its twin needs a profile; name a shipped one, or measure it with"
                f" python -m envs.live.calibrate url={endpoint.url}"
            )
        configs.append(
            InstanceConfig(
                load(endpoint.profile),
                num_blocks=traits.num_blocks,
                max_num_seqs=traits.max_num_seqs,
                max_num_batched_tokens=traits.max_num_batched_tokens,
                max_model_len=min(traits.max_model_len, traits.num_blocks * traits.block_size),
                prefix_caching=traits.prefix_caching,
                async_scheduling=endpoint.async_scheduling,
            )
        )
    if network_delay_s and world is not None:
        raise ValueError(
            f"network_delay_s is {network_delay_s} and there is a world: set the world's network_delay_s"
        )
    if network_delay_s:
        world = World(network_delay_s=network_delay_s)
    block_size = live.traits[0].block_size
    if world is not None:
        return DisturbedCluster(configs, world, block_size, scrape_interval_s)
    return EmulatedCluster(configs, block_size, scrape_interval_s)
