"""``python -m agents.export``: make a bundle of a trained policy, or of a rule.

    python -m agents.export run=runs/demo/maskable_ppo-0
    python -m agents.export agent=llmd_affinity

The bundle is a folder, by default ``bundle`` in the run's directory, or ``runs/bundles/<agent>``. It is
written only if it decides about observations of the policy's own world as the policy itself does.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents.build_env import build_env
from agents.config import register
from agents.defences.defence import is_learned
from agents.export import compared, writing
from agents.export.card import Card, results_of, weaknesses_of
from agents.export.parity import observe
from agents.export.plan import Range
from agents.policy import Policy
from agents.program import program
from agents.training_run import WORLD, config_of, given_keys, policy_of
from conf.build import ConfigError, build
from envs.observation import Observation, encode

MADE_OF = ("seed", "total_timesteps", *WORLD, "agent")
"""Keys of a training run's config that its policy follows from."""

register()


def export(config: DictConfig, given: set[str]) -> Path:
    """Export as configured; return the bundle's directory.

    Args:
        config: As ``conf/export.yaml``.
        given: Keys that the user set; the others are the training run's, where there is one.
    """
    _check(config, given)
    run = None if config.run is None else Path(config.run)
    made_of = config if run is None else config_of(run, config, given)
    agent = build(made_of.agent, "agent")
    policy = policy_of(agent, run, "agent")
    choice = made_of.agent._target_.split(".")[-2]
    name = config.policy_name or choice
    with closing(build_env(made_of)) as env:
        if not env.cluster.repeatable:
            raise ConfigError("cluster: a policy is tried in emulation; give cluster=demo or another")
        seen = observe(env, policy, config.seed, config.num_observations)
    what = writing.Export(name, policy, max_instances=config.max_instances)
    if is_learned(agent):
        fallback, fallback_name = _fallback(config, policy, given)
        what = what._replace(
            fallback=fallback, fallback_name=fallback_name, trained_on=_range_of(seen, config.range_margin)
        )
    plain: Any = OmegaConf.to_container(made_of, resolve=True)
    card = Card(
        name,
        {key: plain[key] for key in MADE_OF if key in plain},
        what.guards(),
        results_of(Path(config.results), name) if config.results else [],
        weaknesses_of(Path(config.report), name) if config.report else [],
    )

    directory = Path(config.directory or (run / "bundle" if run else f"runs/bundles/{choice}"))
    compared.write(directory, what, card, seen)
    print(f"exported: {directory}")
    return directory


def _check(config: DictConfig, given: set[str]) -> None:
    if config.run is not None and "agent" in given:
        raise ConfigError("agent: the run brings its own; leave out agent= or run=")
    for key, least in (("num_observations", 1), ("max_instances", 1), ("seed", 0)):
        if config[key] < least:
            raise ConfigError(f"{key}: {config[key]} must be at least {least}")
    if not 0.0 <= config.range_margin < float("inf"):
        raise ConfigError(f"range_margin: {config.range_margin} must be a finite number from 0")


def _fallback(config: DictConfig, policy: Policy, given: set[str]) -> tuple[Policy, str]:
    """The policy's own fallback, unless another is asked for, which then becomes its own."""
    own = getattr(policy, "fallback", None)
    if own is not None and "fallback" not in given:
        return own, type(own).__module__.split(".")[-1]
    fallback: Policy = build(config.fallback, "fallback")
    if is_learned(fallback):
        raise ConfigError("fallback: it learns; give a heuristic, which is always ready")
    if own is not None:
        policy.fallback = fallback  # type: ignore[attr-defined]
    return fallback, type(fallback).__module__.split(".")[-1]


def _range_of(seen: list[Observation], margin: float) -> Range:
    """The range of what was seen of valid instances, so many widths wider on either side."""
    rows = np.concatenate(
        [
            encode(each["instances"], each["request"], each["mask"])[each["mask"].astype(np.bool_)]
            for each in seen
        ]
    )
    low, high = rows.min(axis=0), rows.max(axis=0)
    wider = np.float32(margin) * (high - low)
    return Range(low - wider, high + wider)


@hydra.main(version_base="1.3", config_path="../../conf", config_name="export")
def main(config: DictConfig) -> None:
    """Run the program."""
    overrides = HydraConfig.get().overrides.task
    given = given_keys(overrides)
    given |= {"fallback" for override in overrides if override.startswith("agent@fallback=")}
    given -= {"agent"} - {"agent" for override in overrides if re.match(r"[+~]*agent[.=]", override)}
    with program("agents.export"):
        export(config, given)


if __name__ == "__main__":
    main()
