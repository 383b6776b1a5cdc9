"""The examples of CONTRIBUTING.md are true: written to the files they name, they pass their tests and run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = {  # path -> text without its first line, which names the path
    match["path"]: match["text"]
    for match in re.finditer(r"^```\w+\n(?:#|//) (?P<path>\S+)\n(?P<text>.*?)^```$", TEXT, re.M | re.S)
}
COMMANDS = [shlex.split(line) for line in re.findall(r"^    (routegym-.*)$", TEXT, re.M)]
NAMES = "fewest_tokens or epsilon_greedy or random_search or late or plain_csv or example"
COMPOSE = """
import json, sys
from hydra import compose, initialize_config_module
from agents.config import register

register()
with initialize_config_module("conf", version_base="1.3"):
    for program, *overrides in json.loads(sys.argv[1]):
        compose(program.removeprefix("routegym-"), [*overrides, "directory=somewhere"])
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of this tree (with its compiled code, which would take long to make) that has the examples."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("adversary", "agents", "conf", "envs", "reward", "tests"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, text in BLOCKS.items():
        assert not (folder / path).exists(), path
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def run(tree, *arguments, cwd=None, path=()):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), *map(str, path)]),
        "ROUTEGYM_TRACES": str(tree / "no_traces"),
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd or tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_names_its_file():
    assert len(BLOCKS) == TEXT.count("```") // 2
    folders = {str(Path(path).parent) for path in BLOCKS}
    assert folders >= {
        *("agents/heuristics", "agents/bandits", "agents/rl", "reward", "envs/workload"),
        *("envs/emulator/profiles", *(f"conf/{group}" for group in ("agent", "reward", "workload"))),
        *("conf/cluster", "conf/world", "conf/experiment", "tests/reward", "tests/agents/heuristics"),
    }


def test_examples_keep_the_house_style(tree):
    files = [path for path in BLOCKS if path.endswith(".py")]
    run(tree, "-m", "ruff", "check", *files)
    run(tree, "-m", "ruff", "format", "--check", *files)


def test_examples_pass_their_own_tests(tree):
    files = [path for path in BLOCKS if path.startswith("tests/")]
    assert "passed" in run(tree, "-m", "pytest", "-p", "no:cacheprovider", *files)


def test_examples_pass_the_tests_of_their_kind(tree):
    kinds = (
        "tests/agents/heuristics/test_conformance.py",
        "tests/agents/test_programs.py",
        "tests/envs/emulator/test_profile.py",
    )
    report = run(tree, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", NAMES, *kinds)
    for name in NAMES.split(" or "):
        assert re.search(rf"\[.*\b{name}\b.*\] PASSED", report), name


def test_commands_compose(tree):
    assert len(COMMANDS) >= 7
    run(tree, "-c", COMPOSE, json.dumps(COMMANDS))


def test_profile_is_what_refit_makes_of_it(tree):
    path = tree / "envs" / "emulator" / "profiles" / "example.json"
    run(tree, "-c", f"from envs.emulator.profile import *; refit(Path({str(path)!r}))")
    assert json.loads(path.read_text()) == json.loads(BLOCKS["envs/emulator/profiles/example.json"])


def test_experiment_runs_with_what_was_trained(tree, tmp_path):
    world = ["cluster=example", "reward=late", "workload=plain_csv", "workload.on_missing=generate"]
    for agent in ("random_search", "epsilon_greedy"):
        run(tree, "-m", "agents.train", f"agent={agent}", *world, "total_timesteps=200", cwd=tmp_path)
    run(
        tree,
        *("-m", "agents.evaluate", "experiment=example", "workload.on_missing=generate", "num_workers=1"),
        "+agent@policies.random_search=random_search",
        *(f"+trained.{agent}=runs/train/{agent}-0" for agent in ("random_search", "epsilon_greedy")),
        cwd=tmp_path,
    )
    table = (tmp_path / "runs" / "example" / "evaluation" / "table.md").read_text()
    for name in ("random", "fewest_tokens", "epsilon_greedy", "random_search"):
        assert f"| {name} " in table


def test_a_component_may_live_outside_the_tree(tree, tmp_path):
    module, config = BLOCKS["agents/heuristics/fewest_tokens.py"], BLOCKS["conf/agent/fewest_tokens.yaml"]
    (tmp_path / "my_rules.py").write_text(module, encoding="utf-8")
    (tmp_path / "my_conf" / "agent").mkdir(parents=True)
    config = config.replace("agents.heuristics.fewest_tokens.", "my_rules.")
    (tmp_path / "my_conf" / "agent" / "mine.yaml").write_text(config, encoding="utf-8")
    run(
        tree,
        *("-m", "agents.evaluate", "--config-dir", "my_conf", "+agent@policies.mine=mine", "reference=mine"),
        *("cluster=tiny", "workload=plain_csv", "workload.on_missing=generate", "workload.num_requests=20"),
        *("seeds=[0,1]", "num_workers=1", "warmup_s=0"),
        cwd=tmp_path,
        path=[tmp_path],
    )
    assert (tmp_path / "runs" / "evaluate" / "evaluation" / "summary.json").exists()
