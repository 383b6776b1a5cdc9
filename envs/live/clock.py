"""Cluster seconds, on the computer's monotonic clock; nothing else in RouteGym reads a clock to act by."""

from __future__ import annotations

from time import monotonic


class Clock:
    """Seconds since the last ``restart``, ``speed_factor`` of them to a second.

    Setting the computer's date does not move it. It may be read from every thread.
    """

    def __init__(self, speed_factor: float = 1.0) -> None:
        if not 0.0 < speed_factor < float("inf"):
            raise ValueError(f"speed_factor is {speed_factor}, it must be a positive number")
        self.speed_factor = speed_factor
        self.restart()

    def restart(self) -> None:
        """Be at 0."""
        self._began_at = monotonic()

    @property
    def now_s(self) -> float:
        """The instant."""
        return (monotonic() - self._began_at) * self.speed_factor

    def seconds(self, duration_s: float) -> float:
        """So many cluster seconds in seconds."""
        return duration_s / self.speed_factor

    def until(self, at_s: float) -> float:
        """Seconds until an instant, 0 once it is past."""
        return max(0.0, (at_s - self.now_s) / self.speed_factor)
