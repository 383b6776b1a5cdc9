"""Who disturbs: threat models and attackers. Nothing in the other packages imports this one.

Importing it registers ``RouteGym/FeatureAdversary-v0`` and ``RouteGym/WorldAdversary-v0`` with Gymnasium.
"""

import gymnasium

gymnasium.register("RouteGym/FeatureAdversary-v0", entry_point="adversary.feature.env:FeatureAdversaryEnv")
gymnasium.register("RouteGym/WorldAdversary-v0", entry_point="adversary.world.env:WorldAdversaryEnv")
