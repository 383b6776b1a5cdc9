"""No logger: the run's own files are enough."""

from __future__ import annotations

from collections.abc import Mapping


class Silent:
    """Sends nothing anywhere."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
