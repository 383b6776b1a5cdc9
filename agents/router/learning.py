"""Online learning (Lodestar's loop): what requests took goes to a trainer, new policies come back.

The trainer is a process of its own (``agents.router.trainer``): training takes no time of the router's, and
whatever becomes of it, serving goes on with the last policy. A new version is loaded beside the old one and
put into its place between two decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.export import bundle
from agents.export.runtime import BundlePolicy
from agents.files import write_json
from agents.router.log import Log
from agents.router.samples import NUM_FLOATS, frame
from agents.router.versions import SETTINGS, version_path, versions
from envs.taken import take

EVERY_S = 0.1
"""Between two frames to the trainer."""
MAX_HELD = 4096
"""Samples that wait for a frame; further ones are dropped and counted."""
MAX_BUFFERED_BYTES = 4 << 20
"""In the pipe: a trainer that trains does not read."""
END_S = 2.0
"""For a trainer to end by itself."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Before a trainer that ended is started again."""


@dataclass(frozen=True)
class LearningSettings:
    """What learns, and where its versions lie."""

    agent: Mapping[str, Any]
    """Config node of a bandit."""
    directory: str
    run: str | None = None
    """Directory of a training run whose result it starts with; None: it starts with nothing."""
    export_every: int = 100
    """Samples between two versions at least."""
    keep: int = 10
    """Versions that are kept, to be rolled back to."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("export_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"learning.{name} is {getattr(self, name)}, it must be at least 1")


class Learning:
    """Feeds a trainer and takes its versions.

    Args:
        settings: See there.
        fallback: Config node of the router's heuristic.
        max_instances: Of the router.
        log: Told of versions, and of trainers that end.
        seed: Of the trainer.
    """

    def __init__(
        self,
        settings: LearningSettings,
        fallback: Mapping[str, Any],
        max_instances: int,
        log: Log,
        seed: int = 0,
    ) -> None:
        self.settings, self.log = settings, log
        self.adopt: Callable[[BundlePolicy], None] = lambda policy: None
        """Called with each new policy, in the router's loop; raises ``ValueError`` where it cannot be."""
        self.directory = Path(settings.directory)
        self.counts: Counter[str] = Counter()
        """``num_taught``, ``num_dropped`` (samples), ``num_starts``, ``num_refused`` (versions)."""
        self.version: int | None = None
        """That decides, of those made here."""
        self.is_pinned = False
        """Whether new versions wait, because one was chosen by hand."""
        self.curve: list[tuple[int, int]] = []
        """(version, samples that it had learned from)."""
        self._process: asyncio.subprocess.Process | None = None
        self._held = np.empty((MAX_HELD, NUM_FLOATS), np.float32)
        self._num_held = 0
        self._taking: int | None = None
        """The version that is to decide."""
        self._tasks: list[asyncio.Task[None]] = []
        self._taken: int | None = None
        """The directory, locked as long as it is open."""
        self._trainer_settings = {
            "agent": settings.agent,
            "run": settings.run,
            "fallback": fallback,
            "export_every": settings.export_every,
            "keep": settings.keep,
            "max_instances": max_instances,
            "seed": seed,
        }

    @property
    def versions(self) -> list[int]:
        """That can be chosen."""
        return versions(self.directory)

    @property
    def process_id(self) -> int | None:
        """The trainer's."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Begin; the last version that is there decides from now on.

        Raises ``ValueError`` where another router learns in the same directory, ``OSError`` where that cannot
        be written.
        """
        try:
            self._taken = take(self.directory)
        except BlockingIOError as error:
            raise ValueError(
                f"learning.directory: another router learns in {self.directory}; give another one"
            ) from error
        except OSError as error:
            raise OSError(
                f"learning.directory: cannot learn in {self.directory} ({error.strerror}); give a directory"
                " that can be written"
            ) from error
        write_json(self.directory / SETTINGS, self._trainer_settings)
        if held := self.versions:
            with contextlib.suppress(ValueError):  # told of already
                await self._take(held[-1])
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._send())]

    async def stop(self) -> None:
        """End the trainer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process)
        if self._taken is not None:
            os.close(self._taken)

    def teach(self, row: NDArray[np.float32], ttft_s: float) -> None:
        """Tell of a request: encoded row of its instance, and its TTFT. Never waits."""
        if self._num_held == MAX_HELD:
            self.counts["num_dropped"] += 1
            return
        sample = self._held[self._num_held]
        sample[:-1], sample[-1] = row, ttft_s
        self._num_held += 1

    async def choose(self, number: int | None) -> None:
        """Let a version decide and others wait; None: let the last one decide, and new ones follow.

        Raises ``ValueError`` where there is none of this number, or it cannot be loaded.
        """
        held = self.versions
        if number is not None and number not in held:
            there = ", ".join(map(str, held)) or "none"
            raise ValueError(f"there is no version {number}; there is {there}")
        was_pinned, self.is_pinned = self.is_pinned, number is not None
        try:
            if number is not None or held:
                await self._take(held[-1] if number is None else number)
        except ValueError:
            self.is_pinned = was_pinned
            raise

    def stand_back(self) -> None:
        """Let another policy decide, and new versions wait until one is chosen."""
        self.is_pinned, self.version, self._taking = True, None, None

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()  # at which it ends
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:  # it trains
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _take(self, number: int) -> None:
        """Let a version decide, unless another one is to by the time it is loaded.

        Raises ``ValueError`` where it cannot.
        """
        self._taking = number
        try:
            policy = await asyncio.to_thread(bundle.load, version_path(self.directory, number))
            if self._taking != number:
                return
            self.adopt(policy)
        except ValueError as error:
            self.counts["num_refused"] += 1
            self.log.event("version_refused", version=number, reason=str(error))
            raise
        self.version = number
        self.log.event("version_adopted", version=number)

    async def _send(self) -> None:
        """Hand on what is held, every so often."""
        while True:
            await asyncio.sleep(EVERY_S)
            process, num = self._process, self._num_held
            if not num:
                continue
            self._num_held = 0
            pipe = None if process is None or process.returncode is not None else process.stdin
            if pipe is None or pipe.transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
                self.counts["num_dropped"] += num
                continue
            pipe.write(frame(self._held[:num]))
            self.counts["num_taught"] += num

    async def _supervise(self) -> None:
        """Keep a trainer running."""
        wait_s = FIRST_WAIT_S
        while True:
            self.counts["num_starts"] += 1
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "agents.router.trainer",
                    str(self.directory),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:  # there is no memory for it, or too many run
                self.log.event("trainer_not_started", reason=str(error), starts_again_in_s=wait_s)
            else:
                self._process = process
                assert process.stdout is not None
                while line := await process.stdout.readline():
                    if await self._hear(line):
                        wait_s = FIRST_WAIT_S
                status = await process.wait()
                self.log.event("trainer_ended", status=status, starts_again_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)

    async def _hear(self, line: bytes) -> bool:
        """Take in what the trainer says; return whether it made a version."""
        try:
            said = json.loads(line)
            event, num_learned, version = said["event"], said["num_learned"], said.get("version")
        except (ValueError, KeyError, TypeError, AttributeError):  # of a library, or cut off by a kill
            self.log.event("trainer_said", line=line.decode("utf-8", "replace").rstrip())
            return False
        if event != "version":
            self.log.event(event, num_learned=num_learned)
            return False
        self.curve.append((version, num_learned))
        del self.curve[:-1000]
        if not self.is_pinned:
            with contextlib.suppress(ValueError):  # told of already
                await self._take(version)
        return True
