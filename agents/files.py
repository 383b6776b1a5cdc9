"""Results on disk: each file whole or not there at all, the same bytes for the same results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.unfinished import PART, whole

if TYPE_CHECKING:
    import pandas as pd


def remove_parts(directory: Path) -> None:
    """Remove what processes that were killed had not finished to write; leave what live ones are writing."""
    for path in list(directory.rglob(f".*{PART}")):
        pid = path.name.removesuffix(PART).rpartition(".")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write(path: Path, write_to: Callable[[Path], object]) -> None:
    """Let ``write_to`` fill a temporary file beside ``path``, flush it to disk, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        write_to(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path, mend: str = "delete it to make it anew") -> Any:
    """Read JSON. Raises ``ValueError`` naming a file that is none, and what ``mend`` says to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {mend}") from error


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet."""
    write(path, lambda temporary: table.to_parquet(temporary, index=False, compression="zstd"))
