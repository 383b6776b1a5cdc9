import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.emulator import profile_database
from envs.emulator.profile import SHIPPED, ProfileError, load, main, num_kv_blocks, refit, shipped_names
from envs.emulator.profile_database import (
    DECODE_FIGURES,
    PREFILL_FIGURES,
    REGIONS,
    Database,
    Step,
    default_batch,
    draw_steps,
    make,
    step_counts,
)
from envs.emulator.profile_fit import best_knots
from envs.emulator.step_time import StepTimeLaw, as_record, step_time_s

GPUS = ("a100", "l40s", "h100", "h200", "b200")
MODELS = ("llama-3.1-8b_tp1", "llama-3.1-70b_tp4", "qwen3-8b_tp1", "qwen3-30b-a3b_tp2")
NAMES = sorted(f"{gpu}_{model}" for gpu in GPUS for model in MODELS)
MEDIAN_BAR, WORST_BAR = 0.03, 0.08
BATCH = {
    "a100": (2048, 256),
    "l40s": (2048, 256),
    "h100": (8192, 1024),
    "h200": (8192, 1024),
    "b200": (16384, 1024),
}
KV_BYTES = {  # 2 x layers x KV heads x head size x 2 bytes
    "llama-3.1-8b_tp1": 2 * 32 * 8 * 128 * 2,
    "llama-3.1-70b_tp4": 2 * 80 * 8 * 128 * 2,
    "qwen3-8b_tp1": 2 * 36 * 8 * 128 * 2,
    "qwen3-30b-a3b_tp2": 2 * 48 * 4 * 128 * 2,
}
NUM_PARAMETERS = {
    "llama-3.1-8b_tp1": 8.03e9,
    "llama-3.1-70b_tp4": 70.6e9,
    "qwen3-8b_tp1": 8.19e9,
    "qwen3-30b-a3b_tp2": 30.5e9,
}
PUBLISHED_MS = {  # prefill of 512, 2048, 8192; decode of 1, 16, 64, 256 with 2048 context each
    "h200": (11.5, 43.4, 198.9, 4.9, 6.3, 9.5, 23.5),
    "h100": (12.0, 43.5, 199.7, 6.2, 8.2, 12.6, 30.7),
    "a100": (36.0, 125.2, 557.0, 12.0, 15.0, 23.1, 63.0),
    "l40s": (38.3, 144.9, 699.8, 22.0, 29.4, 51.3, 126.1),
}
PROFILES = {name: load(name) for name in NAMES}
WORK = st.tuples(
    st.integers(0, 40_000), st.floats(0, 1e9), st.integers(0, 4096), st.floats(0, 1e8, allow_subnormal=False)
)


def test_shipped_profiles_of_the_database_are_these():
    assert [name for name in shipped_names() if load(name).errors] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_law_is_as_close_to_held_out_steps_as_the_file_says(name):
    profile = PROFILES[name]
    by_region = {region: [] for region in (*REGIONS, "all")}
    for row in profile.held_out:
        fitted_ms = 1e3 * step_time_s(profile.law, *step_counts(row))
        assert fitted_ms == pytest.approx(row.fitted_ms, rel=1e-5)
        assert fitted_ms / row.measured_ms - 1 == pytest.approx(row.relative_error, abs=2e-6)
        by_region[row.region].append(abs(fitted_ms / row.measured_ms - 1))
        by_region["all"].append(abs(fitted_ms / row.measured_ms - 1))
    assert [row.region for row in profile.errors] == list(by_region)
    for row in profile.errors:
        errors = by_region[row.region]
        assert len(errors) == row.num_held_out >= 100
        assert row.num_fitted >= 5000
        assert np.median(errors) == pytest.approx(row.held_out_median, abs=2e-6)
        assert max(errors) == pytest.approx(row.held_out_worst, abs=2e-6)
        assert row.held_out_median <= MEDIAN_BAR
        assert row.held_out_worst <= WORST_BAR


