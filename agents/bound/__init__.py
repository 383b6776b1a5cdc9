"""How far from the best possible: a router with hindsight, and a bound that no router can beat."""
