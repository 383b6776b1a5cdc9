"""How the programs run: on one thread of linear algebra, with errors that a user can read."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from threadpoolctl import threadpool_limits

from envs.ownership import require_ours

require_ours(("agents",))  # another's agents/__init__.py may have run instead of ours


def use_one_thread() -> None:
    """Give linear algebra one thread in this process: the networks are too small to gain from a second.

    Where other processes want the cores, threads that wait for each other make them many times slower. Torch
    is not imported for it: a router has no other use for its 200 MiB.
    """
    threadpool_limits(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # is what libraries take that are imported later
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def is_in_sweep() -> bool:
    """Whether this run is one of many that Hydra was asked for (``-m``)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether a signal caused it: one that comes in compiled code surfaces as a SystemError, or two."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def program(name: str) -> Iterator[None]:
    """Run a program: what a user can mend becomes one line and exit status 2, Ctrl-C or SIGTERM 130.

    ``HYDRA_FULL_ERROR=1`` lets the traceback through.
    """
    use_one_thread()
    is_asked_to_end = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked_to_end
        is_asked_to_end = True
        signal.default_int_handler(number, frame)

    # Who asks a program to end (a scheduler, kubectl delete) gets what Ctrl-C gets: nothing half-written.
    usual = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException as error:
        # A library that was interrupted may swallow that, and fail of what it left undone.
        if is_asked_to_end or _is_interrupt(error):
            print(f"\n{name}: stopped; the same command goes on from what is done", file=sys.stderr)
            sys.exit(130)
        if not isinstance(error, ValueError | OSError) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"{name}: {error}", file=sys.stderr)
        if is_in_sweep():
            raise  # Hydra goes on with the sweep's other jobs, and fails at its end
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, usual)
