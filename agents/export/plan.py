"""The plan of a policy: what it computes from an observation, its fallback's plan beside it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.bandits.predictor import ROUNDING
from agents.export.runtime import DECISION, FALLBACK, INPUTS
from agents.export.tracing import CannotExportError, Traced, Tracer
from agents.policy import Exportable, Judgement, Look, Policy
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

_FEATURES = (*INSTANCE_FEATURES, *REQUEST_FEATURES)


class Range(NamedTuple):
    """What a policy was trained on: bounds of each encoded feature, float32 ``[num_encoded]``."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def trace(policy: Policy, fallback: Policy | None, trained_on: Range | None, max_instances: int) -> Tracer:
    """Return the plan.

    Args:
        policy: What decides.
        fallback: A heuristic that decides where the policy has no right to.
        trained_on: Where that is not said by the policy itself; None: everywhere it has.
        max_instances: The most that it will be asked about.

    Raises:
        CannotExportError: One of them cannot be exported, or both have a memory.
    """
    tracer = Tracer()
    mask = tracer.input("mask", np.array([1, 0, 1, 1, 0], np.bool_))
    instances = tracer.input("instances", np.ones((5, len(INSTANCE_FEATURES)), np.float32))
    request = tracer.input("request", np.ones(len(REQUEST_FEATURES), np.float32))
    memory = tracer.input("memory", np.int64(0))
    assert {"instances", "request", "mask", "memory"} == set(INPUTS)
    valid = instances[mask]
    look = Look(
        instances=valid,
        encoded=_encoded(tracer, valid, request),
        request=request,
        indices=tracer.step("Places", mask),
        mask=mask,
        memory=memory,
        max_instances=max_instances,
    )
    judgement = _judged(policy, look)
    is_out = judgement.is_out_of_range
    if is_out is None and trained_on is not None:
        outside = (look.encoded < trained_on.low - ROUNDING) | (look.encoded > trained_on.high + ROUNDING)
        is_out = (outside & (judgement.propensities > 0.0)[:, None]).any()
    if is_out is None:
        is_out = (judgement.propensities < 0.0).any()  # never
    outputs = [*_expanded(judgement, mask), is_out]
    names = list(DECISION)
    if fallback is not None:
        if _memory(policy) != "none" and _memory(fallback) != "none":
            raise CannotExportError("policy and fallback each have a memory: take another fallback")
        outputs += _expanded(_judged(fallback, look), mask)
        names += FALLBACK
    for name, value in zip(names, outputs, strict=True):
        tracer.name(value, name)
    tracer.keep(names)
    return tracer


def columns_read(policy: Policy) -> frozenset[int]:
    """Columns of ``observation["instances"]`` that its decisions can depend on.

    All of them where it cannot be exported, and so cannot be looked into.
    """
    everything = frozenset(range(len(INSTANCE_FEATURES)))
    try:
        steps = trace(policy, None, None, max_instances=8).steps
    except ValueError:
        return everything
    rows, read = {"instances"}, set[int]()
    for step in steps:
        if step.inputs[0] in rows and step.operation in ("Compress", "Cast"):
            rows.add(step.output)
        elif step.inputs[0] in rows and step.operation == "Column":
            index = step.attributes["index"]
            read.update(index if isinstance(index, list) else [index])
        elif not rows.isdisjoint(step.inputs):
            return everything
    return frozenset(read)


def memory_of(policy: Policy, fallback: Policy | None) -> str:
    """What the plan's input ``memory`` says."""
    return next((memory for memory in (_memory(policy), _memory(fallback)) if memory != "none"), "none")


def _memory(policy: Policy | None) -> str:
    return str(getattr(policy, "memory", "none"))


def _judged(policy: Policy, look: Look) -> Judgement:
    if not isinstance(policy, Exportable):
        raise CannotExportError(
            f"{type(policy).__name__} cannot be exported: it has no method export"
            " (agents.policy.Exportable says what that is)"
        )
    if _memory(policy) == "own":
        raise CannotExportError(
            f"{type(policy).__name__} cannot be exported: it goes by what it keeps of earlier decisions and"
            " outcomes, which no bundle does; export another rule"
        )
    return policy.export(look)


def _encoded(tracer: Tracer, rows: Traced, request: Traced) -> Any:
    """``envs.observation.encode`` of the rows that are valid."""
    columns = [index for index, feature in enumerate(REQUEST_FEATURES) if feature.transform != "key"]
    wide = rows[:, [0] * len(columns)] * np.float32(0.0) + request[..., columns]
    encoded = [feature for feature in _FEATURES if feature.transform != "key"]
    scales = np.array([feature.scale for feature in encoded], np.float32)
    is_log = np.array([feature.transform == "log1p" for feature in encoded])
    linear = np.concatenate([rows, wide], axis=1) / scales
    return np.where(is_log, np.log1p(np.maximum(linear, 0.0)), linear)


def _expanded(judgement: Judgement, mask: Traced) -> list[Traced]:
    step = mask.tracer.step
    return [
        step("Expand", judgement.scores, mask, fill="-inf"),
        step("Expand", judgement.propensities, mask, fill="0"),
    ]
