"""A report as `adversary.report` writes it, invented: 12 routers, 9 attacks, everything filled in."""

from __future__ import annotations

import numpy as np

INSTANCES = ["h100_0", "h100_1", "h100_2", "l40s_0"]
# name: kind, mean TTFT without an attack, how easily misled, how easily overwhelmed, words
ROUTERS = {
    "round_robin": ("load", 0.92, 0.0, 1.0, "Takes turns; looks at nothing."),
    "random": ("load", 1.05, 0.0, 1.1, "Throws dice; looks at nothing."),
    "least_in_flight": (
        "load",
        0.55,
        0.25,
        1.1,
        "Fewest requests that this router sent and that are not done.",
    ),
    "smg_least_load": ("load", 0.52, 3.1, 1.2, "Fewest tokens waiting and running, as last scraped."),
    "vllm_dp": ("load", 0.53, 4.2, 1.2, "vLLM's own: 4 x waiting + running."),
    "power_of_two": ("load", 0.60, 1.6, 1.0, "The better of two at random."),
    "llmd_weighted": ("prefix", 0.41, 2.4, 2.2, "Prefix hits, queue and KV cache, weighted."),
    "dynamo_cost": ("prefix", 0.39, 1.9, 2.6, "Blocks to compute and blocks in use."),
    "session_hash": ("session", 0.71, 0.0, 3.4, "A session always goes to one instance."),
    "lodestar": ("learned", 0.36, 5.0, 1.9, "Predicts each instance's TTFT online."),
    "maskable_ppo": ("learned", 0.34, 7.5, 2.4, "Trained with PPO on the emulator."),
    "maskable_ppo+trust_counters": ("defended", 0.35, 0.6, 2.3, "The same, behind its own counters."),
}
THREATS = {
    "noise": ("feature", "Noise on scraped gauges", "Every scraped figure is off by a factor.", 1.0),
    "stale": ("feature", "Stale metrics", "What the router sees is older than it knows.", 0.6),
    "spoof": ("feature", "One instance lies", "One instance claims to be idle while it is busy.", 1.8),
    "hostile_stream": (
        "world",
        "Hostile traffic",
        "Arrivals, prefixes and failures turn against the fleet.",
        1.0,
    ),
}
ATTACKS = {  # threat, attacker, target, evaluations, strength
    f"{held[0]}-{held[1]}" + (f"@{held[2]}" if held[2] else ""): held
    for held in (
        ("noise", "random", None, 0, 0.3),
        ("noise", "worst_of", "lodestar", 100, 0.5),
        ("noise", "fgsm", "maskable_ppo", 1, 0.8),
        ("noise", "pgd", "maskable_ppo", 1, 1.0),
        ("stale", "search", "smg_least_load", 100, 0.7),
        ("spoof", "rl_short", "vllm_dp", 40, 1.0),
        ("hostile_stream", "random", None, 0, 0.4),
        ("hostile_stream", "search", "dynamo_cost", 100, 1.0),
        ("hostile_stream", "rl", "session_hash", 100, 0.9),
    )
}
EPSILONS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def estimate(value, spread=0.08):
    return {
        "value": round(value, 5),
        "low": round(value - spread * abs(value), 5),
        "high": round(value + spread * abs(value), 5),
    }


def apart(value, clearance=0.02):
    """A relative difference whose interval is as narrow everywhere."""
    return {"value": round(value, 5), "low": round(value - clearance, 5), "high": round(value + clearance, 5)}


def knobs(threat):
    """Those of an instance once."""
    if threat == "hostile_stream":
        ranges = [("rate_factor", "1", 0.5, 2.0, 1.0), ("frac_unshared", "1", 0.0, 0.5, 0.0)]
        ranges += [("slowdown[i]", "1", 1.0, 3.0, 1.0)]
    elif threat == "stale":
        ranges = [("delay[i]", "s", 0.0, 10.0, 0.0)]
    else:
        bounds = (-1.0, 1.0, 0.0) if threat == "spoof" else (0.5, 1.5, 1.0)
        seen = ("num_waiting", "num_running", "frac_kv_cache")
        ranges = [(f"{threat}.{feature}[i]", "1", *bounds) for feature in seen]
    return [dict(zip(("name", "unit", "low", "high", "neutral"), held, strict=True)) for held in ranges]