@pytest.mark.parametrize("name", NAMES)
def test_held_out_steps_are_those_of_another_seed(name):
    profile = PROFILES[name]
    limits = (
        max(8192, profile.max_num_batched_tokens),
        profile.max_num_seqs,
        profile.num_blocks * profile.block_size,
    )
    held_out = [Step(*row[:6]) for row in profile.held_out]
    seed, num_each = profile_database.HELD_OUT_SEED, profile_database.NUM_HELD_OUT
    assert held_out == list(draw_steps(seed, num_each, *limits))
    for step in held_out:
        prefill_tokens, _, decodes, context = step_counts(step)
        assert prefill_tokens + decodes <= limits[0]
        assert decodes <= limits[1]
        assert context <= limits[2]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_sizes_follow_from_memory_and_vllm_defaults(name):
    profile = PROFILES[name]
    gpu, model = name.split("_", 1)
    assert profile.name == name
    assert profile.source_version.startswith("aiconfigurator-core 0.12.0, vLLM 0.")
    assert profile.tensor_parallel == int(name[-1])
    assert profile.kv_bytes_per_token == KV_BYTES[model]
    assert profile.weight_bytes == pytest.approx(2 * NUM_PARAMETERS[model], rel=2e-3)
    assert profile.num_blocks == num_kv_blocks(
        profile.gpu_memory_bytes, profile.weight_bytes, profile.kv_bytes_per_token, profile.tensor_parallel
    )
    assert (profile.max_num_batched_tokens, profile.max_num_seqs) == BATCH[gpu]


@pytest.mark.parametrize("gpu", PUBLISHED_MS)
def test_database_is_the_one_behind_the_published_figures(gpu):
    profile = PROFILES[f"{gpu}_llama-3.1-8b_tp1"]
    sizes = [*PREFILL_FIGURES, *DECODE_FIGURES]
    published = dict(zip(sizes, PUBLISHED_MS[gpu], strict=True))
    assert len(profile.fit_error) >= 6  # 256 sequences of 2048 tokens fit not every KV cache
    for row in profile.fit_error:
        assert row.measured_ms == pytest.approx(published[row.x], abs=0.06)  # rounded
        assert abs(row.relative_error) <= WORST_BAR


@pytest.mark.parametrize("name", NAMES)
def test_no_work_takes_the_reading_of_the_weights(name):
    law = PROFILES[name].law
    assert step_time_s(law, 0, 0, 0, 0) == law.overhead_s > 1e-3


@settings(deadline=None)  # the first call may compile
@given(st.sampled_from(NAMES), WORK, WORK)
def test_more_work_never_takes_less_time(name, work, added):
    law = as_record(PROFILES[name].law)
    one_s = step_time_s(law, *work)
    assert np.isfinite(one_s)
    assert one_s > 0
    for axis in range(4):
        more = list(work)
        more[axis] += added[axis]
        assert step_time_s(law, *more) >= one_s


def test_h200_is_never_slower_than_l40s():
    for step in PROFILES["l40s_llama-3.1-8b_tp1"].held_out:
        slow, fast = (PROFILES[f"{gpu}_llama-3.1-8b_tp1"].law for gpu in ("l40s", "h200"))
        assert step_time_s(fast, *step_counts(step)) < step_time_s(slow, *step_counts(step))


def test_database_profile_is_not_refitted_to_its_figures():
    with pytest.raises(ProfileError, match=r"was made from aiconfigurator-core .*; make it anew from there"):
        refit(SHIPPED / f"{NAMES[0]}.json")


@pytest.mark.parametrize(
    ("memory_gib", "gpu", "batch"),
    [
        (178, "NVIDIA B200", (16384, 1024)),
        (79, "NVIDIA H100", (8192, 1024)),
        (79, "NVIDIA A100 SXM", (2048, 256)),
        (44, "NVIDIA L40S", (2048, 256)),
    ],
)
def test_default_batch_follows_memory(memory_gib, gpu, batch):
    assert default_batch(memory_gib * 2**30, gpu) == batch


