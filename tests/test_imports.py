"""The arrows between packages point down only, and heavy packages are imported where they are needed."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "reward": {"reward"},
    "envs": {"envs", "reward"},
    "conf": {"conf"},
    "agents": {"agents", "conf", "envs", "reward"},
    "adversary": {"adversary", "agents", "conf", "envs", "reward"},
}
HEAVY = {
    "aiconfigurator",
    "google",
    "grpc",
    "grpc_health",
    "optuna",
    "plotly",
    "ray",
    "sklearn",
    "vllm",
    "wandb",
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
IN_VLLM = ROOT / "envs" / "live" / "in_vllm" / "modelled_executor.py"  # runs in vLLM's Python, never in ours
OURS = [path for path in FILES if path != IN_VLLM]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree):
    """Top-level packages that the statements in ``tree`` import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import path = file path; write it in full"
            yield str(node.module).split(".")[0]


def on_import(node):
    """The imports in ``node`` that run when its module is imported: no function's, none for type checking."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        ):
            yield from on_import(child)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_down(path):
    package = name_of(path).split(".")[0]
    ours = set(imported(ast.parse(path.read_text(encoding="utf-8")))) & MAY_IMPORT.keys()
    assert ours <= MAY_IMPORT[package], f"{package} may import {MAY_IMPORT[package]} of ours"


def test_rules_have_no_circle_and_spare_the_adversary():
    order = list(MAY_IMPORT)  # each package before those that may import it
    assert order.index("conf") < order.index("agents") < order.index("adversary")
    for place, package in enumerate(order):
        assert MAY_IMPORT[package] <= set(order[: place + 1])
    assert all("adversary" not in MAY_IMPORT[package] for package in order if package != "adversary")


def test_rules_name_every_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == MAY_IMPORT.keys()


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_heavy_packages_are_imported_in_functions_only(path):
    for statement in on_import(ast.parse(path.read_text(encoding="utf-8"))):
        assert not set(imported(statement)) & HEAVY, f"line {statement.lineno}"


def test_a_heavy_import_on_top_would_be_found():
    source = """
class A:
    try:
        import json
    except ImportError:
        import wandb
    def f(self):
        import ray
"""
    found = [name for statement in on_import(ast.parse(source)) for name in imported(statement)]
    assert found == ["json", "wandb"]


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_every_module_can_be_imported(path):
    assert Path(import_module(name_of(path)).__file__).samefile(path)
