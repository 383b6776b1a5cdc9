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
    python -m agents.tuning.tuned runs/tune tuned.json --all-loads --same scrape_1s=equal

which says under ``about`` what all was made small (``objective``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agents.benchmark.tuned import ABOUT
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


def load_all(folder: Path) -> tuple[dict[str, dict[str, Settings]], str]:
    """What it was tuned for -> agent -> settings, of every ``tuned.json`` below a folder; the objective.

    Raises:
        ValueError: there is none, two are of the same agent for the same, or of different objectives.
    """
    found: dict[str, dict[str, Settings]] = {}
    objective = ""
    for path in sorted(folder.rglob(NAME)):
        held = load(path)
        if objective not in ("", held["objective"]):
            raise ValueError(
                f"{path}: tuned for {held['objective']}, others below {folder} for {objective};"
                " gather those of one objective, from a folder of their own"
            )
        objective = str(held["objective"])
        agents = found.setdefault(held["tuned_for"], {})
        if held["agent"] in agents:
            raise ValueError(f"{path}: {held['agent']} was tuned for {held['tuned_for']} twice; delete one")
        agents[held["agent"]] = held["settings"]
    if not found:
        raise ValueError(f"{folder}: there is no {NAME} below it; make one by python -m agents.tune")
    return found, objective


def for_all_loads(found: dict[str, dict[str, Settings]]) -> dict[str, dict[str, Settings]]:
    """The same by scenario, for all its loads.

    Raises:
        ValueError: An agent was tuned at two loads of a scenario.
    """
    scenarios: dict[str, dict[str, Settings]] = {}
    for tuned_for, agents in found.items():
        of_scenario = scenarios.setdefault(tuned_for.partition("@")[0], {})
        if twice := of_scenario.keys() & agents.keys():
            raise ValueError(
                f"{tuned_for}: {', '.join(twice)} was tuned at another load too; do without --all-loads"
            )
        of_scenario |= agents
    return scenarios


def with_same(found: dict[str, dict[str, Settings]], same: list[str]) -> dict[str, dict[str, Settings]]:
    """With ``scrape_1s=equal``: what was tuned for ``equal`` also for that, where it was not tuned.

    Raises:
        ValueError: The form is another, or nothing was tuned for the second.
    """
    result = {name: dict(agents) for name, agents in found.items()}
    for each in same:
        name, _, other = each.partition("=")
        if not name or other not in found:
            raise ValueError(f"--same {each}: write OTHER=ONE, ONE being one of {', '.join(found)}")
        result[name] = {**found[other], **result.get(name, {})}
    return result


def main() -> None:
    """Gather what was found below a folder in one file, as the benchmark reads it."""
    parser = argparse.ArgumentParser(prog="python -m agents.tuning.tuned", description=main.__doc__)
    parser.add_argument("folder", type=Path, help=f"of {NAME} files, at any depth")
    parser.add_argument("file", type=Path, help="to write")
    parser.add_argument(
        "--all-loads", action="store_true", help="what was tuned at one load of a scenario stands for all"
    )
    parser.add_argument(
        "--same", nargs="*", default=[], metavar="OTHER=ONE", help="OTHER takes what was tuned for ONE"
    )
    given = parser.parse_args()
    with program(parser.prog):
        found, objective = load_all(given.folder)
        found = for_all_loads(found) if given.all_loads else found
        write_json(given.file, {ABOUT: {"objective": objective}, **with_same(found, given.same)})


if __name__ == "__main__":
    main()
