"""The configs of the programs, typed: what Hydra composes is checked against these.

Nodes of type ``Any`` describe components and are checked by ``conf.build`` against what they build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import conf
from agents.run_directory import folder_name
from conf.build import ConfigError


@dataclass
class ScenarioConfig:
    """``conf/scenario/bench.yaml``; where there is none, all is None.

    Not None itself: a sweep sets ``scenario.load`` before it has chosen the experiment.
    """

    version: Optional[int] = None  # noqa: UP045 (OmegaConf's own form)
    split: Optional[str] = None  # noqa: UP045
    load: Optional[str] = None  # noqa: UP045 (a whole number, as a key of rates_per_s)
    loads: Optional[list[int]] = None  # noqa: UP045
    warmup_s: Optional[float] = None  # noqa: UP045
    seeds: Optional[dict[str, list[int]]] = None  # noqa: UP045
    trace_seeds: Optional[dict[str, int]] = None  # noqa: UP045
    windows: Optional[dict[str, list[Optional[float]]]] = None  # noqa: UP045
    capacity_per_s: Optional[float] = None  # noqa: UP045
    rates_per_s: Optional[dict[str, float]] = None  # noqa: UP045


@dataclass
class TrainConfig:
    """``conf/train.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    seed: int = MISSING
    total_timesteps: Optional[int] = None  # noqa: UP045 (OmegaConf's own form)
    checkpoint_every: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    agent: Any = MISSING
    logger: Any = MISSING
    world: Any = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    record: bool = False


@dataclass
class EvaluateConfig:
    """``conf/evaluate.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    seeds: list[int] = MISSING
    warmup_s: float = MISSING
    window_s: float = MISSING
    reference: str = MISSING
    trained: dict[str, str] = field(default_factory=dict)
    num_workers: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    logger: Any = MISSING
    world: Any = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    record: bool = False
    policies: dict[str, Any] = field(default_factory=dict)


@dataclass
class TuneConfig:
    """``conf/tune.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    tuned_for: Optional[str] = None  # noqa: UP045 (OmegaConf's own form)
    agent_name: str = MISSING
    seed: int = MISSING
    seeds: list[int] = MISSING
    num_trials: int = MISSING
    objective: str = MISSING
    warmup_s: Optional[float] = None  # noqa: UP045
    total_timesteps: Optional[int] = None  # noqa: UP045
    checkpoint_every: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    agent: Any = MISSING
    logger: Any = MISSING
    world: Any = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    space: dict[str, Any] = field(default_factory=dict)


@dataclass
class BenchmarkConfig:
    """``conf/benchmark.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    scenarios: Any = MISSING
    split: str = MISSING
    policies: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    tuned: Any = None
    reference: Optional[str] = None  # noqa: UP045 (OmegaConf's own form)
    seeds: Optional[list[int]] = None  # noqa: UP045
    bound_seeds: Optional[list[int]] = None  # noqa: UP045
    bound_scenarios: Any = MISSING
    report: Optional[str] = None  # noqa: UP045
    settings: Any = None
    num_workers: int = MISSING


@dataclass
class FidelityConfig:
    """``conf/fidelity.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    seeds: list[int] = MISSING
    warmup_s: float = MISSING
    trained: dict[str, str] = field(default_factory=dict)
    env: Any = MISSING
    live: Any = MISSING
    emulated: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    policies: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportConfig:
    """``conf/export.yaml``."""

    run: Optional[str] = None  # noqa: UP045
    directory: Optional[str] = None  # noqa: UP045
    policy_name: Optional[str] = None  # noqa: UP045
    results: Optional[str] = None  # noqa: UP045
    report: Optional[str] = None  # noqa: UP045
    seed: int = MISSING
    num_observations: int = MISSING
    range_margin: float = MISSING
    max_instances: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    agent: Any = MISSING
    fallback: Any = MISSING
    world: Any = None


@dataclass
class ServeConfig:
    """``conf/serve.yaml``."""

    policy: Optional[str] = None  # noqa: UP045
    endpoints: Any = None
    heuristic: Any = MISSING
    learning: Any = None
    record: Optional[str] = None  # noqa: UP045
    admin: Any = MISSING
    router: Any = MISSING


@dataclass
class PickerConfig:
    """``conf/picker.yaml``."""

    policy: Optional[str] = None  # noqa: UP045
    endpoints: Any = None
    heuristic: Any = MISSING
    picker: Any = MISSING


@dataclass
class OpeConfig:
    """``conf/ope.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    recording: Any = None
    policies: dict[str, Any] = field(default_factory=dict)
    trained: Any = None
    cost: str = MISSING
    failed_s: Optional[float] = None  # noqa: UP045 (OmegaConf's own form)
    max_weight: Optional[float] = None  # noqa: UP045
    max_unsupported: float = MISSING
    direct_model: Any = MISSING
    num_folds: int = MISSING
    num_blocks: int = MISSING
    seed: int = MISSING


@dataclass
class ViewerConfig:
    """``conf/viewer.yaml``."""

    run: Optional[str] = None  # noqa: UP045 (OmegaConf's own form)
    policies: Any = None
    seed: Optional[int] = None  # noqa: UP045
    directory: Optional[str] = None  # noqa: UP045
    num_looks: int = MISSING


@dataclass
class DistillConfig:
    """``conf/distill.yaml``."""

    name: str = MISSING
    directory: str = MISSING
    run: Optional[str] = None  # noqa: UP045 (OmegaConf's own form)
    policies: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    students: dict[str, Any] = field(default_factory=dict)
    seed: int = MISSING
    num_rounds: int = MISSING
    num_decisions: int = MISSING
    num_taught: int = MISSING
    tuned: Optional[str] = None  # noqa: UP045
    tuned_for: Optional[str] = None  # noqa: UP045
    seeds: list[int] = MISSING
    measured: dict[str, Any] = field(default_factory=dict)
    warmup_s: float = MISSING
    num_workers: int = MISSING
    max_instances: int = MISSING
    env: Any = MISSING
    cluster: Any = MISSING
    workload: Any = MISSING
    reward: Any = MISSING
    world: Any = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ``ConfigError`` unless they are different whole numbers from 0, at least one."""
    if len(set(seeds)) != len(seeds) or not seeds or min(seeds) < 0:
        raise ConfigError(f"seeds: {list(seeds)} must be different whole numbers from 0, at least one")


def has_scenario(config: DictConfig) -> bool:
    """Whether a config is of one of the benchmark's scenarios; not every program takes them."""
    scenario = config.get("scenario")
    return scenario is not None and scenario.version is not None


def register() -> None:
    """Make what the YAML files name known to Hydra: the schemas, and how a run of a sweep is called."""
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="tune_schema", node=TuneConfig)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    store.store(name="fidelity_schema", node=FidelityConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="serve_schema", node=ServeConfig)
    store.store(name="picker_schema", node=PickerConfig)
    store.store(name="ope_schema", node=OpeConfig)
    store.store(name="viewer_schema", node=ViewerConfig)
    store.store(name="distill_schema", node=DistillConfig)


def register_policy_group() -> None:
    """Make the group ``policy`` known to Hydra, a short form: ``policy=X`` for ``+agent@policies.X=X``.

    One takes several too: ``policy=[X,Y]``.
    """
    store = ConfigStore.instance()
    for path in sorted(Path(conf.__file__).parent.glob("agent/*.yaml")):
        option = path.stem
        short = {"defaults": [{f"/agent@policies.{option}": option}]}
        store.store(group="policy", name=option, node=short, package="_global_")
