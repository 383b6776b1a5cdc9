"""Routes with an exported policy: NumPy alone, this one file, no import of RouteGym.

    policy = load("the/bundle's/folder")
    policy.reset(np.random.default_rng(0))
    decision = policy.act({"instances": ..., "request": ..., "mask": ...})
    send the request to instance decision.instance

In a bundle this file is ``policy.py``; inside of RouteGym it is ``agents.export.runtime``. ``schema.json``
names the features of an observation, their units and their order. The policy itself is data: a plan of array
operations, each one of ``OPERATIONS``, and its constants, both in ``policy.npz``. Nothing in a bundle is run
as code when it is loaded.

How it decides, here and in ``policy.onnx``: the plan turns an observation into ``propensities``, one number
per instance that add up to 1. With u drawn uniformly from [0, 1), the choice is the first instance at which
their running sum exceeds u. Equals share their probability, so this is also how ties are broken.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
SCHEMA, ARRAYS = "schema.json", "policy.npz"
MAX_BYTES = 1 << 28
"""Of a file, and of the arrays in it."""
MAX_STEPS = 10_000
PLAN = "plan"
INPUTS = ("instances", "request", "mask", "memory")
"""Of every plan: ``instances`` float32 ``[num_instances, num_instance_features]``, ``request`` float32
``[num_request_features]``, ``mask`` bool ``[num_instances]`` and ``memory``, an int64 (``schema.json`` says
which: 0 where the policy has none)."""
DECISION = ("scores", "propensities", "is_out_of_range")
"""Outputs: float64 ``[num_instances]`` twice, -inf and 0 where masked, and a bool."""
MEMORIES = {
    "none": "always 0",
    "turn": "how many decisions were made before among the same instances: those not masked",
    "session": "BLAKE2b of 8 bytes of 'session KEY', KEY being the request's session_key as a whole number,"
    " read as a little-endian number and halved (shifted right by one bit)",
}
"""What the input ``memory`` may be, and what it then says, in words."""
FALLBACK = ("fallback_scores", "fallback_propensities")
"""Outputs of the policy's fallback, where it has one."""

Array = Any
"""A NumPy array."""


def _expand(values: Array, mask: Array, fill: str) -> Array:
    expanded = np.full(mask.shape, float(fill), values.dtype)
    expanded[mask] = values
    return expanded


