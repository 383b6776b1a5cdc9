"""What every program of the adversary refuses before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from adversary.scenario import Scenario
from adversary.world.stream import AttackedStream, stream_rng
from adversary.world.threat import WorldThreat
from agents.cells import build_policy
from agents.config import check_seeds
from conf.build import ConfigError, build


def check(scenario: Scenario) -> None:
    """Raise ``ConfigError`` where something would only fail, or mislead, after a while."""
    config = scenario.config
    for group in ("policies", "threats", "attackers", "plan"):
        if not config[group]:
            raise ConfigError(
                f"{group}: there are none; choose an experiment, e.g. experiment=robustness/report"
            )
    victims = list(config.policies)
    for key in ("reference", "harm_reference"):
        if config[key] not in victims:
            raise ConfigError(f"{key}: {config[key]!r} is none of the policies ({', '.join(victims)})")
    seeds = list(config.seeds)
    check_seeds(seeds)
    if config.attack_seed in seeds or config.attack_seed < 0:
        raise ConfigError(
            f"attack_seed: {config.attack_seed} must not be negative, nor one of seeds, {seeds}: an attack is"
            " judged on streams that it was not found on"
        )
    if not config.duration_s > 0 or not config.churn_window_s > 0 or config.num_workers < 1:
        raise ConfigError(
            f"duration_s ({config.duration_s}), churn_window_s ({config.churn_window_s}) and num_workers"
            f" ({config.num_workers}) must be more than 0"
        )
    if not 0.0 <= config.warmup_s < config.duration_s:
        raise ConfigError(f"warmup_s: {config.warmup_s} must be from 0 to below duration_s")
    for threat, attackers in config.plan.items():
        _known(f"plan.{threat}", [threat], list(config.threats))
        _known(f"plan.{threat}", attackers, list(config.attackers))
    for attacker, targets in config.only.items():
        _known(f"only.{attacker}", [attacker], list(config.attackers))
        _known(f"only.{attacker}", targets, victims)
    _known("trained", list(config.trained), victims)
    build(config.harm, "harm")
    for name in config.attackers:
        scenario.attacker(name)
    for name in config.threats:
        scenario.threat(name)
    for name in victims:
        build_policy(config, name)
    _check_streams(scenario)


def _known(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name not in known:
            raise ConfigError(f"{key}: {name!r} is unknown; give names of {', '.join(known)}")
        if name in names[:place]:
            raise ConfigError(f"{key}: {name} is given twice; leave one of them out")


def _check_streams(scenario: Scenario) -> None:
    """Streams of different seeds must differ; none may share requests with that attacks are found on.

    With all that an attack may bring forward from later in the trace.
    """
    config = scenario.config
    base = scenario.env().workload
    assert isinstance(base, AttackedStream)
    threats = [scenario.threat(name) for name in config.threats]
    worlds = [AttackedStream(base.base, each) for each in threats if isinstance(each, WorldThreat)]
    longest = max([base, *worlds], key=lambda stream: stream.most_needed_s)
    spans = {}
    for seed in (config.attack_seed, *config.seeds):
        longest.reset(stream_rng(seed))
        stretch = longest.base.stretch
        times_s = longest.base.trace.arrived_at_s[stretch.start : stretch.stop]
        times_s = times_s - times_s[0]
        if not (times_s[times_s < config.duration_s] >= config.warmup_s).any():
            raise ConfigError(
                f"warmup_s: no request of seed {seed} arrives between {config.warmup_s:g} s and duration_s,"
                f" {config.duration_s:g} s; lower it"
            )
        spans[seed] = set(longest.base.source_rows()[times_s < longest.most_needed_s].tolist())
    first = spans.pop(config.attack_seed)
    for seed, rows in spans.items():
        if shared := len(rows & first):
            raise ConfigError(
                f"seeds: the stream of seed {seed} has {shared} of its {len(rows)} requests in common with"
                f" that of attack_seed, {config.attack_seed}: choose other seeds,"
                " workload.start=random with fewer num_requests, or a longer trace"
            )
        for other, held in spans.items():
            if other < seed and rows == held:
                raise ConfigError(
                    f"seeds: {other} and {seed} have the same stream: set workload.start=random and"
                    " num_requests"
                )
