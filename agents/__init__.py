"""Who decides: heuristics, bandits and reinforcement-learning policies."""