OPERATIONS: Mapping[str, Callable[..., Array]] = {
    "Abs": np.absolute,
    "Add": np.add,
    "And": np.logical_and,
    "Any": lambda values: values.any(),
    "ArgMax": lambda values: values.argmax(),
    "ArgMin": lambda values: values.argmin(),
    "ArgSort": lambda values: values.argsort(kind="stable"),
    "Cast": lambda values, to: values.astype(to),
    "Column": lambda values, index: values[..., index],
    "Compress": lambda values, mask: values[mask],
    "Concat": lambda *values, axis: np.concatenate(values, axis),
    "CumSum": lambda values: values.cumsum(),
    "Div": np.divide,
    "Dot": lambda one, other: one.dot(other),
    "Einsum": lambda *values, equation: np.einsum(equation, *values),
    "Equal": np.equal,
    "Exp": np.exp,
    "Expand": _expand,
    "Fill": lambda values, value: np.full_like(values, value),
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Log1p": np.log1p,
    "MatMul": np.matmul,
    "Max": np.maximum,
    "Mean": lambda values, axis: values.mean(axis),
    "Min": np.minimum,
    "Mod": np.remainder,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "NotEqual": np.not_equal,
    "Or": np.logical_or,
    "Places": lambda mask: mask.nonzero()[0],
    "ReduceMax": lambda values, axis: values.max(axis),
    "ReduceMin": lambda values, axis: values.min(axis),
    "Reverse": lambda values: values[::-1],
    "Size": lambda values: np.int64(len(values)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Sum": lambda values, axis: values.sum(axis),
    "Take": lambda values, index: values[index],
    "Unsqueeze": np.expand_dims,
    "Where": np.where,
}
"""What a plan may do. A further argument than arrays is an attribute of the step."""


class BundleError(ValueError):
    """A folder that holds no bundle, a damaged one, or one for other features; the message names it."""


class Decision(NamedTuple):
    """One routing decision."""

    instance: int
    propensities: NDArray[np.float64]
    """Probability of each instance, ``[num_instances]``; they sum to 1 and are 0 where masked."""
    scores: NDArray[np.float64]
    """What the policy thought of each instance, ``[num_instances]``: the higher the better, -inf where
    masked. Only their order has a meaning common to all policies."""

    @property
    def propensity(self) -> float:
        """Probability with which this instance was chosen."""
        return float(self.propensities[self.instance])


class Judged(NamedTuple):
    """A decision, and what is to be known of it."""

    decision: Decision
    is_out_of_range: bool
    """Whether what the policy would have chosen lies outside of what it was trained on."""


class Step(NamedTuple):
    """One operation of a plan."""

    operation: str
    inputs: tuple[str, ...]
    """Names of graph inputs, constants and results of earlier steps."""
    output: str
    attributes: Mapping[str, Any]


class Plan:
    """Runs the steps that some outputs need, in order.

    Args:
        steps: All of them.
        constants: By name.
        outputs: What is wanted.
    """

    def __init__(self, steps: Sequence[Step], constants: Mapping[str, Array], outputs: Sequence[str]) -> None:
        needed, wanted = [], set(outputs)
        for step in reversed(steps):
            if step.output in wanted:
                needed.append(step)
                wanted.update(step.inputs)
        places = {name: place for place, name in enumerate((*INPUTS, *constants))}
        self._values: list[Any] = [None] * len(INPUTS) + list(constants.values())
        self._steps: list[tuple[Callable[..., Array], tuple[int, ...], dict[str, Any]]] = []
        for step in reversed(needed):
            places[step.output] = len(self._values)
            self._values.append(None)
            inputs = tuple(places[name] for name in step.inputs)
            self._steps.append((OPERATIONS[step.operation], inputs, dict(step.attributes)))
        self._first = len(INPUTS) + len(constants)
        self._outputs = [places[name] for name in outputs]

    def __call__(self, *inputs: Array) -> list[Array]:
        """Return the outputs of ``INPUTS``."""
        values = self._values[:]
        values[: len(inputs)] = inputs
        for place, (operation, where, attributes) in enumerate(self._steps, self._first):
            values[place] = operation(*[values[number] for number in where], **attributes)
        return [values[place] for place in self._outputs]


def ring_position(name: str) -> int:
    """Where a name stands on a hash ring: its BLAKE2b-64, read as a little-endian number, halved."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


class BundlePolicy:
    """An exported policy. ``load`` makes one.

    Args:
        schema: What ``schema.json`` says.
        steps: Its plan.
        constants: By name.
    """

    def __init__(
        self, schema: Mapping[str, Any], steps: Sequence[Step], constants: Mapping[str, Array]
    ) -> None:
        self.schema = schema
        self.name, self.version = str(schema["name"]), str(schema["version"])
        self.max_instances = int(schema["limits"]["max_instances"])
        self.exploration = 0.0
        """Share of its own decisions that go to any instance, all alike."""
        self.has_fallback = schema["fallback"] is not None
        self.checks_range = schema["range_check"] is not None
        """Whether its own rule leaves to the fallback what is out of the range of its training."""
        self._memory = str(schema["memory"])
        self._session = [row[0] for row in schema["request_features"]].index("session_key")
        self._decide = Plan(steps, constants, DECISION)
        self._fall_back = Plan(steps, constants, FALLBACK) if self.has_fallback else None
        self.reset(np.random.default_rng())

    def reset(self, rng: np.random.Generator) -> None:
        """Begin: forget the fleet's past. ``rng`` is the policy's only chance."""
        self._rng = rng
        self._counts: Counter[str] = Counter()
        self._turns: Counter[bytes] = Counter()  # instances that may be chosen -> decisions among them

    def act(self, observation: Mapping[str, Array]) -> Decision:
        """Decide.

        Raises:
            ValueError: All instances are masked, a feature is not finite, or the shape is another.
        """
        decision, is_out = self.judge(observation)
        self._counts["fallback_out_of_range"] += is_out and self.checks_range
        return decision

    def judge(self, observation: Mapping[str, Array], check_range: bool = False) -> Judged:
        """Decide, and say whether that is out of range. Raises as ``act``.

        Args:
            observation: As of ``act``.
            check_range: Let the fallback decide there, where it is not the policy's own rule anyway.
        """
        inputs = self._inputs(observation)
        scores, propensities, is_out = self._decide(*inputs)
        if is_out and self.has_fallback and (check_range or self.checks_range):
            return Judged(self._choose(*self._fallback(inputs)), True)
        return Judged(self._explore(inputs[2], scores, propensities), bool(is_out))

    def fall_back(self, observation: Mapping[str, Array]) -> Decision:
        """Decide as the fallback does. Raises as ``act``, and ``BundleError`` where there is none."""
        inputs = self._inputs(observation)
        return self._choose(*self._fallback(inputs))

    def inputs(self, observation: Mapping[str, Array]) -> dict[str, Array]:
        """What ``policy.onnx`` is to be given, by name; counts as a decision. Raises as ``act``."""
        values = self._inputs(observation)
        return {name: np.asarray(value) for name, value in zip(INPUTS, values, strict=True)}

    def observe(self, completions: Sequence[Any]) -> None:
        """Nothing is learned."""

    def counters(self) -> Mapping[str, int]:
        """Decisions made otherwise than by its own rule, since reset."""
        return dict(self._counts)

    def _inputs(self, observation: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
        instances, request = observation["instances"], observation["request"]
        mask = observation["mask"].astype(np.bool_)
        shapes = (len(mask), len(self.schema["instance_features"])), (len(self.schema["request_features"]),)
        if (instances.shape, request.shape) != shapes or len(mask) > self.max_instances:
            raise ValueError(
                f"observation: instances are {instances.shape} and request {request.shape}, they must be"
                f" {shapes[0]} and {shapes[1]}, of at most {self.max_instances} instances"
            )
        if not mask.any():
            raise ValueError("every instance is masked: drop the request or add an instance that takes it")
        flat = instances.ravel()
        if not (math.isfinite(flat.dot(flat)) and math.isfinite(request.dot(request))):
            self._check_finite(instances, request)
        return instances, request, mask, np.int64(self._recall(request, mask))

    def _recall(self, request: Array, mask: Array) -> int:
        if self._memory == "turn":
            members = mask.nonzero()[0].tobytes()
            self._turns[members] += 1
            return self._turns[members] - 1
        if self._memory == "session":
            return ring_position(f"session {int(request[self._session])}")
        return 0

    def _check_finite(self, instances: Array, request: Array) -> None:
        for values, features in ((instances, "instance_features"), (request, "request_features")):
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                place = tuple(bad[0].tolist())
                name = self.schema[features][place[-1]][0]
                raise ValueError(f"observation: {name} is {values[place]}, it must be a finite number")

    def _fallback(self, inputs: Sequence[Array]) -> list[Array]:
        if self._fall_back is None:
            raise BundleError(f"{self.name}: the bundle has no fallback; export it with fallback=")
        return self._fall_back(*inputs)

    def _explore(self, mask: Array, scores: Array, propensities: Array) -> Decision:
        if self.exploration > 0.0:
            share = self.exploration / np.count_nonzero(mask)
            propensities = (1.0 - self.exploration) * propensities + share * mask
        return self._choose(scores, propensities)

    def _choose(self, scores: Array, propensities: Array) -> Decision:
        possible = propensities.nonzero()[0].tolist()
        place = possible[0]
        if len(possible) > 1:
            draw = self._rng.random()
            for place in possible:  # rounding may leave the last one a hair more than its share
                draw -= propensities[place]
                if draw < 0.0:
                    break
        return Decision(place, propensities, scores)


def load(directory: str | Path, schema_hash: str | None = None) -> BundlePolicy:
    """Load a bundle.

    Args:
        directory: Its folder.
        schema_hash: Of the features that observations will have; None: they are as the bundle says.

    Raises:
        BundleError: The folder holds none, or a damaged one, or one for other features.
    """
    folder = Path(directory)
    schema = _schema(folder)
    if schema_hash is not None and schema["schema_hash"] != schema_hash:
        raise BundleError(
            f"{folder}: the policy was trained on the features {schema['schema_hash']}, here they are"
            f" {schema_hash}: export it again with this version, or run the one that it was made with"
        )
    arrays = _arrays(folder, schema)
    try:
        rows = json.loads(str(arrays.pop(PLAN)))
        steps = [Step(str(row[0]), tuple(row[1]), str(row[2]), dict(row[3])) for row in rows]
        _check_plan(steps, arrays, FALLBACK if schema["fallback"] is not None else ())
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise BundleError(f"{folder / ARRAYS}: its plan cannot be run ({error}); export it again") from error
    return BundlePolicy(schema, steps, arrays)


def _schema(folder: Path) -> dict[str, Any]:
    try:
        schema = json.loads(_bytes(folder, SCHEMA))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{folder / SCHEMA}: not JSON ({error}); export the policy again") from error
    held = schema.get("format") if isinstance(schema, dict) else None
    if held != FORMAT:
        raise BundleError(f"{folder / SCHEMA}: its format is {held!r}, this version reads {FORMAT}")
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str,
        "version": str,
        "schema_hash": str,
        "instance_features": list,
        "request_features": list,
        "memory": str,
        "limits": dict,
        "sha256": dict,
        "range_check": (str, type(None)),
        "fallback": (str, type(None)),
    }
    for key, kind in kinds.items():
        if key not in schema or not isinstance(schema[key], kind):
            raise BundleError(f"{folder / SCHEMA}: {key} is {schema.get(key)!r}; export the policy again")
    features = json.dumps([schema["instance_features"], schema["request_features"]])
    if hashlib.sha256(features.encode()).hexdigest()[:16] != schema["schema_hash"]:
        raise BundleError(
            f"{folder / SCHEMA}: its features are not those of its schema_hash; export the policy again"
        )
    most = schema["limits"].get("max_instances")
    if type(most) is not int or most < 1:
        raise BundleError(f"{folder / SCHEMA}: limits.max_instances is {most!r}; export the policy again")
    if schema["memory"] not in MEMORIES:
        raise BundleError(f"{folder / SCHEMA}: memory is {schema['memory']!r}; export the policy again")
    return dict(schema)


def _arrays(folder: Path, schema: Mapping[str, Any]) -> dict[str, Array]:
    path = folder / ARRAYS
    content = _bytes(folder, ARRAYS)
    if hashlib.sha256(content).hexdigest() != schema["sha256"].get(ARRAYS):
        raise BundleError(f"{path}: not the file that {SCHEMA} tells of, or cut off; copy the bundle again")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise BundleError(f"{path}: holds more than {MAX_BYTES} bytes of arrays")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            held = {name: np.asarray(arrays[name]) for name in arrays.files}
    except BundleError:
        raise
    except Exception as error:  # what zipfile and NumPy raise at bytes that were made up has no common name
        raise BundleError(f"{path}: not a whole archive ({error}); copy the bundle again") from error
    for name, array in held.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{path}: {name} is not finite: the policy diverged in training, or is damaged")
    return held


def _bytes(folder: Path, name: str) -> bytes:
    """A file of the bundle, which may be a link to within its folder and to nowhere else."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: leads out of the bundle; copy the bundle again")
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"{path}: larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} holds no bundle ({name} is missing): python -m agents.export makes one"
        ) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error


def _check_plan(steps: Sequence[Step], constants: Mapping[str, Array], outputs: Sequence[str]) -> None:
    """Raise ``ValueError`` for what cannot be run."""
    if len(steps) > MAX_STEPS:
        raise ValueError(f"it has {len(steps)} steps, more than {MAX_STEPS}")
    known = {*INPUTS, *constants}
    for step in steps:
        if step.operation not in OPERATIONS:
            raise ValueError(f"there is no operation {step.operation!r}")
        if unknown := [name for name in step.inputs if name not in known]:
            raise ValueError(f"{step.output} needs {unknown[0]!r}, which nothing makes")
        if step.output in known:
            raise ValueError(f"{step.output!r} is made twice")
        known.add(step.output)
    if missing := [name for name in (*DECISION, *outputs) if name not in known]:
        raise ValueError(f"it does not make {missing[0]}")
