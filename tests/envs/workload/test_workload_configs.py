import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from envs.workload.stream import Workload

FOLDER = Path(__file__).parents[3] / "conf" / "workload"
NAMES = ["mooncake", "azure", "generated", "sessions"]


def config(name):
    return OmegaConf.load(FOLDER / f"{name}.yaml")


def first(stream: Workload):
    stream.reset(np.random.default_rng(0))
    return stream.pop()


def test_every_file_is_listed():
    whole = {path.stem for path in FOLDER.glob("*.yaml") if "defaults" not in OmegaConf.load(path)}
    assert whole == set(NAMES)  # the others vary one of these; tests/agents/test_programs.py builds them


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_spelled_with_its_default(name):
    settings = OmegaConf.to_container(config(name))
    module, target = settings.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(import_module(module), target)).parameters
    defaults = {key: p.default for key, p in parameters.items()}
    assert settings == {key: list(d) if isinstance(d, tuple) else d for key, d in defaults.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_config_gives_requests_wherever_the_traces_lie(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    changes = {"num_requests": 50}
    if name in ("mooncake", "azure"):
        changes |= {"on_missing": "generate", "rate_per_s": 8.0, "start": "random", "max_model_len": 8192}
    if name == "generated":
        changes |= {
            "num_generated": 100,
            "num_tenants": 2,
            "tenant_weights": [1.0, 2.0],
            "shifts": [[5.0, 2.0]],
        }
    stream = instantiate(OmegaConf.merge(config(name), changes))
    request = first(stream)
    assert (request.request_id, stream.num_requests) == (0, 50)
    assert request.num_prompt_tokens >= 1
    assert stream.notes
