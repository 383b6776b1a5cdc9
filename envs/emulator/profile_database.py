"""Make a profile from NVIDIA's measured database of GPU kernels (PyPI ``aiconfigurator-core``).

The package holds how long each kernel of vLLM takes on each GPU, and composes a model's step of them. It is
an optional extra, ``pip install 'routegym[profiles]'``, needed to make a profile and not to use one.

A step of prefill or of decode alone takes what the package says. A mixed step is put together here from the
package's parts: the linear layers at all its tokens, the attention of its prefill and that of its decode,
and the output layer at its decoding sequences. (The package's own mixed step spreads a prompt's attention
evenly over its chunks, which says nothing of one chunk, and runs the output layer for one sequence.)

Steps are drawn at random, log-uniform in each size, from five regions:

* ``prefill``: one prompt without any context;
* ``chunk``: new tokens of one prompt after a prefix, cached or computed before;
* ``batch``: several prompts of equal length;
* ``decode``: sequences of equal context, as many tokens in all as the KV cache holds;
* ``mixed``: a prefill or a chunk together with a decode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from math import exp, log
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from envs.emulator.profile import (
    NUM_DIGITS,
    HeldOut,
    PointFit,
    Profile,
    ProfileError,
    RegionError,
    num_kv_blocks,
)
from envs.emulator.profile_fit import fit_law
from envs.emulator.step_time import StepTimeLaw, attended_pairs, step_time_s

PACKAGE = "aiconfigurator-core"
REGIONS = ("prefill", "chunk", "batch", "decode", "mixed")
NUM_FITTED, NUM_HELD_OUT = 5000, 100
"""Steps drawn in each region."""
FIT_SEED, HELD_OUT_SEED = 1, 2
MAX_CONTEXT_TOKENS = 32768
GIB = 2**30
PREFILL_FIGURES = (512, 2048, 8192)
DECODE_FIGURES = (1, 16, 64, 256)
FIGURE_CONTEXT = 2048


class Gpu(NamedTuple):
    """What a database calls a system, as people and CUDA call its GPU."""

    short_name: str
    name: str
    memory_bytes: int
    """As CUDA reports its total, which is less than the database's figure."""


GPUS = {
    "a100_sxm": Gpu("a100", "NVIDIA A100 SXM 80GB", 84_988_133_376),
    "l40s": Gpu("l40s", "NVIDIA L40S 48GB", 47_666_167_808),
    "h100_sxm": Gpu("h100", "NVIDIA H100 SXM 80GB", 84_938_850_304),
    "h200_sxm": Gpu("h200", "NVIDIA H200 141GB", 150_109_945_856),
    "b200_sxm": Gpu("b200", "NVIDIA B200 180GB", int(178.35 * GIB)),
}


class Step(NamedTuple):
    """One engine step: the leading fields of ``HeldOut``."""

    region: str
    num_prompts: int
    num_new_tokens: int
    num_computed_tokens: int
    num_decodes: int
    num_context_tokens: int

    @property
    def counts(self) -> tuple[float, float, float, float]:
        """What ``step_time_s`` takes of it."""
        return step_counts(self)


def step_counts(step: Step | HeldOut) -> tuple[float, float, float, float]:
    """The counts that ``step_time_s`` takes of a step."""
    pairs = step.num_prompts * attended_pairs(step.num_new_tokens, step.num_computed_tokens)
    return (
        step.num_prompts * step.num_new_tokens,
        pairs,
        step.num_decodes,
        step.num_decodes * step.num_context_tokens,
    )


def default_batch(gpu_memory_bytes: int, gpu: str) -> tuple[int, int]:
    """The defaults of vLLM's ``max_num_batched_tokens`` and ``max_num_seqs`` (see ``profile.py``)."""
    if gpu_memory_bytes >= 160 * GIB:
        return 16384, 1024
    if gpu_memory_bytes >= 70 * GIB and "a100" not in gpu.lower():
        return 8192, 1024
    return 2048, 256


def _package() -> ModuleType:
    """The database's package, or an error that says how to get it."""
    try:
        for part in ("common", "config_builders", "engine", "models", "perf_database", "utils"):
            import_module(f"aiconfigurator_core.sdk.{part}")
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"making a profile needs the package {PACKAGE} ({error}): pip install 'routegym[profiles]'"
        ) from error
    return import_module("aiconfigurator_core.sdk")


