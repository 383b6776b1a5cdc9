"""The compiled emulation of a cluster of vLLM V1 engines.

The scheduler and the KV cache agree with those of ``VLLM_VERSION`` step by step; ``tests/differential`` holds
them against each other. What another version does otherwise is an option of ``build.InstanceConfig``.
"""

import hashlib
import os
from pathlib import Path

import numba

VLLM_VERSION = "0.32.0"
"""The version of vLLM that the emulator follows."""


COMPILED_ABOVE = ("fading.py", "knowledge.py", "observation.py", "prefix_index.py")
"""Sources in the folder above that are inlined into other files, as those of the package are."""


def _cache_folder(package: Path) -> Path:
    """Where compiled functions are kept: a folder for each state of the source that may be inlined into them.

    Numba takes a kept function for valid while its own file is unchanged, though what is inlined into it
    comes from other files too: after an update half of the emulator would be the old one.
    """
    digest = hashlib.sha256()
    above = (package.parent / name for name in COMPILED_ABOVE)
    for path in [*sorted(package.glob("*.py")), *(path for path in above if path.exists())]:
        digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or package / "__pycache__"
    return Path(root) / f"emulator-{digest.hexdigest()[:16]}"


numba.config.CACHE_DIR = str(_cache_folder(Path(__file__).parent))  # type: ignore[attr-defined]