def test_knots_lie_where_the_curve_bends():
    x = np.arange(1.0, 101.0)
    y = 5 + np.clip(x - 20, 0, 10) + 0.5 * np.maximum(x - 60, 0)
    assert best_knots(x, y, 4).tolist() == [1, 20, 30, 60]


class FakeEngine:
    """A GPU whose steps obey a law that the table can tell apart from others."""

    law = StepTimeLaw(6e-3, 2e-3, 2e-5, 1e-9, 3e-5, 5e-8)

    def linear(self, num_tokens):
        return ("gemm", 1e3 * step_time_s(self.law, num_tokens, 0, 0, 0), 0.0, "silicon")

    def mixed_step_breakdown_per_op(self, ctx_tokens, gen_tokens, isl, osl):
        assert isl == ctx_tokens + gen_tokens
        return [self.linear(ctx_tokens + gen_tokens)], [], []

    def decode_step_per_op(self, num, context, osl):
        attention_s = num * (self.law.decode_sequence_s + self.law.decode_context_s * context)
        return [self.linear(num), ("generation_attention", 1e3 * attention_s, 0.0, "silicon")]

    def decode_step_latency(self, num, context, osl):
        return sum(op[1] for op in self.decode_step_per_op(num, context, osl))

    def run_static_per_op(self, *, batch_size, isl, prefix, osl, mode):
        tokens = batch_size * (isl - prefix)
        pairs = batch_size * profile_database.attended_pairs(isl - prefix, prefix)
        attention_ms = 1e3 * self.law.prefill_attention_s * pairs
        return [self.linear(tokens), ("context_attention", attention_ms, 0.0, "silicon")], []


class FakeModel:
    context_ops = tuple(
        SimpleNamespace(_name=name, get_weights=lambda size=size: size)
        for name, size in [("context_embedding", 1e9), ("gemm", 6e9)]
    )

    def get_kvcache_bytes_per_sequence(self, num_tokens):
        return 65536 * num_tokens


def fake_sdk(engine):
    """As much of the package as is used here, with one system and two models."""
    heads = {"n": 32, "n_kv": 8}
    return SimpleNamespace(
        perf_database=SimpleNamespace(
            get_supported_databases=lambda: {"h100_sxm": {"vllm": ["1"]}, "tpu": {"jetstream": ["1"]}},
            load_system_spec=lambda system: {
                "node": {"num_gpus_per_node": 8},
                "gpu": {"mem_capacity": 2**36},
            },
            resolve_query_version=lambda system, backend, alias: "0.24.0",
        ),
        common=SimpleNamespace(DefaultHFModels={"a/Small", "b/Large"}),
        utils=SimpleNamespace(get_model_config_from_model_path=lambda model: heads),
        config_builders=SimpleNamespace(build_model_config=lambda *sizes: None),
        models=SimpleNamespace(get_model=lambda model, config, backend: FakeModel()),
        engine=SimpleNamespace(EngineHandle=SimpleNamespace(compile=lambda *names, **sizes: engine)),
    )


@pytest.fixture
def sdk(monkeypatch):
    fake = fake_sdk(FakeEngine())
    monkeypatch.setattr(profile_database, "_package", lambda: fake)
    monkeypatch.setattr(profile_database.metadata, "version", lambda package: "9.9")
    monkeypatch.setattr(profile_database, "NUM_FITTED", 150)
    return fake


