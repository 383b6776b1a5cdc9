"""``RouteGym/LiveRouting-v0``: the routing environment over real vLLM servers.

    import envs, gymnasium
    env = gymnasium.make("RouteGym/LiveRouting-v0", endpoints={"a": {"url": "http://127.0.0.1:8000"}, ...})
    ...                                                    # as RouteGym/Routing-v0, in real time
    env.close()

It is ``RoutingEnv`` with a live cluster. An episode takes as long as its requests do, and is not repeatable:
the same seed gives the same requests, and other latencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.live.fleet import cluster
from envs.routing import RoutingEnv


def live_routing_env(
    endpoints: Mapping[str, Mapping[str, Any] | None] | str = "runs/live/endpoints.json",
    cluster_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> RoutingEnv:
    """Make the environment.

    Args:
        endpoints: The servers, or a file that names them, as for ``envs.live.fleet.cluster``.
        cluster_options: Further arguments of ``envs.live.fleet.cluster``: ``speed_factor``, timeouts, ...
        options: Arguments of ``RoutingEnv``: workload, reward, max_instances, ...
    """
    return RoutingEnv(cluster=cluster(endpoints, **(cluster_options or {})), **options)
