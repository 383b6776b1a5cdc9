"""How long a live cluster waits for what, and when it takes an instance to be down."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations in cluster seconds."""

    connect_timeout_s: float = 5.0
    """For a connection, and for every answer that is asked for at the start."""
    first_token_timeout_s: float = 120.0
    """For a request's first token, from when it was sent."""
    token_timeout_s: float = 30.0
    """For each further one."""
    request_timeout_s: float = 600.0
    """For the whole answer."""
    scrape_timeout_s: float = 1.0
    unhealthy_after: int = 3
    """Failures in a row, of requests or of scrapes, after which an instance counts as down."""
    probe_interval_s: float = 0.5
    """Between two probes of an instance that is down; it doubles with each that fails..."""
    max_probe_interval_s: float = 10.0
    """... up to this."""

    def __post_init__(self) -> None:
        """Refuse what is no duration."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{entry.name} is {value}, it must be positive and finite")