def test_command_makes_a_profile_of_what_the_database_says(sdk, tmp_path, capsys):
    main(["system=h100_sxm", "model=a/Small", "tp=2", f"output={tmp_path}"])
    path = tmp_path / "h100_small_tp2.json"
    printed = capsys.readouterr().out
    assert f"written to {path}" in printed
    assert "500 steps kept out of the fit are off by 0.0%" in printed
    profile = load(path)
    assert profile.source_version == "aiconfigurator-core 9.9, vLLM 0.24.0"
    assert "without its output layer" in profile.source
    assert profile.weight_bytes == 2 * (2 * 1e9 + 6e9)  # an output layer as large as the embedding is added
    assert profile.kv_bytes_per_token == 2 * 65536
    assert profile.num_blocks == num_kv_blocks(profile.gpu_memory_bytes, 16_000_000_000, 131072, 2)
    assert profile.errors[-1].held_out_worst < 5e-3
    for row in profile.held_out:
        truth_ms = 1e3 * step_time_s(FakeEngine.law, *step_counts(row))
        assert row.measured_ms == pytest.approx(truth_ms, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("system=h900 model=a/Small tp=1", "unknown system 'h900'; there are h100_sxm\n"),
        ("system=tpu model=a/Small tp=1", "unknown system 'tpu'; there are h100_sxm\n"),
        ("system=h100_sxm model=c/Huge tp=1", "unknown model 'c/Huge'; there are a/Small, b/Large\n"),
        (
            "system=h100_sxm model=a/Small tp=3",
            "tp=3: the 32 heads of a/Small can be split over 1, 2, 4, 8 GPUs",
        ),
        ("system=h100_sxm model=a/Small tp=0", "tp=0: the 32 heads of a/Small can be split over 1, 2, 4, 8"),
        ("system=h100_sxm model=a/Small tp=two", "tp: 'two' is not a whole number of GPUs"),
        ("system=h100_sxm model=a/Small", "tp missing; write system="),
        ("system=h100_sxm model=a/Small tp=1 gpu=3", "unknown gpu; write system="),
        ("system=h100_sxm model=a/Small tp=1 output=/nowhere", "output: /nowhere is no folder"),
    ],
)
def test_command_says_in_one_line_what_there_is(sdk, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_model_larger_than_the_gpus_is_refused(sdk, monkeypatch):
    monkeypatch.setattr(
        FakeModel, "context_ops", (SimpleNamespace(_name="logits", get_weights=lambda: 9e10),)
    )
    with pytest.raises(ProfileError, match=r"90\.0 GB of weights\) leaves no memory .*; use a larger tp"):
        make("h100_sxm", "a/Small", 1)


def test_missing_figures_are_told_from_a_wrong_request(sdk, monkeypatch):
    def fail(*sizes, **named):
        raise RuntimeError("no rows")

    monkeypatch.setattr(FakeEngine, "run_static_per_op", fail)
    with pytest.raises(ProfileError, match=r"no vLLM figures for a/Small on h100_sxm with tp=1: no rows"):
        make("h100_sxm", "a/Small", 1)


def test_missing_extra_is_named(monkeypatch, capsys):
    def fail(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(profile_database, "import_module", fail)
    with pytest.raises(SystemExit, match="2"):
        main(["system=h100_sxm", "model=a/Small", "tp=1"])
    printed = capsys.readouterr().err
    assert "making a profile needs the package aiconfigurator-core (No module named" in printed
    assert "pip install 'routegym[profiles]'" in printed


def test_command_as_a_user_runs_it_says_what_is_wrong_in_one_line():
    arguments = ["-m", "envs.emulator.profile", "system=abacus", "model=a/Small", "tp=1"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["h100_llama-3.1-8b_tp1", "b200_llama-3.1-70b_tp4"])
def test_shipped_figures_are_those_of_the_installed_database(name):
    pytest.importorskip("aiconfigurator_core", reason="the extra 'profiles' is not installed")
    profile = PROFILES[name]
    system = {"h100": "h100_sxm", "b200": "b200_sxm"}[name[:4]]
    database = Database(system, profile.model, profile.tensor_parallel).checked()
    assert database.weight_bytes == profile.weight_bytes
    if database.package_version not in profile.source_version:
        pytest.skip(f"another version of the database: {database.package_version}")
    for row in profile.held_out[::10]:
        assert database.step_ms(Step(*row[:6])) == pytest.approx(row.measured_ms, rel=1e-5)


def test_files_name_their_database_and_keep_rows_on_one_line():
    for name in NAMES:
        text = (SHIPPED / f"{name}.json").read_text()
        assert json.loads(text)["version"] == 2
        assert "Apache-2.0" in text
        assert len(text.splitlines()) < 800