def rise(router, attack, epsilon=1.0):
    """Share by which an attack worsens a router's mean TTFT."""
    _, _, misled, overwhelmed, _ = ROUTERS[router]
    threat, _, target, _, strength = ATTACKS[attack]
    level, _, _, weight = THREATS[threat]
    weakness = misled if level == "feature" else 1.5 * overwhelmed
    return weakness * weight * strength * epsilon**1.5 * (1.3 if target == router else 1.0)


def metrics(router, attack, rng):
    clean = ROUTERS[router][1]
    factor = 1.0 + (0.0 if attack == "clean" else rise(router, attack)) * rng.uniform(0.95, 1.05)
    ttft = clean * factor
    return {
        "ttft_mean_s": estimate(ttft),
        "ttft_p95_s": estimate(3.1 * ttft),
        "ttft_p99_s": estimate(5.5 * ttft),
        "goodput_per_s": estimate(12.0 / factor**0.6),
        "frac_slo_met": estimate(min(0.97 / factor**0.5, 1.0), 0.02),
        "churn": estimate(0.0 if attack == "clean" else 1.0 - 1.0 / factor**0.5),
        "hot_spot": estimate(1.2 + 0.4 * min(factor - 1.0, 4.0)),
        "num_failed": estimate(0.0),
    }


def change(cell, clean):
    found = {}
    for name in ("ttft_mean_s", "ttft_p95_s", "ttft_p99_s"):
        found[name] = estimate(cell[name]["value"] / clean[name]["value"] - 1.0)
    found["goodput_per_s"] = estimate(1.0 - cell["goodput_per_s"]["value"] / clean["goodput_per_s"]["value"])
    return found


def break_even(curve, others):
    """First epsilon at which a curve lies clearly above another one."""
    clear = [apart(own / other - 1.0)["low"] > 0.0 for own, other in zip(curve, others, strict=True)]
    return EPSILONS[clear.index(True)] if any(clear) else None


def sweep(threat):
    attack = [name for name, held in ATTACKS.items() if held[0] == threat][-1]
    curves = {
        name: [ROUTERS[name][1] * (1.0 + rise(name, attack, epsilon)) for epsilon in EPSILONS]
        for name in ROUTERS
    }
    even = {
        name: {
            "round_robin": break_even(curve, curves["round_robin"]),
            "load_only": break_even(curve, curves["least_in_flight"]),
        }
        for name, curve in curves.items()
    }
    victims = {name: {"ttft_mean_s": [estimate(at) for at in curve]} for name, curve in curves.items()}
    return {"epsilons": EPSILONS, "victims": victims, "break_even": even}


def worst(cells, name, level):
    found = [
        cell
        for cell in cells
        if cell["victim"] == name
        and cell["attack"] != "clean"
        and THREATS[ATTACKS[cell["attack"]][0]][0] == level
    ]
    cell = max(found, key=lambda held: held["metrics"]["ttft_mean_s"]["value"])
    kept = {
        "attack": cell["attack"],
        "ttft_mean_s": cell["metrics"]["ttft_mean_s"],
        "degradation": cell["degradation"]["ttft_mean_s"],
    }
    where = cell["attack"] if level == "world" else "clean"
    same = next(at for at in cells if at["victim"] == "round_robin" and at["attack"] == where)
    kept["relative"] = apart(
        cell["metrics"]["ttft_mean_s"]["value"] / same["metrics"]["ttft_mean_s"]["value"] - 1.0
    )
    kept["is_behind"] = kept["relative"]["low"] > 0.0
    return kept, cell


