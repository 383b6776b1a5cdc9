"""What pyproject.toml promises: the wheel holds everything, and works where nothing else of ours is."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"})
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")
TINY = [
    "experiment=heuristics",
    "cluster=tiny",
    "workload=generated",
    "workload.num_generated=50",
    "workload.prompt_median=300",
    "workload.prompt_min=10",
    "workload.prompt_max=1000",
    "workload.max_model_len=2048",
    "seeds=[0,1]",
    "num_workers=1",
    "warmup_s=0",
]


def run(*command, cwd, site=None, check=True, **variables):
    """Run in ``cwd``, with ``site`` before all else that can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= variables | ({"PYTHONPATH": str(site)} if site else {})
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the tree so that no earlier build's files get in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=SKIPPED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    # What a checkout also has, and no wheel should.
    for name in ("tests/__init__.py", "tests/data.json", "runs/reference/summary.json"):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_text("")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", "..", cwd=folder / "source")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index")
    run(*pip, "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    # Numba's compiled code, which would take long to make, is valid for sources of the same size and time.
    for source in (ROOT / "envs").rglob("*.py"):
        shutil.copystat(source, folder / source.relative_to(ROOT))
    for code in (ROOT / "envs").rglob("__pycache__/*.nb[ci]"):
        target = folder / code.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(code, target)
    return folder


def test_wheel_holds_every_package_and_its_data(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".css", ".html", ".js") or path.name == "py.typed"
    }
    assert held == expected
    assert {"conf/agent/random.yaml", "envs/emulator/profiles/h100_llama-3.1-8b.json"} <= held


def test_every_package_but_conf_is_typed():
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()] == ["conf"]


def test_changelog_begins_with_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.M)[0] == PROJECT["project"]["version"]


def test_console_programs_are_named():
    assert PROJECT["project"]["scripts"].items() >= {
        ("routegym-train", "agents.train:main"),
        ("routegym-evaluate", "agents.evaluate:main"),
    }


def test_constraints_pin_what_is_required():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    required = [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["docs"]]
    assert {re.split(r"[<>=!~\[; ]", name)[0].lower() for name in required} <= pinned


def test_installed_wheel_makes_the_environment(site, tmp_path):
    code = (
        "import gymnasium, agents.policy, adversary, envs, conf, reward, numpy;"
        "from conf.build import build; from envs.workload import generator; from envs.emulator import fleet;"
        "from reward.ttft import Ttft; from reward.weighted_sum import Weighted, WeightedSum;"
        "group = {'profile': 'h100_llama-3.1-8b', 'max_model_len': 131072};"
        "env = gymnasium.make('RouteGym/Routing-v0', cluster=fleet.cluster({'a': group}),"
        " workload=generator.workload(num_generated=5), reward=WeightedSum({'ttft': Weighted(Ttft())}));"
        "print(env.spec.id);"
        "print(*(m.__file__ for m in (agents, adversary, envs, conf, reward)), sep='\\n')"
    )
    name, *files = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, site=site).stdout.split()
    assert name == "RouteGym/Routing-v0"
    assert all(Path(file).is_relative_to(site) for file in files)


@pytest.mark.parametrize("program", ["routegym-train", "routegym-evaluate"])
def test_installed_program_finds_its_config(site, tmp_path, program):
    help_text = run(str(site / "bin" / program), "--help", cwd=tmp_path, site=site).stdout
    assert program in help_text
    assert "least_in_flight" in help_text


def test_installed_program_evaluates(site, tmp_path):
    run(str(site / "bin" / "routegym-evaluate"), *TINY, cwd=tmp_path, site=site)
    results = tmp_path / "runs" / "heuristics" / "evaluation"
    assert "llmd_token_load" in (results / "table.md").read_text(encoding="utf-8")
    assert len(list((results / "cells").glob("*.parquet"))) == 14 * 2


# --- another distribution imports as `agents` too ---


