"""A recorded attack on disk: one Parquet file, a row per step and a column per knob.

In the file's metadata lie the knobs with their bounds, the budget and where the attack comes from, so that
the file alone tells what was allowed, and ``check`` whether it was kept to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adversary.threat import Budget, Knob, Values, check_knobs
from adversary.validate import require_valid
from agents.files import write

KEY = b"routegym.attack"
LEVELS = ("feature", "world")


@dataclass(frozen=True)
class AttackTrace:
    """The values of an attack, and what it was allowed to do."""

    level: str
    """``feature``: a step is a routing decision. ``world``: a step is a window of ``step_s``."""
    knobs: tuple[Knob, ...]
    budget: Budget
    values: Values
    """``[num_steps, num_knobs]``."""
    step_s: float = 0.0
    """Length of a window; 0 at the level of features."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from, in plain values: attacker, target, seeds, harm, ..."""

    def check(self) -> None:
        """Raise ``ValueError`` naming what is not as it must be, or which step breaks the threat model."""
        if self.level not in LEVELS:
            raise ValueError(f"level is {self.level!r}, it must be one of {', '.join(LEVELS)}")
        if (self.level == "world") != (self.step_s > 0.0):
            raise ValueError(f"step_s is {self.step_s} of an attack at the level of {self.level}")
        check_knobs(self.knobs)
        require_valid(self.knobs, self.budget, self.values)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        about = {
            "level": self.level,
            "step_s": self.step_s,
            "knobs": [knob._asdict() for knob in self.knobs],
            "budget": asdict(self.budget),
            "about": dict(self.about),
        }
        columns = {knob.name: self.values[:, place] for place, knob in enumerate(self.knobs)}
        table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about).encode()})
        write(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttackTrace:
        """Read and check it. Raises ``ValueError`` naming the file and what is wrong with it."""
        try:
            table = pq.read_table(path)
            held = json.loads((table.schema.metadata or {})[KEY])
            knobs = tuple(Knob(**knob) for knob in held["knobs"])
            columns = [table[knob.name].to_numpy().astype(np.float64) for knob in knobs]
            values = np.column_stack(columns) if columns else np.empty((table.num_rows, 0))
            budget = Budget(**held["budget"])
            trace = cls(held["level"], knobs, budget, values, held["step_s"], held["about"])
            trace.check()
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a recorded attack that can be used ({error})") from error
        return trace
