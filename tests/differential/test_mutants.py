"""The golden rows catch an emulator that is broken by one line.

Each mutant is a copy of the emulator with one line changed, compiled anew in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .comparison import difference
from .emulation import emulate
from .golden import golden

ROOT = Path(__file__).parents[2]
PLAY = """
import sys
from tests.differential.comparison import difference, report
from tests.differential.emulation import emulate
from tests.differential.golden import golden

for number, (scenario, vllms) in enumerate(golden(sys.argv[1])):
    try:
        message = difference(emulate(scenario)[1], vllms)
    except (RuntimeError, KeyError) as error:  # it may also lose its way
        message = repr(error)
    if message:
        print(f"caught in scenario {number}")
        break
"""
MUTANTS = {  # name -> golden rows, file, line, mutated line
    "eviction order": (
        "fcfs_sync",
        "kv_cache.py",
        "for index in range(num_cached - 1, -1, -1):",
        "for index in range(num_cached):",
    ),
    "full hit": (
        "fcfs_sync",
        "kv_cache.py",
        "limit = (num_tokens - 1) // instance.block_size",
        "limit = (num_tokens - 2) // instance.block_size",
    ),
    "victim": ("fcfs_sync", "scheduler.py", "place = instance.num_running - 1", "place = at"),
    "victim of least priority": (
        "priority_sync",
        "waiting.py",
        "return first.priority < second.priority",
        "return first.priority > second.priority",
    ),
    "blocks cached before their tokens are known": (
        "fcfs_async",
        "scheduler.py",
        "num_cacheable = min(num_after, num_known)",
        "num_cacheable = num_after",
    ),
    "a token lost by preemption": (
        "fcfs_async",
        "scheduler.py",
        "if request.num_pending_tokens > 0:",
        "if request.num_pending_tokens > 9:",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, tmp_path):
    mode, file, line, mutated = MUTANTS[name]
    for folder in ("envs/emulator", "tests/differential"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("__init__.py", "cluster.py"):
        shutil.copy(ROOT / "envs" / module, tmp_path / "envs")
    path = tmp_path / "envs" / "emulator" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(line) == 1
    path.write_text(source.replace(line, mutated), encoding="utf-8")
    played = subprocess.run(
        [sys.executable, "-c", PLAY, mode],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert played.stdout.startswith("caught"), played.stdout + played.stderr


WRONG_OPTIONS = {
    "policy": "fcfs",
    "async_scheduling": False,
    "prefix_caching": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": False,
    "long_prefill_token_threshold": 0,
    "continue_after_self_preemption": True,
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_an_option_that_is_not_heeded_is_caught(option):
    def differs(scenario, vllms):
        options = {**scenario["options"], option: WRONG_OPTIONS[option]}
        return difference(emulate({**scenario, "options": options})[1], vllms) is not None

    assert any(differs(*entry) for entry in golden("priority_async"))
