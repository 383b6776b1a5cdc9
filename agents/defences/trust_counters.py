"""Trust the router's own counters over an instance's reports where the two disagree."""

from __future__ import annotations

import numpy as np

from agents.defences.defence import Defence, Flags, Rows
from agents.hyperparameters import check_counts, check_not_negative
from agents.policy import Policy
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    NUM_IN_FLIGHT,
    NUM_IN_FLIGHT_DECODE_TOKENS,
    NUM_IN_FLIGHT_PREFILLS,
    NUM_KV_CACHE_TOKENS,
    NUM_RUNNING,
    NUM_SENT_SINCE_SCRAPE,
    NUM_WAITING,
)


class TrustCounters(Defence):
    """An instance that reports more or fewer requests than the router sent it is not believed.

    What a single router has in flight at an instance, less what it sent there since the scrape, is what the
    instance must have reported, waiting and running together, but for the requests completed since
    (of which it reported more) and those on the network or in a late scrape (of which it reported fewer).
    Beyond these tolerances the instance's gauges are replaced: ``num_waiting`` by the requests in flight
    without a first token, less those sent since the scrape; ``num_running`` by the rest;
    ``frac_kv_cache_usage`` by the prompt tokens of the requests that have their first token, as a share of
    the cache (their outputs are left out, shared prefixes counted repeatedly). A request being prefilled so
    counts as waiting, which makes a distrusted instance look busier rather than idler. A lie about the KV
    cache alone, or about what of the requests is waiting, is not noticed.

    Several routers: each sees but its own requests, so an honest instance reports what the others sent, too.
    Then leave ``max_above`` null, for no number is too high, and give ``num_routers``: the counters of a
    distrusted instance are multiplied by it, as if the others sent alike. A lie shows only where it is below
    this router's own share.

    Args:
        policy: What is defended.
        max_below: Requests by which a report may be lower than the own count.
        max_above: Requests by which it may be higher; null: any.
        num_routers: Routers in front of the instances, this one included.
    """

    kind = "trust_counters"
    counted = ("distrusted",)  # decisions in which some instance was not believed

    def __init__(
        self, policy: Policy, max_below: float = 2.0, max_above: float | None = 8.0, num_routers: int = 1
    ) -> None:
        super().__init__(policy)
        check_not_negative(max_below=max_below)
        check_counts(num_routers=num_routers)
        if max_above is not None:
            check_not_negative(max_above=max_above)
            if num_routers > 1:
                raise ValueError(
                    f"max_above is {max_above} and num_routers {num_routers}: what other routers sent is not"
                    " known, so no report is too high; set max_above to null"
                )
        self.max_below, self.max_above, self.num_routers = max_below, max_above, num_routers

    def mend(self, rows: Rows, valid: Flags) -> None:
        """Replace the gauges of the instances that are not believed."""
        num_sent = rows[:, NUM_SENT_SINCE_SCRAPE]
        own = np.maximum(rows[:, NUM_IN_FLIGHT] - num_sent, 0.0)
        above = rows[:, NUM_WAITING] + rows[:, NUM_RUNNING] - own
        distrusted = above < -self.max_below
        if self.max_above is not None:
            distrusted |= above > self.max_above
        self.distrusted = distrusted & valid
        if not self.distrusted.any():
            return
        self._counts["distrusted"] += 1
        theirs = rows[self.distrusted]
        waiting = np.minimum(
            np.maximum(theirs[:, NUM_IN_FLIGHT_PREFILLS] - num_sent[self.distrusted], 0.0),
            own[self.distrusted],
        )
        cached = theirs[:, NUM_IN_FLIGHT_DECODE_TOKENS] / np.maximum(theirs[:, NUM_KV_CACHE_TOKENS], 1.0)
        rows[self.distrusted, NUM_WAITING] = self.num_routers * waiting
        rows[self.distrusted, NUM_RUNNING] = self.num_routers * (own[self.distrusted] - waiting)
        rows[self.distrusted, FRAC_KV_CACHE_USAGE] = np.minimum(self.num_routers * cached, 1.0)
