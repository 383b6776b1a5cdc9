"""The world: what is routed, where it runs, and what a policy may see.

Importing it registers ``RouteGym/Routing-v0`` and ``RouteGym/LiveRouting-v0`` with Gymnasium.
"""

import gymnasium

from envs.ownership import warn_of_intruders

warn_of_intruders()
gymnasium.register(
    "RouteGym/Routing-v0",
    entry_point="envs.routing:RoutingEnv",
    vector_entry_point="envs.vector:RoutingVectorEnv",
)
gymnasium.register("RouteGym/LiveRouting-v0", entry_point="envs.live.routing:live_routing_env")
