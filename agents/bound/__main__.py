"""``python -m agents.bound``: between what the best mean TTFT of each episode lies.

    python -m agents.bound +agent@policies.bound=clairvoyant cluster=h100x8 seeds=[0,1,2]

Takes the config of ``routegym-evaluate`` and looks at its clairvoyants. The figures are of all requests,
those of the warm-up too.
"""

from __future__ import annotations

from contextlib import closing
from math import isnan
from time import perf_counter

import hydra
from omegaconf import DictConfig

from agents import markdown
from agents.bound.clairvoyant import Bracket, Clairvoyant
from agents.build_env import build_env
from agents.cells import build_policy
from agents.comparison import Estimate, mean_over_seeds
from agents.config import register
from agents.program import program
from conf.build import ConfigError

register()


def brackets(config: DictConfig) -> dict[str, list[Bracket]]:
    """Policy -> the brackets of all seeds; tells of each as it comes."""
    found: dict[str, list[Bracket]] = {}
    for name in config.policies:
        policy = build_policy(config, name)
        if not isinstance(policy, Clairvoyant):
            continue
        with closing(build_env(config)) as env:
            for seed in config.seeds:
                began_s = perf_counter()
                policy.foresee(env, seed)
                assert policy.bracket is not None
                found.setdefault(str(name), []).append(policy.bracket)
                told = ", ".join(f"{field} {each:.4f}" for field, each in policy.bracket._asdict().items())
                print(f"{name}, seed {seed}: {told}; {perf_counter() - began_s:.0f} s", flush=True)
    if not found:
        raise ConfigError("policies: none is a clairvoyant; add +agent@policies.bound=clairvoyant")
    return found


def table(found: dict[str, list[Bracket]]) -> str:
    """Means over seeds, with 95 % intervals where there are several."""
    lines: list[tuple[str, ...]] = [("policy", "floor, s", "found, s", "rule, s", "found, of the rule's")]
    for name, rows in found.items():
        floor_s, found_s, rule_s = (mean_over_seeds(column) for column in zip(*rows, strict=True))
        shown = (_shown(each) for each in (floor_s, found_s, rule_s))
        lines.append((name, *shown, f"{found_s.value / rule_s.value:.1%}"))
    return markdown.table(lines)


def _shown(mean: Estimate) -> str:
    interval = "" if isnan(mean.low) else f" [{mean.low:.3f}, {mean.high:.3f}]"
    return f"{mean.value:.3f}{interval}"


@hydra.main(version_base="1.3", config_path="../../conf", config_name="bound")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.bound"):
        print(table(brackets(config)))


if __name__ == "__main__":
    main()
