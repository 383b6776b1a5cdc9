"""``routegym-fidelity``: how far is emulation from reality?

    routegym-fidelity experiment=fidelity live.endpoints=my_endpoints.json

The same request streams under the same policies run on live servers (the config group ``cluster@live``) and
on an emulated cluster (``cluster@emulated``, by default the twin of the live one: the servers' own sizes and
the profiles named for them). In the run's directory then lie

* ``live/cells`` and ``emulated/cells``: what became of every request (``agents.cells``); a run that was
  stopped goes on after the cells that are there;
* ``fidelity.json``: latencies, prefix hits and the ranking of policies compared (``agents.likeness``);
* ``fidelity.html``: the same for people, and ``fidelity.png``: the distributions.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from agents import cells
from agents.build_env import build_env
from agents.cells import build_policy
from agents.config import register
from agents.fidelity_report import html_page, printed_table
from agents.files import write, write_json
from agents.likeness import Worlds, latencies, paired, prefix_hits, ranking
from agents.plots import distributions
from agents.program import program
from agents.run_directory import claim
from conf.build import ConfigError

SIDES = ("live", "emulated")
RELEVANT = ("env", "live", "emulated", "workload")

register()


def compare(config: DictConfig) -> dict[str, Any]:
    """Run both worlds as configured; return the comparison."""
    _check(config)
    directory = claim(config, RELEVANT)
    sides = {side: _side(config, side) for side in SIDES}
    made = {side: cells.run(sides[side], directory / side) for side in SIDES}
    worlds: dict[str, list[Worlds]] = {}
    counters: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for cell in made["live"]:
        real, side = cells.read(directory / "live", cell)
        modelled, _ = cells.read(directory / "emulated", cell)
        worlds.setdefault(cell.policy, []).append(paired(real, modelled, config.warmup_s))
        totals = counters.setdefault(cell.policy, {})
        for name, number in side["cluster_counters"].items():
            totals[name] = max(totals.get(name, 0), number) if "max" in name else totals.get(name, 0) + number
        notes = side["workload_notes"]
    report = {
        "seeds": list(config.seeds),
        "num_requests": sum(len(world.real) for world in worlds[next(iter(worlds))]),
        "workload_notes": notes,
        "warmup_s": config.warmup_s,
        "policies": {
            name: {"latencies": latencies(of_policy), "prefix_hits": prefix_hits(of_policy)}
            for name, of_policy in worlds.items()
        },
        "ranking_by_mean_ttft": ranking(
            {
                name: {
                    "real": [float(world.real["ttft_s"].mean()) for world in of_policy],
                    "modelled": [float(world.modelled["ttft_s"].mean()) for world in of_policy],
                }
                for name, of_policy in worlds.items()
            }
        ),
        "live_counters": counters,
    }
    write_json(directory / "fidelity.json", report)
    distributions(worlds, directory / "fidelity.png")
    page = html_page(report, directory / "fidelity.png")
    write(directory / "fidelity.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))
    print(printed_table(report))
    print(f"results: {directory}")
    return report


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    if not config.policies:
        raise ConfigError("policies: there are none; add one with +agent@policies.NAME=OPTION")
    if len(set(config.seeds)) != len(config.seeds) or not config.seeds or min(config.seeds) < 0:
        raise ConfigError(f"seeds: {list(config.seeds)} must be different whole numbers from 0, at least one")
    if not config.warmup_s >= 0:
        raise ConfigError(f"warmup_s: {config.warmup_s} must not be negative")
    traits = []
    for side in SIDES:
        with closing(build_env(_side(config, side))) as env:
            traits.append(env.cluster.traits)
    if len(traits[0]) != len(traits[1]):
        raise ConfigError(
            f"live has {len(traits[0])} instances and emulated {len(traits[1])}: describe the same fleet"
        )
    for name in config.policies:
        build_policy(config, name)


def _side(config: DictConfig, side: str) -> DictConfig:
    """The config of one world's cells, as ``agents.cells`` takes it; both one stream at a time."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.create({**plain, "cluster": plain[side], "world": None, "num_workers": 1})


@hydra.main(version_base="1.3", config_path="../conf", config_name="fidelity")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("routegym-fidelity"):
        compare(config)


if __name__ == "__main__":
    main()
