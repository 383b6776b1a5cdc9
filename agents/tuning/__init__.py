"""The search for better constants of a rule, or hyperparameters of an agent."""
