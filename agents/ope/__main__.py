"""``python -m agents.ope``: what would other policies have cost, told from what one decided and recorded?

    python -m agents.ope recording=runs/heuristics/evaluation/recordings/random-0 policy=llmd_token_load
    python -m agents.ope recording=DIR policy=linucb trained=runs/train/linucb-0
    python -m agents.ope recording=DIR policy=[power_of_two,dynamo_cost] +agent@policies.mine=dynamo_cost \
        policies.mine.prefill_weight=2

**What is estimated** is the mean cost of a decision where the policy makes that one, and all others are made
as they were recorded: its value as a contextual bandit, over the recorded contexts. **What this ignores**: a
policy that made all decisions would meet other contexts, since its own earlier decisions fill other queues
and caches. A policy that looks good by one step from a badly loaded fleet may not be so good in the fleet
that it makes for itself, and the other way round; how far the two are apart grows with the load, and with
how unlike the two policies are (``tests/benchmarks/check_ope.py`` measures it). Rank candidates by this, and
compare what is left on the emulator or live.

Estimates are those of ``agents.ope.estimators``, intervals those of ``agents.ope.intervals``. A policy that
learns is frozen: it is evaluated as it was trained. The logging policy must have left enough to chance:
where a policy would choose what could not have been chosen, it is refused.

In the run's directory then lie ``ope.json``, ``table.md``, ``ope.png`` and ``results.parquet``, one row per
policy and decision whose outcome is known. The same config gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf

from agents.cells import build_policy
from agents.comparison import CONFIDENCE
from agents.config import register, register_policy_group
from agents.defences.defence import learns
from agents.files import write, write_json, write_parquet
from agents.hyperparameters import check_counts, check_not_negative, check_positive, check_range
from agents.ope import estimators, target
from agents.ope.direct_model import cross_fitted, folds
from agents.ope.estimators import Ratio
from agents.ope.figures import figures
from agents.ope.intervals import blocks, interval
from agents.ope.logged import Logged, read
from agents.ope.plot import draw
from agents.ope.report import markdown_table, reasons_for_doubt
from agents.policy import Policy
from agents.program import program
from agents.run_directory import claim
from conf.build import ConfigError, build

register()


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return the summary."""
    config = _with_names(config)
    _check(config)
    model = build(config.direct_model, "direct_model")
    policies = {str(name): _frozen(config, str(name)) for name in config.policies}
    logged = read(config.recording, config.cost, config.failed_s)
    wanted = {
        name: target.propensities(policy, name, logged, config.seed) for name, policy in policies.items()
    }
    known = logged.known
    num_unknown, logged = len(logged) - len(known), logged.take(known)
    wanted = {name: chances[known] for name, chances in wanted.items()}
    for name, chances in wanted.items():
        _check_support(name, chances, logged, config.max_unsupported)
    block = blocks(logged.episode, config.num_blocks)
    fold = folds(logged.episode, block, config.num_folds)
    directory = claim(config, ())  # everything there is made anew
    predicted = cross_fitted(model, logged, fold, config.seed)
    missed = logged.cost - predicted[np.arange(len(logged)), logged.instance]
    results, tables = {}, []
    for name, chances in wanted.items():
        told, rows = figures(logged, chances, predicted, block, config.max_weight, config.seed)
        results[name] = told | {"warnings": reasons_for_doubt(told, len(logged))}
        tables.append(rows.assign(policy=name))
    summary = {
        "recording": list(config.recording),
        "cost": config.cost,
        "failed_s": config.failed_s,
        "num_decisions": len(logged),
        "num_without_outcome": num_unknown,
        "num_episodes": len(np.unique(logged.episode)),
        "num_blocks": int(block[-1]) + 1,
        "confidence": CONFIDENCE,
        "max_weight": config.max_weight,
        "direct_model_r2": 1 - float(np.square(missed).mean() / max(logged.cost.var(), 1e-12)),
        "recorded": interval(Ratio(logged.cost, np.ones(len(logged))), block, config.seed).plain(),
        "policies": dict(sorted(results.items(), key=lambda item: item[1]["dr"]["value"])),
    }
    table = pd.concat(tables, ignore_index=True)
    write_parquet(directory / "results.parquet", table)
    write_json(directory / "ope.json", summary)
    text = markdown_table(summary)
    write(directory / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    draw(
        summary,
        {name: rows["weight"].to_numpy() for name, rows in table.groupby("policy")},
        directory / "ope.png",
    )
    print(text)
    print(f"results: {directory}")
    return summary


def _with_names(config: DictConfig) -> DictConfig:
    """The config with its short forms in full: one recording, what the only policy was trained to be."""
    short: dict[str, Any] = {}
    if isinstance(config.recording, str):
        short["recording"] = [config.recording]
    if isinstance(config.trained, str):
        if len(config.policies) != 1:
            raise ConfigError(
                f"trained: {config.trained!r} is of one policy and there are {len(config.policies)}; say"
                " which by +trained.NAME=DIRECTORY"
            )
        short["trained"] = {next(iter(config.policies)): config.trained}
    full = OmegaConf.merge(config, short)
    assert isinstance(full, DictConfig)
    return full


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    if config.recording is None:
        raise ConfigError("recording: there is none; give recording=<directory of a recording>")
    if not isinstance(config.recording, ListConfig):
        raise ConfigError(f"recording: {config.recording!r} is no directory, nor a list of such")
    if not config.policies:
        raise ConfigError("policy: there is none; give policy=NAME, or +agent@policies.NAME=OPTION for more")
    if not isinstance(config.trained, Mapping | DictConfig):
        raise ConfigError(f"trained: {config.trained!r} is no directory of a training run")
    for name in config.trained:
        if name not in config.policies:
            raise ConfigError(
                f"trained.{name}: {name} is none of the policies ({', '.join(config.policies)})"
            )
    check_counts(num_blocks=config.num_blocks, num_folds=config.num_folds)
    if config.num_folds < 2:
        raise ConfigError("num_folds: 1 would judge each decision by a model that knows its outcome; give 2")
    check_range(0, 1, max_unsupported=config.max_unsupported)
    check_not_negative(seed=config.seed)
    if config.max_weight is not None:
        check_positive(max_weight=config.max_weight)


def _frozen(config: DictConfig, name: str) -> Policy:
    """The policy of this name, of an export bundle too where its node's ``_target_`` loads one."""
    policy = build_policy(config, name)
    if learns(policy) and name not in config.trained:
        raise ConfigError(
            f"policies.{name}: it learns, and here would always decide as before its first outcome; train it"
            f" and give trained=<directory of the training run>, or +trained.{name}= where there are several"
        )
    return policy


def _check_support(name: str, chances: NDArray[np.float64], logged: Logged, most: float) -> None:
    """Refuse a policy of which the recording can tell too little."""
    share = estimators.unsupported(chances, logged.propensities)
    if share.mean() <= most:
        return
    frac_by_chance = float(((logged.propensities > 0).sum(axis=1) > 1).mean())
    raise ConfigError(
        f"policies.{name}: {share.mean():.1%} of its decisions go where the recorded policy could not have"
        f" gone, more than max_unsupported ({most:.1%}): nothing was recorded of what those cost. The"
        f" recorded policy left {frac_by_chance:.1%} of its decisions to chance; record one that explores,"
        " such as random, or dynamo_cost with a temperature"
    )


@hydra.main(version_base="1.3", config_path="../../conf", config_name="ope")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.ope"):
        evaluate(config)


if __name__ == "__main__":
    register_policy_group()  # of this program alone: in another, policy= may be something else
    main()
