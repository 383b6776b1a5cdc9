r"""An attack on the world as files that replay anywhere: a request trace and a schedule.

    requests, schedule = materialise(replay, threat, values, seed)
    save(directory, requests, schedule)

Then, with any policies::

    routegym-evaluate experiment=heuristics workload=stored workload.path=DIRECTORY/requests.parquet \
        world=quiet world.schedule=DIRECTORY/schedule.json

On a live cluster, which takes no schedule, the requests alone. The environment and seed of the attack give
the very outcome that the attack had.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adversary.threat import Values
from adversary.validate import require_valid
from adversary.world.stream import AttackedStream, stream_rng
from adversary.world.threat import WorldThreat
from envs.cluster import Request
from envs.workload import stored
from envs.workload.stream import Workload
from envs.workload.trace import Trace
from envs.world import Schedule

REQUESTS, SCHEDULE = "requests.parquet", "schedule.json"


def materialise(base: Workload, threat: WorldThreat, values: Values, seed: int) -> tuple[Trace, Schedule]:
    """What an attack, ``[num_windows, num_knobs]`` within bounds and budget, makes of the stream of a seed.

    Raises ``ValueError`` where the attack does more than it may, and where the requests hold what a trace
    does not: models, priorities, objectives that differ, or the content of answers.
    """
    schedule = threat.schedule(values)
    require_valid(threat.knobs(threat.num_instances(values.shape[1])), threat.budget, values)
    stream = AttackedStream(base, threat, values)
    stream.reset(stream_rng(seed))
    requests = []
    while not stream.exhausted:
        requests.append(stream.pop())
    return _trace(requests, stream), schedule


def save(directory: Path, requests: Trace, schedule: Schedule) -> None:
    """Write the two files; ``requests.parquet`` and ``schedule.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    stored.save(requests, directory / REQUESTS)
    schedule.save(directory / SCHEDULE)


def load(directory: Path) -> tuple[Trace, Schedule]:
    """Read the two files. Raises ``ValueError`` naming the one that cannot be used."""
    return stored.load(directory / REQUESTS), Schedule.load(directory / SCHEDULE)


def _trace(requests: list[Request], stream: AttackedStream) -> Trace:
    block_size = stream.block_size
    for request in requests:
        if (
            len(request.block_hashes) > request.num_prompt_tokens // block_size
            or (request.model, request.priority, request.slo) != ("", 0, stream.base.slo)
        ):  # fmt: skip
            raise ValueError(
                f"request {request.request_id} of the attack has a model, a priority, an objective of its own"
                " or an answer whose content is known, which a stored trace does not hold: take a workload"
                " without"
            )
    hashes = np.concatenate([request.block_hashes for request in requests])
    nums = [len(request.block_hashes) for request in requests]

    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([getattr(request, name) for request in requests], np.int64)

    return Trace(
        arrived_at_s=np.array([request.arrived_at_s for request in requests]),
        num_prompt_tokens=column("num_prompt_tokens"),
        num_output_tokens=column("num_output_tokens"),
        session_id=column("session_id"),
        turn=column("turn"),
        tenant=column("tenant"),
        hash_ids=np.unique(hashes, return_inverse=True)[1].astype(np.int64),
        hash_offsets=np.concatenate(([0], np.cumsum(nums))),
        hash_block_tokens=block_size if len(hashes) else 0,
        notes=stream.notes,
    )
