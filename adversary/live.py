r"""Does a weakness that was found in emulation show on real vLLM servers too?

    python -m envs.live.serve kind=modelled profile=h100_llama-3.1-8b,l40s_llama-3.1-8b time_scale=4 \
        -- python -m adversary.live experiment=robustness/live

An attack on what the victim sees is looked for in the emulated twin of the servers. What it did there,
decision by decision, is recorded (``attack-<seed>.parquet``) and replayed to the victim on the servers.
``live.json`` tells how much longer users wait under the attack than in peace, there and in the emulator.
Attacks on the world replay as workload and schedule (``adversary.world.files``), the workload on servers too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from adversary.config import register
from adversary.config_check import check
from adversary.feature.episodes import Episodes
from adversary.feature.liar import Liar
from adversary.feature.replayed import Replayed
from adversary.feature.threat import FeatureThreat
from adversary.finding import find_attacks
from adversary.scenario import Scenario
from agents.comparison import mean_over_seeds, relative_difference
from agents.files import write_json
from agents.policy import Policy
from agents.program import program
from agents.run_directory import claim
from agents.warm_up import warm_up
from conf.build import ConfigError

SIDES = ("emulated", "live")

register()


def compare(config: DictConfig) -> dict[str, Any]:
    """Find, record and replay as configured; return what ``live.json`` holds."""
    threat_name, victim = _check(config)
    directory = claim(config, ("env", "live", "emulated", "workload", "duration_s"))
    sides = {side: Scenario(_side(config, side)) for side in SIDES}
    emulated = sides["emulated"]
    attacks = find_attacks(emulated.config, directory / "attacks")
    if not attacks:
        raise ConfigError(f"attackers: {next(iter(config.attackers))} cannot attack {victim}; use search")
    [attack] = attacks
    threat = emulated.threat(threat_name)
    assert isinstance(threat, FeatureThreat)
    ttft_s: dict[str, dict[str, list[float]]] = {side: {"clean": [], "attacked": []} for side in SIDES}
    for seed in config.seeds:
        trace = None
        for side, scenario in sides.items():
            with closing(scenario.env()) as env:
                warm_up(env)
                episodes = Episodes(env, scenario.policy(victim))
                liar: Liar | Callable[[Policy], Liar]
                if trace is None:
                    files = directory / "attacks"
                    liar = attack.liar(threat, episodes.num_instances, scenario.policy, files, victim)
                else:
                    liar = Replayed(trace, episodes.knobs(threat))
                attacked = episodes.attacked(threat, liar, seed)
                clean = episodes.clean(seed)
                num_requests = int(attacked.losses.num_requests.sum())
                ttft_s[side]["clean"].append(float(clean.sum()) / num_requests)
                ttft_s[side]["attacked"].append(float(attacked.losses.victim.sum()) / num_requests)
                if trace is None:
                    trace = attacked.trace
                    trace.save(directory / f"attack-{seed}.parquet")
    found = _found(config, victim, threat_name, ttft_s)
    write_json(directory / "live.json", found)
    for row in found["rows"]:
        clean_s, attacked_s, change = (row[name]["value"] for name in ("clean", "attacked", "change"))
        print(f"{row['where']}: {clean_s:.3f} s in peace, {attacked_s:.3f} s attacked: {100 * change:+.0f} %")
    print(f"results: {directory}")
    return found


def _check(config: DictConfig) -> tuple[str, str]:
    """The threat's name and the victim's."""
    victims = [name for name in config.policies if name != config.reference]
    if len(config.threats) != 1 or len(config.attackers) != 1 or len(victims) != 1:
        raise ConfigError(
            f"threats ({', '.join(config.threats)}), attackers ({', '.join(config.attackers)}) and policies"
            f" but the reference ({', '.join(victims)}): give one of each"
        )
    [threat] = config.threats
    emulated = Scenario(_side(config, "emulated"))
    check(emulated)
    if not isinstance(emulated.threat(threat), FeatureThreat):
        raise ConfigError(
            f"threats.{threat}: it is on the world; replay its files (adversary.world.files) by"
            " routegym-evaluate workload=stored cluster=live"
        )
    return threat, victims[0]


def _side(config: DictConfig, side: str) -> DictConfig:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    [threat], [attacker] = plain["threats"], plain["attackers"]
    victims = [name for name in plain["policies"] if name != plain["reference"]]
    planned = {"plan": {threat: [attacker]}, "only": {attacker: victims}}
    return OmegaConf.create({**plain, **planned, "cluster": plain[side], "world": None, "num_workers": 1})


def _found(
    config: DictConfig, victim: str, threat: str, ttft_s: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    rows = []
    for side, held in ttft_s.items():
        clean, attacked = np.array(held["clean"]), np.array(held["attacked"])
        rows.append(
            {
                "where": side,
                "clean": mean_over_seeds(clean).plain(),
                "attacked": mean_over_seeds(attacked).plain(),
                "change": relative_difference(attacked, clean).plain(),
            }
        )
    return {
        "words": (
            f"{victim} under {threat}, the attack found in the emulator and replayed decision by decision on"
            f" vLLM servers: mean TTFT in seconds over seeds {list(config.seeds)}."
        ),
        "rows": rows,
    }


@hydra.main(version_base="1.3", config_path="../conf", config_name="live_attack")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("python -m adversary.live"):
        compare(config)


if __name__ == "__main__":
    main()
