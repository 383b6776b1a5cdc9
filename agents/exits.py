"""How the programs end when something is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_errors(program: str) -> Iterator[None]:
    """Turn what a user can mend into one line and exit status 2; Ctrl-C into 130.

    ``HYDRA_FULL_ERROR=1`` lets the traceback through.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; the same command goes on from what is done", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
