"""RouteBench: a fixed suite of scenarios, and what policies make of it."""
