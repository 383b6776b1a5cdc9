"""Trace files line by line, with errors that say where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

Row = TypeVar("Row")
OnBadLine = Literal["error", "skip"]


def parse_lines(
    path: Path, lines: Iterable[tuple[int, str]], parse: Callable[[str], Row], on_bad_line: OnBadLine
) -> tuple[list[Row], int]:
    """Parse numbered lines; return the rows and how many lines were skipped. Blank lines are no rows.

    ``parse`` raises ``ValueError`` for a malformed line. With ``on_bad_line`` "error" this raises one that
    names file, line and text; with "skip" the line is counted. A file without any row is an error too.
    """
    if on_bad_line not in ("error", "skip"):
        raise ValueError(f"on_bad_line is {on_bad_line!r}: choose 'error' or 'skip'")
    rows: list[Row] = []
    num_skipped = 0
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            rows.append(parse(text))
        except ValueError as error:
            if on_bad_line == "error":
                raise ValueError(
                    f"{path}, line {number}: {error}: {text[:100] + '...' if len(text) > 100 else text!r}"
                    " (mend the file, or on_bad_line='skip')"
                ) from error
            num_skipped += 1
    if not rows:
        raise ValueError(f"{path} holds no request ({num_skipped} malformed lines skipped)")
    return rows, num_skipped


def token_count(value: object, name: str) -> int:
    """Return ``value`` if it is a whole number from 1; else ``ValueError``."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
    return value
