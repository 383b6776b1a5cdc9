"""Records what a policy's own NumPy code computes, as a plan of operations.

A ``Traced`` stands for an array in that code. NumPy hands each operation on it to the array itself (NEP 13
and 18), which notes it down and goes on with an example: so what is exported is the very code that decided in
training, and there is no second writing of it. Code that asks for a traced value, by ``if`` or ``float()``,
is refused, since the example's answer need not hold for other observations: write ``np.where``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from agents.export.runtime import OPERATIONS, Step

UFUNCS: Mapping[Any, str] = {
    np.absolute: "Abs",
    np.add: "Add",
    np.bitwise_and: "And",
    np.bitwise_or: "Or",
    np.divide: "Div",
    np.equal: "Equal",
    np.exp: "Exp",
    np.greater: "Greater",
    np.greater_equal: "GreaterEqual",
    np.invert: "Not",
    np.less: "Less",
    np.less_equal: "LessEqual",
    np.log1p: "Log1p",
    np.logical_and: "And",
    np.logical_not: "Not",
    np.logical_or: "Or",
    np.matmul: "MatMul",
    np.maximum: "Max",
    np.minimum: "Min",
    np.multiply: "Mul",
    np.negative: "Neg",
    np.not_equal: "NotEqual",
    np.remainder: "Mod",
    np.sqrt: "Sqrt",
    np.subtract: "Sub",
}
BOOLEAN = ("And", "Or", "Not")


class CannotExportError(ValueError):
    """Code that cannot be turned into a plan."""


class Tracer:
    """Collects the steps and constants of one plan."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        """Of every input, constant and result."""

    def input(self, name: str, example: Any) -> Traced:
        """An input of the plan, with an example of it."""
        return self._traced(name, np.asarray(example))

    def constant(self, value: Any) -> Traced:
        """A constant; equal ones are kept once."""
        array = np.asarray(value)
        for name, held in self.constants.items():
            if held.dtype == array.dtype and held.shape == array.shape and np.array_equal(held, array):
                return Traced(self, name, held)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return self._traced(name, array)

    def name(self, value: Traced, name: str) -> None:
        """Call the result of a step by the name of an output."""
        for place, step in enumerate(self.steps):
            inputs = tuple(name if each == value.name else each for each in step.inputs)
            output = name if step.output == value.name else step.output
            self.steps[place] = step._replace(inputs=inputs, output=output)
        self.dtypes[name] = self.dtypes.pop(value.name)

    def keep(self, outputs: Sequence[str]) -> None:
        """Drop what none of these outputs needs."""
        needed, steps = set(outputs), []
        for step in reversed(self.steps):
            if step.output in needed:
                steps.append(step)
                needed.update(step.inputs)
        self.steps = steps[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}

    def step(self, operation: str, *inputs: Any, **attributes: Any) -> Traced:
        """Note a step; inputs are traced arrays or plain ones."""
        traced = self._lifted(inputs)
        with np.errstate(all="ignore"):  # of the example, where branches are computed that are not taken
            example = OPERATIONS[operation](*[each.example for each in traced], **attributes)
        name = f"t{len(self.steps)}"
        self.steps.append(Step(operation, tuple(each.name for each in traced), name, attributes))
        return self._traced(name, np.asarray(example))

    def _lifted(self, inputs: Sequence[Any]) -> list[Traced]:
        """All traced; Python's numbers get the type that NumPy would give them beside the arrays (NEP 50)."""
        typed = [each.example.dtype if isinstance(each, Traced) else each for each in inputs]
        dtype = np.result_type(*typed) if len(inputs) > 1 else None
        lifted = []
        for each in inputs:
            if isinstance(each, Traced):
                lifted.append(each)
            elif isinstance(each, bool | int | float):
                lifted.append(self.constant(np.asarray(each, dtype)))
            else:
                lifted.append(self.constant(each))
        return lifted

    def _traced(self, name: str, example: NDArray[Any]) -> Traced:
        self.dtypes[name] = example.dtype
        return Traced(self, name, example)


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of a plan."""

    def __init__(self, tracer: Tracer, name: str, example: NDArray[Any]) -> None:
        self.tracer, self.name, self.example = tracer, name, example

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""
        return self.example.dtype

    @property
    def size(self) -> Traced:
        """Length of a one-dimensional array."""
        return self.tracer.step("Size", self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Traced:
        if method != "__call__" or options or ufunc not in UFUNCS:
            raise CannotExportError(f"np.{ufunc.__name__} ({method}) cannot be exported")
        name = UFUNCS[ufunc]
        if name in BOOLEAN and ufunc in (np.bitwise_and, np.bitwise_or, np.invert):
            _require_bool(ufunc, inputs)
        return self.tracer.step(name, *inputs)

    def __array_function__(
        self, function: Any, types: Any, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> Any:
        if function not in FUNCTIONS:
            raise CannotExportError(f"np.{function.__name__} cannot be exported")
        return FUNCTIONS[function](self.tracer, *arguments, **options)

    def __getitem__(self, key: Any) -> Traced:
        step = self.tracer.step
        if isinstance(key, Traced):
            return step("Compress" if key.dtype == np.bool_ else "Take", self, key)
        if isinstance(key, np.ndarray):
            return step("Take", self, key)
        if isinstance(key, int) and self.example.ndim == 1:
            return step("Column", self, index=key)
        if key == slice(None, None, -1):
            return step("Reverse", self)
        if isinstance(key, tuple) and len(key) == 2:
            rows, column = key
            if rows is ... or rows == slice(None):
                if column is None:
                    return step("Unsqueeze", self, axis=1)
                if isinstance(column, int | list):
                    return step("Column", self, index=column)
                if isinstance(column, slice) and column == slice(None, column.stop) and column.stop > 0:
                    return step("Column", self, index=list(range(column.stop)))
        raise CannotExportError(f"[{key}] cannot be exported")

    def astype(self, dtype: Any) -> Traced:
        """The same in another type."""
        return self.tracer.step("Cast", self, to=np.dtype(dtype).name)

    def sum(self, axis: int | None = None) -> Traced:
        """Sum."""
        return self.tracer.step("Sum", self, axis=axis)

    def mean(self, axis: int | None = None) -> Traced:
        """Mean."""
        return self.tracer.step("Mean", self, axis=axis)

    def max(self, axis: int | None = None) -> Traced:
        """Greatest."""
        return self.tracer.step("ReduceMax", self, axis=axis)

    def min(self, axis: int | None = None) -> Traced:
        """Least."""
        return self.tracer.step("ReduceMin", self, axis=axis)

    def any(self) -> Traced:
        """Whether any is true."""
        return self.tracer.step("Any", self)

    def argmin(self) -> Traced:
        """Place of the first of the least, of one dimension."""
        return self.tracer.step("ArgMin", self)

    def argmax(self) -> Traced:
        """Place of the first of the greatest, of one dimension."""
        return self.tracer.step("ArgMax", self)

    def argsort(self, kind: str = "quicksort") -> Traced:
        """Places in ascending order of their values, of equals in their own, of one dimension."""
        if kind != "stable":
            raise CannotExportError(f"argsort of kind {kind!r} cannot be exported; write kind='stable'")
        return self.tracer.step("ArgSort", self)

    def cumsum(self) -> Traced:
        """Running sum, of one dimension."""
        return self.tracer.step("CumSum", self)

    def dot(self, other: Any) -> Traced:
        """Inner product of two of one dimension."""
        return self.tracer.step("Dot", self, other)

    def __bool__(self) -> bool:
        self._refuse("if")

    def __float__(self) -> float:
        self._refuse("float()")

    def __int__(self) -> int:
        self._refuse("int()")

    def __len__(self) -> int:
        self._refuse("len()")

    def __iter__(self) -> NoReturn:
        self._refuse("a loop")

    def _refuse(self, what: str) -> NoReturn:
        raise CannotExportError(
            f"{what} on {self.name}, a value that depends on the observation, cannot be exported:"
            " write it with np.where, .size and whole arrays"
        )


def _require_bool(ufunc: Any, inputs: Sequence[Any]) -> None:
    for each in inputs:
        dtype = each.dtype if isinstance(each, Traced) else np.asarray(each).dtype
        if dtype != np.bool_:
            raise CannotExportError(f"np.{ufunc.__name__} of {dtype} cannot be exported, only that of bool")


def _where(tracer: Tracer, condition: Any, one: Any, other: Any) -> Traced:
    dtype = np.result_type(*[each.dtype if isinstance(each, Traced) else each for each in (one, other)])
    parts = [each if isinstance(each, Traced) else np.asarray(each, dtype) for each in (one, other)]
    return tracer.step("Where", condition, *parts)


def _concatenate(tracer: Tracer, arrays: Sequence[Any], axis: int = 0) -> Traced:
    return tracer.step("Concat", *arrays, axis=axis)


def _einsum(tracer: Tracer, equation: str, *arrays: Any) -> Traced:
    return tracer.step("Einsum", *arrays, equation=equation)


def _count_nonzero(tracer: Tracer, array: Traced) -> Traced:
    return (array != 0 if array.dtype != np.bool_ else array).astype(np.int64).sum()


def _ones_like(tracer: Tracer, array: Traced) -> Traced:
    return tracer.step("Fill", array, value=1)


def _zeros_like(tracer: Tracer, array: Traced) -> Traced:
    return tracer.step("Fill", array, value=0)


FUNCTIONS: Mapping[Any, Callable[..., Traced]] = {
    np.concatenate: _concatenate,
    np.count_nonzero: _count_nonzero,
    np.einsum: _einsum,
    np.ones_like: _ones_like,
    np.where: _where,
    np.zeros_like: _zeros_like,
}
