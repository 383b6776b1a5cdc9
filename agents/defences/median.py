"""The median over an instance's last scrapes, in place of what is far from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.defences.defence import GAUGES, Defence, Flags, Rows
from agents.hyperparameters import check_counts, check_not_negative
from agents.policy import Policy
from envs.observation import NUM_SENT_SINCE_SCRAPE, SNAPSHOT_AGE_S

_COLUMNS = list(GAUGES)


class Median(Defence):
    """A scraped gauge that is far from the median of its last readings is replaced by that.

    It takes out strong noise and lies that come and go; a lie that lasts for more than half of the readings
    gets through, and a sudden truth only after as many: with scrapes far apart that costs more than it helps.
    Close readings pass, since the median is older than they are, and rules that go by small differences
    of queues suffer from that.

    A new scrape is told by ``snapshot_age_s`` or ``num_sent_since_scrape`` falling, or by a gauge that
    changes: where scrapes come more often than requests, the age need not fall. So what changes from one
    decision to the next without a scrape, as only a deception does, is taken for a reading like others.

    Args:
        policy: What is defended.
        num_scrapes: Readings of which the median is taken, before the first scrape all of them the first;
            odd, so that it is one of them.
        max_requests: By which a reading of requests may differ from the median and pass; 0: none differs.
        max_frac: The same of a reading that is a share.
    """

    kind = "median"
    counted = ("smoothed",)  # decisions in which a reading was replaced

    def __init__(
        self, policy: Policy, num_scrapes: int = 5, max_requests: float = 4.0, max_frac: float = 0.2
    ) -> None:
        super().__init__(policy)
        check_counts(num_scrapes=num_scrapes)
        if num_scrapes % 2 == 0:
            raise ValueError(
                f"num_scrapes is {num_scrapes}, it must be odd: an even number has no middle one"
            )
        check_not_negative(max_requests=max_requests, max_frac=max_frac)
        self.num_scrapes, self.max_requests, self.max_frac = num_scrapes, max_requests, max_frac
        self._tolerance = np.array([max_requests, max_requests, max_frac, max_frac], np.float32)  # as GAUGES
        self.forget()

    def forget(self) -> None:
        """Forget all readings."""
        self._readings = np.zeros((self.num_scrapes, 0, len(GAUGES)), np.float32)  # the oldest first
        self._since = np.zeros((0, 2), np.float32)  # age and number sent as last seen

    def mend(self, rows: Rows, valid: Flags) -> None:
        """Replace the gauges that are far from their medians."""
        gauges, since = rows[:, _COLUMNS], rows[:, [SNAPSHOT_AGE_S, NUM_SENT_SINCE_SCRAPE]]
        if self._readings.shape[1] != len(rows):
            self._readings = np.repeat(gauges[None], self.num_scrapes, axis=0)
        else:
            is_new = (since < self._since).any(axis=1) | (gauges != self._readings[-1]).any(axis=1)
            self._readings[:-1, is_new] = self._readings[1:, is_new]
            self._readings[-1, is_new] = gauges[is_new]
        self._since = since
        medians = np.median(self._readings, axis=0).astype(np.float32)
        is_far = np.abs(gauges - medians) > self._tolerance
        rows[:, _COLUMNS] = np.where(is_far, medians, gauges)
        self._counts["smoothed"] += bool((is_far.any(axis=1) & valid).any())

    def memory(self) -> dict[str, Any]:
        """The last readings."""
        return {"readings": self._readings.copy(), "since": self._since.copy()}

    def load_memory(self, memory: Mapping[str, Any]) -> None:
        """Take up the last readings."""
        readings = np.array(memory["readings"], np.float32)
        if len(readings) != self.num_scrapes:
            raise ValueError(f"state: it holds {len(readings)} readings, num_scrapes is {self.num_scrapes}")
        self._readings, self._since = readings, np.array(memory["since"], np.float32)
