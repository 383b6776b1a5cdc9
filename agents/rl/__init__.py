"""Deep reinforcement learning by Stable-Baselines3, over one network that scores any number of instances."""
