"""The world: what is routed, where it runs, and what a policy may see.

Importing it registers ``RouteGym/Routing-v0`` with Gymnasium.
"""

import gymnasium

gymnasium.register("RouteGym/Routing-v0", entry_point="envs.routing:RoutingEnv")
