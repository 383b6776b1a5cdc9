"""``python -m agents.distill``: a policy as a rule that a person can read, and what it loses by it.

    python -m agents.distill run=runs/demo/maskable_ppo-0 name=ppo +measured.part=test
    python -m agents.distill experiment=bench/fast_slow policy=marginal_delay
    python -m agents.distill experiment=bench/fast_slow run=runs/train/marginal_delay-0

Each student (``conf/student``) learns a rule from the teacher (``agents.distill.dagger``). Then the teacher,
the students' rules and some hand-made rules route the same streams, which nothing was learned from. In the
run's directory then lie

* ``<student>/``: its rule for people and in three languages, ``rule.txt``, ``rule.py``, ``rule.go`` and
  ``rule.cel``, and as a ``bundle`` (``agents.export``), to be evaluated or attacked as ``agent=bundle``;
* ``teacher/``: what a learner that had no run learned;
* ``attempts.parquet``: one row per rule that a student tried;
* ``cells/``, ``results.parquet``: as of ``agents.evaluate``;
* ``distill.json``, ``table.md``: means over seeds, each against the best of the hand-made rules, and how much
  of the teacher's gain over that one the students keep, with 95 % intervals.

A teacher that learns while it routes does not while it is learned from; measured, it goes on learning. In a
scenario of the benchmark all learning is from requests of training, and ``scenario.split`` says on whose
requests is measured. A teacher without ``run`` for which ``tuned`` has constants has those, and is called
``NAME_tuned``; rules are measured with their own and with those. All but the decision times in
``cells/*.json`` are the same bytes for the same config.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents import cells
from agents.benchmark import tuned
from agents.benchmark.scenario import select
from agents.build_env import build_env
from agents.config import has_scenario, register, register_policy_group
from agents.defences.defence import innermost, learns
from agents.distill import report
from agents.distill.dagger import Distillation, distil
from agents.distill.expression import num_nodes
from agents.distill.kept import best_rule, kept
from agents.distill.policy import Distilled
from agents.distill.rule_files import BUNDLE, Written, write_rule, write_text
from agents.distill.texts.formula import formula_text
from agents.export.parity import observe
from agents.files import write_json, write_parquet
from agents.hyperparameters import check_counts
from agents.metrics import figures
from agents.online import CHECKPOINT, learn_online
from agents.policy import Trainable
from agents.program import program
from agents.run_directory import claim
from agents.summary import summarise
from agents.training_run import WORLD, config_of, given_keys, policy_of
from conf.build import ConfigError, build

LOAD = "agents.export.bundle.load"

register()


class Teacher(NamedTuple):
    """Whom to imitate, and where."""

    name: str
    agent: Any
    """As built, before it learned anything."""
    node: Any
    """Of the config that it was built from."""
    run: str | None
    """Directory of its training run."""
    world: DictConfig
    """Config of the world that it is learned from in: ``agents.training_run.WORLD``."""
    measured: DictConfig
    """Of that in which all are measured, but for ``measured``."""


def distill(config: DictConfig, given: set[str]) -> dict[str, Any]:
    """Distil as configured; return the summary.

    Args:
        config: As ``conf/distill.yaml``.
        given: Keys that the user set; of the world, the others are the training run's, where there is one.
    """
    _check(config)
    teacher = _teacher(config, given)
    rules = _with_tuned(config, config.rules)
    _check_names(config, teacher.name, rules)
    measured = _measured(config, teacher, rules)
    directory = claim(config, ())  # cells know themselves what they are of; all else is made anew
    if teacher.run is None and learns(teacher.agent):
        teacher = teacher._replace(run=str(_taught(config, teacher, directory / "teacher")))
        measured.trained = {teacher.name: teacher.run}
    learned, written = _learned(config, teacher, directory)
    write_parquet(directory / "attempts.parquet", _attempts(learned))
    for name in learned:
        measured.policies[name] = {"_target_": LOAD, "directory": str(directory / name / BUNDLE)}
    results, notes = [], []
    for cell in cells.run(measured, directory):
        ledger, side = cells.read(directory, cell)
        row = {"policy": cell.policy, "seed": cell.seed}
        results.append(row | figures(ledger, side["num_instances"], config.warmup_s))
        notes = side["workload_notes"]
    table = pd.DataFrame(results)
    write_parquet(directory / "results.parquet", table)
    summary = _summary(config, teacher.name, list(rules), learned, table) | {"workload_notes": notes}
    write_json(directory / "distill.json", summary)
    text = report.text(summary)
    write_text(directory / "table.md", text)
    for rule in written:
        rule.tell(report.results(summary))
    print(text)
    print(f"results: {directory}")
    return summary


def _taught(config: DictConfig, teacher: Teacher, directory: Path) -> Path:
    """Let a learner learn while it routes, anew; return where its checkpoint lies."""
    directory.mkdir(exist_ok=True)
    (directory / CHECKPOINT).unlink(missing_ok=True)
    learner, number = deepcopy(teacher.agent), config.num_taught
    learn_online(
        learner, lambda rank: build_env(teacher.world), config.seed, directory, number, number, _silent
    )
    return directory


def _silent(num_decisions: int, figures: Mapping[str, float]) -> None:
    """Show no progress."""


def _learned(
    config: DictConfig, teacher: Teacher, directory: Path
) -> tuple[dict[str, Distillation], list[Written]]:
    """What each student learned; its rule is written down."""
    students = {str(name): build(node, f"students.{name}") for name, node in config.students.items()}
    key = "agent" if teacher.run is not None else f"policies.{teacher.name}"
    learned, written = {}, []
    policy = policy_of(teacher.agent, None if teacher.run is None else Path(teacher.run), key)
    with closing(build_env(teacher.world)) as env:
        if not env.cluster.repeatable:
            raise ConfigError("cluster: a policy is distilled in emulation; give cluster=demo or another")
        for name, student in students.items():
            learned[name] = distil(env, policy, student, config.seed, config.num_rounds, config.num_decisions)
            distilled = Distilled(learned[name].rule)
            written.append(
                write_rule(
                    directory / name,
                    f"{teacher.name}_{name}",
                    distilled,
                    _made_of(config, teacher, name),
                    config.max_instances,
                    observe(env, distilled, config.seed, config.num_decisions),
                )
            )
    return learned, written


def _summary(
    config: DictConfig,
    teacher: str,
    rules: list[str],
    learned: Mapping[str, Distillation],
    results: pd.DataFrame,
) -> dict[str, Any]:
    """Means over seeds, and what the students keep."""
    best = best_rule(results, rules)
    students = {
        name: {
            "num_nodes": num_nodes(distilled.rule),
            "rule": formula_text(distilled.rule),
            "kept": {
                figure: kept(results, name, teacher, best, figure).plain() for figure in report.COMPARED
            },
        }
        for name, distilled in learned.items()
    }
    return summarise(results, best) | {
        "teacher": teacher,
        "best_rule": best,
        "students": students,
        "warmup_s": config.warmup_s,
    }


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    check_counts(num_rounds=config.num_rounds, num_decisions=config.num_decisions)
    check_counts(
        num_taught=config.num_taught, num_workers=config.num_workers, max_instances=config.max_instances
    )
    if not config.students:
        raise ConfigError("students: there are none; add one with +student@students.NAME=OPTION")
    if not config.rules:
        raise ConfigError("rules: there are none to compare with; add one with +agent@rules.NAME=OPTION")
    if (config.run is None) == (len(config.policies) != 1):
        raise ConfigError(
            f"run, policy: one teacher is needed, and run is {config.run} and policies are"
            f" {list(config.policies)}; give run=<directory of a training run> or policy=NAME"
        )
    seeds = list(config.seeds)
    if len(set(seeds)) != len(seeds) or not seeds or min(seeds) < 0 or max(seeds) >= config.seed:
        raise ConfigError(
            f"seeds: {seeds} must be different whole numbers from 0 to below seed ({config.seed}), from which"
            " on are those of the streams that are learned from; at least one"
        )
    if (config.tuned is None) != (config.tuned_for is None):
        raise ConfigError(
            f"tuned, tuned_for: {config.tuned} and {config.tuned_for}; give both, or neither:"
            " tuned=FILE tuned_for=NAME@LOAD"
        )
    if not config.warmup_s >= 0:
        raise ConfigError(f"warmup_s: {config.warmup_s} must not be negative")


def _teacher(config: DictConfig, given: set[str]) -> Teacher:
    """The teacher, and its world: that of the scenario if one was given, else that of its run."""
    training = deepcopy(config)
    if has_scenario(config):
        training.scenario.split = "train"
    if config.run is None:
        *_, (name, node) = _with_tuned(config, config.policies).items()  # the tuned one comes after its own
        agent = build(OmegaConf.create(node), f"policies.{name}")
        if isinstance(innermost(agent), Trainable):
            policy_of(agent, None, f"policies.{name}")  # raises
        return Teacher(name, agent, node, None, training, config)
    world = config_of(Path(config.run), config, given)
    node = world.agent
    name = node._target_.split(".")[-2]
    worlds = (training, config) if has_scenario(config) else (world, world)
    agent = build(node, "agent")
    policy_of(deepcopy(agent), Path(config.run), "agent")  # raises where nothing was trained
    return Teacher(name, agent, node, config.run, *worlds)


def _with_tuned(config: DictConfig, policies: DictConfig) -> dict[str, Any]:
    """Policies by their names, with default constants and after that with tuned ones where there are any."""
    plain = {str(name): OmegaConf.to_container(node) for name, node in policies.items()}
    if config.tuned is None:
        return plain
    scenarios = select(config.tuned_for)
    if len(scenarios) != 1:
        raise ConfigError(f"tuned_for: {config.tuned_for} is several of the scenarios; write NAME@LOAD")
    return tuned.with_tuned(plain, tuned.files_of(config.tuned), scenarios[0])


def _check_names(config: DictConfig, teacher: str, rules: Mapping[str, Any]) -> None:
    names = [teacher, *config.students, *rules]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{twice[0]}: teacher, students and rules need different names; leave it out"
            f" (~agent@rules.{twice[0]}) or call it otherwise"
        )


def _measured(config: DictConfig, teacher: Teacher, rules: Mapping[str, Any]) -> DictConfig:
    """What ``agents.cells`` makes of all but the students, which are added as bundles once they are there."""
    plain: Any = OmegaConf.to_container(teacher.measured, resolve=True)
    world = {key: plain[key] for key in WORLD}
    world["workload"] |= OmegaConf.to_container(config.measured, resolve=True)
    measured = OmegaConf.create(
        {
            **world,
            "seeds": config.seeds,
            "num_workers": config.num_workers,
            "policies": {teacher.name: teacher.node, **rules},
            "trained": {} if teacher.run is None else {teacher.name: teacher.run},
        }
    )
    with closing(build_env(measured)):  # which refuses settings that do not fit
        return measured


def _made_of(config: DictConfig, teacher: Teacher, student: str) -> Mapping[str, Any]:
    """For the card."""
    world: Any = OmegaConf.to_container(teacher.world, resolve=True)
    return {
        "teacher": OmegaConf.to_container(OmegaConf.create(teacher.node), resolve=True),
        "trained": teacher.run,
        "student": OmegaConf.to_container(config.students[student], resolve=True),
        **{key: config[key] for key in ("seed", "num_rounds", "num_decisions")},
        **{key: world[key] for key in WORLD},
    }


def _attempts(learned: Mapping[str, Distillation]) -> pd.DataFrame:
    """One row per attempt."""
    return pd.DataFrame(
        {
            "student": name,
            "num_lessons": attempt.num_lessons,
            "num_nodes": num_nodes(attempt.rule),
            "ttft_mean_s": attempt.ttft_mean_s,
            "is_taken": attempt.rule is distilled.rule,
        }
        for name, distilled in learned.items()
        for attempt in distilled.attempts
    )


@hydra.main(version_base="1.3", config_path="../../conf", config_name="distill")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.distill"):
        distill(config, given_keys(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    register_policy_group()  # of this program alone: in another, policy= may be something else
    main()
