"""Traced code computes what it computes untraced, whatever it is given; what cannot be traced is refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.export import bundle, onnx_file, writing
from agents.export.plan import trace
from agents.export.runtime import INPUTS, OPERATIONS, Plan
from agents.export.tracing import CannotExportError, Tracer
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES
from tests.agents.export.exported import KINDS, export_of

EXPRESSIONS = {
    "arithmetic": lambda x: (x + 2 - 0.5) * 3 / (1 + abs(x)) + (-x),
    "reflected": lambda x: 2 - x + 3 / (1 + x * x) + 2 * x,
    "comparison": lambda x: (
        np.where((x > 0.5) & ~(x >= 2) | (x == 1), 1.0, -x) + (x != 0) + (x < 1) + (x <= 2)
    ),
    "bool_by_float": lambda x: (x > 0) * x,
    "integer_division": lambda x: (x > 0) / np.count_nonzero(x < 1e9),
    "float_count": lambda x: x * np.count_nonzero(x),
    "extremes": lambda x: np.maximum(x, 0.5) - np.minimum(x, x.max()) + x.min() + x.sum() - x.mean(),
    "places": lambda x: (x.argmin() + 10 * x.argmax()) * np.ones_like(x),
    "ranks": lambda x: x.argsort(kind="stable").argsort(kind="stable").astype(np.float64),
    "reversed": lambda x: x[::-1] - x[x.argmax()],
    "running": lambda x: x.cumsum() + (np.ones_like(x) * 2).cumsum(),
    "pairs": lambda x: (x < x[:, None]).sum(axis=1).astype(np.float64),
    "modulo": lambda x: ((np.zeros_like(x).astype(np.int64) - 7) % x.size).astype(np.float64),
    "functions": lambda x: np.sqrt(abs(x)) + np.exp(-abs(x)) + np.log1p(abs(x)),
    "products": lambda x: (
        np.concatenate([x[:, None], 2 * x[:, None]], axis=1) @ np.array([[1.0], [3.0]])[:, 0]
    ),
    "inner": lambda x: x * x.dot(x) + np.einsum("ij,ij->i", x[:, None], x[:, None]),
    "any": lambda x: x + np.where((x > 3).any(), 1.0, 0.0),
    "chosen": lambda x: np.where(x.size == 1, 1.0, x),
    "sized": lambda x: x / x.size,
    "filled": lambda x: x + np.zeros_like(x),
    "constant_index": lambda x: x + np.array([4.0, 5.0]).sum(),
}


def planned(expression):
    """The plan of an expression of the first column, and its ONNX model."""
    tracer = Tracer()
    tracer.input("request", np.zeros(len(REQUEST_FEATURES), np.float32))
    tracer.input("mask", np.ones(3, np.bool_))
    tracer.input("memory", np.int64(0))
    instances = tracer.input("instances", np.ones((3, len(INSTANCE_FEATURES)), np.float32))
    tracer.name(expression(instances[:, 0].astype(np.float64)).astype(np.float64), "scores")
    return tracer


@pytest.mark.parametrize("name", EXPRESSIONS)
@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.25, 1e4]), min_size=1, max_size=7))
def test_both_files_compute_what_numpy_does(name, values, tmp_path_factory):
    expression, tracer = EXPRESSIONS[name], planned(EXPRESSIONS[name])
    instances = np.zeros((len(values), len(INSTANCE_FEATURES)), np.float32)
    instances[:, 0] = values
    inputs = {
        "instances": instances,
        "request": np.zeros(len(REQUEST_FEATURES), np.float32),
        "mask": np.ones(len(values), np.bool_),
        "memory": np.array(0),
    }
    expected = np.asarray(expression(instances[:, 0].astype(np.float64)), np.float64)
    (by_numpy,) = Plan(tracer.steps, tracer.constants, ["scores"])(*[inputs[name] for name in INPUTS])
    np.testing.assert_array_equal(by_numpy, expected)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_file.write_onnx(path, tracer, {"scores": expected.ndim}, {})
    (by_onnx,) = onnxruntime.InferenceSession(path).run(["scores"], inputs)
    np.testing.assert_allclose(by_onnx, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (lambda x: 1.0 if x[x.argmax()] > 0 else x, "if on .* cannot be exported"),
        (lambda x: float(x.sum()), r"float\(\) on"),
        (lambda x: int(x.sum()), r"int\(\) on"),
        (lambda x: x / len(x), r"len\(\) on"),
        (lambda x: sum(x), "a loop on"),
        (lambda x: np.sort(x), "np.sort cannot be exported"),
        (lambda x: np.sin(x), "np.sin .* cannot be exported"),
        (lambda x: np.add.reduce(x), "np.add .reduce. cannot be exported"),
        (lambda x: x.argsort(), "write kind='stable'"),
        (lambda x: x[1:3], "cannot be exported"),
        (lambda x: x.astype(np.int64) & 3, "only that of bool"),
    ],
)
def test_what_cannot_be_traced_is_refused(code, reason):
    with pytest.raises(CannotExportError, match=reason):
        planned(code)


def test_every_operation_is_used():
    """None is there in vain: a policy or an expression of this file needs it."""
    tracers = [planned(expression) for expression in EXPRESSIONS.values()]
    used = {step.operation for tracer in tracers for step in tracer.steps}
    for name in KINDS:
        export = export_of(name)
        plan = trace(export.policy, export.fallback, export.trained_on, export.max_instances)
        used |= {step.operation for step in plan.steps}
    assert used == set(OPERATIONS)


def test_the_model_says_what_it_is(tmp_path):
    writing.write(tmp_path / "b", export_of("network"), lambda part: "a card")
    model = onnx.load(tmp_path / "b" / bundle.MODEL)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about.keys() == {"name", "version", "schema_hash"}
    assert [entry.version for entry in model.opset_import] == [onnx_file.OPSET]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == onnx_file.NUM_INSTANCES
