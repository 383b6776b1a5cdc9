"""``python -m agents.compare``: a leaderboard of any runs, each world in a column of its own.

    python -m agents.compare runs/heuristics/evaluation
    python -m agents.compare runs/capacity runs/bench --reference llmd_token_load --output runs/compare

Takes directories of evaluations and of benchmarks, or those above them, such as a sweep's. Policies are
compared where fleet, requests and warm-up are the same (``agents.leaderboard.board``): runs of another world
are in another column, and the page says what tells the two apart. In the output directory then lie

* ``leaderboard.html``: one page that needs nothing else;
* ``leaderboard.parquet``: one row per world and policy;
* ``leaderboard.md``: the same for people.

The same results give the same bytes.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from agents.files import write, write_parquet
from agents.leaderboard.board import Column, board
from agents.leaderboard.page import page
from agents.leaderboard.runs import find
from agents.leaderboard.table import markdown_table, tidy
from agents.program import program

NAME = "python -m agents.compare"


def compare(paths: Sequence[Path], reference: str | None, output: Path) -> list[Column]:
    """Compare the runs in ``paths``; write what was found into ``output``.

    Args:
        paths: Directories of runs, or above them.
        reference: Policy that the others are compared with; None: the best in each world.
        output: The directory to write to.

    Raises:
        ValueError: there is nothing to compare, or it cannot be; the message says why.
    """
    columns = board(find(paths), reference)
    given = ["--reference", reference] if reference else []
    command = shlex.join([*NAME.split(), *map(str, paths), *given])
    html, text = page(columns, command), markdown_table(columns)
    write(output / "leaderboard.html", lambda temporary: temporary.write_text(html, encoding="utf-8"))
    write(output / "leaderboard.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    write_parquet(output / "leaderboard.parquet", tidy(columns))
    print(text)
    if len(columns) > 1:
        print(f"{len(columns)} worlds, not compared with each other: the page says how they differ.")
    print(f"leaderboard: {output / 'leaderboard.html'}")
    return columns


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog=NAME, description="A leaderboard of any runs.")
    parser.add_argument(
        "paths", type=Path, nargs="+", help="directories of evaluations, benchmarks or sweeps"
    )
    parser.add_argument("--reference", help="policy that others are compared with; default: the best")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="directory to write to")
    given = parser.parse_args()
    with program(NAME):
        compare(given.paths, given.reference, given.output)


if __name__ == "__main__":
    main()
