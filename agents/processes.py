"""Independent jobs, in this process or in several, with a bar that shows how many are done.

Each job leaves its result in files of its own, whole or not at all, so that Ctrl-C at any time leaves a run
that can be taken up again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from tqdm import tqdm

from agents.program import use_one_thread

Result = TypeVar("Result")
GRACE_S = 2.0
"""Time for a process to clear away what it has not finished."""


def run_jobs(
    job: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], num_workers: int, unit: str
) -> Iterator[Result]:
    """Yield what ``job`` returns for each of ``arguments``, in the order in which they end.

    With more than one worker, job and arguments must be picklable. An exception of a job ends them all.
    """
    with tqdm(total=len(arguments), unit=f" {unit}", disable=None) as bar:
        if num_workers == 1 or len(arguments) < 2:
            for argument in arguments:
                result = job(*argument)
                bar.update()
                yield result
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, context, _begin_process) as pool:
            # Children keep what is ignored as they are spawned: Ctrl-C is for the parent to deal with.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                futures = [pool.submit(job, *argument) for argument in arguments]
            finally:
                signal.signal(signal.SIGINT, handler)
            try:
                for future in as_completed(futures):
                    result = future.result()
                    bar.update()
                    yield result
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                _end(multiprocessing.active_children())
                if isinstance(error, BrokenProcessPool):
                    raise OSError(
                        f"a process that was making {unit} was ended from outside, for want of memory"
                        " perhaps; the same command goes on from what is done, with num_workers=1"
                        " in less memory"
                    ) from error
                raise


def _end(children: Sequence[BaseProcess]) -> None:
    """End processes: what they have not finished is not written.

    They are asked first, to remove what is half-written. But an executor takes a job that exits for one that
    failed, and its process goes on with the next job that it holds already.
    """
    for child in children:
        child.terminate()
    for child in children:
        child.join(GRACE_S)
        if child.is_alive():
            child.kill()


def _end_process(*_: object) -> None:
    """Unwind, so that unfinished files are removed; what libraries say of it is for nobody."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(1)


def _begin_process() -> None:
    signal.signal(signal.SIGTERM, _end_process)
    use_one_thread()