@dataclass(frozen=True)
class Database:
    """One model on one system, as the database knows it."""

    system: str
    model: str
    tensor_parallel: int

    @cached_property
    def _sdk(self) -> ModuleType:
        return _package()

    def checked(self) -> Database:
        """Return self, or raise ``ProfileError`` naming what there is instead."""
        systems = sorted(
            name
            for name, backends in self._sdk.perf_database.get_supported_databases().items()
            if "vllm" in backends
        )
        if self.system not in systems:
            raise ProfileError(f"unknown system {self.system!r}; there are {', '.join(systems)}")
        models = sorted(self._sdk.common.DefaultHFModels)
        if self.model not in models:
            raise ProfileError(f"unknown model {self.model!r}; there are {', '.join(models)}")
        config = self._sdk.utils.get_model_config_from_model_path(self.model)
        limit = self._sdk.perf_database.load_system_spec(self.system)["node"]["num_gpus_per_node"]
        splits = [
            tp
            for tp in range(1, limit + 1)
            if config["n"] % tp == 0 and config["n_kv"] % tp in (0, config["n_kv"])
        ]
        if self.tensor_parallel not in splits:
            raise ProfileError(
                f"tp={self.tensor_parallel}: the {config['n']} heads of {self.model} can be split over "
                f"{', '.join(map(str, splits))} GPUs of one machine"
            )
        return self

    @cached_property
    def vllm_version(self) -> str:
        """The vLLM release whose kernels were measured."""
        version: str = self._sdk.perf_database.resolve_query_version(self.system, "vllm", "current")
        return version

    @cached_property
    def package_version(self) -> str:
        """Of the database."""
        return metadata.version(PACKAGE)

    @cached_property
    def memory_bytes(self) -> int:
        """Of one GPU, where ``GPUS`` does not know it."""
        return int(self._sdk.perf_database.load_system_spec(self.system)["gpu"]["mem_capacity"])

    @cached_property
    def _model(self) -> Any:
        parallel = self.tensor_parallel
        config = self._sdk.config_builders.build_model_config(parallel, 1, 1, parallel, 1)
        return self._sdk.models.get_model(self.model, config, "vllm")

    @cached_property
    def weight_bytes(self) -> int:
        """Of the whole model, an output layer that the package leaves out included."""
        weights = {op._name: op.get_weights() for op in self._model.context_ops}
        if self.leaves_out_logits:
            weights["logits"] = weights["context_embedding"]
        return int(sum(weights.values())) * self.tensor_parallel

    @cached_property
    def leaves_out_logits(self) -> bool:
        """Whether the package composes the model's steps without its output layer."""
        return not any("logits" in op._name for op in self._model.context_ops)

    @cached_property
    def kv_bytes_per_token(self) -> int:
        """Of the whole model; heads that every GPU holds a copy of are counted with each."""
        return int(self._model.get_kvcache_bytes_per_sequence(1)) * self.tensor_parallel

    @cached_property
    def _engine(self) -> Any:
        return self._sdk.engine.EngineHandle.compile(
            self.model,
            self.system,
            "vllm",
            backend_version="current",
            tp_size=self.tensor_parallel,
            moe_tp_size=self.tensor_parallel,
            moe_ep_size=1,
        )

    def linear_ms(self, num_tokens: int) -> float:
        """What a step's linear layers take, the output layer at one token."""
        return sum(self._linear_ops(num_tokens, 0).values())

    def _linear_ops(self, num_prefill_tokens: int, num_decodes: int) -> dict[str, float]:
        """Milliseconds of each kind of kernel but attention, whose time depends on the number of tokens."""
        shared, _, _ = self._engine.mixed_step_breakdown_per_op(
            ctx_tokens=num_prefill_tokens,
            gen_tokens=num_decodes,
            isl=num_prefill_tokens + num_decodes,
            osl=2,
        )
        return {name: float(ms) for name, ms, *_ in shared}

    def step_ms(self, step: Step) -> float:
        """What a step takes."""
        if step.num_prompts == 0:
            return float(self._engine.decode_step_latency(step.num_decodes, step.num_context_tokens, 2))
        prefill, _ = self._engine.run_static_per_op(
            batch_size=step.num_prompts,
            isl=step.num_new_tokens + step.num_computed_tokens,
            prefix=step.num_computed_tokens,
            osl=1,
            mode="static_ctx",
        )
        if step.num_decodes == 0:
            return float(sum(op[1] for op in prefill))
        decode = self._engine.decode_step_per_op(step.num_decodes, step.num_context_tokens, 2)
        linear = self._linear_ops(step.num_prompts * step.num_new_tokens, step.num_decodes)
        return (
            sum(ms for name, ms in linear.items() if "logits" not in name)
            + sum(op[1] for op in prefill if "attention" in op[0])
            + sum(op[1] for op in decode if "attention" in op[0] or "logits" in op[0])
        )