def trace(title, victim, attack, rng):
    times = np.arange(0.0, 600.0, 5.0)
    wave = np.clip(np.sin(times / 60.0), 0.0, 1.0)
    threat = ATTACKS[attack][0]
    turned = {}
    for knob in knobs(threat):
        for place in range(len(INSTANCES) if "[i]" in knob["name"] else 1):
            much = wave * (1.0 if len(turned) < 2 else rng.uniform(0.0, 0.4))
            name = knob["name"].replace("[i]", f"[{place}]")
            turned[name] = (knob["neutral"] + much * (knob["high"] - knob["neutral"])).round(4).tolist()
    routers = {}
    for name, harmed in ((victim, 3.0), ("round_robin", 0.4)):
        lean = np.full((len(INSTANCES), len(times)), 0.25)
        lean[0] += harmed * wave
        share = (lean / lean.sum(axis=0)).round(4)
        ttft = (0.4 * (1.0 + harmed * wave) * rng.uniform(0.9, 1.1, len(times))).round(4).tolist()
        ttft[7] = None  # nobody arrived
        waiting = (4 + 30 * harmed * wave).round(1).tolist()
        routers[name] = {"share": share.tolist(), "waiting": waiting, "ttft_s": ttft}
    return {
        "title": title,
        "victim": victim,
        "attack": attack,
        "threat": threat,
        "time_s": times.tolist(),
        "knobs": turned,
        "routers": routers,
    }


def transfer(level):
    made = {held[2]: name for name, held in ATTACKS.items() if held[2] and THREATS[held[0]][0] == level}
    values = [[round(rise(victim, made[target]), 4) for victim in ROUTERS] for target in made]
    return {
        "threat": ATTACKS[next(iter(made.values()))][0],
        "targets": list(made),
        "victims": list(ROUTERS),
        "degradation": values,
        "low": [[0.9 * at for at in row] for row in values],
        "high": [[1.1 * at for at in row] for row in values],
    }