FOREIGN = {  # as openai-agents lays itself out
    "agents/__init__.py": '"""Agents of another kind."""\nfrom agents.agent import Agent\n',
    "agents/agent.py": "class Agent: ...\n",
    "agents/run.py": "",
    "agents/models/__init__.py": "",
    "openai_agents-0.9.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: openai-agents\nVersion: 0.9.0\n",
}
WARN = "from envs.ownership import warn_of_intruders; warn_of_intruders()"


def lay(folder, files=FOREIGN):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def mixed(site, tmp_path):
    """The installed wheel, for a test to spoil."""
    return shutil.copytree(site, tmp_path / "mixed", ignore=SKIPPED)


def python(code, tmp_path, site, check=True):
    return run(sys.executable, "-c", code, cwd=tmp_path, site=site, check=check)


@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_agents_that_shadow_ours_are_told(install, mixed, tmp_path):
    foreign = lay(tmp_path / "elsewhere")
    ours = ROOT if install == "editable" else mixed
    done = python(WARN, tmp_path, f"{foreign}{os.pathsep}{ours}")
    assert f"{foreign}/agents/__init__.py shadows RouteGym's {ours}/agents/__init__.py" in done.stderr
    assert "environment of its own" in done.stderr


def test_importing_envs_tells_of_shadowed_agents(tmp_path):
    foreign = lay(tmp_path / "elsewhere")
    done = python("import envs", tmp_path, f"{foreign}{os.pathsep}{ROOT}")
    assert "shadows RouteGym's" in done.stderr


@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_programs_refuse_to_run_beside_other_agents(install, mixed, tmp_path):
    # An editable install serves agents.train, which the others lack, even where the package is theirs.
    site = lay(tmp_path / "elsewhere" if install == "editable" else mixed)
    done = run(sys.executable, "-m", "agents.train", "--help", cwd=tmp_path, site=site, check=False)
    assert done.returncode == 1
    assert re.search(r"^ImportError: .*agents.* environment of its own", done.stderr, re.M)


def test_agents_that_were_installed_over_ours_are_told(mixed, tmp_path):
    done = python(WARN, tmp_path, lay(mixed))
    assert f"{mixed}/agents also holds another package's files (agent.py, run.py)" in done.stderr


def test_ours_installed_over_others_refuses(mixed, tmp_path):
    lay(mixed, {name: text for name, text in FOREIGN.items() if name != "agents/__init__.py"})
    done = python("import agents", tmp_path, mixed, check=False)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"ImportError: {mixed}/agents also holds another package's files (agent.py, ")
    assert error.endswith("make one and install routegym there.")


def test_a_folder_that_lost_its_init_is_told(mixed, tmp_path):
    (mixed / "agents" / "__init__.py").unlink()  # as removing openai-agents does
    assert f"{mixed}/agents has lost its __init__.py" in python(WARN, tmp_path, mixed).stderr


@pytest.mark.parametrize("name", ["envs", "reward", "conf"])
def test_ours_refuses_foreign_packages_below_it(name, tmp_path):
    foreign = lay(tmp_path / "elsewhere", {f"{name}/__init__.py": ""})
    done = python("import agents", tmp_path, f"{foreign}{os.pathsep}{ROOT}", check=False)
    assert done.returncode == 1
    assert "environment of its own" in done.stderr.splitlines()[-1]


def test_nothing_is_told_where_all_is_ours(site, tmp_path):
    code = f"{WARN}; import agents, time; start = time.perf_counter(); warn_of_intruders();"
    code += "print(time.perf_counter() - start)"
    for place in (ROOT, site):
        done = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, site=place)
        assert done.stderr == ""
        assert float(done.stdout) < 0.002


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_nothing_that_git_ignores_is_tracked():
    done = run("git", "ls-files", "--cached", "--ignored", "--exclude-standard", cwd=ROOT)
    assert done.stdout == ""
