"""What one policy did on one request stream: what it saw, thought and caused, and what its fleet held."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from agents import cells
from agents.build_env import build_env
from agents.cells import Cell, build_policy
from agents.policy import Foreseeing
from agents.recording import recorder_of
from agents.rollout import LEDGER_COLUMNS, play_foreseen
from agents.viewer.fleet_over_time import STATUSES, FleetOverTime, Watched
from conf.build import ConfigError
from envs.cluster import Cluster
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import UP
from envs.live.recording import HEADER, Recording, matrix
from envs.observation import (
    FRAC_KV_CACHE_USAGE,
    FRAC_PREFIX_HITS,
    INSTANCE_FEATURES,
    NUM_RUNNING,
    NUM_WAITING,
    REQUEST_FEATURES,
)

NOBODY = -1
"""Stands for a decision that there is not."""
_OF_RECORDING = ("at_s", "router", "request_id", "session_id", "turn", "slo_ttft_s")
_MATRICES = ("instances", "request", "mask", "scores", "propensities")


class Episode(NamedTuple):
    """All arrays but those of ``fleet`` begin with ``num_decisions``."""

    policy: str
    names: list[str]
    """Of the instances, ``[num_instances]``."""
    decisions: pd.DataFrame
    """``LEDGER_COLUMNS``; and when, on which router, of which request it was (``envs.live.recording``), and
    ``ended_at_s``: when its request was done, or its router learned that it had failed."""
    instances: NDArray[np.float32]
    """Features as they were seen, ``[..., num_instances, num_instance_features]``."""
    request: NDArray[np.float32]
    """``[..., num_request_features]``."""
    mask: NDArray[np.bool_]
    """``[..., num_instances]``, like the two that follow."""
    scores: NDArray[np.float64]
    propensities: NDArray[np.float64]
    fleet: FleetOverTime
    """What the instances held; of live ones what the router had scraped at each decision."""


def replayed(config: DictConfig, directory: Path, cell: Cell, num_looks: int) -> Episode:
    """Play an emulated cell of an evaluation once more and look on.

    Args:
        config: The evaluation's.
        directory: Its directory.
        cell: Which.
        num_looks: How often to look at the fleet, evenly over the episode.

    Raises:
        ValueError: Something went otherwise than in the evaluation; names the first difference.
    """
    ledger, _ = cells.read(directory, cell)
    with closing(build_env(config)) as env, TemporaryDirectory() as folder:
        watched = Watched(cast(EmulatedCluster, env.cluster), _end_s(ledger) / num_looks)
        policy = build_policy(config, cell.policy)
        with recorder_of(env, Path(folder), cell.policy) as recorder:
            if isinstance(policy, Foreseeing):  # which asks the cluster itself; nobody watches its tries
                policy.foresee(env, cell.seed)
            env.cluster = cast(Cluster, watched)
            played = play_foreseen(env, policy, cell.seed, recorder).ledger
        watched.look()  # once more, when all is over
        if difference := _first_difference(ledger, played):
            raise ValueError(
                f"{cell.path(directory)}: played once more, {difference}. The code, the trace or what the"
                " policy was trained to be (of a network, the machine too) is another now: evaluate anew"
            )
        return _episode(cell, Recording(folder), ledger, watched.seen())


def recorded(directory: Path, cell: Cell) -> Episode:
    """Read a cell of an evaluation over servers, which cannot be played once more, from its recording.

    Raises:
        ValueError: There is no recording, or it is not of this ledger.
    """
    path = cell.recording(directory)
    if not (path / HEADER).exists():
        raise ConfigError(
            f"run: {directory} was served by servers and not recorded (there is no {path}), so what they did"
            " cannot be shown; evaluate with record=true"
        )
    return _episode(cell, Recording(path), cells.read(directory, cell)[0], None)


def partners(decisions: pd.DataFrame, others: pd.DataFrame) -> NDArray[np.int64]:
    """By which decision another policy dealt with the same request in the end, ``NOBODY`` where by none.

    The n-th request of both is the same one where it arrived at the same instant in both. In a closed loop,
    where a user's next request waits for the last answer, they are told by their session and turn instead.

    Args:
        decisions: Of one episode, as in ``Episode``.
        others: Of the other.

    Returns:
        Ids of the other's decisions, ``[num_decisions]``.
    """
    first, last = (
        held[~held["is_retried"].astype(bool)].sort_values("request_id") for held in (decisions, others)
    )
    content = ["request_id", "arrived_at_s", "num_prompt_tokens"]
    if np.array_equal(first[content].to_numpy(), last[content].to_numpy()):
        key = ["request_id"]
    else:
        key, last = ["session_id", "turn"], last[last["session_id"] >= 0]
    ids = last.drop_duplicates(key, keep=False)[[*key, "decision_id"]]
    found = decisions[key].merge(ids, "left", key)["decision_id"]
    ids_of: NDArray[np.int64] = found.fillna(NOBODY).to_numpy(np.int64)
    return ids_of


def _episode(cell: Cell, recording: Recording, ledger: pd.DataFrame, fleet: FleetOverTime | None) -> Episode:
    made, outcomes = recording.decisions((*_OF_RECORDING, "instance", *_MATRICES)), recording.outcomes()
    ledger = ledger.reset_index(drop=True)
    if not np.array_equal(made["instance"].to_numpy(), ledger["instance"].to_numpy()):
        raise ValueError(f"{recording.directory}: its decisions are not the ledger's; evaluate anew")
    names = [str(traits["name"]) for traits in recording.header["instances"]]
    most, num = recording.header["max_instances"], len(names)
    decisions = ledger[list(LEDGER_COLUMNS)].assign(**{name: made[name].to_numpy() for name in _OF_RECORDING})
    learned_at_s = np.full(len(ledger), np.nan)
    learned_at_s[outcomes["decision_id"].to_numpy()] = outcomes["observed_at_s"].to_numpy()
    finished_at_s = decisions["arrived_at_s"] + decisions["e2e_s"]
    decisions["ended_at_s"] = finished_at_s.where(decisions["failure"] == "", learned_at_s)
    instances = matrix(made, "instances", most, len(INSTANCE_FEATURES))[:, :num]
    mask, scores, propensities = (matrix(made, name, most)[:, :num] for name in _MATRICES[2:])
    return Episode(
        cell.policy,
        names,
        decisions,
        instances,
        matrix(made, "request", len(REQUEST_FEATURES)),
        mask.astype(np.bool_),
        scores,
        propensities,
        _scraped(decisions, instances) if fleet is None else fleet,
    )


def _scraped(decisions: pd.DataFrame, instances: NDArray[np.float32]) -> FleetOverTime:
    """What a router had scraped of the fleet at each decision, as far as that goes."""
    shape = instances.shape[:2]
    return FleetOverTime(
        decisions["at_s"].to_numpy(),
        instances[..., NUM_RUNNING].astype(np.int64),
        instances[..., NUM_WAITING].astype(np.int64),
        instances[..., FRAC_KV_CACHE_USAGE].astype(np.float64),
        instances[..., FRAC_PREFIX_HITS].astype(np.float64),
        np.full(shape, STATUSES.index(UP)),
        np.ones(shape),
    )


def _end_s(ledger: pd.DataFrame) -> float:
    """When the last request was done; where none was, when the last one arrived."""
    finished_at_s = ledger["arrived_at_s"] + ledger["e2e_s"].fillna(0.0)
    return float(finished_at_s.max()) or 1.0


def _first_difference(ledger: pd.DataFrame, played: pd.DataFrame) -> str:
    """In what two ledgers differ; empty where they do not."""
    if len(ledger) != len(played):
        return f"there are {len(played)} decisions, not {len(ledger)}"
    places: dict[str, int] = {}
    for column in LEDGER_COLUMNS:
        there, here = ledger[column].to_numpy(), played[column].to_numpy()
        differs = (there != here) & ~(pd.isna(there) & pd.isna(here))
        if differs.any():
            places[column] = int(np.argmax(differs))
    if not places:
        return ""
    column = min(places, key=lambda name: places[name])
    row: Any = places[column]
    return f"{column} of decision {row} is {played[column][row]}, not {ledger[column][row]}"
