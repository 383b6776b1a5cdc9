"""The documentation: what is there is in its navigation, and what it names is there. Nothing is built."""

import json
import re
import shlex
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from agents.benchmark.scenario import names
from agents.config import register
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
PAGES = sorted([*DOCS.rglob("*.md"), *NOTEBOOKS])
TEXT = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
LINES = re.sub(r" \\\n\s+", " ", "\n".join(TEXT.values())).splitlines()
COMMANDS = sorted({line.strip() for line in LINES if line.startswith("    routegym-")})


def navigation(entry):
    """The pages that an entry of mkdocs.yml's ``nav`` leads to."""
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry if isinstance(entry, list) else entry.values():
            yield from navigation(each)


def composed(program, overrides):
    register()
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*overrides, "directory=somewhere"])


@pytest.fixture(scope="module")
def tables():
    """The hook that fills tables into pages."""
    spec = spec_from_file_location("tables", DOCS / "hooks" / "tables.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(navigation(config["nav"])) == sorted(TEXT)


def test_every_scenario_is_in_the_page_of_routebench(tables):
    page = tables.on_page_markdown(TEXT["routebench.md"])
    rows = {
        row[1].strip("` "): row for row in (line.split("|") for line in page.splitlines()) if len(row) == 8
    }
    assert rows.keys() >= set(names())
    capacity = composed("evaluate", ["experiment=bench/equal"]).scenario.capacity_per_s
    assert [cell.strip() for cell in rows["overload"][2:7]] == [
        "A fifth more requests than the fleet bears; else as equal.",
        *("`h100x8`", "`generated`", "120", f"{capacity:g}"),
    ]


def test_every_feature_is_in_the_page_of_concepts(tables):
    page = tables.on_page_markdown(TEXT["concepts.md"])
    for feature in (*INSTANCE_FEATURES, *REQUEST_FEATURES):
        assert re.search(rf"\| `{feature.name}` +\| {feature.unit} +\| {feature.staleness} ", page)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("page", TEXT)
def test_what_a_page_tells_to_run_or_read_is_there(page):
    text = TEXT[page]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^    .*|`[^`]+`", text, re.M))
    for target in re.findall(r"\bmake ([a-z]+[a-z-]*)", code):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for module in re.findall(r"python -m ((?:agents|adversary|envs|tests)[\w.]*)", text):
        assert find_spec(module), module
    for path in re.findall(r"`((?:agents|adversary|conf|docs|envs|reward|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", [each for each in COMMANDS if " -m " not in each])
def test_commands_compose(command):
    program, *overrides = shlex.split(command, comments=True)
    assert composed(program.removeprefix("routegym-"), overrides)