def draw_steps(
    seed: int, num_each: int, max_num_batched_tokens: int, max_num_seqs: int, num_kv_tokens: int
) -> Iterator[Step]:
    """Draw steps of every region that an engine of these limits could run."""
    rng = np.random.default_rng(seed)

    def size(low: int, high: float) -> int:
        return round(exp(rng.uniform(log(low), log(max(low, high) + 0.49))))

    most, longest = max_num_batched_tokens, min(MAX_CONTEXT_TOKENS, num_kv_tokens // 2)
    for _ in range(num_each):
        yield Step("prefill", 1, size(16, min(most, longest)), 0, 0, 0)
        yield Step("chunk", 1, size(2, min(most, longest)), size(16, longest), 0, 0)
        num_prompts = size(2, 16)
        yield Step("batch", num_prompts, size(16, most // num_prompts), 0, 0, 0)
        num_decodes = size(1, max_num_seqs)
        longest_each = min(MAX_CONTEXT_TOKENS, num_kv_tokens // num_decodes)
        yield Step("decode", 0, 0, 0, num_decodes, size(16, longest_each))
        num_decodes = size(1, max_num_seqs)
        longest_each = min(MAX_CONTEXT_TOKENS, num_kv_tokens // (2 * num_decodes))
        computed = size(16, longest) if rng.random() < 0.5 else 0
        chunk = size(2 if computed else 16, min(most - num_decodes, longest))
        yield Step("mixed", 1, chunk, computed, num_decodes, size(16, longest_each))


def linear_sizes(max_num_tokens: int) -> list[int]:
    """Token counts at which to look at the linear layers: dense, and on both sides of the stairs' edges."""
    edges = np.arange(160, min(4400, max_num_tokens), 32)
    spread = np.geomspace(128, max_num_tokens, 160).round().astype(np.int64)
    sizes: list[int] = np.unique(np.concatenate([np.arange(1, 130), spread, edges, edges + 1])).tolist()
    return sizes


def make(system: str, model: str, tensor_parallel: int, say: Callable[[str], None] = print) -> Profile:
    """Make the profile of a model on a system."""
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)  # which tables fell back, at length
    database = Database(system, model, tensor_parallel).checked()
    gpu = GPUS.get(system) or Gpu(system, f"NVIDIA {system}", database.memory_bytes)
    num_blocks = num_kv_blocks(
        gpu.memory_bytes, database.weight_bytes, database.kv_bytes_per_token, tensor_parallel
    )
    if num_blocks < 1:
        raise ProfileError(
            f"{model} ({database.weight_bytes / 1e9:.1f} GB of weights) leaves no memory for the KV cache on "
            f"{tensor_parallel} x {gpu.name}; use a larger tp"
        )
    max_num_batched_tokens, max_num_seqs = default_batch(gpu.memory_bytes, gpu.name)
    limits = max(8192, max_num_batched_tokens), max_num_seqs, 16 * num_blocks
    say(f"reading the steps of {model} on {tensor_parallel} x {gpu.name} ...")
    try:
        fitted = list(draw_steps(FIT_SEED, NUM_FITTED, *limits))
        held_out = list(draw_steps(HELD_OUT_SEED, NUM_HELD_OUT, *limits))
        fitted += [step for step in figure_steps() if step.num_decodes * step.num_context_tokens <= limits[2]]
        measured = {step: database.step_ms(step) for step in fitted + held_out}
        sizes = linear_sizes(limits[0] + limits[1])
        linear_ms = [database.linear_ms(size) for size in sizes]
    except Exception as error:  # the package's many own
        raise ProfileError(
            f"the database has no vLLM figures for {model} on {system} with tp={tensor_parallel}: {error}"
        ) from error
    say("fitting the law ...")
    law = fit_law(
        np.array(sizes, float),
        np.array(linear_ms) / 1e3,
        np.array([step.counts for step in fitted]),
        np.array([measured[step] for step in fitted]) / 1e3,
    )
    held_out_rows = [_held_out(law, step, measured[step]) for step in held_out]
    figures = [step for step in fitted if step.region == "figure"]
    return Profile(
        name=f"{gpu.short_name}_{short_model_name(model)}_tp{tensor_parallel}",
        gpu=gpu.name,
        model=model,
        tensor_parallel=tensor_parallel,
        law=law,
        gpu_memory_bytes=gpu.memory_bytes,
        weight_bytes=database.weight_bytes,
        kv_bytes_per_token=database.kv_bytes_per_token,
        block_size=16,
        num_blocks=num_blocks,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        source=_source(database),
        fit_error=tuple(_figure(law, step, measured[step]) for step in figures),
        source_version=f"{PACKAGE} {database.package_version}, vLLM {database.vllm_version}",
        errors=region_errors([_held_out(law, step, measured[step]) for step in fitted], held_out_rows),
        held_out=tuple(held_out_rows),
    )


def _source(database: Database) -> str:
    source = (
        f"NVIDIA's measured database in PyPI {PACKAGE} (Apache-2.0), system {database.system}, backend vllm, "
        f"the model's own number format, tensor parallel {database.tensor_parallel}, experts split likewise. "
        "A mixed step is its linear layers at all its tokens, the output layer at its decoding sequences and "
        "the attention of its prefill and of its decode. "
        f"Fitted to {NUM_FITTED} steps drawn in each of the regions {', '.join(REGIONS)}, and to the figures."
    )
    if database.leaves_out_logits:
        source += " The database composes this model's steps without its output layer."
    return source


def short_model_name(model: str) -> str:
    """``meta-llama/Meta-Llama-3.1-8B`` -> ``llama-3.1-8b``."""
    return model.split("/")[-1].lower().removeprefix("meta-")


def figure_steps() -> list[Step]:
    """The steps people know a GPU by."""
    prefills = [Step("figure", 1, size, 0, 0, 0) for size in PREFILL_FIGURES]
    return prefills + [Step("figure", 0, 0, 0, size, FIGURE_CONTEXT) for size in DECODE_FIGURES]


def _held_out(law: StepTimeLaw, step: Step, measured_ms: float) -> HeldOut:
    measured_ms = _rounded(measured_ms)
    fitted_ms = 1e3 * step_time_s(law, *step.counts)
    return HeldOut(*step, measured_ms, _rounded(fitted_ms), round(fitted_ms / measured_ms - 1, NUM_DIGITS))


def _figure(law: StepTimeLaw, step: Step, measured_ms: float) -> PointFit:
    row = _held_out(law, step, measured_ms)
    kind, size = ("decode", step.num_decodes) if step.num_decodes else ("prefill", step.num_new_tokens)
    return PointFit(kind, size, step.num_context_tokens, row.measured_ms, row.fitted_ms, row.relative_error)


def region_errors(fitted: list[HeldOut], held_out: list[HeldOut]) -> tuple[RegionError, ...]:
    """The errors of each region, and of all together."""
    rows = []
    for region in (*REGIONS, "all"):
        fit, test = (
            [abs(row.relative_error) for row in steps if region in (row.region, "all")]
            for steps in (fitted, held_out)
        )
        rows.append(
            RegionError(region, len(fit), _median(fit), max(fit), len(test), _median(test), max(test))
        )
    return tuple(rows)


def _median(errors: list[float]) -> float:
    return _rounded(float(np.median(errors)))


def _rounded(number: float) -> float:
    return float(f"{number:.{NUM_DIGITS}g}")
