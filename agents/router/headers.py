"""Which headers a proxy passes on."""

from __future__ import annotations

import re
from collections.abc import Iterable

from multidict import CIMultiDict

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Of one connection only (RFC 9110, 7.6.1)."""
_NOT_UP = HOP_BY_HOP | {"host", "content-length", "expect", "accept-encoding"}
"""Not to an instance: it is another host, and an answer that is compressed could not be streamed."""
_NOT_DOWN = HOP_BY_HOP | {"server", "date", "content-length", "content-encoding"}
"""Not to the client: it is sent what was decoded, by another server."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def to_instance(headers: Iterable[tuple[str, str]], connection: str, own: dict[str, str]) -> CIMultiDict[str]:
    """A client's headers as an instance gets them.

    Args:
        headers: As they came.
        connection: The client's Connection header, which may name more that are of one connection only.
        own: Replace the client's: the instance's API key, the request's id.
    """
    named = {name.strip().lower() for name in connection.split(",")} if connection else ()
    passed = CIMultiDict(
        (name, value)
        for name, value in headers
        if (lowered := name.lower()) not in _NOT_UP and lowered not in named
    )
    passed.update(own)
    return passed


def to_client(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """An instance's headers as the client gets them.

    Raises ``ValueError`` for one that holds control characters, which clients would take for no HTTP.
    """
    passed = CIMultiDict((name, value) for name, value in headers if name.lower() not in _NOT_DOWN)
    for name, value in passed.items():
        if _CONTROL.search(value):
            raise ValueError(f"control characters in the header {name}")
    return passed
