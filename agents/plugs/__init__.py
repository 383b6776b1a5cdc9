"""Plugs: how a bundle's policy decides inside of other people's routers.

These files are copied into every bundle, as its folder ``plugs``, and import there nothing of ours: only each
other, the bundle's ``policy.py``, NumPy and the router that they are plugged into.
"""
