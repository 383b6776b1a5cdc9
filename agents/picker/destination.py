"""Instances as the Endpoint Picker protocol names them, ``ip:port``, and the names under which it does.

The protocol: docs/proposals/004-endpoint-picker-protocol of kubernetes-sigs/gateway-api-inference-extension,
version 1.0.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from agents.router.fleet import Fleet, Instance
from envs.live.endpoint import Endpoint

NAMESPACE = "envoy.lb"
"""Of dynamic metadata, both ways."""
KEY = "x-gateway-destination-endpoint"
"""Header and metadata: where the request shall go."""
SERVED_KEY = f"{KEY}-served"
"""Metadata of the answer: where it came from."""
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = f"{KEY}-subset"
"""Metadata of the request: where it may go."""


def canonical(address: str) -> str | None:
    """``ip:port`` in its one spelling, IPv6 in brackets; None: it is none."""
    host, _, port = address.strip().rpartition(":")
    if not (port.isascii() and port.isdigit()):
        return None
    try:
        ip = ip_address(host.strip("[]"))
    except ValueError:
        return None
    return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"


def destination(endpoint: Endpoint) -> str:
    """Where a gateway reaches an endpoint.

    Raises ``ValueError`` where its url has a name instead of an address, or a path: neither can be told.
    """
    parts = urlsplit(endpoint.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = canonical(f"{parts.hostname}:{port}")
    if found is None or parts.path:
        raise ValueError(
            f"{endpoint}: gateways are told ip:port alone; give its address, like http://10.0.0.1:8000"
        )
    return found


class Destinations:
    """Of a fleet's instances."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: dict[str, str] = {}  # url -> its destination

    def of(self, instance: Instance) -> str:
        """Where a gateway reaches it."""
        url = instance.endpoint.url
        known = self._known.get(url)
        if known is None:
            if len(self._known) > 16 * self._fleet.max_instances:
                self._known.clear()  # of instances that have long gone
            known = self._known[url] = destination(instance.endpoint)
        return known

    def among(self, addresses: Iterable[str]) -> list[Instance]:
        """Those instances that are reached at one of these."""
        wanted = {canonical(address) for address in addresses}
        return [instance for instance in self._fleet if self.of(instance) in wanted]
