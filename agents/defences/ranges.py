"""Ranges of raw features as they were in clean episodes: fitted, kept as JSON, read back.

    routegym-evaluate ... record=true                       # keeps what the policies saw
    python -m agents.defences.ranges runs/.../recordings/smg_least_load-0 --output ranges.json

The file is ``{"num_waiting": [0.0, 37.0], ...}``, in the units of ``envs.observation``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.files import read_json, write_json
from agents.program import program
from envs.live.recording import Recording, matrix
from envs.observation import INSTANCE_FEATURES, INSTANCE_NAMES, REACHABLE

Ranges = dict[str, list[float]]
"""Feature -> [lowest, highest]."""


def fit(
    parts: Iterable[tuple[NDArray[np.generic], NDArray[np.generic]]],
    features: Sequence[str] = REACHABLE,
    margin: float = 0.0,
) -> Ranges:
    """The ranges of some features over observations.

    Args:
        parts: Rows ``[..., max_instances, num_instance_features]`` and masks ``[..., max_instances]`` of some
            observations each; masked rows do not count.
        features: Names of ``envs.observation.INSTANCE_FEATURES``.
        margin: So many widths are added on either side, within the feature's bounds.

    Raises:
        ValueError: A name is unknown, the margin is none, or no row counts.
    """
    columns = [column_of(name) for name in features]
    if not 0.0 <= margin < float("inf"):
        raise ValueError(f"margin is {margin}, it must be a finite number from 0: widths of the range")
    low, high = np.full(len(columns), np.inf), np.full(len(columns), -np.inf)
    for instances, mask in parts:
        rows = instances[mask.astype(np.bool_)][:, columns].astype(np.float64)
        if len(rows):
            low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise ValueError("there is no finite range: give observations of at least one instance, all finite")
    wider = margin * (high - low)
    bounds = [(INSTANCE_FEATURES[column].low, INSTANCE_FEATURES[column].high) for column in columns]
    return {
        name: [max(float(lowest), bound[0]), min(float(highest), bound[1])]
        for name, lowest, highest, bound in zip(features, low - wider, high + wider, bounds, strict=True)
    }


def column_of(name: str) -> int:
    """Which column a feature is. Raises ``ValueError`` with the nearest names where it is unknown."""
    if name not in INSTANCE_NAMES:
        near = get_close_matches(name, INSTANCE_NAMES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(INSTANCE_NAMES)}"
        raise ValueError(f"no instance has a feature {name!r}; {hint}")
    return INSTANCE_NAMES.index(name)


def check(ranges: Mapping[str, Any], source: str = "ranges") -> Ranges:
    """The ranges as floats. Raises ``ValueError`` naming what is wrong with them."""
    if not isinstance(ranges, Mapping) or not ranges:
        raise ValueError(f"{source}: give at least one feature's range, such as num_waiting: [0, 40]")
    checked: Ranges = {}
    for name, value in ranges.items():
        column_of(name)
        try:
            low, high = (float(bound) for bound in value)
        except (TypeError, ValueError):
            raise ValueError(f"{source}: {name} is {value!r}, it must be [lowest, highest]") from None
        if not (isfinite(low) and isfinite(high) and low <= high):
            raise ValueError(
                f"{source}: {name} is [{low:g}, {high:g}], it must be finite, the first not above the second"
            )
        checked[name] = [low, high]
    return checked


def save(path: Path, ranges: Mapping[str, Any]) -> None:
    """Write ranges as JSON."""
    write_json(path, check(ranges))


def load(path: Path) -> Ranges:
    """Read them. Raises ``FileNotFoundError``, or ``ValueError`` naming the file and what is wrong."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file; python -m agents.defences.ranges makes one of recordings"
        )
    return check(read_json(path), str(path))


def observations_of(recording: Recording) -> tuple[NDArray[Any], NDArray[Any]]:
    """What all decisions of a recording saw: rows and masks as ``fit`` takes them."""
    table = recording.decisions(["instances", "mask"])
    max_instances = recording.header["max_instances"]
    return (
        matrix(table, "instances", max_instances, len(INSTANCE_FEATURES)),
        matrix(table, "mask", max_instances),
    )


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser("python -m agents.defences.ranges", description="Fit ranges for clip.")
    parser.add_argument("recordings", nargs="+", help="directories of recordings of clean episodes")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--features", nargs="+", default=REACHABLE, help="(default: what instances report)")
    parser.add_argument("--margin", type=float, default=0.0, help="widths to add on either side (default 0)")
    options = parser.parse_args()
    with program("agents.defences.ranges"):
        parts = (observations_of(Recording(directory)) for directory in options.recordings)
        ranges = fit(parts, options.features, options.margin)
        save(options.output, ranges)
        for name, (low, high) in ranges.items():
            print(f"{name}: [{low:g}, {high:g}]")


if __name__ == "__main__":
    main()
