import os
import shutil
import subprocess
import sys
from pathlib import Path

from numba import config

from envs import emulator
from envs.emulator.compilation import NOTICE, cache_folder
from envs.emulator.engine import advance_all

PACKAGE = Path(emulator.__file__).parent


def test_compiled_functions_are_kept_apart_for_each_state_of_the_source(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    copy = tmp_path / "envs" / "emulator"
    shutil.copytree(PACKAGE.parent, copy.parent, ignore=shutil.ignore_patterns("__pycache__"))
    folder = cache_folder(copy)
    assert folder.parent == copy / "__pycache__"
    assert folder.name == cache_folder(PACKAGE).name == Path(config.CACHE_DIR).name
    for path in (copy / "kv_cache.py", copy.parent / "router_view.py"):
        source = path.read_text()
        path.write_text(source + "# another state\n")
        assert cache_folder(copy) != folder
        path.write_text(source)
    assert cache_folder(copy) == folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert cache_folder(copy).parent == Path("/elsewhere")
    assert config.CACHE_DIR in str(advance_all.stats.cache_path)


def test_who_waits_for_the_compiler_is_told_so_once(tmp_path):
    program = (
        "from envs.emulator.prefix_cache import mixed; mixed(1);"
        "from envs.emulator.step_time import attended_pairs; attended_pairs(1.0, 2.0)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert [(run.stdout, run.stderr) for run in said] == [("", NOTICE + "\n"), ("", "")]
