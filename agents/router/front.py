"""What takes requests, whatever protocol it speaks."""

from __future__ import annotations

from collections import Counter

from agents.router.asked import Identity
from agents.router.desk import Desk
from agents.router.log import Log


class Front:
    """The counts of its requests, and what every one of them needs.

    Args:
        desk: Decides.
        identity: How sessions and tenants are known.
        log: Where a line for each request goes.
    """

    def __init__(self, desk: Desk, identity: Identity, log: Log) -> None:
        self.desk, self.identity, self.log = desk, identity, log
        self.statuses: Counter[int] = Counter()
        """Answers by status."""
        self.counts: Counter[str] = Counter()
        """``num_retries``, ``num_broken_off``."""
        self.num_in_flight = 0
