"""Attacks on what a router sees, the world untouched: a step is a routing decision."""
