"""``routegym-fidelity``: how far is emulation from reality?

    routegym-fidelity experiment=fidelity live.endpoints=my_endpoints.json

The same request streams under the same policies run on live servers (the config group ``cluster@live``) and
on an emulated cluster (``cluster@emulated``, by default the twin of the live one: the servers' own sizes and
the profiles named for them). In the run's directory then lie

* ``live/cells`` and ``emulated/cells``: what became of every request (``agents.cells``); a run that was
  stopped goes on after the cells that are there;
* ``replayed/cells``: what becomes of them in the emulator under the decisions that were made live. Policies
  that look at the cluster soon decide otherwise in a world that is a millisecond off, so that their own
  decisions tell whether the emulator finds the same winner, and the same decisions how far its times are off;
* ``fidelity.json``: latencies, prefix hits and the ranking of policies compared (``agents.likeness``);
* ``table.md`` and ``fidelity.html``: the same for people, and ``fidelity.png``: the distributions.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import hydra
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from agents import cells
from agents.build_env import build_env
from agents.cells import Cell, build_policy
from agents.config import check_seeds, register
from agents.fidelity_report import html_page, markdown_table
from agents.files import write, write_json, write_parquet
from agents.likeness import Worlds, latencies, paired, prefix_hits, ranking
from agents.plots import distributions
from agents.program import program
from agents.rollout import replay
from agents.run_directory import claim
from conf.build import ConfigError

SIDES = ("live", "emulated")
RELEVANT = ("env", "live", "emulated", "workload")

register()


def compare(config: DictConfig) -> dict[str, Any]:
    """Run both worlds as configured; return the comparison."""
    _check(config)
    directory = claim(config, RELEVANT)
    made = {side: cells.run(_side(config, side), directory / side) for side in SIDES}
    own: dict[str, list[Worlds]] = {}
    same: dict[str, list[Worlds]] = {}
    counters: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for cell in made["live"]:
        real, side = cells.read(directory / "live", cell)
        modelled, _ = cells.read(directory / "emulated", cell)
        replayed = _replayed(config, cell, real)
        write_parquet(cell.path(directory / "replayed"), replayed)
        own.setdefault(cell.policy, []).append(paired(real, modelled, config.warmup_s))
        same.setdefault(cell.policy, []).append(paired(real, replayed, config.warmup_s))
        cells.add_counters(counters.setdefault(cell.policy, {}), side["cluster_counters"])
        notes = side["workload_notes"]
    report = {
        "seeds": list(config.seeds),
        "num_requests": sum(len(world.real) for world in next(iter(own.values()))),
        "workload_notes": notes,
        "warmup_s": config.warmup_s,
        "policies": {
            name: {
                decisions: {"latencies": latencies(worlds[name]), "prefix_hits": prefix_hits(worlds[name])}
                for decisions, worlds in (("same_decisions", same), ("own_decisions", own))
            }
            for name in own
        },
        "ranking_by_mean_ttft": ranking(
            {
                name: {
                    "real": [float(world.real["ttft_s"].mean()) for world in worlds],
                    "modelled": [float(world.modelled["ttft_s"].mean()) for world in worlds],
                }
                for name, worlds in own.items()
            }
        ),
        "live_counters": counters,
    }
    write_json(directory / "fidelity.json", report)
    distributions(same, directory / "fidelity.png")
    page = html_page(report, directory / "fidelity.png")
    write(directory / "fidelity.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))
    text = markdown_table(report)
    write(directory / "table.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(text)
    print(f"results: {directory}")
    return report


def _replayed(config: DictConfig, cell: Cell, real: pd.DataFrame) -> pd.DataFrame:
    """What becomes of the same requests in the emulator where each goes to the instance it went to live."""
    with closing(build_env(_side(config, "emulated"))) as env:
        return replay(env, cell.seed, real["instance"].tolist(), real["propensity"].tolist()).ledger()


def _check(config: DictConfig) -> None:
    """Refuse what would only fail after a while."""
    if not config.policies:
        raise ConfigError("policies: there are none; add one with +agent@policies.NAME=OPTION")
    check_seeds(config.seeds)
    if not config.warmup_s >= 0:
        raise ConfigError(f"warmup_s: {config.warmup_s} must not be negative")
    traits = []
    for side in SIDES:
        with closing(build_env(_side(config, side))) as env:
            traits.append(env.cluster.traits)
            if env.max_retries or env.num_routers > 1:
                raise ConfigError(
                    f"env: max_retries is {env.max_retries} and num_routers {env.num_routers}; what one world"
                    " decides is played again in the other, request by request: set them to 0 and 1"
                )
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
