import inspect
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from envs.workload.shaping import shaped
from envs.workload.stream import Workload

FOLDER = Path(__file__).parents[3] / "conf" / "workload"
FILES = ["recording", "stored"]  # which have no data of their own; test_recorded.py, test_stored.py
TRACES_ONLY = ["servegen", "weka"]  # which nothing stands in for; test_servegen.py, test_weka.py
NAMES = ["mooncake", "azure", "generated", "sessions"]


def config(name):
    return OmegaConf.load(FOLDER / f"{name}.yaml")


def first(stream: Workload):
    stream.reset(np.random.default_rng(0))
    return stream.pop()


def test_every_file_is_listed():
    whole = {path.stem for path in FOLDER.glob("*.yaml") if "defaults" not in OmegaConf.load(path)}
    assert whole == {
        *NAMES,
        *FILES,
        *TRACES_ONLY,
    }  # the others vary one of these; tests/agents/test_programs.py builds them


@pytest.mark.parametrize("name", [*NAMES, *FILES, *TRACES_ONLY])
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


TRACES = ["mooncake", "azure", "generated"]


def built(name, tmp_path, monkeypatch, **changes):
    """The workload of a config where no trace lies, of 300 requests where it can be told."""
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    if name in ("mooncake", "azure"):
        changes["on_missing"] = "generate"
    if name == "generated":
        changes = {"num_generated": 300} | changes
    return instantiate(OmegaConf.merge(config(name), changes))


def test_trace_workloads_share_their_shaping_settings():
    shared = set(inspect.signature(shaped).parameters) - {"trace"}
    for name in [*TRACES, *FILES]:
        assert shared <= set(config(name))


@pytest.mark.parametrize("name", TRACES)
def test_window_counts_from_the_part_as_recorded(name, tmp_path, monkeypatch):
    whole = built(name, tmp_path, monkeypatch, part="test")
    times = whole.trace.arrived_at_s
    start_s, stop_s = np.quantile(times, [0.25, 0.5]).tolist()
    window = {"part": "test", "window_start_s": start_s, "window_stop_s": stop_s, "rate_factor": 2.0}
    stream = built(name, tmp_path, monkeypatch, **window)
    inside = (times >= start_s) & (times < stop_s)
    assert stream.source_rows().tolist() == whole.source_rows()[inside].tolist()
    assert stream.trace.arrived_at_s == pytest.approx((times[inside] - start_s) / 2.0)
    assert f"window [{start_s:g}, {stop_s:g}) s" in stream.notes
    tail = built(name, tmp_path, monkeypatch, part="test", window_start_s=start_s)
    assert tail.source_rows().tolist() == whole.source_rows()[times >= start_s].tolist()


@pytest.mark.parametrize("name", TRACES)
def test_repeats_are_of_the_same_requests(name, tmp_path, monkeypatch):
    once, twice = (built(name, tmp_path, monkeypatch, num_repeats=num) for num in (1, 2))
    assert twice.num_requests == 2 * once.num_requests
    assert twice.source_rows().tolist() == 2 * once.source_rows().tolist()


@pytest.mark.parametrize("name", NAMES)
def test_block_size_is_told(name, tmp_path, monkeypatch):
    stream: Workload = built(name, tmp_path, monkeypatch, block_size=32)
    assert stream.block_size == 32


NOT_POSITIVE = [0, -1, float("nan"), float("inf")]


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in NAMES for key in ("slo_ttft_s", "slo_tpot_s")]
    + [(name, key) for name in TRACES for key in ("rate_per_s", "rate_factor")],
)
def test_number_that_must_be_positive_is_named(name, key, value, tmp_path, monkeypatch):
    with pytest.raises(InstantiationException, match=rf"\b{key} is {value}: it must be a positive number"):
        built(name, tmp_path, monkeypatch, **{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shifts": [[1]]}, "shifts[0] is [1]: give [at_s, factor], numbers from 0"),
        ({"ramps": [[1, 2]]}, "ramps[0] is [1, 2]: give [start_s, stop_s, factor], numbers from 0"),
        ({"bursts": [5]}, "bursts[0] is 5: give [start_s, duration_s, factor], numbers from 0"),
        ({"num_generated": 0}, "num_generated is 0"),
        ({"num_repeats": 0}, "num_repeats is 0"),
        ({"frac_train": 1.0}, "frac_train is 1.0"),
        ({"window_start_s": -1}, "window_start_s is -1"),
        ({"window_start_s": float("nan")}, "window_start_s is nan"),
        ({"window_start_s": 5, "window_stop_s": 5}, "window_start_s is 5 and window_stop_s 5"),
        ({"window_start_s": 1e9}, "window [1e+09, inf) s holds no request: the trace runs from"),
    ],
)
def test_setting_out_of_range_is_named(changes, message, tmp_path, monkeypatch):
    with pytest.raises(InstantiationException, match=re.escape(message)):
        built("generated", tmp_path, monkeypatch, **changes)
