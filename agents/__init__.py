"""Who decides: heuristics, bandits and reinforcement-learning policies of RouteGym.

Importing it checks that this package and those below it are RouteGym's, not others of the same names.
"""

try:
    from envs.ownership import require_ours
except ImportError as error:
    raise ImportError(
        "the package envs that RouteGym's agents found is not RouteGym's, or not whole."
        " RouteGym wants a virtual environment of its own: make one and install routegym there."
    ) from error

require_ours(("agents", "envs", "reward", "conf"))
