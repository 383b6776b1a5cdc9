"""The trainer of a router: a process of its own, which learns from what the router tells it.

    python -m agents.router.trainer DIRECTORY         (the router starts it)

It reads ``trainer.json`` in the directory (which agent, from which training run) and samples from its
standard input, until that ends. Each time the agent has learned something new, it is exported as
``DIRECTORY/000001``, ``000002``, ..., and a line of JSON on standard output says so. What was learned lies in
``learner.npz``; a trainer that is killed goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import checkpoint
from agents.export import writing
from agents.export.plan import Range
from agents.files import read_json, remove_parts
from agents.online import load_learner
from agents.policy import Policy, Teachable
from agents.program import use_one_thread
from agents.router.samples import read_frame
from agents.router.versions import SETTINGS, version_path, versions
from conf.build import ConfigError, build
from envs.observation import ENCODED_NAMES

STATE = "learner.npz"
NICENESS = 10
"""So that serving comes first where cores are few."""
RANGE_MARGIN = 0.25


def teachable(node: Any, run: str | None, seed: int = 0) -> Teachable:
    """The agent that a config node describes, with what it learned in a training run if it had one.

    Raises ``ConfigError`` where it cannot learn from others' decisions, or nothing whole was trained there.
    """
    agent = build(node, "learning.agent")
    if not isinstance(agent, Teachable):
        raise ConfigError(
            f"learning.agent: {type(agent).__name__} cannot learn in a router; take lodestar or linucb"
        )
    if run is not None:
        load_learner(agent, Path(run))
    agent.reset(np.random.default_rng(seed))
    return agent


def take_up(directory: Path, agent: Teachable) -> dict[str, Any] | None:
    """Give an agent what was learned in a directory; return all that was kept there, None where nothing was.

    Raises ``ConfigError`` where another kind of agent learned it.
    """
    if not (directory / STATE).exists():
        return None
    state = checkpoint.load(directory / STATE)
    try:
        agent.load_state(state["agent"])
    except ValueError as error:
        raise ConfigError(
            f"{directory / STATE}: another agent learned this ({error}); give another learning.directory, or"
            " remove this one"
        ) from error
    return state


class Trainer:
    """Learns, exports, and keeps what it learned.

    Args:
        directory: Of the versions.
        agent: Learns.
        fallback: Exported beside it.
        export_every: Samples between two exports at least.
        keep: Versions that are kept.
        max_instances: The most that exported policies will be asked about.
    """

    def __init__(
        self,
        directory: Path,
        agent: Teachable,
        fallback: Policy,
        export_every: int,
        keep: int,
        max_instances: int,
    ) -> None:
        self.directory, self.agent, self.fallback = directory, agent, fallback
        self.export_every, self.keep, self.max_instances = export_every, keep, max_instances
        self.num_learned = self._num_since = 0
        self._is_new = False
        self._low = np.full(len(ENCODED_NAMES), np.inf, np.float32)
        self._high = -self._low
        if (state := take_up(directory, agent)) is not None:
            self.num_learned = int(state["num_learned"])
            self._low, self._high = state["low"], state["high"]

    def learn(self, samples: NDArray[np.float32]) -> int | None:
        """Take samples in; return the number of the version that was exported, if one was."""
        rows = samples[:, :-1]
        self._low = np.minimum(self._low, rows.min(axis=0))
        self._high = np.maximum(self._high, rows.max(axis=0))
        for row, ttft_s in zip(rows, samples[:, -1].tolist(), strict=True):
            self._is_new |= self.agent.learn(row, ttft_s)
            self.num_learned += 1
            self._num_since += 1
        if not self._is_new or self._num_since < self.export_every:
            return None
        self._is_new, self._num_since = False, 0
        return self._export()

    def _export(self) -> int:
        held = versions(self.directory)
        number = held[-1] + 1 if held else 1
        wider = np.float32(RANGE_MARGIN) * (self._high - self._low)
        name = type(self.agent).__module__.split(".")[-1]
        export = writing.Export(
            name=name,
            policy=self.agent,
            fallback=self.fallback,
            fallback_name=type(self.fallback).__module__.split(".")[-1],
            trained_on=Range(self._low - wider, self._high + wider),
            max_instances=self.max_instances,
        )
        text = f"# {name}\n\nLearned in a router, from {self.num_learned} requests. Version {number}.\n"
        writing.write(version_path(self.directory, number), export, lambda part: text)
        state = {
            "agent": self.agent.state(),
            "num_learned": self.num_learned,
            "low": self._low,
            "high": self._high,
        }
        checkpoint.save(self.directory / STATE, state)
        for old in held[: max(len(held) + 1 - self.keep, 0)]:
            shutil.rmtree(version_path(self.directory, old))
        return number


def main(directory: Path) -> None:
    """Run until standard input ends."""
    os.nice(NICENESS)
    use_one_thread()
    remove_parts(directory)
    settings = read_json(directory / SETTINGS)
    trainer = Trainer(
        directory,
        teachable(settings["agent"], settings["run"], settings["seed"]),
        build(settings["fallback"], "heuristic"),
        settings["export_every"],
        settings["keep"],
        settings["max_instances"],
    )
    _say(event="trainer_ready", num_learned=trainer.num_learned)
    while (samples := read_frame(sys.stdin.buffer)) is not None:
        number = trainer.learn(samples)
        if number is not None:
            _say(event="version", version=number, num_learned=trainer.num_learned)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
