"""Warnings about instances, few enough to be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from time import monotonic

SECONDS_BETWEEN = 10.0
_log = logging.getLogger(__name__)


class Notices:
    """Counts what went wrong with whom, and logs one of it per instance every ten seconds."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._logged_at: dict[str, float] = {}  # instance's name -> when, on the monotonic clock
        self._num_left_out: Counter[str] = Counter()

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Times that (an instance, a reason) were noted since ``restart``."""
        return dict(self._counts)

    def restart(self) -> None:
        """Count anew."""
        self._counts.clear()

    def note(self, instance: str, reason: str, detail: str = "") -> None:
        """Count a reason; log it, with the detail, if nothing was logged of that instance of late."""
        self._counts[instance, reason] += 1
        now = monotonic()
        if now - self._logged_at.get(instance, -SECONDS_BETWEEN) < SECONDS_BETWEEN:
            self._num_left_out[instance] += 1
            return
        self._logged_at[instance] = now
        left_out = self._num_left_out.pop(instance, 0)
        _log.warning(
            "instance %s: %s%s%s",
            instance,
            reason,
            f" ({detail})" if detail else "",
            f"; {left_out} more warnings since the last one" if left_out else "",
        )
