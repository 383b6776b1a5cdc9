"""A traced plan as an ONNX model, for runtimes in other languages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.export.runtime import INPUTS, Step
from agents.export.tracing import CannotExportError, Tracer
from agents.files import write
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"exporting needs {error.name}, which is not installed: pip install 'routegym[export]'"
    ) from error

OPSET = 18
"""The first in which all reductions take their axes alike."""
IR_VERSION = 9
"""Of the file's format; the one that came with the opset, which older runtimes read."""
NUM_INSTANCES = "num_instances"
"""Name of the dimension that is free."""
_SAME = {
    "Abs": "Abs",
    "Add": "Add",
    "And": "And",
    "Div": "Div",
    "Dot": "MatMul",
    "Equal": "Equal",
    "Exp": "Exp",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "MatMul": "MatMul",
    "Max": "Max",
    "Min": "Min",
    "Mul": "Mul",
    "Neg": "Neg",
    "Not": "Not",
    "Or": "Or",
    "Sqrt": "Sqrt",
    "Sub": "Sub",
}
"""Operations that ONNX has too, for arrays of one type."""
_REDUCTIONS = {"Sum": "ReduceSum", "Mean": "ReduceMean", "ReduceMax": "ReduceMax", "ReduceMin": "ReduceMin"}


class _Emitter:
    """Writes each step of a plan as nodes."""

    def __init__(self, tracer: Tracer) -> None:
        self._dtypes = dict(tracer.dtypes)
        self.nodes: list[Any] = []
        self.initializers = [numpy_helper.from_array(array, name) for name, array in tracer.constants.items()]
        self._num_made = 0

    def emit(self, step: Step) -> None:
        """Write one step."""
        if step.operation in _SAME:
            self._node(_SAME[step.operation], self._alike(step), step.output)
        elif step.operation in _REDUCTIONS:
            self._reduce(step)
        else:
            getattr(self, f"_write_{step.operation.lower()}")(step)

    def _alike(self, step: Step) -> list[str]:
        """A step's inputs, all in the type that NumPy would compute in."""
        common = self._dtypes[step.output]
        if common == np.bool_:  # of a comparison
            common = np.result_type(*[self._dtypes[name] for name in step.inputs])
        return [self._as(name, common) for name in step.inputs]

    def _node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        self._num_made += not output
        name = output or f"n{self._num_made}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: Any) -> str:
        self._num_made += 1
        name = f"n{self._num_made}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def _as(self, name: str, dtype: Any, output: str = "") -> str:
        dtype = np.dtype(dtype)
        if self._dtypes.get(name) == dtype and not output:
            return name
        return self._node("Cast", [name], output, to=helper.np_dtype_to_tensor_dtype(dtype))

    def _write_any(self, step: Step) -> None:
        counts = self._node("ReduceMax", [self._as(step.inputs[0], np.int64)], keepdims=0)
        self._as(counts, np.bool_, step.output)

    def _write_argmax(self, step: Step) -> None:
        self._node("ArgMax", list(step.inputs), step.output, axis=0, keepdims=0)

    def _write_argmin(self, step: Step) -> None:
        self._node("ArgMin", list(step.inputs), step.output, axis=0, keepdims=0)

    def _write_argsort(self, step: Step) -> None:
        (values,) = step.inputs
        inputs = [values, self._node("Shape", [values])]
        outputs = [f"{step.output}_sorted", step.output]  # of equals TopK takes the lower index first
        self.nodes.append(helper.make_node("TopK", inputs, outputs, axis=0, largest=0, sorted=1))

    def _write_cast(self, step: Step) -> None:
        self._as(step.inputs[0], step.attributes["to"], step.output)

    def _write_column(self, step: Step) -> None:
        index = self._constant(step.attributes["index"], np.int64)
        self._node("Gather", [step.inputs[0], index], step.output, axis=-1)

    def _write_compress(self, step: Step) -> None:
        self._node("Compress", list(step.inputs), step.output, axis=0)

    def _write_concat(self, step: Step) -> None:
        self._node("Concat", self._alike(step), step.output, axis=step.attributes["axis"])

    def _write_cumsum(self, step: Step) -> None:
        values = self._as(step.inputs[0], self._dtypes[step.output])
        self._node("CumSum", [values, self._constant(0, np.int64)], step.output)

    def _write_einsum(self, step: Step) -> None:
        self._node("Einsum", self._alike(step), step.output, equation=step.attributes["equation"])

    def _write_expand(self, step: Step) -> None:
        values, mask = step.inputs
        running = self._node("CumSum", [self._as(mask, np.int64), self._constant(0, np.int64)])
        place = self._node("Sub", [running, self._constant(1, np.int64)])
        place = self._node("Max", [place, self._constant(0, np.int64)])
        spread = self._node("Gather", [values, place], axis=0)
        fill = self._constant(float(step.attributes["fill"]), self._dtypes[values])
        self._node("Where", [mask, spread, fill], step.output)

    def _write_fill(self, step: Step) -> None:
        value = numpy_helper.from_array(np.array([step.attributes["value"]], self._dtypes[step.output]))
        shape = self._node("Shape", list(step.inputs))
        self._node("ConstantOfShape", [shape], step.output, value=value)

    def _write_log1p(self, step: Step) -> None:
        # ONNX has no log1p: in double precision log(1 + x) is as good as single precision can tell.
        more = self._node("Add", [self._as(step.inputs[0], np.float64), self._constant(1.0, np.float64)])
        self._as(self._node("Log", [more]), self._dtypes[step.output], step.output)

    def _write_mod(self, step: Step) -> None:
        if self._dtypes[step.output].kind != "i":
            raise CannotExportError("np.remainder of what are no integers cannot be exported")
        self._node("Mod", list(step.inputs), step.output, fmod=0)

    def _write_notequal(self, step: Step) -> None:
        self._node("Not", [self._node("Equal", self._alike(step))], step.output)

    def _write_places(self, step: Step) -> None:
        places = self._node("NonZero", list(step.inputs))
        self._node("Squeeze", [places, self._constant([0], np.int64)], step.output)

    def _reduce(self, step: Step) -> None:
        values = self._as(step.inputs[0], self._dtypes[step.output])
        axis = step.attributes["axis"]
        axes = [] if axis is None else [self._constant([axis], np.int64)]
        self._node(_REDUCTIONS[step.operation], [values, *axes], step.output, keepdims=0)

    def _write_reverse(self, step: Step) -> None:
        bounds = [self._constant([bound], np.int64) for bound in (-1, np.iinfo(np.int64).min, 0, -1)]
        self._node("Slice", [step.inputs[0], *bounds], step.output)

    def _write_size(self, step: Step) -> None:
        shape = self._node("Shape", list(step.inputs))
        self._node("Squeeze", [shape, self._constant([0], np.int64)], step.output)

    def _write_take(self, step: Step) -> None:
        self._node("Gather", list(step.inputs), step.output, axis=0)

    def _write_unsqueeze(self, step: Step) -> None:
        axes = self._constant([step.attributes["axis"]], np.int64)
        self._node("Unsqueeze", [step.inputs[0], axes], step.output)

    def _write_where(self, step: Step) -> None:
        condition, *parts = step.inputs
        common = np.result_type(*[self._dtypes[name] for name in parts])
        self._node("Where", [condition, *(self._as(name, common) for name in parts)], step.output)


def write_onnx(path: Path, tracer: Tracer, outputs: Mapping[str, int], about: Mapping[str, str]) -> None:
    """Write a plan as a model.

    Args:
        path: Of the file.
        tracer: Holds the plan.
        outputs: Wanted; name -> number of axes, each of ``NUM_INSTANCES``.
        about: Kept in the model's metadata.
    """
    emitter = _Emitter(tracer)
    for step in tracer.steps:
        emitter.emit(step)

    def value(name: str, shape: list[Any]) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(tracer.dtypes[name])
        return helper.make_tensor_value_info(name, dtype, shape)

    shapes: dict[str, list[Any]] = {
        "instances": [NUM_INSTANCES, len(INSTANCE_FEATURES)],
        "request": [len(REQUEST_FEATURES)],
        "mask": [NUM_INSTANCES],
        "memory": [],
    }
    graph = helper.make_graph(
        emitter.nodes,
        "policy",
        [value(name, shapes[name]) for name in INPUTS],
        [value(name, [NUM_INSTANCES] * num_axes) for name, num_axes in outputs.items()],
        emitter.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "RouteGym"
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    write(path, lambda temporary: temporary.write_bytes(model.SerializeToString(deterministic=True)))
