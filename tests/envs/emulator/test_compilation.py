import shutil
from pathlib import Path

from numba import config

from envs import emulator
from envs.emulator.engine import advance_all
from envs.knowledge import look

PACKAGE = Path(emulator.__file__).parent


def test_compiled_functions_are_kept_apart_for_each_state_of_the_source(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    copy = tmp_path / "emulator"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in emulator.COMPILED_ABOVE:
        shutil.copy(PACKAGE.parent / name, tmp_path)
    folder = emulator._cache_folder(copy)
    assert folder.parent == copy / "__pycache__"
    assert folder.name == emulator._cache_folder(PACKAGE).name == Path(config.CACHE_DIR).name
    for path, old, new in [
        (copy / "kv_cache.py", "num_refs += 1", "num_refs += 2"),
        (tmp_path / "fading.py", "np.log(2.0)", "np.log(3.0)"),
    ]:
        source = path.read_text()
        assert old in source
        path.write_text(source.replace(old, new))
        assert emulator._cache_folder(copy) != folder
        path.write_text(source)
    assert emulator._cache_folder(copy) == folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert emulator._cache_folder(copy).parent == Path("/elsewhere")
    for function in (advance_all, look):
        assert config.CACHE_DIR in str(function.stats.cache_path)
