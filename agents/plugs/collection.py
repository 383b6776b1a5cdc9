"""Training rows of llm-d on disk: files of JSON lines, a bounded number of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Collection:
    """Keeps training rows in files of JSON lines, a bounded number of them.

    Args:
        folder: Of the files, made where it is not.
        rows_per_part: Rows of one file.
        max_parts: Files kept.
    """

    def __init__(self, folder: Path, rows_per_part: int = 100_000, max_parts: int = 100) -> None:
        if rows_per_part < 1 or max_parts < 1:
            raise ValueError(
                f"rows_per_part ({rows_per_part}) and max_parts ({max_parts}) must be at least 1"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rows_per_part, self._max_parts = folder, rows_per_part, max_parts
        self._lock = threading.Lock()
        parts = self.parts()
        self._number = int(parts[-1].stem.removeprefix("PART-")) + 1 if parts else 0
        self._num_rows = 0

    def parts(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(self._folder.glob("PART-*.jsonl"))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows. Raises ``OSError``."""
        with self._lock:
            for first in range(0, len(rows), self._rows_per_part):
                lines = [json.dumps(row) + "\n" for row in rows[first : first + self._rows_per_part]]
                if self._num_rows + len(lines) > self._rows_per_part:
                    self._number, self._num_rows = self._number + 1, 0
                path = self._folder / f"PART-{self._number:08}.jsonl"
                with path.open("a", encoding="utf-8") as file:
                    file.write("".join(lines))
                self._num_rows += len(lines)
            for path in self.parts()[: -self._max_parts]:
                path.unlink(missing_ok=True)
