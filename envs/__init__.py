"""The world: what is routed, where it runs, and what a policy may see."""
