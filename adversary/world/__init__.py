"""Attacks on what happens: the requests that come, and the instances that serve them."""
