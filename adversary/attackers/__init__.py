"""How attacks are found: by chance, by black-box search, by reinforcement learning in closed loop."""
