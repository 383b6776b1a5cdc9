"""What a search found, as a plain file: an agent's settings for a fleet and its requests, and how they fared.

``agents.tune`` writes one per search, ``tuned.json``::

    "tuned_for": "equal@80"                  what it was tuned for
    "agent": "aibrix_prefix"                 option of the group agent
    "settings": {"imbalance": 3.1, ...}      to be laid over conf/agent/aibrix_prefix.yaml
    "default": {"imbalance": 8.0, ...}       what stood there
    "objective": "ttft_mean_s"
    "relative": {"value": -0.12, "low": ...} against the default on the tuning streams, with 95 % interval:
                                             the best of many trials, so it flatters; measure on other streams
    "seeds": [1000, ...]                     of those streams
    "num_trials": {"whole": 31, "pruned": 17, "refused": 2}
    "world": "1f0c..."                       key of the fleet and its requests (``agents.keys``)

The benchmark takes those of many searches in one file (``tuned=``)::

    python -m agents.tuning.tuned runs/tune tuned.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agents.files import read_json, write_json
from agents.program import program
from agents.tuning.space import Settings

NAME = "tuned.json"
KEYS = {
    "tuned_for",
    "agent",
    "settings",
    "default",
    "objective",
    "relative",
    "seeds",
    "num_trials",
    "world",
}


def load(path: Path) -> dict[str, Any]:
    """Read what was found. Raises ``ValueError`` naming a file that is none."""
    held = read_json(path)
    if not isinstance(held, dict) or set(held) != KEYS:
        raise ValueError(f"{path}: not what agents.tune wrote, which has the keys {', '.join(sorted(KEYS))}")
    return held


def load_all(folder: Path) -> dict[str, dict[str, Settings]]:
    """What it was tuned for -> agent -> settings, of every ``tuned.json`` below a folder.

    Raises:
        ValueError: there is none, or two are of the same agent for the same.
    """
    found: dict[str, dict[str, Settings]] = {}
    for path in sorted(folder.rglob(NAME)):
        held = load(path)
        agents = found.setdefault(held["tuned_for"], {})
        if held["agent"] in agents:
            raise ValueError(f"{path}: {held['agent']} was tuned for {held['tuned_for']} twice; delete one")
        agents[held["agent"]] = held["settings"]
    if not found:
        raise ValueError(f"{folder}: there is no {NAME} below it; make one by python -m agents.tune")
    return found


def main() -> None:
    """Gather what was found below a folder in one file, as the benchmark reads it."""
    parser = argparse.ArgumentParser(prog="python -m agents.tuning.tuned", description=main.__doc__)
    parser.add_argument("folder", type=Path, help=f"of {NAME} files, at any depth")
    parser.add_argument("file", type=Path, help="to write")
    given = parser.parse_args()
    with program(parser.prog):
        write_json(given.file, load_all(given.folder))


if __name__ == "__main__":
    main()
