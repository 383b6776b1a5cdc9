import shutil
from pathlib import Path

from numba import config

from envs import emulator
from envs.emulator.engine import advance_all

PACKAGE = Path(emulator.__file__).parent


def test_compiled_functions_are_kept_apart_for_each_state_of_the_source(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    copy = tmp_path / "emulator"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    folder = emulator._cache_folder(copy)
    assert folder.parent == copy / "__pycache__"
    assert folder.name == emulator._cache_folder(PACKAGE).name == Path(config.CACHE_DIR).name
    path = copy / "kv_cache.py"
    path.write_text(path.read_text().replace("num_refs += 1", "num_refs += 2"))
    assert emulator._cache_folder(copy) != folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert emulator._cache_folder(copy).parent == Path("/elsewhere")
    assert config.CACHE_DIR in str(advance_all.stats.cache_path)
