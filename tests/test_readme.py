"""The README says what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_reference_runs():
    assert (ROOT / "runs/reference/demo/table.md").read_text(encoding="utf-8").strip() in README


def test_table_of_fidelity_is_the_reference_runs():
    assert (ROOT / "runs/reference/fidelity/table.md").read_text(encoding="utf-8").strip() in README


def test_table_of_routers_is_the_reference_runs():
    assert (ROOT / "runs/reference/router/table.md").read_text(encoding="utf-8").strip() in README


@pytest.mark.parametrize("table", ["table", "training"])
def test_tables_of_robustness_are_the_reference_runs(table):
    file = ROOT / "runs/reference/robustness" / f"{table}.md"
    assert file.read_text(encoding="utf-8").strip() in README


def test_tables_of_routebench_are_the_reference_runs():
    table = (ROOT / "runs/reference/routebench/table.md").read_text(encoding="utf-8")
    for heading in ("## mean TTFT, all scenarios", "## P99 TTFT, all scenarios"):
        assert table.partition(heading)[2].partition("##")[0].strip() in README


def test_distilled_rules_and_their_figures_are_those_of_the_reference_runs():
    tables = {
        path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "runs/reference/distill").iterdir()
    }
    formula = tables["mooncake"].partition("formula, 29 nodes:")[2].split("```")[1]
    assert "".join(formula.split()) in "".join(README.split())
    told = README.partition("[start:distilled]")[2].partition("[end:distilled]")[0]
    figures = re.findall(r"[\d.-]+%? \[[^]]+\]", told)
    assert len(figures) > 20
    assert [figure for figure in figures if figure not in "".join(tables.values())] == []


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_python_examples_run(capsys):
    routes, learns = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(routes, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 1000
    exec(compile(learns, "README.md", "exec"), {})
