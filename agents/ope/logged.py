"""Recorded decisions as arrays: what was seen, with what probability what was chosen, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from envs.live.recording import Recording, RecordingError, difference, matrix
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, SCHEMA_HASH, Observation

COSTS = ("ttft_s", "e2e_s", "slo_miss")
"""What a decision may cost: a latency of its request in seconds, or 1 where its objective was missed."""
ROUNDING = 1e-6
"""By how much the probabilities of one decision may sum to other than 1."""
_COLUMNS = ("router", "instance", "request_id", "instances", "request", "mask", "propensities")


@dataclass(frozen=True)
class Logged:
    """The decisions of some recordings on one cluster, in order; all arrays begin with ``num_decisions``."""

    episode: NDArray[np.int64]
    """Counted from 0 over all recordings."""
    decision_id: NDArray[np.int64]
    router: NDArray[np.int64]
    instance: NDArray[np.int64]
    """Which one was chosen."""
    instances: NDArray[np.float32]
    """Raw features, ``[num_decisions, max_instances, num_instance_features]``."""
    request: NDArray[np.float32]
    """``[num_decisions, num_request_features]``."""
    mask: NDArray[np.int8]
    """``[num_decisions, max_instances]``."""
    propensities: NDArray[np.float64]
    """Probability of each instance under the policy that decided, ``[num_decisions, max_instances]``."""
    cost: NDArray[np.float64]
    """NaN where the outcome is not known."""

    def __len__(self) -> int:
        return len(self.cost)

    def observation(self, row: int) -> Observation:
        """What was seen at one decision."""
        return {"instances": self.instances[row], "request": self.request[row], "mask": self.mask[row]}

    def take(self, rows: NDArray[np.intp]) -> Logged:
        """The decisions of these rows."""
        return Logged(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @property
    def known(self) -> NDArray[np.intp]:
        """Rows whose outcome is known."""
        return np.flatnonzero(~np.isnan(self.cost))


def read(directories: Sequence[str | Path], cost: str, failed_s: float | None) -> Logged:
    """Read recordings.

    What a decision cost is what became of its request in the end: of one that was sent again after a
    failure, the outcome of the last attempt, whose latencies count from its arrival.

    Args:
        directories: Of the recordings, all of them on the same cluster.
        cost: One of ``COSTS``.
        failed_s: What the latency of a request that failed for good counts as, e.g. the timeout after which
            a user gives up; null: there is none. A failure misses its objective in any case.

    Raises:
        ValueError: Recordings of another feature table or of different clusters, without propensities,
            without a single outcome, failures without ``failed_s``; each by name.
    """
    if cost not in COSTS:
        raise ValueError(f"cost is {cost!r}: choose one of {', '.join(COSTS)}")
    if failed_s is not None and not 0 <= failed_s < float("inf"):
        raise ValueError(f"failed_s is {failed_s}, it must be a time in seconds")
    recordings = [Recording(directory) for directory in directories]
    if not recordings:
        raise ValueError("there is no recording: give the directory of one")
    for recording in recordings:
        if recording.header["schema_hash"] != SCHEMA_HASH:
            raise RecordingError(
                f"{recording.directory}: its features are those of schema {recording.header['schema_hash']},"
                f" this version's of {SCHEMA_HASH}: policies would misread them; use the version that"
                f" recorded it ({recording.header['versions']})"
            )
        if differs := difference(recording.header, recordings[0].header):
            raise RecordingError(
                f"{recording.directory} and {recordings[0].directory} differ ({differs}): evaluate on each"
            )
    parts: list[Logged] = []
    for recording in recordings:
        first = parts[-1].episode[-1] + 1 if parts else 0
        parts.append(_read(recording, cost, failed_s, first))
    fields = Logged.__dataclass_fields__
    return Logged(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def _read(recording: Recording, cost: str, failed_s: float | None, first_episode: int) -> Logged:
    made, outcomes = recording.decisions(_COLUMNS), recording.outcomes()
    num = recording.header["max_instances"]
    logged = Logged(
        episode=first_episode + np.unique(made["episode"].to_numpy(), return_inverse=True)[1],
        decision_id=made["decision_id"].to_numpy(),
        router=made["router"].to_numpy(),
        instance=made["instance"].to_numpy(),
        instances=matrix(made, "instances", num, len(INSTANCE_FEATURES)),
        request=matrix(made, "request", len(REQUEST_FEATURES)),
        mask=matrix(made, "mask", num),
        propensities=matrix(made, "propensities", num),
        cost=_costs(recording.directory, made, outcomes, cost, failed_s),
    )
    if not len(logged.known):
        raise RecordingError(f"{recording.directory}: it holds no decision whose outcome is known")
    _check_propensities(recording.directory, logged)
    return logged


def _check_propensities(directory: Path, logged: Logged) -> None:
    rows = np.arange(len(logged))
    with np.errstate(invalid="ignore"):
        good = logged.propensities[rows, logged.instance] > 0
        good &= (logged.propensities >= 0).all(axis=1)
        good &= np.abs(logged.propensities.sum(axis=1) - 1) <= ROUNDING
    if not good.all():
        bad = int(good.argmin())
        raise RecordingError(
            f"{directory}: {int((~good).sum())} of {len(good)} decisions have no propensities, first decision"
            f" {logged.decision_id[bad]} (instance {logged.instance[bad]} of"
            f" {logged.propensities[bad].tolist()}): without the probabilities with which instances were"
            " chosen nothing can be told of other policies; record by a policy that declares them"
        )


def _costs(
    directory: Path, made: pa.Table, outcomes: pa.Table, cost: str, failed_s: float | None
) -> NDArray[np.float64]:
    """Cost per decision, NaN where the outcome is not known."""
    keys = ["episode", "decision_id"]
    told = outcomes.select([*keys, "ttft_s", "e2e_s", "slo_met", "failure", "is_retried"]).to_pandas()
    table = made.select([*keys, "request_id"]).to_pandas().merge(told, how="left", on=keys)
    rows = table.index.to_series()
    last = rows.groupby([table["episode"], table["request_id"]]).transform("max")
    end = table.loc[last.where(table["is_retried"].eq(True), rows)].reset_index(drop=True)
    is_known = end["is_retried"].eq(False)  # NaN: no outcome; True: the recording broke off before the next
    failed = is_known & end["failure"].ne("")
    if cost == "slo_miss":
        paid = (failed | end["slo_met"].eq(False)).astype(np.float64)
    elif failed_s is None and failed.any():
        raise RecordingError(
            f"{directory}: {int(failed.sum())} decisions are of requests that failed and have no {cost}: say"
            " by failed_s=SECONDS what a failure shall count as, e.g. the request's timeout"
        )
    else:
        paid = end[cost].mask(failed, failed_s)
    return np.asarray(paid.where(is_known), np.float64)