def sample_report():
    rng = np.random.default_rng(5)
    cells = []
    for name in ROUTERS:
        clean = metrics(name, "clean", rng)
        cells.append({"victim": name, "attack": "clean", "metrics": clean, "degradation": {}})
        for attack in ATTACKS:
            held = metrics(name, attack, rng)
            cells.append(
                {"victim": name, "attack": attack, "metrics": held, "degradation": change(held, clean)}
            )
    sweeps = {threat: sweep(threat) for threat in THREATS}
    headline = []
    for name in ROUTERS:
        (seen, cell), (world, _) = worst(cells, name, "feature"), worst(cells, name, "world")
        clean = next(at for at in cells if at["victim"] == name and at["attack"] == "clean")["metrics"]
        even = {
            threat: held["break_even"][name] for threat, held in sweeps.items() if name in held["break_even"]
        }
        headline.append(
            {
                "victim": name,
                "clean": clean["ttft_mean_s"],
                "worst_feature": seen,
                "worst_world": world,
                "break_even": even,
                "churn": {"clean": clean["churn"], "worst": cell["metrics"]["churn"]},
                "hot_spot": {"clean": clean["hot_spot"], "worst": cell["metrics"]["hot_spot"]},
            }
        )
    attackers = ("worst_of", "search", "rl")
    sets = ("clean", "random", "synthetic", "real", "adversarial", "adversarial, spoof")
    return {
        "title": "How robust are today's LLM routers?",
        "command": "python -m adversary.report experiment=robustness/standard",
        "commands": [
            "routegym-train experiment=robustness/train",
            "python -m adversary.report experiment=robustness/standard",
        ],
        "versions": {"routegym": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "torch": "2.13.0"},
        "scenario": {
            "fleet": "3 x H100 and 1 x L40S, each with llama-3.1-8b, scraped every 1 s",
            "instances": INSTANCES,
            "workload_notes": ["Mooncake's conversation trace, at 70 % of the fleet's capacity"],
            "seeds": [100, 101, 102, 103, 104],
            "attack_seeds": [0, 1, 2],
            "num_requests": 3000,
            "duration_s": 600,
            "round_robin": "round_robin",
            "load_only": ["least_in_flight", "smg_least_load", "vllm_dp", "power_of_two"],
        },
        "threats": {
            name: {
                "level": level,
                "title": title,
                "words": f"{words} Budget: each changes by at most 50 % of its range per step.",
                "knobs": knobs(name),
                "budget": {"max_slope": 0.5, "window": 4, "max_instances": 1 if name == "spoof" else None},
            }
            for name, (level, title, words, _) in THREATS.items()
        },
        "victims": {name: {"kind": held[0], "words": held[4]} for name, held in ROUTERS.items()},
        "attacks": {
            name: {
                "threat": threat,
                "attacker": attacker,
                "target": target,
                "epsilon": 1.0,
                "num_evaluations": num,
                "harm": round(strength * 1.7, 3) if target else None,
            }
            for name, (threat, attacker, target, num, strength) in ATTACKS.items()
        },
        "headline": headline,
        "cells": cells,
        "transfer": {"feature": transfer("feature"), "world": transfer("world")},
        "epsilon": sweeps,
        "worst_traces": [
            trace("The instance that looks idle", "vllm_dp", "spoof-rl_short@vllm_dp", rng),
            trace("Prefixes that nobody shares", "dynamo_cost", "hostile_stream-search@dynamo_cost", rng),
        ],
        "attackers": [
            {
                "threat": threat,
                "victim": name,
                "attacker": attacker,
                "harm": round((1 + place) * 0.3 * rng.uniform(0.7, 1.3), 3),
                "num_evaluations": num,
            }
            for threat, num in (("noise", 100), ("hostile_stream", 100), ("hostile_stream", 400))
            for name in (
                "least_in_flight",
                "vllm_dp",
                "llmd_weighted",
                "dynamo_cost",
                "session_hash",
                "lodestar",
            )
            for place, attacker in enumerate(attackers)
            if threat == "hostile_stream" or attacker == "search" or name == "vllm_dp"
        ],
        "defences": [
            {
                "victim": victim,
                "defence": defence,
                "attack": attack,
                "without": estimate(2.4),
                "with": estimate(2.4 * left),
                "change": apart(left - 1.0),
                "clean_change": apart(cost, 0.01),
            }
            for victim in ("vllm_dp", "maskable_ppo")
            for defence, left, cost in (
                ("clip", 0.9, 0.0),
                ("trust_counters", 0.3, 0.02),
                ("median", 0.7, 0.05),
            )
            for attack in ("noise-pgd@maskable_ppo", "spoof-rl_short@vllm_dp")
        ],
        "training": {
            "words": "A fifth of the training episodes held recorded attacks.",
            "rows": [
                {
                    "policy": "maskable_ppo",
                    "set": name,
                    "before": estimate(before),
                    "after": estimate(before * (1.0 + gain)),
                    "change": apart(gain, 0.03),
                    "worst_before": "clean" if name == "clean" else "spoof-search@before",
                    "worst_after": "clean" if name == "clean" else "spoof-search@round_1",
                }
                for name, before, gain in zip(
                    sets, (0.34, 0.5, 0.48, 0.7, 2.9, 2.1), (0.01, -0.02, 0.0, -0.05, -0.4, -0.3), strict=True
                )
            ],
            "notes": {"synthetic": ["generated"], "real": ["Azure's trace of 2023", "test: last half"]},
        },
        "live": {
            "words": "The trace of the worst world, replayed on vLLM servers with a modelled device.",
            "rows": [
                {
                    "where": "emulated",
                    "clean": estimate(0.1),
                    "attacked": estimate(3.2),
                    "change": apart(31.0),
                },
                {"where": "live", "clean": estimate(0.12), "attacked": estimate(0.3), "change": apart(1.5)},
            ],
        },
        "validated": {"num_steps": 120000, "num_violations": 0},
        "not_tested": ["Attacks on the router's own program.", "Fleets of more than 8 instances."],
    }
