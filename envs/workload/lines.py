"""Trace files line by line, with errors that say where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

Row = TypeVar("Row", bound=tuple[Any, ...])
OnBadLine = Literal["error", "skip"]


def decoded(line: bytes) -> str:
    """Return a line as text, without byte-order mark and outer blanks; ``ValueError`` if it is not UTF-8."""
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.object[error.start]:#04x})") from error


def _excerpt(line: bytes) -> str:
    text = line.decode("utf-8-sig", errors="backslashreplace").strip()
    return text[:100] + "..." if len(text) > 100 else repr(text)


def parse_lines(
    path: Path, lines: Iterable[tuple[int, bytes]], parse: Callable[[str], Row], on_bad_line: OnBadLine
) -> tuple[list[Row], int]:
    """Parse numbered lines; return the rows and how many lines were skipped. Blank lines are no rows.

    ``parse`` gives a row that begins with its instant, or raises ``ValueError`` for a malformed line. A line
    that is not UTF-8, or whose instant lies before that of the last good line, is malformed too. With
    ``on_bad_line`` "error" this raises a ``ValueError`` that names file, line and text; with "skip" the line
    is counted. A file without any row is an error too.
    """
    if on_bad_line not in ("error", "skip"):
        raise ValueError(f"on_bad_line is {on_bad_line!r}: choose 'error' or 'skip'")
    rows: list[Row] = []
    last_number = num_skipped = 0
    for number, line in lines:
        try:
            text = decoded(line)
            if not text:
                continue
            row = parse(text)
            if rows and row[0] < rows[-1][0]:
                raise ValueError(f"out of order, it is earlier than line {last_number}")
        except ValueError as error:
            if on_bad_line == "error":
                raise ValueError(
                    f"{path}, line {number}: {error}: {_excerpt(line)} (mend the file, or on_bad_line='skip')"
                ) from error
            num_skipped += 1
        else:
            rows.append(row)
            last_number = number
    if not rows:
        raise ValueError(f"{path} holds no request ({num_skipped} malformed lines skipped)")
    return rows, num_skipped


def token_count(value: object, name: str) -> int:
    """Return ``value`` if it is a whole number from 1; else ``ValueError``."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
    return value
